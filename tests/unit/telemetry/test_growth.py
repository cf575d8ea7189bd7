"""A route whose queries grow with what it shows is named before it is slow."""

from __future__ import annotations

import pytest

from telemetry.groups import groups_of
from telemetry.growth import Growth, growing, steps_of
from tests.unit.telemetry.queries import each, kept, query

POSTS = query("SELECT id, author FROM posts", 0)
AUTHOR = "SELECT name FROM users WHERE id = ?"


def grown(*numbers: int, sql: str = AUTHOR, same: bool = False) -> list[Growth]:
    requests = [
        kept([POSTS, *each(sql, number, since=10)], same=same, route="/posts", number=at)
        for at, number in enumerate(numbers)
    ]
    return growing((request.route, steps_of(groups_of(request))) for request in requests)


def test_a_route_whose_queries_grow_is_named_even_if_no_request_crosses_the_limit() -> None:
    (found,) = grown(1, 4, 2, 4)
    assert (found.route, found.runs) == ("GET /posts", (1, 2, 4))
    assert found.text == "its queries grow: SELECT users ran 1 → 2 → 4 times at /srv/app/views.py:3"
    assert grown(10, 250, 50)[0].runs == (10, 50, 250)


@pytest.mark.parametrize(
    "numbers",
    [(), (5,), (5, 5, 5, 5), (5, 7, 5, 7)],
)
def test_what_stays_the_same_or_switches_between_two_numbers_does_not_grow(numbers: tuple[int, ...]) -> None:
    assert grown(*numbers) == []


def test_pages_duplicates_and_writes_do_not_grow() -> None:
    assert grown(1, 2, 3, 4, sql="SELECT * FROM t WHERE id > ? ORDER BY id LIMIT 100") == []
    assert grown(2, 3, 4, 5, same=True) == []
    assert grown(1, 2, 3, 4, sql="INSERT INTO t VALUES (?)") == []
