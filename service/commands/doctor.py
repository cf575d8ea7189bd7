"""`local-video-server doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from service import doctor as checks
from service.commands.options import FAILED, load, setting_options
from service.commands.output import say, wrapped

_SHAPES: Final = {"ok": ("●", "good"), "note": ("▲", "warning"), "problem": ("■", "poor")}
_INDENT: Final = 4


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@setting_options
def doctor(as_json: bool, config_file: Path | None, **options: Any) -> None:
    """Say what is set up, what is wrong and how to mend it. The exit code is 1 if anything is wrong."""
    loaded = load(config_file, options)
    console = Console(stderr=True)
    found: list[checks.Finding] = []
    with console.status("Looking", spinner="line") as status:
        found.extend(checks.examine(loaded.settings, lambda subject: status.update(f"Looking at: {subject}")))
    problems = sum(finding.level == "problem" for finding in found)
    if as_json:
        click.echo(json.dumps({"problems": problems, "findings": [finding.body() for finding in found]}, indent=2))
    else:
        for finding in found:
            _say(finding)
        say("")
        verdict = {0: "Nothing is wrong.", 1: "1 thing is wrong."}.get(problems, f"{problems} things are wrong.")
        say(verdict, "title")
    if problems:
        raise SystemExit(FAILED)


def _say(finding: checks.Finding) -> None:
    shape, style = _SHAPES[finding.level]
    for index, line in enumerate(wrapped(f"{finding.subject}: {finding.text}", "  ", f"{shape} ")):
        say(line, style if index == 0 and finding.level != "ok" else "text")
    if finding.remedy:
        for line in wrapped(finding.remedy, " " * _INDENT, "  → "):
            say(line)
