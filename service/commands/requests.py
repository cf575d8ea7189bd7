"""`local-video-server requests` and `local-video-server request TRACE_ID`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import click

from config import Settings
from service.client import FetchError, Target, WrongURLError
from service.commands.options import FAILED, WRONG_SETTING, fail, load
from service.commands.output import say, wrapped
from service.commands.report import SERVER_HELP, of_settings
from telemetry import figures
from telemetry.admin import waterfall
from telemetry.admin.requests_api import SORTS, VERDICT_CHOICES
from telemetry.admin.requests_facts import REQUEST_ID
from telemetry.admin.routes import API
from telemetry.fanout import OK, name_of

_NOT_REQUESTS: Final = (KeyError, TypeError, ValueError, AttributeError, IndexError)
_BAR: Final = 24


def _asking(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--json", "as_json", is_flag=True, help="Print the server's answer as JSON.")(command)
    return click.option("--url", help=SERVER_HELP)(command)


@click.command()
@_asking
@click.option("--route", help="Only requests of this route, such as 'GET /tag/<tag>'.")
@click.option("--min-queries", type=click.IntRange(min=0), help="Only requests with so many queries or more.")
@click.option("--min-ms", type=click.IntRange(min=0), help="Only requests that took so long or longer.")
@click.option("--errors", is_flag=True, help="Only requests that failed.")
@click.option(
    "--verdict", type=click.Choice(VERDICT_CHOICES), help="Only requests with this verdict; any is any but ok."
)
@click.option("--sort", "sort_by", type=click.Choice(SORTS), default=SORTS[0], show_default=True)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
def requests(url: str | None, as_json: bool, errors: bool, **chosen: Any) -> None:
    """List the newest requests of a running server, and the worst of each route, with their verdicts."""
    given = {name: value for name, value in chosen.items() if value is not None} | ({"errors": 1} if errors else {})
    target, body = _ask(url, f"{API}/requests?{urlencode(given)}")
    try:
        traces = Counter(request["trace_id"] for request in body["requests"])
        rows = [_row(request, traces[request["trace_id"]] == 1) for request in body["requests"]]
    except _NOT_REQUESTS:
        fail(f"the answer of {target} is not the requests of a server that this program knows", FAILED)
    if as_json:
        click.echo(json.dumps(body, indent=2))
        return
    if not rows:
        say("No request matches." if body.get("kept") else "No request has been kept yet.")
        return
    for row in rows:
        for line, kind in row:
            say(line, kind)
    say("'local-video-server request TRACE_ID' shows one.", "rule")


def _row(request: Mapping[str, Any], is_alone: bool) -> list[tuple[str, str]]:
    """Return the two lines of a request: what was asked for, and what its queries come to.

    If it `is_alone` in its trace, that is enough to ask for it.
    """
    shown = request["trace_id"] if is_alone else f"{request['trace_id']}-{request['span_id']}"
    verdict = request["verdict"]
    status = figures.status_called(request["severity"])
    kind = status.word if status.severity else "text"
    alike = f", {figures.count(request['repeated'])} alike" if request["repeated"] > 1 else ""
    queries = f"{figures.plural(request['query_count'], 'query')}{alike}"
    told = "" if verdict == OK else f": {name_of(verdict)}"
    took = figures.milliseconds(request["duration_ms"])
    if request["query_count"] or request["commit_count"]:
        took += f", {figures.milliseconds(request['db_ms'])} in the database"
    return [
        (f"{status.shape} {request['route']}  {_status(request)}  {took}", kind),
        (f"  {shown}  {queries}{told}", "text"),
    ]


def _status(request: Mapping[str, Any]) -> str:
    return str(request["status"] or "no status")


@click.command()
@click.argument("trace_id")
@_asking
def request(trace_id: str, url: str | None, as_json: bool) -> None:
    """Show one request of a running server: its queries by statement and line, and the verdict on them."""
    wanted = trace_id.strip().lower()
    if not REQUEST_ID.fullmatch(wanted):
        fail(
            "TRACE_ID must be 32 hexadecimal digits, and may be followed by - and the 16 of a span id, "
            f"got {trace_id!r}; 'local-video-server requests' lists them",
            WRONG_SETTING,
        )
    target, body = _ask(url, f"{API}/requests/{wanted}")
    try:
        lines = list(_lines(body))
    except _NOT_REQUESTS:
        fail(f"the answer of {target} is not a request of a server that this program knows", FAILED)
    if as_json:
        click.echo(json.dumps(body, indent=2))
        return
    for line, kind in lines:
        say(line, kind)


def _lines(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = [
        (f"{one['route']}  {_status(one)}  {figures.milliseconds(one['duration_ms'])}", "title"),
        (one["path"], "rule"),
        (
            _of_queries(one) + (f" · ■ {one['error_type']}" if one["error_type"] else ""),
            "poor" if one["error_type"] else "text",
        ),
        ("", "text"),
    ]
    for finding in one["findings"]:
        mend = f" Mend: {finding['mend']}." if finding["mend"] else ""
        mark = "▲ " if finding["is_warning"] else "  "
        told = f"{mark}{name_of(finding['kind'])}: {finding['text']}.{mend}"
        lines += [(line, "warning" if finding["is_warning"] else "text") for line in wrapped(told, "  ")]
    if one["checked"]:
        lines.append((f"  {one['checked']}", "text") if one["error_type"] else (f"● {one['checked']}", "good"))
    whole_ms = waterfall.whole_ms(one)
    for group in sorted(one["groups"], key=lambda group: -group["total_ms"]):
        bar = "█" * max(1, min(_BAR, round(_BAR * group["total_ms"] / whole_ms)))
        lines.append(("", "text"))
        lines.append((f"{group['runs']:>6,} × {figures.milliseconds(group['each_ms'])}  {bar}", "heading"))
        lines += [(line, "text") for line in wrapped(" ".join(group["sql"].split()), "    ", "  ")]
        place = group["source"]
        if place is not None:
            called = group["called_from"]
            via = f", called at {called['file']}:{called['line']}" if called else ""
            lines.append((f"  {place['file']}:{place['line']}{via}", "rule"))
        for step in (group["plan"] or {}).get("steps", ()):
            if step["warning"]:
                lines.append((f"  ■ {step['detail']}: {step['warning']}", "poor"))
    return lines


def _of_queries(one: Mapping[str, Any]) -> str:
    """Return how many queries a request made, and the time that it was in the database."""
    if not (one["query_count"] or one["commit_count"]):
        return "no query"
    queries, share = figures.plural(one["query_count"], "query"), figures.share(one["db_share_percent"])
    told = f"{queries} · {figures.milliseconds(one['db_ms'])} in the database ({share})"
    if one["commit_count"]:
        commits = figures.plural(one["commit_count"], "commit")
        told += f", {figures.milliseconds(one['commit_ms'])} of it in {commits}"
    return told


def _ask(url: str | None, path: str) -> tuple[Target, dict[str, Any]]:
    """Return the server, and its answer to `path`; without one the command ends with one line."""
    try:
        settings: Settings | None = None if url is not None else load(None, {}).settings
        target = of_settings(settings) if settings is not None else Target.parse(url or "")
        status, body = target.get(path)
    except WrongURLError as error:
        fail(str(error), WRONG_SETTING)
    except FetchError as error:
        fail(str(error), FAILED)
    if status in (401, 403, 429):
        fail(str(target.refusal("requests", status)), FAILED)
    if status != 200 or not isinstance(body, dict):
        told = body.get("error") if isinstance(body, dict) else None
        fail(f"{target}: {told or f'it does not answer with its requests (status {status})'}", FAILED)
    return target, body
