"""What every test may use, and what none may leave behind."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, got_request_exception
from hypothesis import settings as hypothesis_settings
from opentelemetry import metrics as metrics_api
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from telemetry import PerformanceMetrics, instrument, locks, set_metrics, uninstrument
from telemetry.recent import KeptRequest

hypothesis_settings.register_profile("default", deadline=None, print_blob=True)
hypothesis_settings.register_profile("repeatable", deadline=None, print_blob=True, derandomize=True)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

_original_connect = sqlite3.connect


@pytest.fixture(autouse=True)
def _no_known_files() -> None:
    """Forget the database files of other tests, which may have run the same statements in them."""
    locks._files.clear()
    locks._file_of.clear()
    locks._elsewhere.clear()


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread, a patched `sqlite3` or a provider of the whole process behind."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
    leaked = [thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()]
    assert not leaked, f"threads left running: {leaked}"
    assert sqlite3.connect is _original_connect, "sqlite3.connect is still instrumented"
    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider", "a global tracer provider was set"
    assert type(metrics_api.get_meter_provider()).__name__ == "_ProxyMeterProvider", "a global meter provider was set"


@pytest.fixture
def metrics() -> Iterator[PerformanceMetrics]:
    """The test's own `PerformanceMetrics`, which `get_metrics()` returns as well while the test runs."""
    made = PerformanceMetrics()
    before = set_metrics(made)
    yield made
    set_metrics(before)


@pytest.fixture(autouse=True)
def _assertions_of_views_count() -> Iterator[None]:
    """Fail a test of which a view has failed an assertion: Flask answers 500 to it, as to any error."""
    failed: list[AssertionError] = []

    def note(_: Flask, exception: BaseException, **__: object) -> None:
        if isinstance(exception, AssertionError):
            failed.append(exception)

    with got_request_exception.connected_to(note):
        yield
    for error in failed:
        raise error


Instrument = Callable[..., Flask]


@pytest.fixture
def instrumented(metrics: PerformanceMetrics) -> Iterator[Instrument]:
    """`instrument` with providers of the test's own; undone at the end."""
    apps: list[Flask] = []

    def make(app: Flask, **options: Any) -> Flask:
        options.setdefault("metrics", metrics)
        options.setdefault("tracer_provider", TracerProvider(shutdown_on_exit=False))
        apps.append(app)
        return instrument(app, **options)

    yield make
    for app in apps:
        uninstrument(app)


@pytest.fixture
def kept_of(instrumented: Instrument, metrics: PerformanceMetrics) -> Callable[[Callable[[], Any]], KeptRequest]:
    """Run a function inside a request of an app of the test's own, and return what is kept of the request."""
    app = Flask("kept_of", root_path=str(Path(__file__).parent))
    work: list[Callable[[], Any]] = []

    @app.get("/")
    def view() -> str:
        work.pop()()
        return "done"

    instrumented(app)

    def run(function: Callable[[], Any]) -> KeptRequest:
        work.append(function)
        app.test_client().get("/")
        return metrics.recent.all()[0]

    return run
