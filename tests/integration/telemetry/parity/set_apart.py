"""Differences that random requests leave out, because nothing comparable is left of such a request. Each is shown by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.integration.telemetry.parity.differences import DEFAULT
from tests.integration.telemetry.parity.record import Outcome, Setup
from tests.integration.telemetry.parity.traffic import Look, Query, Request

SELECT = Query("SELECT 1")
HEADERS = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST"


@dataclass(frozen=True)
class Case:
    """One difference, a request, and whether what it has come to shows the difference."""

    what: str
    shown_by: Request
    is_so: Callable[[Outcome, Outcome], bool]
    setup: Setup = DEFAULT
    environment: tuple[tuple[str, str], ...] = ()


def ended(outcome: Outcome) -> list[str]:
    """Return who the spans are of that have ended, in their order."""
    return [entry["role"] for entry in outcome.log if entry["event"] == "end"]


def of_the_request(outcome: Outcome) -> list[str]:
    """Return who the spans are of that belong to the trace of the server span."""
    server = next(
        entry["id"]["trace_id"] for entry in outcome.log if entry["event"] == "end" and entry["role"] == "server"
    )
    return [entry["role"] for entry in outcome.log if entry["event"] == "end" and entry["id"]["trace_id"] == server]


def recorded_errors(outcome: Outcome) -> list[str]:
    """Return the descriptions of the spans that have ended as failed."""
    ends = [entry["status"] for entry in outcome.log if entry["event"] == "end"]
    return [description for code, description in ends if code == "ERROR"]


def sees_a_span(outcome: Outcome) -> bool:
    """Return whether the last look found a current span."""
    return bool(outcome.seen[-1]["span"]["span_id"])


def method(outcome: Outcome) -> object:
    """Return the method that the server span has."""
    return next(entry["attributes"]["http.request.method"] for entry in outcome.log if entry["role"] == "server")


def header_names(outcome: Outcome) -> list[str]:
    """Return the names of the response's headers."""
    return [name for name, _ in outcome.answer["headers"]]


CASES = (
    Case(
        "headers of the response",
        Request(),
        lambda own, stock: header_names(own) == [*header_names(stock), "Server-Timing", "traceparent"],
        Setup(server_timing=True),
    ),
    Case(
        "`connection.execute`, `executescript`",
        Request(steps={"view": (Query("SELECT 1", by="connection"), Query("SELECT 1", by="script"))}),
        lambda own, stock: (
            ended(own) == ["query", "query", "server"] and ended(stock) == ["server"] and own.seen == stock.seen
        ),
    ),
    Case(
        "a statement of white space",
        Request(steps={"view": (Query("  "),)}),
        lambda own, stock: own.seen == [[]] and stock.seen == ["IndexError"],
    ),
    Case(
        "queries of a streamed body",
        Request(end="stream", steps={"body": (SELECT,)}),
        lambda own, stock: of_the_request(own) == ["query", "server"] and of_the_request(stock) == ["server"],
    ),
    Case(
        "the context of a streamed body",
        Request(end="stream", steps={"body": (Look(),)}),
        lambda own, stock: sees_a_span(own) and not sees_a_span(stock),
    ),
    Case(
        "an error in a streamed body",
        Request(end="stream fails"),
        lambda own, stock: (
            [entry["status"][0] for entry in (own.log[-1], stock.log[-1])] == ["ERROR", "UNSET"]
            and own.answer == stock.answer
        ),
    ),
    Case(
        "`teardown_request` after `stream_with_context`",
        Request(end="stream with context", steps={"teardown": (Look(),)}),
        lambda own, stock: sees_a_span(own) and not sees_a_span(stock),
    ),
    Case(
        "an exception in `teardown_request`",
        Request(raises_in="teardown"),
        lambda own, stock: recorded_errors(own) == ["UnhandledError: teardown"] and recorded_errors(stock) == [],
    ),
    Case(
        "`teardown_appcontext`",
        Request(steps={"app teardown": (SELECT,)}),
        lambda own, stock: of_the_request(own) == ["query", "server"] and of_the_request(stock) == ["server"],
    ),
    Case(
        "functions registered before `instrument(app)`",
        Request(steps={"before": (SELECT,)}, answers_before=True),
        lambda own, stock: ended(own) == ["query", "server"] and ended(stock) == ["query"],
        Setup(instrumented_last=True),
    ),
    Case(
        "methods that the app has registered",
        Request(method="PROPFIND", path="/search"),
        lambda own, stock: (method(own), method(stock)) == ("PROPFIND", "_OTHER"),
    ),
    Case(
        "routes that are left out",
        Request(path="/ping"),
        lambda own, stock: own.log == [] and ended(stock) == ["server"],
    ),
    Case(
        "request and response headers",
        Request(headers=(("X-Kind", "a"),)),
        lambda own, stock: (
            "http.request.header.x_kind" in stock.log[-1]["attributes"]
            and "http.request.header.x_kind" not in own.log[-1]["attributes"]
        ),
        environment=((HEADERS, "x-kind"),),
    ),
)
