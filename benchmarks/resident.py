"""How much memory an app takes, told by its own process: `python -m benchmarks.resident MODE FILL [REQUESTS]`.

It imports little beside the app. `bare`, `imports` (telemetry is imported, nothing instrumented) and `full` answer FILL requests
on each of 200 routes. `growth` then goes on with REQUESTS, some to unknown paths, and tells the memory at ten moments.
"""

from __future__ import annotations

import functools
import gc
import json
import sqlite3
import sys
from typing import Any

from flask import Flask

from benchmarks.apps import Measured
from benchmarks.worker import serve

ROUTES = 200
WINDOW = 100


def app_of_routes() -> Flask:
    """Return an app of 200 routes that make a query each, over a connection that the first request opens."""
    app = Flask("resident")

    @functools.cache
    def connection() -> sqlite3.Connection:
        return sqlite3.connect(":memory:", check_same_thread=False)

    def view(key: int) -> str:
        return str(connection().cursor().execute("SELECT ? + 1", (key,)).fetchone()[0])

    for number in range(ROUTES):
        app.add_url_rule(f"/routes/{number}/<int:key>", f"route_{number}", view)
    return app


def resident_bytes() -> int:
    """Return the resident set size of this process, garbage collected."""
    import psutil

    gc.collect()
    return int(psutil.Process().memory_info().rss)


def main(mode: str, fill: int, requests: int = 0) -> None:
    """Print what was found as JSON."""
    import psutil  # noqa: F401  # everybody pays for it alike

    app = app_of_routes()
    if mode != "bare":
        import telemetry

        if mode != "imports":
            telemetry.instrument(app)
    measured = Measured(app)
    for number in range(ROUTES):
        serve(measured, f"/routes/{number}/7", fill)
    found: list[Any] = [resident_bytes()]
    if mode == "growth":
        found += _growth(measured, requests)
    print(json.dumps(found))


def _growth(measured: Measured, requests: int) -> list[int]:
    found = []
    served = 0
    for moment in range(1, 11):
        while served < requests * moment // 10:
            serve(measured, f"/routes/{served % ROUTES}/{served}", 50)
            serve_unknown(measured, f"/unknown/{served}")
            served += 51
        found.append(resident_bytes())
    return found


def serve_unknown(measured: Measured, path: str) -> None:
    """Ask for a path that no rule matches."""
    try:
        serve(measured, path, 1)
    except RuntimeError:  # it answers 404, as it should
        return
    raise RuntimeError(f"{path} was not to be found")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
