"""Log lines that say which request they belong to."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from flask import Flask
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from telemetry.logs import JsonFormatter, TraceContextFilter
from tests.conftest import Instrument

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "X-Request-ID": "req-42"}
log = logging.getLogger("tests.shop")


@pytest.fixture
def lines() -> Iterator[Any]:
    """Return a function that lets a handler write into a stream, which it returns."""
    handlers: list[logging.Handler] = []

    def attach(handler: logging.Handler) -> None:
        handlers.append(handler)
        log.addHandler(handler)

    def write(formatter: logging.Formatter) -> StringIO:
        stream = StringIO()
        handler = logging.StreamHandler(stream)
        handler.addFilter(TraceContextFilter())
        handler.setFormatter(formatter)
        attach(handler)
        return stream

    write.attach = attach  # type: ignore[attr-defined]
    log.setLevel(logging.INFO)
    yield write
    for handler in handlers:
        log.removeHandler(handler)


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def app(instrumented: Instrument, spans: InMemorySpanExporter) -> Flask:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    made = Flask("shop")

    @made.get("/")
    def view() -> str:
        try:
            raise KeyError("sold out")
        except KeyError:
            log.warning("nothing left", exc_info=True)
        return "ok"

    return instrumented(made, tracer_provider=provider)


def test_a_line_of_a_request_has_the_ids_of_its_span(app: Flask, lines: Any, spans: InMemorySpanExporter) -> None:
    stream = lines(logging.Formatter("%(message)s%(request_context)s"))
    log.info("before")
    app.test_client().get("/", headers=HEADERS)
    (span,) = spans.get_finished_spans()
    span_id = f"{span.get_span_context().span_id:016x}"
    written = [line for line in stream.getvalue().splitlines() if not line.startswith(("Traceback", " ", "KeyError"))]
    assert written == ["before", f"nothing left [trace_id={TRACE_ID} span_id={span_id} request_id=req-42]"]


def test_json_lines_have_them_as_fields(app: Flask, lines: Any) -> None:
    stream = lines(JsonFormatter())
    log.info("before")
    app.test_client().get("/", headers=HEADERS)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert set(first) == {"time", "level", "logger", "message"}
    assert (second["level"], second["logger"], second["message"]) == ("WARNING", "tests.shop", "nothing left")
    assert (second["trace_id"], second["request_id"]) == (TRACE_ID, "req-42")
    assert "KeyError: 'sold out'" in second["exception"]
    assert second["time"].endswith("+00:00")


@pytest.mark.parametrize("forged", ["two words", "x" * 129, "a\tb", ""])
def test_a_request_id_that_could_forge_a_line_is_left_out(app: Flask, lines: Any, forged: str) -> None:
    stream = lines(logging.Formatter("%(message)s%(request_context)s"))
    app.test_client().get("/", headers=HEADERS | {"X-Request-ID": forged})
    assert "request_id" not in stream.getvalue()
    assert TRACE_ID in stream.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_records_of_opentelemetrys_bridge_carry_the_same_ids(
    app: Flask, lines: Any, spans: InMemorySpanExporter
) -> None:
    exported = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exported))
    lines.attach(LoggingHandler(logger_provider=provider))
    app.test_client().get("/", headers=HEADERS)
    (record,), (span,) = exported.get_finished_logs(), spans.get_finished_spans()
    ids = span.get_span_context()
    assert (record.log_record.trace_id, record.log_record.span_id) == (ids.trace_id, ids.span_id)
    provider.shutdown()
