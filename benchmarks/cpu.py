"""CPU time of a request in every variant.

Each variant runs in a process of its own; all of them are measured in turn in every round, so that a slow moment of the
machine meets them alike. What is told is the median over the rounds, with the quartiles.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.apps import (
    BASELINE,
    LOAD_VARIABLE,
    OWN,
    OWN_EXPORTING,
    OWN_TWO_READERS,
    STOCK,
    STOCK_EXPORTING,
    LostSpansError,
    UnavailableError,
    Variant,
)
from benchmarks.peers.apps import PROMETHEUS
from benchmarks.peers.environments import python_of
from benchmarks.plan import VAR, Plan
from benchmarks.receiver import receiver
from benchmarks.report import Grid, Report, Verdict, quartiles, share, spread
from benchmarks.variants import VARIANTS

QUERIES = (0, 5, 50)
ROUNDS = 45
CPU_PER_MEASUREMENT_S = 0.05  # short, so that moments of one speed meet most variants of a round
SHARE_OF_STOCK = {0: 6, 5: 10, 50: 15}
SHARE_OF_STOCK_EXPORTING = 4
PER_QUERY_US = 1.5
Samples = dict[tuple[str, int], list[float]]


class Worker:
    """A process that measures one variant."""

    def __init__(self, variant: Variant, load: str | None = None) -> None:
        python = sys.executable if variant.peer is None else python_of(variant.peer)
        self._variant = variant
        self._log = self._log_file(variant).open("w")
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", variant.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
                **({} if load is None else {LOAD_VARIABLE: load}),
            },
        )
        self._answer()

    @staticmethod
    def _log_file(variant: Variant) -> Path:
        folder = VAR / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / ("".join(letter if letter.isalnum() else "-" for letter in variant.name) + ".log")

    def measure_us(self, queries: int, requests: int) -> float:
        """Return the CPU time of a request in microseconds.

        Raises:
            LostSpansError: the variant has dropped spans.
        """
        assert self._process.stdin is not None
        print(queries, requests, file=self._process.stdin, flush=True)
        return float(self._answer()["ns"]) / 1000

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UnavailableError(f"its process has ended; it left {self._log.name}")
        answer: dict[str, Any] = json.loads(line)
        if "unavailable" in answer:
            raise UnavailableError(answer["unavailable"])
        if "lost" in answer:
            raise LostSpansError(f"{self._variant.name}: {answer['lost']}")
        return answer

    def close(self) -> None:
        """End the process; one that does not end by itself is killed."""
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@contextmanager
def workers(variants: Sequence[Variant], notes: list[str], load: str | None = None) -> Iterator[dict[str, Worker]]:
    """Start a worker for each variant, of the usual app or of a load; what can't be had is left out and told in `notes`."""
    with ExitStack() as stack:
        stack.enter_context(receiver())
        started = {}
        for variant in variants:
            try:
                worker = started[variant.name] = Worker(variant, load)
                stack.callback(worker.close)
            except UnavailableError as error:
                if variant.name == BASELINE:
                    raise
                notes.append(f"{variant.name} is left out: {error}")
        yield started


def run(plan: Plan) -> Report:
    """Measure all variants."""
    report = Report("CPU of a request")
    variants = [variant for variant in VARIANTS.values() if plan.peers or variant.peer is None]
    with workers(variants, report.notes) as started:
        samples = measure(started, plan)
    report.grids.append(grid(samples))
    report.verdicts = verdicts(samples)
    report.samples = [
        {"variant": variant, "queries": queries, "us_per_request": values}
        for (variant, queries), values in samples.items()
    ]
    return report


def measure(started: dict[str, Worker], plan: Plan, rounds: int = ROUNDS) -> Samples:
    """Return microseconds a request for each variant and number of queries."""
    rounds = plan.rounds_or(rounds, quick=2)
    cpu_s = CPU_PER_MEASUREMENT_S / (100 if plan.quick else 1)
    first = 5 if plan.quick else 200
    samples: Samples = defaultdict(list)
    with Progress(console=plan.console, transient=True) as progress:
        task = progress.add_task("CPU", total=(rounds + 1) * len(started) * len(QUERIES))
        counts: dict[tuple[str, int], int] = {}
        for queries in QUERIES:
            for name, worker in started.items():
                counts[name, queries] = max(5, int(cpu_s * 1e6 / worker.measure_us(queries, first)))
                progress.advance(task)
        for _ in range(rounds):
            for queries in QUERIES:
                for name, worker in started.items():
                    samples[name, queries].append(worker.measure_us(queries, counts[name, queries]))
                    progress.advance(task)
    return samples


