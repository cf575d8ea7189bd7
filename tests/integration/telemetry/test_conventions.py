"""What is emitted, by the published semantic conventions: the constants of `opentelemetry-semantic-conventions`."""

from __future__ import annotations

import pkgutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from types import ModuleType

import opentelemetry.semconv._incubating.attributes as incubating_attributes
import opentelemetry.semconv._incubating.metrics as incubating_metrics
import opentelemetry.semconv.attributes as stable_attributes
import opentelemetry.semconv.metrics as stable_metrics
import pytest
from flask import Flask, abort
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.schemas import Schemas

from telemetry import instruments
from telemetry.instruments import TABLE
from tests.conftest import Instrument

OWN = "telemetry."
MUST = {  # the conventions' "Required", and what they ask for where it is known
    "SERVER": {"http.request.method", "url.path", "url.scheme", "http.route", "http.response.status_code"},
    "CLIENT": {"db.system.name", "db.operation.name", "db.collection.name", "db.query.text"},
}


def constants(package: ModuleType) -> set[str]:
    """Return every text constant of a package's modules: names of attributes, or of metrics."""
    found = set()
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        found |= {value for value in vars(import_module(module.name)).values() if isinstance(value, str)}
    return found


STABLE = constants(stable_attributes) | constants(stable_metrics)
PUBLISHED = STABLE | constants(incubating_attributes) | constants(incubating_metrics)


def test_the_schema_is_a_published_one() -> None:
    assert instruments.SCHEMA_URL in {schema.value for schema in Schemas}


@pytest.mark.parametrize("spec", TABLE, ids=lambda spec: spec.name)
def test_each_instrument_and_its_attributes_are_published_or_under_our_own_name(
    spec: instruments.InstrumentSpec,
) -> None:
    for name in (spec.name, *spec.attributes):
        assert name in PUBLISHED or name.startswith(OWN), name


@pytest.mark.parametrize("name", [instruments.REQUEST_DURATION, instruments.OPERATION_DURATION])
def test_durations_of_requests_and_queries_are_of_the_stable_conventions(name: str) -> None:
    assert name in STABLE
    assert set(instruments.describe(name).attributes) <= STABLE
    assert instruments.describe(name).unit == "s"


@pytest.fixture
def emitted(instrumented: Instrument, tmp_path: Path) -> Iterator[tuple[list[ReadableSpan], InMemoryMetricReader]]:
    """Serve requests of each sort, and return the spans and the reader."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(shutdown_on_exit=False), MeterProvider([reader], shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    app = Flask("shop")

    @app.get("/<int:number>")
    def view(number: int) -> str:
        with closing(sqlite3.connect(tmp_path / "shop.sqlite3")) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS item (id INTEGER)")
            connection.execute("INSERT INTO item VALUES (?)", (number,))
            connection.execute("SELECT id FROM item").fetchall()
        if number == 2:
            raise ValueError
        return "ok" if number else abort(404)

    instrumented(app, tracer_provider=tracers, meter_provider=meters)
    client = app.test_client()
    for path, status in (("/1", 200), ("/0", 404), ("/2", 500), ("/nowhere", 404)):
        assert client.get(path, headers={"User-Agent": "test"}).status_code == status
    assert client.open("/1", method="BREW").status_code == 405
    yield list(exporter.get_finished_spans()), reader
    meters.shutdown()


def test_attributes_of_spans_are_stable_or_under_our_own_name(
    emitted: tuple[list[ReadableSpan], InMemoryMetricReader],
) -> None:
    for span in emitted[0]:
        for key in span.attributes or {}:
            assert key in STABLE or key.startswith(OWN), f"{span.name}: {key}"


def test_spans_have_what_the_conventions_require(emitted: tuple[list[ReadableSpan], InMemoryMetricReader]) -> None:
    found = [span for span in emitted[0] if (span.attributes or {}).get("http.route") or span.kind.name == "CLIENT"]
    assert {span.kind.name for span in found} == {"SERVER", "CLIENT"}
    for span in found:
        attributes = dict(span.attributes or {})
        missing = MUST[span.kind.name] - attributes.keys()
        if attributes.get("db.operation.name") == "CREATE":
            missing -= {"db.collection.name"}
        assert not missing, f"{span.name}: {missing}"


def test_an_exception_is_an_event_and_the_status_an_error(
    emitted: tuple[list[ReadableSpan], InMemoryMetricReader],
) -> None:
    (failed,) = (span for span in emitted[0] if (span.attributes or {}).get("http.response.status_code") == 500)
    (event,) = failed.events
    assert event.name == "exception"
    assert set(event.attributes or {}) <= STABLE
    assert (event.attributes or {})["exception.type"] == "ValueError"
    assert (failed.attributes or {})["error.type"] == "ValueError"
    assert failed.status.status_code.name == "ERROR"


def test_points_have_the_attributes_of_the_table_alone(
    emitted: tuple[list[ReadableSpan], InMemoryMetricReader],
) -> None:
    data = emitted[1].get_metrics_data()
    assert data is not None
    seen = set()
    for scope in data.resource_metrics[0].scope_metrics:
        for metric in scope.metrics:
            spec = instruments.describe(metric.name)
            seen.add(metric.name)
            assert (metric.unit, metric.description) == (spec.unit, spec.description)
            for point in metric.data.data_points:
                assert set(point.attributes or {}) <= set(spec.attributes), metric.name
    assert {instruments.REQUEST_DURATION, instruments.OPERATION_DURATION, instruments.REQUEST_OPERATIONS} <= seen
