"""What the bars of a request are parts of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from telemetry.admin import waterfall


def detail(transfer_ms: float | None, *queries: tuple[float, float]) -> dict[str, Any]:
    """Return a request of 10 ms with queries as (start, duration)."""
    return {
        "duration_ms": 10.0,
        "transfer_ms": transfer_ms,
        "db_ms": sum(took for _, took in queries),
        "query_count": len(queries),
        "commit_count": 0,
        "commit_ms": 0.0,
        "commits": [],
        "findings": [],
        "groups": [{"sql": "SELECT * FROM t", "runs": len(queries), "total_ms": sum(took for _, took in queries)}],
        "queries": [
            {"group": 0, "start_ms": start, "duration_ms": took, "error_type": None} for start, took in queries
        ],
    }


@pytest.mark.parametrize(
    ("transfer_ms", "queries", "whole_ms"),
    [
        (None, [(1, 2)], 10),
        (100.0, [(1, 2), (50, 5)], 100),  # made while it was sent
        (7_200_000.0, [(1, 2)], 10),  # a video
        (100.0, [], 10),
    ],
)
def test_bars_are_parts_of_the_request_or_of_the_transfer_that_has_queries(
    transfer_ms: float | None, queries: list[tuple[float, float]], whole_ms: float
) -> None:
    assert waterfall.whole_ms(detail(transfer_ms, *queries)) == whole_ms


def test_a_query_that_begins_before_the_end_of_the_request_and_ends_after_it_stretches_the_whole() -> None:
    assert waterfall.whole_ms(detail(100.0, (8, 5))) == 100
    assert waterfall.whole_ms(detail(100.0, (8, 2))) == 10


def rows(one: dict[str, Any]) -> list[waterfall.Row]:
    return waterfall.draw(one, {finding["group"] for finding in one["findings"] if finding["is_warning"]}).rows


def alternating(changes: int) -> dict[str, Any]:
    """Return a request whose queries are of one group and of another in turns."""
    one = detail(None, *[(at / changes, 0.01) for at in range(changes)])
    one["groups"].append(one["groups"][0] | {"sql": "SELECT * FROM u"})
    for at, query in enumerate(one["queries"]):
        query["group"] = at % 2
    return one


def test_rows_are_in_the_order_of_time_until_there_are_too_many() -> None:
    assert [row.label for row in rows(alternating(4))] == ["SELECT t", "SELECT u"] * 2
    found = rows(alternating(waterfall.MOST_ROWS + 5))
    assert len(found) == waterfall.MOST_ROWS
    assert [row.runs for row in found[-3:]] == [1, 4, 3]


@pytest.mark.parametrize(
    ("sql", "label"),
    [
        ("SELECT a FROM (SELECT b AS a FROM t)", "SELECT t"),
        ('SELECT a FROM "two words"', "SELECT two words"),
        ("INSERT INTO main.t VALUES (1)", "INSERT t"),
        ("SELECT 1", "SELECT"),
        ("", "query"),
    ],
)
def test_a_row_is_named_by_what_its_statement_does_to_which_table(sql: str, label: str) -> None:
    one = detail(None, (1, 1))
    one["groups"][0]["sql"] = sql
    assert [row.label for row in rows(one)] == [label]


def test_a_bar_stands_at_its_share_of_the_whole() -> None:
    (row,) = rows(detail(7_200_000.0, (2.5, 5.0)))
    (bar,) = row.bars
    assert (bar.x, bar.width, bar.title) == (250, 500, "at 2.50 ms, 5.00 ms")


def test_the_time_of_all_queries_of_a_group_is_the_groups_own_which_was_rounded_once() -> None:
    one = detail(None, *[(at, 0.010) for at in range(35)])
    one["groups"][0]["total_ms"] = 0.364  # 10.4 µs each
    (row,) = rows(one)
    assert row.duration_ms == 0.364
    one["groups"][0]["runs"] = 36  # one is not kept
    (row,) = rows(one)
    assert row.duration_ms == pytest.approx(0.350)


def test_a_row_tells_how_many_of_its_queries_failed() -> None:
    one = detail(None, (1, 1), (2, 1), (3, 1))
    one["queries"][1]["error_type"] = "sqlite3.OperationalError"
    (row,) = rows(one)
    assert (row.runs, row.failures) == (3, 1)
    assert [bar.is_failed for bar in row.first] == [False, True, False]
    assert [(bar.x, bar.is_failed) for bar in row.bars] == [(100, False), (300, False), (200, True)]


def test_a_row_shows_its_last_query_however_many_there_are() -> None:
    (row,) = rows(detail(None, *[(at / 50, 0.02) for at in range(500)]))
    assert (row.runs, len(row.first)) == (500, waterfall.MOST_UNFOLDED)
    (bar,) = row.bars
    assert (bar.x, bar.width) == (0, pytest.approx(1000))
    assert bar.title == "500 queries from 0.00 ms to 10.0 ms"


def test_of_very_many_what_the_eye_can_tell_apart_are_bars_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    few = (1, 0.5), (1.505, 0.5), (2.1, 0.5)
    (row,) = rows(detail(None, *few))
    assert [bar.runs for bar in row.bars] == [1, 1, 1]
    monkeypatch.setattr(waterfall, "MOST_BARS", 2)
    (row,) = rows(detail(None, *few))
    assert [(round(bar.x, 1), round(bar.width, 1), bar.runs) for bar in row.bars] == [(100, 100.5, 2), (210, 50, 1)]


def test_what_a_thread_has_begun_first_and_ended_last_is_drawn_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waterfall, "MOST_BARS", 0)
    (row,) = rows(detail(None, (3, 1), (1, 5)))
    (bar,) = row.bars
    assert (bar.x, bar.width, bar.runs) == (100, 500, 2)


def test_a_failure_among_many_queries_has_a_bar() -> None:
    one = detail(None, *[(at / 50, 0.02) for at in range(500)])
    one["queries"][450]["error_type"] = "sqlite3.OperationalError"
    (row,) = rows(one)
    assert [(round(bar.x), bar.is_failed) for bar in row.bars] == [(0, False), (902, False), (900, True)]


def test_queries_of_a_finding_are_one_row_whatever_was_asked_in_between() -> None:
    one = alternating(40)
    one["findings"] = [{"group": 1, "is_warning": True}, {"group": 0, "is_warning": False}]
    assert [(row.label, row.runs, row.is_warned) for row in rows(one)[:3]] == [
        ("SELECT t", 1, False),
        ("SELECT u", 20, True),
        ("SELECT t", 19, False),
    ]


def committing(*commits: tuple[float, float]) -> dict[str, Any]:
    """Return a request with queries at 1 and 5 ms, and commits as (start, duration), the first of which failed."""
    return detail(None, (1, 1), (5, 1)) | {
        "commit_count": len(commits),
        "commit_ms": sum(took for _, took in commits),
        "commits": [
            {"start_ms": start, "duration_ms": took, "has_failed": at == 0} for at, (start, took) in enumerate(commits)
        ],
    }


def test_commits_are_one_row_in_the_order_of_time() -> None:
    one = committing((2, 2), (6, 1))
    one["groups"].append(one["groups"][0])
    one["queries"][1]["group"] = 1
    before, row, after = rows(one)
    assert (before.label, row.label, after.label) == ("SELECT t", "commit", "SELECT t")
    assert (row.runs, row.duration_ms, row.failures, row.is_warned) == (2, 3, 1, False)
    assert [(bar.x, bar.width) for bar in row.bars] == [(600, 100), (200, 200)]
    assert waterfall._joined(replace(bar, is_failed=False) for bar in row.queries[:1] * 2)[0].title.startswith(
        "2 commits"
    )


@pytest.mark.parametrize(("kind", "is_warned"), [("commits", True), ("lock_wait", False)])
def test_commits_are_marked_where_there_are_too_many(kind: str, is_warned: bool) -> None:
    one = committing((2, 2)) | {"findings": [{"kind": kind, "group": None, "is_warning": True}]}
    assert [row.is_warned for row in rows(one)] == [False, is_warned]


def test_what_is_not_kept_one_by_one_begins_behind_the_last_query_that_is() -> None:
    one = committing((8, 1)) | {"query_count": 2000, "db_ms": 10.0}
    assert waterfall.draw(one, ()).rest == (1998, 7.0, 600)


def test_a_commit_after_the_last_query_of_a_stream_is_part_of_the_whole() -> None:
    assert waterfall.whole_ms(committing((9, 5)) | {"transfer_ms": 50.0}) == 50


def test_what_is_not_kept_one_by_one_has_a_row_of_its_own() -> None:
    one = detail(None, (1, 1), (2, 1))
    assert waterfall.draw(one, ()).rest is None
    one |= {"query_count": 2000, "db_ms": 7.5}
    assert waterfall.draw(one, ()).rest == (1998, 5.5, 300)


def test_the_whole_is_divided_in_four() -> None:
    assert waterfall.draw(detail(None), ()).ticks == ["0", "2.50 ms", "5.00 ms", "7.50 ms"]
