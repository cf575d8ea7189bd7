"""The view that a URL stands for."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import TelemetrySettings
from telemetry.admin import overview
from telemetry.admin.state import COLUMNS, ROWS_AT_FIRST, State
from telemetry.document import RouteWindow
from telemetry.readers.window import Sample

BY_KEY = {column.key: column for column in COLUMNS}


def row(route: str, *, ms: float = 10, queries: tuple[int, ...] = (), endpoint: str = "", at: int = 0) -> overview.Row:
    window = RouteWindow(route, endpoint, (Sample(at, at, ms / 1000, None, False),), queries)
    return overview.row(window, TelemetrySettings())


def routes(state: State, *rows: overview.Row) -> list[str]:
    return [found.route for found in state.select(rows)[0]]


def parsed(url: str) -> State:
    return State.parse(dict(parse_qsl(url.removeprefix("?"), keep_blank_values=True)))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"sort": "nope", "order": "up", "range": "9y", "all": "2"},
        {"sort": "__class__"},
        {"sort": "", "order": "", "range": "", "q": "", "route": "", "all": ""},
        {"order": "DESC", "range": "15M"},
    ],
)
def test_what_a_url_has_wrong_reads_as_the_default(arguments: dict[str, str]) -> None:
    assert State.parse(arguments) == State()


@pytest.mark.parametrize(("key", "order"), [("route", "asc"), ("min_ms", "asc"), ("avg_ms", "desc")])
def test_without_an_order_a_column_sorts_as_its_first_click_does(key: str, order: str) -> None:
    assert State.parse({"sort": key}).order == order


def test_the_filter_is_stripped_and_cut() -> None:
    assert State.parse({"q": "  watch  "}).q == "watch"
    assert len(State.parse({"q": "x" * 5000}).q) == 200


def test_a_url_names_only_what_differs_from_the_default() -> None:
    assert State().url() == "?"
    assert State().url(q="a b", route="GET /<x>") == "?q=a+b&route=GET+%2F%3Cx%3E"
    assert State().url(order="asc") == "?order=asc&sort=p95_ms"
    assert State(q="a", all="1").url(q="") == "?all=1"


values = st.one_of(st.text(max_size=30), st.sampled_from(["asc", "desc", "1", "5m", "all", *BY_KEY]))


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("sort", "order", "q", "range", "route", "all"), values)))
def test_a_shared_url_gives_the_same_view(arguments: dict[str, str]) -> None:
    state = State.parse(arguments)
    assert parsed(state.url()) == state


def test_a_click_sorts_by_that_column_and_another_turns_it_round() -> None:
    first = parsed(State().sorted_by(BY_KEY["request_count"]))
    second = parsed(first.sorted_by(BY_KEY["request_count"]))
    third = parsed(second.sorted_by(BY_KEY["route"]))
    assert [(state.sort, state.order) for state in (first, second, third)] == [
        ("request_count", "desc"),
        ("request_count", "asc"),
        ("route", "asc"),
    ]


@pytest.mark.parametrize("key", BY_KEY)
def test_every_column_sorts_both_ways(key: str) -> None:
    low = row("GET /a", ms=1, queries=(1,), at=1)
    high = row("GET /b", ms=2, queries=(2,), at=2)
    column_differs = low.value(key) != high.value(key)
    assert routes(State(sort=key, order="asc"), high, low) == ["GET /a", "GET /b"]
    assert (routes(State(sort=key, order="desc"), low, high) == ["GET /b", "GET /a"]) is column_differs


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_equals_stand_by_route_name_whatever_the_order(order: str) -> None:
    rows = [row("GET /c"), row("GET /a"), row("GET /b")]
    assert routes(State(order=order), *rows) == ["GET /a", "GET /b", "GET /c"]


def test_a_route_whose_queries_were_not_seen_sorts_below_one_without_queries() -> None:
    rows = [row("GET /unseen"), row("GET /none", queries=(0,)), row("GET /some", queries=(3,))]
    for key in ("queries_avg", "queries_max"):
        assert routes(State(sort=key), *rows) == ["GET /some", "GET /none", "GET /unseen"]


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("", ["GET /tag/<tag>", "POST /rate"]),
        ("TAG", ["GET /tag/<tag>"]),
        ("post rate", ["POST /rate"]),
        ("rate post", ["POST /rate"]),
        ("main.by_tag", ["GET /tag/<tag>"]),
        ("post tag", []),
    ],
)
def test_the_filter_finds_all_of_its_words_in_route_or_endpoint(q: str, found: list[str]) -> None:
    rows = [row("GET /tag/<tag>", endpoint="main.by_tag"), row("POST /rate", endpoint="ratings.add")]
    assert routes(State(q=q), *rows) == found


def test_many_routes_are_cut_but_the_selected_one_stays() -> None:
    rows = [row(f"GET /{number:04}") for number in range(ROWS_AT_FIRST + 50)]
    shown, more = State(route=f"GET /{ROWS_AT_FIRST + 7:04}").select(rows)
    assert [found.route for found in shown[-2:]] == [f"GET /{ROWS_AT_FIRST - 1:04}", f"GET /{ROWS_AT_FIRST + 7:04}"]
    assert more == 49
    assert State().select(rows)[1] == 50
    assert State(all="1").select(rows) == (rows, 0)
    assert State().select(rows[:ROWS_AT_FIRST])[1] == 0