def added_us(samples: Samples, variant: str, queries: int) -> list[float]:
    """Return what `variant` adds to the bare app, round by round."""
    pairs = zip(samples[variant, queries], samples[BASELINE, queries], strict=True)
    return [measured - plain for measured, plain in pairs]


def middle_us(samples: Samples, variant: str, queries: int) -> float:
    """Return what `variant` adds to the bare app, in the median of the rounds."""
    return statistics.median(added_us(samples, variant, queries))


def grid(samples: Samples) -> Grid:
    """Return the result, the least cost first: time, what is added, and how much that is of what stock adds."""
    head = ["variant", "sees queries"]
    for queries in QUERIES:
        head += [f"{queries} queries", "added", "of stock"]
    names = sorted({name for name, _ in samples}, key=lambda name: middle_us(samples, name, 5))
    title = "CPU time of a request over all threads: median of the rounds (quartiles)"
    return Grid(title, head, [_row(samples, name) for name in names])


def _row(samples: Samples, name: str) -> list[str]:
    row = [name, "yes" if VARIANTS[name].sees_queries else "no"]
    for queries in QUERIES:
        row.append(spread(samples[name, queries], "µs"))
        added = middle_us(samples, name, queries)
        of_stock = share(added, middle_us(samples, STOCK, queries))
        row += ["", ""] if name == BASELINE else [f"{added:+.0f} µs", of_stock]
    return row


def verdicts(samples: Samples) -> list[Verdict]:
    """Return which targets are reached; those that lack a variant are left out."""
    measured = {name for name, _ in samples}
    found = [_share(samples, OWN_TWO_READERS, STOCK, queries, SHARE_OF_STOCK[queries]) for queries in QUERIES]
    if PROMETHEUS in measured:
        found += [_beside_prometheus(samples, queries) for queries in QUERIES]
    found += [_share(samples, OWN_EXPORTING, STOCK_EXPORTING, queries, SHARE_OF_STOCK_EXPORTING) for queries in QUERIES]
    return found + [_first(samples, measured, queries) for queries in QUERIES]


def _share(samples: Samples, own: str, other: str, queries: int, wanted: int) -> Verdict:
    pairs = zip(added_us(samples, other, queries), added_us(samples, own, queries), strict=True)
    ratios = [theirs / max(ours, 0.01) for theirs, ours in pairs]
    low, middle, high = quartiles(ratios)
    target = f"{own}, {queries} queries: at most 1/{wanted} of {other}"
    return Verdict(target, f"1/{middle:.1f} (1/{low:.1f}–1/{high:.1f})", middle >= wanted)


def _beside_prometheus(samples: Samples, queries: int) -> Verdict:
    ours = middle_us(samples, OWN_TWO_READERS, queries)
    limit = middle_us(samples, PROMETHEUS, 0) + PER_QUERY_US * queries
    target = f"{OWN_TWO_READERS}, {queries} queries: at most {PROMETHEUS} + {PER_QUERY_US} µs a query"
    return Verdict(target, f"{ours:.1f} µs of {limit:.1f} µs", ours <= limit)


def _first(samples: Samples, measured: set[str], queries: int) -> Verdict:
    others = [name for name in measured if VARIANTS[name].sees_queries and not name.startswith(OWN)]
    nearest = min(others, key=lambda name: middle_us(samples, name, queries))
    ours, theirs = middle_us(samples, OWN_TWO_READERS, queries), middle_us(samples, nearest, queries)
    target = f"{OWN_TWO_READERS}, {queries} queries: first of all that see queries"
    return Verdict(target, f"{ours:.0f} µs, next {nearest} with {theirs:.0f} µs", ours < theirs)
