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


def test_a_bar_stands_at_its_share_of_the_whole() -> None:
    (row,) = waterfall.rows(detail(7_200_000.0, (2.5, 5.0)))
    assert (row.bars[0].x, row.bars[0].width) == (250, 500)
