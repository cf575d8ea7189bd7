"""Every request's number of queries is that of an independent witness: the interpreter's own report of calls into sqlite3.

The suite asks some 1,500 requests; `make test-witness` 10,000.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind

from telemetry import PerformanceMetrics, TelemetrySettings
from telemetry.fanout import analyse
from tests.conftest import Instrument
from tests.integration.telemetry.witness.apps import APPS, random_request
from tests.integration.telemetry.witness.counting import Witness

REQUESTS = int(os.environ.get("WITNESS_REQUESTS", "1500"))
SAMPLERS: dict[str, Sampler] = {"100 %": ALWAYS_ON, "10 %": TraceIdRatioBased(0.1), "0 %": ALWAYS_OFF}
CLIENTS = {"threaded": 4}
"""How many clients ask at once; one if it is not said. A database that is written to by several may be locked."""


@pytest.mark.parametrize("exported", [True, False], ids=["spans are looked at", "no exporter"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", APPS)
def test_the_number_of_queries_of_each_request_is_the_witnesss(
    name: str, sampler: str, exported: bool, instrumented: Instrument, tmp_path: Path
) -> None:
    number = -(-REQUESTS // (len(APPS) * len(SAMPLERS) * 2))
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=SAMPLERS[sampler], shutdown_on_exit=False)
    if exported:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    settings = TelemetrySettings(recent_requests=100_000, worst_requests=0, recent_bytes=2**32)
    metrics = PerformanceMetrics(settings)
    app, prepare = APPS[name](tmp_path / "data.db")
    app.logger.setLevel(logging.CRITICAL)
    instrumented(app, metrics=metrics, settings=settings, tracer_provider=provider)
    prepare()
    witness = Witness()
    app.wsgi_app = witness.around(app.wsgi_app)  # type: ignore[method-assign]

    def ask(client: int) -> None:
        chance = random.Random(f"{name}{sampler}{exported}{client}{REQUESTS}")
        for at in range(client, number, clients):
            method, path = random_request(app, chance, at + 1)
            with contextlib.suppress(RuntimeError):  # a body that breaks off
                app.test_client().open(path, method=method).close()

    clients = CLIENTS.get(name, 1)
    with witness.watching(), ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(clients)))
    app.extensions["close"]()

    kept = metrics.recent.all()
    assert len(kept) == len(witness.counts) >= number
    counted = {each.path: each.query_count for each in kept}
    differences = {
        path: (counted.get(path), seen) for path, seen in witness.counts.items() if counted.get(path) != seen
    }
    assert differences == {}
    assert all(sum(group.runs for group in analyse(each).groups) == each.query_count for each in kept)
    assert sum(witness.counts.values()) > number, "there was something to see"
    if exported and sampler == "100 %":
        assert spans_of_queries(exporter.get_finished_spans()) == counted_by_trace(metrics)


def spans_of_queries(spans: tuple[ReadableSpan, ...]) -> dict[int, int]:
    found: dict[int, int] = {}
    for span in spans:
        if (
            span.context is not None
            and span.context.trace_id
            and span.kind is SpanKind.CLIENT
            and span.parent is not None
        ):
            found[span.context.trace_id] = found.get(span.context.trace_id, 0) + 1
    return found


def counted_by_trace(metrics: PerformanceMetrics) -> dict[int, int]:
    """Return the queries of each trace; a nested request is part of its outer one's."""
    found: dict[int, int] = {}
    for each in metrics.recent.all():
        if each.query_count:
            found[each.trace_id] = found.get(each.trace_id, 0) + each.query_count
    return found


def test_a_body_that_is_never_read_or_breaks_off_counts_what_was_asked(
    instrumented: Instrument, metrics: PerformanceMetrics, tmp_path: Path
) -> None:
    app, prepare = APPS["flaskr"](tmp_path / "data.db")
    app.logger.setLevel(logging.CRITICAL)
    instrumented(app)
    prepare()
    client = app.test_client()
    client.get("/export/1").close()
    assert metrics.recent.all()[0].query_count == 1 + 2, "the user, the list, the first line that the client looks at"
    assert len(client.get("/export/2").get_data().splitlines()) == 3
    assert metrics.recent.all()[0].query_count == 1 + 1 + 3
    with pytest.raises(RuntimeError, match="broke off"):
        client.get("/export/4").get_data()
    broken = metrics.recent.all()[0]
    assert (broken.query_count, broken.error_type) == (1 + 2, "RuntimeError")


def test_a_nested_request_has_its_own_queries_and_the_outer_one_its_own(
    instrumented: Instrument, metrics: PerformanceMetrics, tmp_path: Path
) -> None:
    app, prepare = APPS["flaskr"](tmp_path / "data.db")
    instrumented(app)
    prepare()
    app.test_client().get("/nested/7")
    counted = {each.path: each.query_count for each in metrics.recent.all()}
    assert counted == {"/nested/7": 3, "/index/10000007": 2}


def test_a_pool_that_was_filled_before_is_warned_of(
    instrumented: Instrument,
    metrics: PerformanceMetrics,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `db.create_all()` before `instrument(app)` leads to: the pool keeps the connection."""
    from telemetry.instrumentation import sqlite
    from telemetry.instrumentation.unseen_connections import OpenedBefore

    monkeypatch.setattr(sqlite, "opened_before", OpenedBefore(sqlite.TracedConnection))
    app, prepare = APPS["sqlalchemy"](tmp_path / "data.db")
    prepare()
    instrumented(app)
    app.test_client().get("/index/1")
    assert "opened before instrument(app)" in caplog.text
    app.extensions["close"]()
    app.test_client().get("/index/2")
    assert metrics.recent.all()[0].query_count > 0, "a new connection is seen"
    app.extensions["close"]()


def test_the_witness_itself_sees_plain_connections() -> None:
    """So that it is no echo of what it is held against."""
    witness = Witness()
    app = Flask("plain")

    @app.get("/")
    def view() -> str:
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            db.execute("SELECT 1").execute("SELECT 2")
            ask: Callable[..., object] = db.cursor().executemany
            ask("INSERT INTO missing VALUES (?)", [])
        return ""

    app.logger.setLevel(logging.CRITICAL)
    app.wsgi_app = witness.around(app.wsgi_app)  # type: ignore[method-assign]
    with witness.watching():
        app.test_client().get("/")
    assert witness.counts == {"/": 3}
