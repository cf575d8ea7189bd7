"""Connections that were opened before their queries could be seen are told, in the log and where figures are read."""

from __future__ import annotations

import contextlib
import gc
import re
import sqlite3
import time
from collections.abc import Callable

import pytest
from flask import Flask

from telemetry import PerformanceMetrics
from telemetry.instrumentation import sqlite
from telemetry.instrumentation.unseen_connections import OpenedBefore

Instrumented = Callable[..., Flask]


class AppConnection(sqlite3.Connection):
    """A class of the app's own."""


@pytest.fixture
def opened_before(monkeypatch: pytest.MonkeyPatch) -> OpenedBefore:
    """What has not looked yet."""
    made = OpenedBefore(sqlite.TracedConnection)
    monkeypatch.setattr(sqlite, "opened_before", made)
    return made


@pytest.mark.parametrize("factory", [sqlite3.Connection, AppConnection])
def test_those_that_are_open_are_counted(factory: type[sqlite3.Connection], opened_before: OpenedBefore) -> None:
    gc.collect()
    opened_before.warn()
    others = opened_before.number()  # of other tests, not collected yet
    with contextlib.closing(sqlite3.connect(":memory:", factory=factory)):
        opened_before._look()
        assert opened_before.number() == others + 1
    opened_before._look()
    assert opened_before.number() == others


def test_they_are_told_in_the_log_and_on_the_dashboard_until_they_are_closed(
    caplog: pytest.LogCaptureFixture,
    metrics: PerformanceMetrics,
    instrumented: Instrumented,
    opened_before: OpenedBefore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.closing(sqlite3.connect(":memory:", check_same_thread=False)) as before:
        app = Flask(__name__)
        app.add_url_rule("/", "view", lambda: str(before.execute("SELECT 1").fetchone()))
        client = instrumented(app).test_client()
        client.get("/")
        number = opened_before.number()
        assert re.search(rf"{number} sqlite3 connection\(s\) were opened before instrument\(app\)", caplog.text)
        assert metrics.recent.all()[0].query_count == 0
        told = re.compile(rf"none is seen; {number} connections? (was|were) opened before instrument\(app\)")
        for path in ("/admin/performance", "/admin/performance/report"):
            assert told.search(client.get(path).text)
    monkeypatch.setattr(opened_before, "_number", 1)  # whatever other tests have left
    later = time.monotonic() + 61
    monkeypatch.setattr(opened_before, "_look", lambda: setattr(opened_before, "_number", 0))
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert "none is seen" not in client.get("/admin/performance").text


def test_nothing_is_told_where_queries_are_seen(
    metrics: PerformanceMetrics, instrumented: Instrumented, opened_before: OpenedBefore
) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")):  # which is nothing of the app's
        app = Flask(__name__)

        @app.get("/")
        def view() -> str:
            with contextlib.closing(sqlite3.connect(":memory:")) as connection:
                return str(connection.execute("SELECT 1").fetchone())

        client = instrumented(app).test_client()
        assert opened_before.number() > 0
        assert "none is seen" not in client.get("/admin/performance").text  # nor before the first request
        client.get("/")
        assert "none is seen" not in client.get("/admin/performance").text
