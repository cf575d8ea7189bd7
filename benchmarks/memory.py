"""Memory: what telemetry takes with 200 routes and full windows, and whether it grows with the number of requests."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from benchmarks.plan import Plan
from benchmarks.report import Grid, Report, Verdict, spread
from benchmarks.resident import ROUTES, WINDOW

ROUNDS = 5
MODES = {
    "bare": "bare Flask",
    "imports": "telemetry imported, nothing instrumented",
    "full": "instrument(app), all windows full",
}
MAX_ADDED_MB = 12.0
GROWTH_REQUESTS, FULL_GROWTH_REQUESTS, QUICK_GROWTH_REQUESTS = 100_000, 1_000_000, 2_000
MAX_GROWTH_KB = 512
"""So much is the noise of the allocator; one object left by each request would be more."""
_MB = 1024 * 1024


def run(plan: Plan) -> Report:
    """Measure each mode in new processes, in turn."""
    report = Report("Memory")
    fill = 2 if plan.quick else WINDOW
    samples: dict[str, list[float]] = {mode: [] for mode in MODES}
    with plan.console.status("memory"):
        for _ in range(plan.rounds_or(ROUNDS)):
            for mode in MODES:
                samples[mode].append(resident(mode, fill)[0] / _MB)
        requests = GROWTH_REQUESTS
        if plan.quick or plan.full:
            requests = QUICK_GROWTH_REQUESTS if plan.quick else FULL_GROWTH_REQUESTS
        growth = resident("growth", fill, requests)
    report.grids += [_grid(samples), _growth_grid(growth, requests)]
    added = _middle(samples, "full") - _middle(samples, "bare")
    target = (
        f"{ROUTES} routes, windows of {WINDOW} samples: at most {MAX_ADDED_MB:g} MB over bare Flask, imports included"
    )
    report.verdicts = [Verdict(target, f"{added:.1f} MB", added <= MAX_ADDED_MB), _growth_verdict(growth, requests)]
    report.samples = {"resident_mb": samples, "growth_bytes": growth, "growth_requests": requests}
    return report


def resident(mode: str, *arguments: int) -> list[int]:
    """Return the resident bytes that a process in `mode` tells."""
    command = [sys.executable, "-m", "benchmarks.resident", mode, *map(str, arguments)]
    told: list[int] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return told


def _middle(samples: dict[str, list[float]], mode: str) -> float:
    return statistics.median(samples[mode])


def _grid(samples: dict[str, list[float]]) -> Grid:
    rows = []
    for mode, shown in MODES.items():
        over = "" if mode == "bare" else f"{_middle(samples, mode) - _middle(samples, 'bare'):+.1f} MB"
        alone = f"{_middle(samples, 'full') - _middle(samples, 'imports'):+.1f} MB" if mode == "full" else ""
        rows.append((shown, spread(samples[mode], "MB", 1), over, alone))
    title = f"Resident memory after {ROUTES * WINDOW:,} requests to {ROUTES} routes: median (quartiles)"
    return Grid(title, ("process", "resident", "over bare Flask", "without the imports"), rows)


def growth_kb(growth: list[int]) -> float:
    """Return what has grown from a fifth of the way to the end; before that, caches fill."""
    return (growth[-1] - growth[2]) / 1024


def _growth_grid(growth: list[int], requests: int) -> Grid:
    head = ["requests", "start", *(f"{requests * at // 10:,}" for at in range(1, 11))]
    row = [
        "over the start",
        f"{growth[0] / _MB:.1f} MB",
        *(f"{(now - growth[0]) / 1024:+.0f} kB" for now in growth[1:]),
    ]
    return Grid("Growth, instrument(app), one request in 51 to an unknown path", head, [row])


def _growth_verdict(growth: list[int], requests: int) -> Verdict:
    grown = growth_kb(growth)
    measured = f"{grown:+.0f} kB in the last four fifths"
    return Verdict(f"no growth over {requests:,} requests (under {MAX_GROWTH_KB} kB)", measured, grown < MAX_GROWTH_KB)
