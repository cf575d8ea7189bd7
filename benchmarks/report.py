"""What a benchmark has found, and how it is shown: in a terminal, or as docs/PERFORMANCE.md has it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Grid:
    """A table; its first column is text, the others are figures."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, and whether it is reached."""

    target: str
    measured: str
    holds: bool

    def cells(self) -> tuple[str, str, str]:
        """Return the line of a table."""
        return self.target, self.measured, "holds" if self.holds else "MISSED"


@dataclass(slots=True)
class Report:
    """The result of one benchmark."""

    name: str
    grids: list[Grid] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: Any = None
    """Every measurement, as JSON can hold it."""


def show(report: Report, console: Console, as_markdown: bool) -> None:
    """Print `report`."""
    grids = list(report.grids)
    if report.verdicts:
        rows = [verdict.cells() for verdict in report.verdicts]
        grids.append(Grid("Targets", ("target", "measured", "verdict"), rows))
    if as_markdown:
        print(f"\n### {report.name}\n")
    else:
        console.rule(report.name)
    for grid in grids:
        if as_markdown:
            print(markdown(grid) + "\n")
        else:
            console.print(_table(grid))
    for note in report.notes:
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)


def markdown(grid: Grid) -> str:
    """Return `grid` as Markdown, under its title."""
    rule = ["---", *["---:"] * (len(grid.head) - 1)]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in (grid.head, rule, *grid.rows))
    return f"**{grid.title}**\n\n{lines}"


def _table(grid: Grid) -> Table:
    shown = Table(title=grid.title, title_justify="left")
    for at, name in enumerate(grid.head):
        shown.add_column(name, justify="right" if at else "left")
    for row in grid.rows:
        shown.add_row(*row)
    return shown


def spread(values: Sequence[float], unit: str, digits: int = 0) -> str:
    """Return the median, with the quartiles in brackets."""
    low, middle, high = quartiles(values)
    return f"{middle:.{digits}f} {unit} ({low:.{digits}f}–{high:.{digits}f})"


def share(part: float, whole: float) -> str:
    """Return `part` as a share of `whole`, such as 1/8.2; a dash where it is none, as in noise a small part may seem."""
    return f"1/{whole / part:.1f}" if part > 0 else "–"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the quartiles of `values`, which are the value itself where there is one alone."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile of at least two values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
