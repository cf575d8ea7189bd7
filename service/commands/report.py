"""`local-video-server report`."""

from __future__ import annotations

import json
from typing import Any

import click

from config import Settings
from service.client import FetchError, Target, WrongURLError
from service.commands.options import FAILED, WRONG_SETTING, fail, load
from service.commands.output import say, width
from service.text import TITLE
from telemetry import report as writer

SERVER_HELP = (
    "The server to ask; with ?token=… if it needs its admin token. [default: the one of LVS_HOST and LVS_PORT, with the "
    "token in LVS_DATA]"
)
_NOT_FIGURES = (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError)


@click.command()
@click.option("--url", help=SERVER_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def report(url: str | None, as_json: bool) -> None:
    """Say what a running server's figures show: slow and failing routes, many queries, how full the caches are."""
    try:
        target = Target.parse(url) if url is not None else of_settings(load(None, {}).settings)
        known, caches = _read(target)
    except WrongURLError as error:
        fail(str(error), WRONG_SETTING)
    except FetchError as error:
        fail(str(error), FAILED)
    try:
        made = writer.write(known, source=str(target), caches=caches)
        lines = list(made.lines(width()))
    except _NOT_FIGURES:
        fail(f"the answer of {target} is not the figures of a server that this program knows", FAILED)
    if as_json:
        click.echo(json.dumps({"url": str(target), **made.body()}, indent=2))
        return
    for kind, line in lines:
        say(line, kind)


def of_settings(settings: Settings) -> Target:
    """Return the server that `serve` would start here, with the token that it keeps in its data folder."""
    from service.admin import kept_token
    from service.server import reachable

    token = None if settings.is_on_loopback else kept_token(settings.data)
    return Target("http", reachable(settings.host), settings.port, "", token)


def _read(target: Target) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the figures, and how full the caches are where the server says."""
    status, known = target.get("/api/admin/performance/report")
    if status == 404:  # one that has the spec's endpoints alone
        status, snapshot = target.get("/admin/performance/json")
        known = {"snapshot": snapshot}
    if status in (401, 403, 429):
        raise target.refusal("figures", status)
    if status == 404:
        raise FetchError(f"{target} has no performance figures (status 404): is it the server that was meant?")
    if status != 200 or not isinstance(known, dict):
        raise FetchError(f"{target} does not answer with its figures (status {status})")
    if known.get("app") != TITLE:  # to another app, that would be one more request to measure
        return known, None
    status, found = target.get("/admin/cache/status")
    caches = found.get("caches") if status == 200 and isinstance(found, dict) else None
    return known, caches if isinstance(caches, dict) else None
