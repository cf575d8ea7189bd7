"""Routes whose queries grow with what they show."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from telemetry.fanout import is_paging

if TYPE_CHECKING:
    from telemetry.groups import Group


class Step(NamedTuple):
    """How often a statement ran for one thing after another in one request."""

    statement: str
    """Its fingerprint."""
    line: str
    what: str
    """The statement and its table, in short."""
    place: str
    runs: int


class Growth(NamedTuple):
    """A route whose queries grow with what it shows: one statement runs more often in one request than in another."""

    route: str
    step: Step
    runs: tuple[int, ...]
    """How often it ran in one request, the different numbers in rising order."""

    @property
    def text(self) -> str:
        """The evidence as a sentence."""
        shown = " → ".join(f"{number:,}" for number in _few(self.runs))
        place = f" {self.step.place}" if self.step.place else ""
        return f"its queries grow: {self.step.what} ran {shown} times{place}"


_LEAST_STEPS: Final = 3


def steps_of(groups: Sequence[Group]) -> tuple[Step, ...]:
    """Return the statements of one request that ran for one thing after another."""
    return tuple(_shared(_step(one)) for one in groups if _is_for_each(one, groups))


def _step(one: Group) -> Step:
    what = f"{one.statement.operation} {one.statement.table}"
    return Step(one.statement.text, str(one.line), what, one.place, one.runs)


@functools.lru_cache(maxsize=4096)
def _shared(step: Step) -> Step:
    """Return the one of equal steps that is kept: requests of one route have the same."""
    return step


def growing(requests: Iterable[tuple[str, Iterable[Step]]]) -> list[Growth]:
    """Return the routes in which a reading statement runs a growing number of times, most runs first.

    `requests` are the route and the `steps` of each. At least three different numbers are wanted, of runs that differ in
    their parameters: a cache that misses now and then, or something tried again, is no growth.
    """
    runs: dict[tuple[str, str, str], dict[int, Step]] = {}
    for route, of_request in requests:
        for step in of_request:
            runs.setdefault((route, step.statement, step.line), {})[step.runs] = step
    found: dict[str, Growth] = {}
    for (route, _, _), by_runs in runs.items():
        if len(by_runs) >= _LEAST_STEPS and (route not in found or max(by_runs) > found[route].runs[-1]):
            found[route] = Growth(route, by_runs[max(by_runs)], tuple(sorted(by_runs)))
    return sorted(found.values(), key=lambda each: -each.runs[-1])


def _is_for_each(one: Group, groups: Sequence[Group]) -> bool:
    """Tell whether a statement runs for one thing after another."""
    if not one.statement.reads or one.statement.is_of_schema or one.distinct < one.runs or one.errors:
        return False
    return not is_paging(one, groups)


def _few(numbers: Sequence[int]) -> Sequence[int]:
    return numbers if len(numbers) <= 3 else (numbers[0], numbers[len(numbers) // 2], numbers[-1])
