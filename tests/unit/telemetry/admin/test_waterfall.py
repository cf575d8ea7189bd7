"""What the bars of a request are parts of."""

from __future__ import annotations

from typing import Any

import pytest

from telemetry.admin import waterfall


def detail(transfer_ms: float | None, *queries: tuple[float, float]) -> dict[str, Any]:
    """Return a request of 10 ms with queries as (start, duration)."""
    return {
        "duration_ms": 10.0,
        "transfer_ms": transfer_ms,
        "groups": [{"statement": "SELECT * FROM t"}],
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


def alternating(changes: int) -> dict[str, Any]:
    """Return a request whose queries are of one group and of another in turns."""
    one = detail(None, *[(at / changes, 0.01) for at in range(changes)])
    one["groups"] *= 2
    for at, query in enumerate(one["queries"]):
        query["group"] = at % 2
    return one


def test_rows_are_in_the_order_of_time_until_there_are_too_many() -> None:
    assert [row.group for row in waterfall.rows(alternating(4))] == [0, 1, 0, 1]
    rows = waterfall.rows(alternating(waterfall.MOST_ROWS + 5))
    assert len(rows) == waterfall.MOST_ROWS
    assert [row.runs for row in rows[-3:]] == [1, 4, 3]


def test_a_bar_stands_at_its_share_of_the_whole() -> None:
    (row,) = waterfall.rows(detail(7_200_000.0, (2.5, 5.0)))
    assert (row.bars[0].x, row.bars[0].width) == (250, 500)


def test_a_row_tells_how_many_of_its_queries_failed() -> None:
    one = detail(None, (1, 1), (2, 1), (3, 1))
    one["queries"][1]["error_type"] = "sqlite3.OperationalError"
    (row,) = waterfall.rows(one)
    assert (row.runs, row.failures) == (3, 1)
    assert [bar.is_failed for bar in row.bars] == [False, True, False]
