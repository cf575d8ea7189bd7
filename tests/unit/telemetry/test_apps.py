from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator

import pytest
from flask import Flask, current_app
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from werkzeug.routing import Map

from telemetry import PerformanceMetrics, TelemetrySettings, get_metrics, instrument, set_metrics, uninstrument

JSON = "/admin/performance/json"
Instrument = Callable[..., Flask]


def hello() -> Flask:
    app = Flask(__name__)
    app.add_url_rule("/", "index", lambda: "hello")
    return app


@pytest.fixture
def instrument_alone() -> Iterator[Instrument]:
    """`instrument` in a process that has no metrics yet, with providers of the test's own."""
    before, apps = set_metrics(None), []

    def make(app: Flask, settings: TelemetrySettings) -> Flask:
        apps.append(app)
        return instrument(
            app,
            settings=settings,
            meter_provider=MeterProvider(shutdown_on_exit=False),
            tracer_provider=TracerProvider(shutdown_on_exit=False),
        )

    yield make
    for app in apps:
        uninstrument(app)
    set_metrics(before)


def test_the_settings_of_the_first_app_say_how_much_the_process_keeps(
    instrument_alone: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LVS_TELEMETRY_WINDOW", "abc")
    settings = TelemetrySettings.load(window=150, recent_requests=3, worst_requests=1, monitor=False)
    client = instrument_alone(hello(), settings).test_client()
    for _ in range(160):
        client.get("/")
    assert client.get(JSON).json["endpoints"]["GET /"]["request_count"] == 150
    assert 3 <= len(get_metrics().recent.all()) <= 5  # of the worst, the slowest and the one with most queries
    assert not get_metrics().settings.monitor


@pytest.mark.parametrize("is_first", [True, False])
def test_an_extension_of_the_apps_own_may_be_called_telemetry(instrumented: Instrument, is_first: bool) -> None:
    app = Flask("own")
    app.add_url_rule("/", "index", lambda: current_app.extensions["telemetry"])
    if is_first:
        app.extensions["telemetry"] = "the app's own"
    instrumented(app)
    if not is_first:
        app.extensions["telemetry"] = "the app's own"
    client = app.test_client()
    assert client.get("/").text == "the app's own"
    assert client.get(JSON).json["endpoints"]["GET /"]["request_count"] == 1


def test_settings_that_come_too_late_are_named(instrument_alone: Instrument, caplog: pytest.LogCaptureFixture) -> None:
    instrument_alone(hello(), TelemetrySettings(window=7))
    instrument_alone(hello(), TelemetrySettings(window=7, good_below_ms=1))
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        instrument_alone(hello(), TelemetrySettings(window=8, max_routes=5))
    assert "window, max_routes of" in caplog.text


def test_the_admin_pages_follow_another_instrument(instrumented: Instrument) -> None:
    app, first, second = hello(), PerformanceMetrics(), PerformanceMetrics(TelemetrySettings(good_below_ms=1))
    client = instrumented(app, metrics=first).test_client()
    client.get("/")
    uninstrument(app)
    instrumented(app, metrics=second)
    for _ in range(2):
        client.get("/")
    assert client.get(JSON).json["endpoints"]["GET /"]["request_count"] == 2
    assert client.get("/api/admin/performance/report").json["thresholds"]["good_below_ms"] == 1
    assert len(client.get("/api/admin/performance/requests").json["requests"]) == 2
    uninstrument(app)
    instrumented(app, metrics=second, settings=TelemetrySettings(admin=False))
    assert client.get(JSON).status_code == 404


def test_what_is_kept_of_requests_keeps_no_app_alive() -> None:
    metrics = PerformanceMetrics()

    def serve() -> weakref.ref[Map]:
        app = Flask("short-lived")
        app.add_url_rule("/<int:number>", "view", lambda number: str(number))
        instrument(app, metrics=metrics, tracer_provider=TracerProvider(shutdown_on_exit=False))
        app.test_client().get("/1")
        uninstrument(app)
        return weakref.ref(app.url_map)

    rules = serve()
    gc.collect()
    assert rules() is None
    (kept,) = metrics.recent.all()
    assert (kept.route, kept.endpoint) == ("GET /<number>", "view")


def test_an_app_that_is_dropped_leaves_nothing_behind_once_the_next_one_is_instrumented() -> None:
    def serve() -> tuple[weakref.ref[Flask], weakref.ref[PerformanceMetrics]]:
        app, own = hello(), PerformanceMetrics()
        instrument(app, metrics=own, tracer_provider=TracerProvider(shutdown_on_exit=False))
        app.test_client().get("/")
        return weakref.ref(app), weakref.ref(own)

    dropped = [serve() for _ in range(3)]
    gc.collect()
    app = hello()
    instrument(app, metrics=PerformanceMetrics(), tracer_provider=TracerProvider(shutdown_on_exit=False))
    gc.collect()
    assert [(of_app(), of_metrics()) for of_app, of_metrics in dropped] == [(None, None)] * 3
    uninstrument(app)
