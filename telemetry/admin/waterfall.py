"""The waterfall of one request: a row for the request, one for each run of queries that are alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from telemetry import figures

WIDTH: Final = 1000
_LEAST: Final = 2.0
MOST_ROWS: Final = 60
MOST_UNFOLDED: Final = 200


@dataclass(slots=True)
class Bar:
    """A bar from `x` on, in thousandths of the request's duration, and what it says on hover."""

    x: float
    width: float
    title: str
    is_failed: bool = False


@dataclass(slots=True)
class Row:
    """Queries one after another that belong to one group; `bars` are the single ones."""

    group: int
    label: str
    duration_ms: float
    failures: int = 0
    bars: list[Bar] = field(default_factory=list)
    left_out: int = 0

    @property
    def runs(self) -> int:
        """How many queries the row stands for."""
        return len(self.bars) + self.left_out


def whole_ms(detail: Mapping[str, Any]) -> float:
    """Return what the bars are parts of: the request, and the transfer of a body that made queries while it was sent."""
    duration_ms: float = detail["duration_ms"]
    ends_ms = max((query["start_ms"] + query["duration_ms"] for query in detail["queries"]), default=0.0)
    transfer_ms: float = detail["transfer_ms"] or 0.0
    return max(duration_ms, transfer_ms if ends_ms > duration_ms else 0.0, 0.001)


def rows(detail: Mapping[str, Any]) -> list[Row]:
    """Return the rows below the request itself, in the order of time; beyond `MOST_ROWS` the rest of a group is one row."""
    all_ms = whole_ms(detail)
    found: list[Row] = []
    last: dict[int, Row] = {}
    for query in detail["queries"]:
        group = query["group"]
        if group is None:
            continue
        row = found[-1] if found and found[-1].group == group else None
        if row is None and len(found) >= MOST_ROWS:
            row = last.get(group)
        if row is None:
            row = Row(group, _label(detail["groups"][group]), 0.0)
            found.append(row)
        last[group] = row
        row.duration_ms += query["duration_ms"]
        row.failures += query["error_type"] is not None
        if len(row.bars) < MOST_UNFOLDED:
            row.bars.append(_bar(query, all_ms))
        else:
            row.left_out += 1
    return found


def _label(group: Mapping[str, Any]) -> str:
    words = group["statement"].split(" ")
    named = [word for at, word in enumerate(words) if at and words[at - 1] in ("FROM", "INTO", "UPDATE")]
    return f"{words[0]} {named[0].partition('(')[0]}" if named else words[0] or "query"


def _bar(query: Mapping[str, Any], whole_ms: float) -> Bar:
    x = min(WIDTH - _LEAST, max(0.0, query["start_ms"] / whole_ms * WIDTH))
    width = min(WIDTH - x, max(_LEAST, query["duration_ms"] / whole_ms * WIDTH))
    title = f"at {figures.milliseconds(query['start_ms'])}, {figures.milliseconds(query['duration_ms'])}"
    return Bar(round(x, 1), round(width, 1), title, query["error_type"] is not None)
