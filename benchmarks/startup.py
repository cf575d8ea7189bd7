"""What `from telemetry import instrument; instrument(app)` adds to the start of a Flask app, and which imports that is."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys

from rich.progress import Progress

from benchmarks.plan import VAR, Plan
from benchmarks.report import Grid, Report, Verdict, spread

ROUNDS = 15
MAX_ADDED_MS = 150.0
TOP = 12
MEASURED = """
import time
from flask import Flask
app = Flask("startup")
started, cpu = time.perf_counter(), time.process_time()
from telemetry import instrument
imported = time.perf_counter()
instrument(app)
ended = time.perf_counter()
cpu = time.process_time() - cpu
print(*(1000 * s for s in (ended - started, imported - started, ended - imported, cpu)), flush=True)
import os
os._exit(0)  # with nobody at the endpoint, the end takes longer than the start
"""
EXPORTING = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
TRACED = MEASURED.partition("started")[0] + "from telemetry import instrument\ninstrument(app)\n"
_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)")


def run(plan: Plan) -> Report:
    """Start new processes, without an exporter and with one in turn."""
    report = Report("Start-up")
    rounds = plan.rounds_or(ROUNDS)
    plain: list[list[float]] = []
    exporting: list[list[float]] = []
    with Progress(console=plan.console, transient=True) as progress:
        for _ in progress.track(range(rounds + 1), description="start-up"):
            plain.append(_start({}))
            exporting.append(_start(EXPORTING))
    del plain[0], exporting[0]  # which compiled
    report.grids += [_grid({"instrument(app)": plain, "instrument(app) with an OTLP endpoint": exporting}), imports()]
    total = statistics.median(run[0] for run in plain)
    target = f"importing telemetry and instrument(app): at most {MAX_ADDED_MS:g} ms"
    report.verdicts = [Verdict(target, f"{total:.0f} ms", total <= MAX_ADDED_MS)]
    report.samples = {
        "columns": ["added", "imports", "instrument", "cpu"],
        "plain_ms": plain,
        "exporting_ms": exporting,
    }
    return report


def _python(code: str, *options: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    # Compiled modules are kept, as they are where an app is installed, whatever the environment of the bench says.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**kept, "PYTHONPYCACHEPREFIX": str(VAR / "pycache"), **(environment or {})},
    )


def _start(environment: dict[str, str]) -> list[float]:
    return [float(number) for number in _python(MEASURED, environment=environment).stdout.split()]


def _grid(runs: dict[str, list[list[float]]]) -> Grid:
    head = ("", "added to the start", "of it imports", "of it instrument()", "CPU")
    rows = [(name, *(spread([run[at] for run in each], "ms") for at in range(4))) for name, each in runs.items()]
    return Grid("Start-up over `from flask import Flask; Flask(…)`: median (quartiles)", head, rows)


def imports() -> Grid:
    """Return the packages that take longest to import, as `-X importtime` has it, beside those that Flask imports anyway."""
    self_us: dict[str, int] = {}
    telemetry_began = False
    lines = _python(TRACED, "-X", "importtime").stderr.splitlines()
    flask_ends = max(at for at, line in enumerate(lines) if re.search(r"\| flask$", line))
    for line in lines[flask_ends + 1 :]:
        found = _IMPORT.match(line)
        if found:
            telemetry_began = True
            package = ".".join(found[4].split(".")[: 3 if found[4].startswith("opentelemetry") else 1])
            self_us[package] = self_us.get(package, 0) + int(found[1])
    assert telemetry_began
    most = sorted(self_us.items(), key=lambda entry: -entry[1])
    rows = [(name, f"{us / 1000:.1f} ms") for name, us in most[:TOP]]
    rows.append((f"{len(most) - TOP} others", f"{sum(us for _, us in most[TOP:]) / 1000:.1f} ms"))
    return Grid(
        "Imports behind Flask's own, by package (`-X importtime`, which makes them slower)", ("package", "itself"), rows
    )
