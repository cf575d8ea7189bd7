"""CPU per request of the app with and without telemetry: `python -m benchmarks [--rounds N]`.

Each variant runs in a process of its own; all of them are measured in turn in every round, so that a slow moment of the
machine meets them alike. What is printed is the median over the rounds, with the quartiles.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.worker import VARIANTS

QUERIES = (0, 5, 50)
CPU_PER_MEASUREMENT_S = 0.15
BASELINE, REFERENCE = "bare Flask", "stock OpenTelemetry"
Samples = dict[tuple[str, int], list[float]]


class Worker:
    """A process that measures one variant."""

    def __init__(self, variant: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", variant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure_us(self, queries: int, requests: int) -> float:
        """Return the CPU time of a request in microseconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(queries, requests, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline()) / 1000

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def measure(rounds: int, console: Console) -> Samples:
    """Return microseconds a request for each variant and number of queries."""
    workers = {variant: Worker(variant) for variant in VARIANTS}
    samples: Samples = defaultdict(list)
    try:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("measuring", total=rounds * len(workers) * len(QUERIES))
            counts = {
                (variant, queries): max(20, int(CPU_PER_MEASUREMENT_S * 1e6 / worker.measure_us(queries, 200)))
                for variant, worker in workers.items()
                for queries in QUERIES
            }
            for _ in range(rounds):
                for queries in QUERIES:
                    for variant, worker in workers.items():
                        samples[variant, queries].append(worker.measure_us(queries, counts[variant, queries]))
                        progress.advance(task)
    finally:
        for worker in workers.values():
            worker.close()
    return samples


def added_us(samples: Samples, variant: str, queries: int) -> list[float]:
    """Return what `variant` adds to the bare app, round by round."""
    pairs = zip(samples[variant, queries], samples[BASELINE, queries], strict=True)
    return [measured - bare for measured, bare in pairs]


def rows(samples: Samples) -> list[list[str]]:
    """Return the result line by line: variant, then for each number of queries the time, what is added, and that of stock."""
    lines = []
    for variant in VARIANTS:
        line = [variant]
        for queries in QUERIES:
            low, middle, high = statistics.quantiles(samples[variant, queries], n=4)
            line.append(f"{middle:.0f} µs ({low:.0f}–{high:.0f})")
            added = statistics.median(added_us(samples, variant, queries))
            stock = statistics.median(added_us(samples, REFERENCE, queries))
            line += ["", ""] if variant == BASELINE else [f"{added:+.0f} µs", f"1/{stock / max(added, 0.01):.1f}"]
        lines.append(line)
    return lines


def head() -> list[str]:
    """Return the names of the columns of `rows`."""
    return ["variant", *(name for queries in QUERIES for name in (f"{queries} queries", "added", "of stock"))]


def table(samples: Samples) -> Table:
    """Return the result for a terminal."""
    shown = Table(title="CPU time of a request, median of the rounds (quartiles)")
    for at, name in enumerate(head()):
        shown.add_column(name, justify="right" if at else "left")
    for line in rows(samples):
        shown.add_row(*line)
    return shown


def markdown(samples: Samples) -> str:
    """Return the result as docs/PERFORMANCE.md shows it."""
    rule = ["---", *["---:"] * (len(head()) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head(), rule, *rows(samples)))


@click.command()
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(min=3))
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table as docs/PERFORMANCE.md has it.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every sample there as well.")
def main(rounds: int, as_markdown: bool, json_path: Path | None) -> None:
    """Measure what telemetry costs a request."""
    console = Console(width=None if sys.stdout.isatty() else 180)
    samples = measure(rounds, console)
    if as_markdown:
        print(markdown(samples))
    else:
        console.print(table(samples))
    console.print(f"Python {platform.python_version()}, {platform.system()}, {rounds} rounds")
    if json_path is not None:
        every: list[dict[str, Any]] = [
            {"variant": variant, "queries": queries, "us_per_request": values}
            for (variant, queries), values in samples.items()
        ]
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(every, indent=1), "utf-8")


if __name__ == "__main__":
    main()
