"""A flame graph of the request path: `make profile`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.apps import OWN_TWO_READERS
from benchmarks.plan import VAR, Plan
from benchmarks.report import Report
from benchmarks.worker import serve

QUERIES = 5
REQUESTS, QUICK_REQUESTS = 60_000, 2_000
RATE_HZ = 1000


def run(plan: Plan) -> Report:
    """Sample a process that serves requests, and write the flame graph."""
    report = Report("Profile")
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if spy is None:
        report.notes.append("left out: py-spy is not installed (requirements/dev.in)")
        return report
    target = VAR / "flame.svg"
    VAR.mkdir(parents=True, exist_ok=True)
    requests = QUICK_REQUESTS if plan.quick else REQUESTS
    command = [spy, "record", "--rate", str(RATE_HZ), "--format", "flamegraph", "--output", str(target)]
    served = [sys.executable, "-m", "benchmarks.profile", str(requests)]
    with plan.console.status("profiling"):
        done = subprocess.run([*command, "--", *served], capture_output=True, text=True)
    if not target.is_file() or done.returncode:
        report.notes.append(f"left out: py-spy can't look into a process here: {' '.join(done.stderr.split())[-300:]}")
        return report
    report.notes.append(f"{OWN_TWO_READERS}, {requests:,} requests with {QUERIES} queries: {target}")
    return report


def main(requests: int) -> None:
    """Serve requests, to be looked at."""
    from benchmarks.variants import VARIANTS

    serve(VARIANTS[OWN_TWO_READERS].make(), f"/queries/{QUERIES}", requests)


if __name__ == "__main__":
    main(int(sys.argv[1]))
