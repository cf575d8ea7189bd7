"""`GET /admin/performance/json` with 200 routes and full windows: what it costs, and whether requests wait for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.apps import Measured
from benchmarks.plan import Plan
from benchmarks.report import Grid, Report, Verdict, percentile, quartiles, spread
from benchmarks.resident import ROUTES, WINDOW, app_of_routes
from benchmarks.worker import serve

ROUNDS = 30
MAX_CPU_MS = 5.0
PATH = "/admin/performance/json"
FROM_HERE = {"REMOTE_ADDR": "127.0.0.1"}
THREADS = 4
PER_THREAD_S = 1.0
PAUSE_S = 0.005
WORKERS = 2
_COMMAND = (sys.executable, "-m", "benchmarks.snapshot")


def run(plan: Plan) -> Report:
    """Measure in a process of its own."""
    report = Report("Admin JSON")
    rounds, seconds = plan.rounds_or(ROUNDS, quick=3), 0.1 if plan.quick else PER_THREAD_S
    with plan.console.status("snapshot"):
        told = _told(str(rounds), str(seconds))
        with tempfile.TemporaryDirectory() as folder:
            told["joint_ms"] = _told(str(rounds), "--workers-dir", folder)
    same, changed, waits = told["same_ms"], told["changed_ms"], told["request_us"]
    rows = [
        ("nothing has changed", spread(same, "ms", 2)),
        ("every window has changed", spread(changed, "ms", 2)),
        (f"of {WORKERS} workers", spread(told["joint_ms"], "ms", 2)),
    ]
    report.grids.append(
        Grid(f"CPU of GET {PATH}, 200 routes × 100 samples: median (quartiles)", ("since the last call", "CPU"), rows)
    )
    head = ("another thread", "times a second", "p50 of a request", "p99 of a request")
    lines = [
        (name, spread(each["rounds_per_s"], "/s"), spread(each["p50"], "µs"), spread(each["p99"], "µs"))
        for name, each in waits.items()
    ]
    report.grids.append(Grid(f"Requests of {THREADS} threads: median of the rounds (quartiles)", head, lines))
    for name, values in (("nothing has changed", same), ("every window has changed", changed)):
        middle = quartiles(values)[1]
        report.verdicts.append(Verdict(f"{name}: under {MAX_CPU_MS:g} ms CPU", f"{middle:.2f} ms", middle < MAX_CPU_MS))
    polled, busy = quartiles(waits[POLLED]["p99"])[1], quartiles(waits[BUSY]["p99"])[1]
    report.verdicts.append(
        Verdict(
            "no lock that requests wait for: p99 at most 1.25 times that beside any other busy thread",
            f"{polled:.0f} µs of {busy:.0f} µs",
            polled <= 1.25 * busy,
        )
    )
    report.samples = told
    return report


def _told(*arguments: str) -> Any:
    """Return what a process of its own has found."""
    return json.loads(subprocess.run([*_COMMAND, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout)


def joint(rounds: int, folder: str) -> None:
    """Print the CPU times of the worker that answers, where there are several that have served as many requests."""
    os.environ["LVS_TELEMETRY_WORKERS_DIR"] = folder
    measured = _measured()
    command = [*_COMMAND, "0", "--workers-dir", folder]
    siblings = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(WORKERS - 1)
    ]
    for sibling in siblings:
        sibling.stdout.readline()  # it is ready
    serve(measured, PATH, 1)
    print(json.dumps([_poll_ms(measured) for _ in range(rounds)]))
    for sibling in siblings:
        sibling.communicate()


def be_asked(folder: str) -> None:
    """Serve as many requests, then answer the other worker until standard input ends."""
    os.environ["LVS_TELEMETRY_WORKERS_DIR"] = folder
    measured = _measured()
    print("ready", flush=True)
    sys.stdin.read()
    measured.flush()


def _measured() -> Measured:
    """Return an app whose windows are full."""
    from telemetry import instrument

    measured = Measured(instrument(app_of_routes()), of_requests=FROM_HERE)
    for number in range(ROUTES):
        serve(measured, f"/routes/{number}/7", WINDOW)
    return measured


def _poll_ms(measured: Measured) -> float:
    started = time.thread_time_ns()
    serve(measured, PATH, 1)
    return (time.thread_time_ns() - started) / 1e6


IDLE, BUSY, POLLED = "sleeps", "encodes some other JSON without a pause", "asks for the admin JSON without a pause"


def main(rounds: int, seconds: float) -> None:
    """Print what was found as JSON."""
    measured = _measured()
    paths = [f"/routes/{number}/7" for number in range(ROUTES)]

    def poll() -> None:
        serve(measured, PATH, 1)

    poll()
    same = [_poll_ms(measured) for _ in range(rounds)]
    changed = []
    for _ in range(rounds):
        for path in paths:
            serve(measured, path, 1)
        changed.append(_poll_ms(measured))
    works: dict[str, Callable[[], object]] = {IDLE: lambda: time.sleep(0.01), BUSY: _compute, POLLED: poll}
    waits: dict[str, dict[str, list[float]]] = {name: {"p50": [], "p99": [], "rounds_per_s": []} for name in works}
    for _ in range(max(2, rounds // 6)):
        for name, work in works.items():
            latencies_us, times = _latencies_us(measured, paths, work, seconds)
            for percent in (50, 99):
                waits[name][f"p{percent}"].append(percentile(latencies_us, percent))
            waits[name]["rounds_per_s"].append(times / seconds)
    print(json.dumps({"same_ms": same, "changed_ms": changed, "request_us": waits}))


def _compute() -> None:
    """Take the interpreter for about as long as a poll does."""
    for number in range(300):
        json.dumps({"number": number, "list": list(range(20))})


def _latencies_us(
    measured: Measured, paths: list[str], work: Callable[[], object], seconds: float
) -> tuple[list[float], int]:
    """Return how long requests in threads take while another thread does `work` over and over, and how often it did."""
    latencies_us: list[float] = []
    until = time.monotonic() + seconds
    done = 0

    def request(number: int) -> None:
        at = number
        while time.monotonic() < until:
            started = time.perf_counter_ns()
            serve(measured, paths[at % len(paths)], 1)
            latencies_us.append((time.perf_counter_ns() - started) / 1000)
            at += THREADS
            time.sleep(PAUSE_S)

    def keep_on() -> None:
        nonlocal done
        while time.monotonic() < until:
            work()
            done += 1

    threads = [threading.Thread(target=request, args=(number,)) for number in range(THREADS)]
    threads.append(threading.Thread(target=keep_on))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies_us, done


if __name__ == "__main__":
    if sys.argv[2] != "--workers-dir":
        main(int(sys.argv[1]), float(sys.argv[2]))
    elif int(sys.argv[1]):
        joint(int(sys.argv[1]), sys.argv[3])
    else:
        be_asked(sys.argv[3])
