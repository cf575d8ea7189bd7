"""Requests a second that the video server answers under Granian, with telemetry and without, loaded by `wrk`."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
from collections import defaultdict
from contextlib import AbstractContextManager, ExitStack
from urllib.parse import quote
from urllib.request import urlopen

from rich.progress import Progress

from benchmarks.plan import VAR, Plan
from benchmarks.report import Grid, Report, Verdict, quartiles, spread
from benchmarks.servers import VideoServerLoader, serving

ROUNDS = 9
TURNS = 3
SECONDS = 1
WORKERS = (1, 2)
CONNECTIONS = 8
THREADS = 4
CLIP = "Morning waves.mp4"
PATHS = {"/": "/", "/watch/<file>": f"/watch/{quote(CLIP)}"}
AT_LEAST_PERCENT = 95
Samples = dict[tuple[int, str, bool], list[float]]


def run(plan: Plan) -> Report:
    """Load both servers in turn, second by second; each round starts both anew.

    Two processes of one server differ by up to a tenth for as long as they live, so that one pair alone would tell little.
    """
    report = Report("Throughput of the video server")
    wrk = shutil.which("wrk")
    if wrk is None:
        report.notes.append("left out: `wrk` is not installed (Debian's package wrk)")
        return report
    samples: Samples = defaultdict(list)
    rounds, turns = plan.rounds_or(ROUNDS), 1 if plan.quick else TURNS
    with Progress(console=plan.console, transient=True) as progress:
        task = progress.add_task("throughput", total=rounds * len(WORKERS) * len(PATHS) * turns * 2)
        for workers in WORKERS:
            for _ in range(rounds):
                with ExitStack() as stack:
                    ports = {
                        telemetry: stack.enter_context(_video_server(telemetry, workers)) for telemetry in (False, True)
                    }
                    for port in ports.values():
                        _warm_up(port)
                    for shown, path in PATHS.items():
                        measured: dict[bool, list[float]] = {telemetry: [] for telemetry in ports}
                        for turn in range(turns):
                            for telemetry in sorted(ports, reverse=turn % 2 == 1):
                                measured[telemetry].append(_requests_per_s(wrk, ports[telemetry], path))
                                progress.advance(task)
                        for telemetry, each in measured.items():
                            samples[workers, shown, telemetry].append(statistics.median(each))
    report.grids.append(_grid(samples))
    report.verdicts = verdicts(samples)
    report.notes.append(
        f"wrk with 1 thread and {CONNECTIONS} connections on the same machine; of each round the median of {TURNS} seconds"
    )
    report.samples = [
        {"workers": workers, "path": path, "telemetry": telemetry, "requests_per_s": values}
        for (workers, path, telemetry), values in samples.items()
    ]
    return report


def _video_server(telemetry: bool, workers: int) -> AbstractContextManager[int]:
    videos, data = VAR / "videos", VAR / f"data-{'with' if telemetry else 'without'}"
    _make_clips()
    loader = VideoServerLoader(str(videos), str(data), telemetry)
    return serving(loader, "/", workers=workers, threads=THREADS, is_ready=CLIP.partition(".")[0])


def _make_clips() -> None:
    from service.samples import make_samples

    make_samples(VAR / "videos")


def _warm_up(port: int) -> None:
    for path in PATHS.values():
        for _ in range(50):
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                answer.read()


def _requests_per_s(wrk: str, port: int, path: str) -> float:
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", f"http://127.0.0.1:{port}{path}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    found = re.search(r"Requests/sec:\s*([\d.]+)", said)
    assert found is not None, said
    return float(found[1])


def percent(samples: Samples, workers: int, path: str) -> list[float]:
    """Return the throughput with telemetry, in percent of that without, round by round."""
    pairs = zip(samples[workers, path, True], samples[workers, path, False], strict=True)
    return [100 * measured / plain for measured, plain in pairs]


def _grid(samples: Samples) -> Grid:
    head = ("workers, path", "without telemetry", "with telemetry", "of it")
    rows = [
        (
            f"{workers}, {path}",
            spread(samples[workers, path, False], "/s"),
            spread(samples[workers, path, True], "/s"),
            spread(percent(samples, workers, path), "%", 1),
        )
        for workers in WORKERS
        for path in PATHS
    ]
    return Grid("Requests a second: median of the rounds (quartiles)", head, rows)


def verdicts(samples: Samples) -> list[Verdict]:
    """Return whether the server keeps its throughput."""
    found = []
    for workers in WORKERS:
        for path in PATHS:
            ratios = percent(samples, workers, path)
            shown = f"{path}, {workers} worker{'s' * (workers > 1)}"
            target = f"{shown}: at least {AT_LEAST_PERCENT} % of the server without telemetry"
            found.append(Verdict(target, spread(ratios, "%", 1), quartiles(ratios)[1] >= AT_LEAST_PERCENT))
    return found
