"""`python -m benchmarks [NAMES]`: what telemetry costs, measured here and now; `make bench`."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import import_module
from pathlib import Path

import click
from rich.console import Console

from benchmarks.apps import LostSpansError
from benchmarks.plan import Plan
from benchmarks.report import Report, show

BENCHMARKS = ("cpu", "loads", "pieces", "latency", "throughput", "memory", "startup", "snapshot", "verdicts")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice([*BENCHMARKS, "profile"]))
@click.option(
    "--rounds", type=click.IntRange(min=1), help="Measure so many rounds instead of each benchmark's own number."
)
@click.option("--quick", is_flag=True, help="Only see that everything works; the figures mean nothing.")
@click.option("--full", is_flag=True, help="Measure what takes long as well: the growth over a million requests.")
@click.option("--peers/--no-peers", default=True, show_default=True, help="Measure other tools, installed under var/.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the tables as docs/PERFORMANCE.md has them.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every sample there as well.")
def main(
    names: tuple[str, ...],
    rounds: int | None,
    quick: bool,
    full: bool,
    peers: bool,
    as_markdown: bool,
    json_path: Path | None,
) -> None:
    """Measure what telemetry costs: NAMES, or all but `profile`.

    `profile` writes a flame graph of the request path instead. The exit code tells that it was measured, not that targets
    are reached.
    """
    console = Console(width=None if sys.stdout.isatty() else 200)
    plan = Plan(console, rounds, quick, full, peers)
    reports = []
    for name in names or BENCHMARKS:
        try:
            report: Report = import_module(f"benchmarks.{name}").run(plan)
        except LostSpansError as error:
            raise click.ClickException(f"spans were lost, so that nothing is told: {error}") from error
        if quick:
            report.notes.append("measured with --quick: the figures and the verdicts mean nothing")
        show(report, console, as_markdown)
        reports.append(report)
    console.print(f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores", highlight=False)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps({report.name: report.samples for report in reports}, indent=1), "utf-8")


if __name__ == "__main__":
    main()
