"""Latency as a client sees it: Granian with four threads, four connections, requests at a steady rate."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack

from rich.progress import Progress

from benchmarks.apps import BASELINE, OWN_EXPORTING, OWN_TWO_READERS, STOCK, STOCK_EXPORTING
from benchmarks.plan import Plan
from benchmarks.receiver import receiver
from benchmarks.report import Grid, Report, Verdict, percentile, quartiles, spread
from benchmarks.servers import VariantLoader, serving

ROUNDS = 9
SECONDS = 2.0
CONNECTIONS = 4
RATES = {0: 800, 5: 400, 50: 100}
"""Requests a second for each number of queries: what stock can serve with a third of a core."""
NAMES = (BASELINE, OWN_TWO_READERS, OWN_EXPORTING, STOCK, STOCK_EXPORTING)
TARGETS = (
    (OWN_TWO_READERS, STOCK, {0: 6, 5: 10, 50: 15}),
    (OWN_EXPORTING, STOCK_EXPORTING, {0: 4, 5: 4, 50: 4}),
)
Samples = dict[tuple[str, int], list[tuple[float, float]]]


def run(plan: Plan) -> Report:
    """Measure the variants of the project's own environment in turn."""
    report = Report("Latency in a threaded server")
    rounds = plan.rounds_or(ROUNDS)
    seconds = 0.2 if plan.quick else SECONDS
    samples: Samples = defaultdict(list)
    with ExitStack() as stack:
        stack.enter_context(receiver())
        progress = stack.enter_context(Progress(console=plan.console, transient=True))
        task = progress.add_task("latency", total=(rounds + 1) * len(RATES) * len(NAMES))
        ports = {name: stack.enter_context(serving(VariantLoader(name), "/queries/1")) for name in NAMES}
        for at in range(rounds + 1):  # the first warms up
            for queries, rate in RATES.items():
                for name, port in ports.items():
                    measured = measure_us(port, queries, rate, seconds)
                    if at:
                        samples[name, queries].append(measured)
                    progress.advance(task)
    report.grids.append(_grid(samples))
    report.verdicts = verdicts(samples)
    report.notes.append(
        f"{CONNECTIONS} connections, {SECONDS:g} s a measurement; requests a second: "
        + ", ".join(f"{rate} with {queries} queries" for queries, rate in RATES.items())
    )
    report.samples = [
        {"variant": name, "queries": queries, "p50_us": [p50 for p50, _ in pairs], "p99_us": [p99 for _, p99 in pairs]}
        for (name, queries), pairs in samples.items()
    ]
    return report


def measure_us(port: int, queries: int, rate: float, seconds: float) -> tuple[float, float]:
    """Return median and p99 of one measurement in microseconds."""
    arguments = (port, f"/queries/{queries}", CONNECTIONS, rate, seconds)
    command = [sys.executable, "-m", "benchmarks.client", *map(str, arguments)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    latencies_us = [latency / 1000 for latency in json.loads(answer.stdout)]
    return statistics.median(latencies_us), percentile(latencies_us, 99)


def _p99(samples: Samples, name: str, queries: int) -> list[float]:
    return [p99 for _, p99 in samples[name, queries]]


def added_p99_us(samples: Samples, name: str, queries: int) -> list[float]:
    """Return what `name` adds to the p99 of the bare app, round by round."""
    pairs = zip(_p99(samples, name, queries), _p99(samples, BASELINE, queries), strict=True)
    return [measured - plain for measured, plain in pairs]


def _grid(samples: Samples) -> Grid:
    head = ["variant"]
    for queries in RATES:
        head += [f"{queries} queries: p50", "p99", "added to p99"]
    rows = []
    for name in NAMES:
        row = [name]
        for queries in RATES:
            row.append(f"{statistics.median(p50 for p50, _ in samples[name, queries]):.0f} µs")
            row.append(spread(_p99(samples, name, queries), "µs"))
            added = statistics.median(added_p99_us(samples, name, queries))
            row.append("" if name == BASELINE else f"{added:+.0f} µs")
        rows.append(row)
    return Grid("Latency: median of the rounds (quartiles)", head, rows)


def verdicts(samples: Samples) -> list[Verdict]:
    """Return whether what is added to the p99 keeps the ratios of the CPU time."""
    found = []
    for own, other, shares in TARGETS:
        for queries, wanted in shares.items():
            ours, theirs = (statistics.median(added_p99_us(samples, name, queries)) for name in (own, other))
            low, _, high = quartiles(added_p99_us(samples, own, queries))
            target = f"{own}, {queries} queries: p99 at most 1/{wanted} of {other}"
            share = f"1/{theirs / ours:.1f}" if ours > 0 else "nothing"
            measured = f"{share}: {ours:+.0f} µs ({low:+.0f}–{high:+.0f}) of {theirs:+.0f} µs"
            found.append(Verdict(target, measured, ours * wanted <= theirs))
    return found
