"""What a running server's exporters say of themselves, and whether those that are chosen can be set up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from service.client import FetchError, Target
from service.doctor.finding import Finding
from service.doctor.network import is_ours

_PATH: Final = "/api/admin/performance/exporters"


def check_chosen(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look whether the exporters that the settings and the standard variables name are known and installed."""
    from telemetry import SettingsError, TelemetrySettings
    from telemetry.exporters import registry

    try:
        named = TelemetrySettings.load().exporters
    except SettingsError:
        return  # told of already
    try:
        chosen = registry.choose(named or None, environment)
    except SettingsError as error:
        yield Finding("problem", "exporters", f"{error}.", "Correct it; the server does not start like this.")
        return
    for shown, signal, exporters in (("spans", "traces", chosen.traces), ("metrics", "metrics", chosen.metrics)):
        names = ", ".join(str(getattr(each, "name", each)) for each in exporters if getattr(each, signal, True))
        if names:
            yield Finding("ok", "exporters", f"{shown} go to: {names}.")


def check_running(host: str, port: int, data: Path) -> Iterator[Finding]:
    """Ask the server that runs at `host` and `port`, if one does, how its exporters are doing.

    The admin token is shown only to a video server that asks for it: another program may have the port.
    """
    from service.admin import kept_token
    from service.server import reachable

    target = Target("http", reachable(host), port, "", None)
    try:
        status, body = target.get(_PATH)
        if status == HTTPStatus.UNAUTHORIZED and is_ours(target.host, port):
            status, body = replace(target, token=kept_token(data)).get(_PATH)
    except FetchError:
        return  # none runs
    if status != 200 or not isinstance(body, dict) or not isinstance(body.get("exporters"), list):
        return
    for row in body["exporters"]:
        yield _finding(row)


def _finding(row: Mapping[str, Any]) -> Finding:
    """Return what to say of one exporter of the running server."""
    what = f"the running server's {row['name']} ({row['signal']} to {row['target'] or 'where it likes'})"
    facts = f"{row['sent']:,} sent, {row['queued']:,} queued, {row['dropped']:,} dropped"
    if row["failing"]:
        last = f"last success {row['last_success'] or 'never'}"
        text = f"{what} fails: {row['last_error']}; {facts}, {last}."
        return Finding("problem", "exporters", text, "See what is wrong with that backend; data flows again by itself.")
    if row["dropped"]:
        text = f"{what} works, but has lost data: {facts}; the last error was: {row['last_error'] or 'none'}."
        return Finding(
            "note", "exporters", text, "A larger OTEL_BSP_MAX_QUEUE_SIZE holds more while a backend is away."
        )
    return Finding("ok", "exporters", f"{what}: {facts}.")
