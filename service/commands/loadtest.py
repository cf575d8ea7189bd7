"""`local-video-server loadtest`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from service.commands.options import FAILED, WRONG_SETTING, fail
from service.commands.output import say, wrapped
from telemetry import figures
from telemetry import loadtest as engine

_PERCENTILES: Final = (50, 95, 99)
_WHOLE: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


@click.command()
@click.argument("url", required=False, metavar="URL")
@click.option("--requests", default="100", metavar="N", show_default=True, help="How many requests to make.")
@click.option("--concurrency", default="4", metavar="N", show_default=True, help="How many to make at a time.")
@click.option("--timeout", default="30", metavar="SECONDS", show_default=True, help="How long one request may take.")
@click.option("--allow-remote", is_flag=True, help="Let URL be of another machine.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def loadtest(url: str | None, requests: str, concurrency: str, timeout: str, allow_remote: bool, as_json: bool) -> None:
    """Make many GET requests to URL and say how long they took. The exit code is 1 if any failed (4xx too)."""
    try:
        plan = engine.Plan(
            url or "", _whole(requests), _whole(concurrency), allow_remote=allow_remote, timeout_s=_seconds(timeout)
        )
    except engine.LoadTestError as error:
        fail(_as_typed(str(error)), WRONG_SETTING)
    try:
        result = _run(plan)
    except engine.UnreachableError as error:
        fail(str(error), FAILED)
    except engine.LoadTestError as error:
        fail(_as_typed(str(error)), WRONG_SETTING)
    if as_json:
        click.echo(json.dumps(_body(plan, result), indent=2))
    else:
        for line, kind in _lines(plan, result):
            for part in wrapped(line, "    "):
                say(part, kind)
    if not result.ok:
        raise SystemExit(FAILED)


def _run(plan: engine.Plan) -> engine.LoadResult:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} requests"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("requests", total=plan.requests)
        return engine.run(plan, lambda made: progress.update(task, completed=made))


def _lines(plan: engine.Plan, result: engine.LoadResult) -> Iterator[tuple[str, str]]:
    made, rate = figures.plural(result.made, "request"), figures.digits(result.requests_per_second)
    yield f"{made} to {plan.url}, {plan.concurrency} at a time, in {result.seconds:.2f} s: {rate} answers/s", "title"
    if result.durations_s:
        named = [(f"p{percent}", result.percentile_ms(percent)) for percent in _PERCENTILES]
        named += [("fastest", min(result.durations_s) * 1000), ("slowest", max(result.durations_s) * 1000)]
        yield from ((f"  {name:<8} {figures.milliseconds(value)}", "text") for name, value in named)
        yield f"  answers  {engine.status_words(result.statuses)}", "text"
    for failure, count in result.failures.most_common():
        yield f"  failed   {count:,} × {failure}", "poor"
    if result.stopped:
        yield f"  stopped  after {result.made:,} of {plan.requests:,}: {result.stopped}", "poor"
    if result.made:
        share = figures.percent(100 * result.errors / result.made)
        yield f"  errors   {result.errors:,} of {result.made:,} ({share})", "poor" if result.errors else "good"


def _body(plan: engine.Plan, result: engine.LoadResult) -> dict[str, Any]:
    return {
        "url": plan.url,
        "concurrency": plan.concurrency,
        "planned": plan.requests,
        "made": result.made,
        "errors": result.errors,
        "seconds": round(result.seconds, 3),
        "answers_per_second": round(result.requests_per_second, 3),
        **{f"p{percent}_ms": round(result.percentile_ms(percent), 3) for percent in _PERCENTILES},
        "min_ms": round(min(result.durations_s, default=0.0) * 1000, 3),
        "max_ms": round(max(result.durations_s, default=0.0) * 1000, 3),
        "statuses": {str(status): count for status, count in sorted(result.statuses.items())},
        "failures": dict(result.failures.most_common()),
        "stopped": result.stopped or None,
    }


def _whole(text: str) -> Any:
    """Return the number that was typed, or the text as it is: the plan says what it must be."""
    return int(text) if _WHOLE.fullmatch(text) else text


def _seconds(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _as_typed(message: str) -> str:
    """Name the parameter as the user types it."""
    name, _, rest = message.partition(" ")
    if name == "url":
        hint = "; --allow-remote allows them" if "unless remote hosts are allowed" in rest else ""
        return f"URL {rest}{hint}"
    return f"--{name} {rest}"
