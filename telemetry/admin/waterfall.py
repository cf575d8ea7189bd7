"""The waterfall of one request: a row for the request, one for each run of queries that are alike, one for its commits."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, Final, NamedTuple

from telemetry import figures
from telemetry.fanout import COMMITS
from telemetry.fingerprint import statement

WIDTH: Final = 1000
_LEAST: Final = 2.0
_GAP: Final = 1.0  # what is less apart is one bar to the eye
MOST_ROWS: Final = 60
MOST_BARS: Final = 200
"""Of more queries in a row, those that can't be told apart are drawn as one bar."""
MOST_UNFOLDED: Final = 50
_TICKS: Final = 4


@dataclass(slots=True)
class Bar:
    """A bar from `x` on, in thousandths of the request's duration: one query or commit, or several that can't be told apart."""

    x: float
    width: float
    start_ms: float
    end_ms: float
    is_failed: bool = False
    noun: str = "query"
    runs: int = 1

    @property
    def title(self) -> str:
        """What it says on hover."""
        if self.runs == 1:
            return f"at {figures.milliseconds(self.start_ms)}, {figures.milliseconds(self.end_ms - self.start_ms)}"
        start, end = figures.milliseconds(self.start_ms), figures.milliseconds(self.end_ms)
        return f"{figures.plural(self.runs, self.noun)} from {start} to {end}"

    def joins(self, other: Bar) -> bool:
        """Take in a bar that begins no earlier, if it can't be told apart, and return whether that is so."""
        if other.x - (self.x + self.width) >= _GAP:
            return False
        self.width = max(self.x + self.width, other.x + other.width) - self.x
        self.end_ms = max(self.end_ms, other.end_ms)
        self.runs += other.runs
        return True


@dataclass(slots=True)
class Row:
    """Queries of one group: those one after another, or all of them where there is a finding about the group; or all commits."""

    label: str
    is_warned: bool
    runs_of_group: int
    total_ms: float
    """How long all queries of the group took; rounded once, and not each of them."""
    queries: list[Bar] = field(default_factory=list)
    """A bar for each of them."""

    @property
    def runs(self) -> int:
        """How many queries there are."""
        return len(self.queries)

    @property
    def failures(self) -> int:
        """How many of them have failed."""
        return sum(bar.is_failed for bar in self.queries)

    @property
    def duration_ms(self) -> float:
        """How long they took together."""
        if self.runs == self.runs_of_group:
            return self.total_ms
        return sum(bar.end_ms - bar.start_ms for bar in self.queries)

    @property
    def first(self) -> list[Bar]:
        """Those that are told one by one."""
        return self.queries[:MOST_UNFOLDED]

    @property
    def bars(self) -> list[Bar]:
        """What is drawn, failures over the others."""
        by_outcome = [[bar for bar in self.queries if bar.is_failed is failed] for failed in (False, True)]
        if self.runs > MOST_BARS:
            by_outcome = list(map(_joined, by_outcome))
        return [bar for bars in by_outcome for bar in bars]


class Rest(NamedTuple):
    """The queries that are not kept one by one: they began after `x`."""

    runs: int
    duration_ms: float
    x: float


class Waterfall(NamedTuple):
    """What is drawn of a request."""

    rows: list[Row]
    rest: Rest | None
    whole_ms: float
    ticks: list[str]


def draw(detail: Mapping[str, Any], warned: Container[int]) -> Waterfall:
    """Return the waterfall of a request; `warned` are the groups that a warning is about."""
    all_ms = whole_ms(detail)
    return Waterfall(rows(detail, warned, all_ms), rest(detail, all_ms), all_ms, ticks(all_ms))


def whole_ms(detail: Mapping[str, Any]) -> float:
    """Return what the bars are parts of: the request, and the transfer of a body that made queries while it was sent."""
    duration_ms: float = detail["duration_ms"]
    ends_ms = _ends_ms(*detail["queries"], *detail["commits"])
    transfer_ms: float = detail["transfer_ms"] or 0.0
    return max(duration_ms, transfer_ms if ends_ms > duration_ms else 0.0, 0.001)


def _ends_ms(*timed: Mapping[str, Any]) -> float:
    """Return when the last of some queries or commits has ended."""
    return max((each["start_ms"] + each["duration_ms"] for each in timed), default=0.0)


def ticks(whole_ms: float) -> list[str]:
    """Return the times that the waterfall is divided at, from its beginning on, without its end."""
    return ["0", *(figures.milliseconds(whole_ms * at / _TICKS) for at in range(1, _TICKS))]


def rows(detail: Mapping[str, Any], warned: Container[int], all_ms: float) -> list[Row]:
    """Return the rows below the request itself, in the order of time; beyond `MOST_ROWS` the rest of a group is one row."""
    found: list[Row] = []
    last: dict[int, Row] = {}
    # They are kept in the order in which they ended, which with threads is another one.
    for query in sorted(detail["queries"], key=itemgetter("start_ms")):
        group = query["group"]
        if group is None:
            continue
        row = last.get(group)
        if row is None or not (row is found[-1] or group in warned or len(found) >= MOST_ROWS):
            whole = detail["groups"][group]
            row = last[group] = Row(_label(whole), group in warned, whole["runs"], whole["total_ms"])
            found.append(row)
        row.queries.append(_bar(query, all_ms, query["error_type"] is not None))
    if detail["commits"]:
        found.append(_commits(detail, all_ms))
    return sorted(found, key=lambda row: row.queries[0].start_ms)


def _commits(detail: Mapping[str, Any], all_ms: float) -> Row:
    is_warned = any(finding["kind"] == COMMITS for finding in detail["findings"])
    bars = [_bar(commit, all_ms, commit["has_failed"], "commit") for commit in detail["commits"]]
    return Row("commit", is_warned, detail["commit_count"], detail["commit_ms"], bars)


def rest(detail: Mapping[str, Any], all_ms: float) -> Rest | None:
    """Return what is not kept one by one of a request with very many queries."""
    queries = detail["queries"]
    runs = detail["query_count"] - len(queries)
    if runs <= 0:
        return None
    duration_ms = detail["db_ms"] - detail["commit_ms"] - sum(query["duration_ms"] for query in queries)
    return Rest(runs, max(0.0, duration_ms), min(WIDTH, _ends_ms(*queries) / all_ms * WIDTH))


def _joined(bars: Iterable[Bar]) -> list[Bar]:
    """Return `bars`, those that can't be told apart as one."""
    found: list[Bar] = []
    for bar in bars:
        if not found or not found[-1].joins(bar):
            found.append(replace(bar))
    return found


def _label(group: Mapping[str, Any]) -> str:
    known = statement(group["sql"])
    return f"{known.operation} {known.table}".strip() or "query"


def _bar(timed: Mapping[str, Any], whole_ms: float, is_failed: bool, noun: str = "query") -> Bar:
    start_ms, duration_ms = timed["start_ms"], timed["duration_ms"]
    x = min(WIDTH - _LEAST, max(0.0, start_ms / whole_ms * WIDTH))
    width = min(WIDTH - x, max(_LEAST, duration_ms / whole_ms * WIDTH))
    return Bar(x, width, start_ms, start_ms + duration_ms, is_failed, noun)
