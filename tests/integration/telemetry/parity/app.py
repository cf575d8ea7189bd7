"""The app that serves the random requests: each carries in its environ what is to be done, and notes what is seen."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NoReturn

from flask import Blueprint, Flask, Response, abort, g, redirect, request, stream_with_context
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import Link, Span, SpanContext, StatusCode, TraceFlags, Tracer

from tests.integration.telemetry.parity.traffic import (
    Baggage,
    Child,
    Log,
    Look,
    Nested,
    Phase,
    Query,
    Request,
    Step,
    Touch,
)

KEY = "parity.play"
LINK = Link(SpanContext(0xABC, 0xDEF, False, TraceFlags(TraceFlags.SAMPLED)), {"of": "the app"})


class HandledError(Exception):
    """An exception that the app has a handler for."""


class UnhandledError(Exception):
    """An exception that it has none for."""


@dataclass
class World:
    """What the app of one side uses."""

    tracer: Tracer
    connection: sqlite3.Connection
    app: Flask | None = None


@dataclass
class Play:
    """One request as it is served, and what its code sees."""

    request: Request
    world: World
    seen: list[Any] = field(default_factory=list)

    def perform(self, phase: Phase) -> None:
        """Do the steps of a phase; raise if the request says so."""
        for step in self.request.steps.get(phase, ()):
            self.step(step)
        if self.request.raises_in == phase:
            raise UnhandledError(phase)

    def step(self, step: Step) -> None:
        match step:
            case Query():
                self.query(step)
            case Child():
                self.child(step)
            case Touch():
                touch(trace.get_current_span(), step)
            case Look():
                self.seen.append(look())
            case Log():
                log.info("as asked", extra={"seen": self.seen})
            case Baggage():
                token = attach(baggage.set_baggage("step", step.value))
                try:
                    for inner in step.steps:
                        self.step(inner)
                finally:
                    detach(token)
            case Nested():
                with suppress(UnhandledError):
                    assert self.world.app is not None
                    self.seen.append(send(self.world.app, Play(step.request, self.world, self.seen)))

    def query(self, step: Query) -> None:
        cursor = self.world.connection.cursor()
        try:
            if step.by == "connection":
                self.world.connection.execute(step.sql, step.parameters)
            elif step.by == "script":
                cursor.executescript(step.sql)
            elif step.rows is None:
                self.seen.append(cursor.execute(step.sql, step.parameters).fetchall()[:1])
            else:
                cursor.executemany(step.sql, step.rows)
        except (sqlite3.Error, IndexError) as error:
            self.seen.append(type(error).__name__)

    def child(self, step: Child) -> None:
        links = [LINK] if step.linked else None
        if not step.current:
            self.world.tracer.start_span(step.name, links=links).end()
            return
        with (
            suppress(UnhandledError),
            self.world.tracer.start_as_current_span(step.name, links=links, attributes={"by": "the app"}),
        ):
            for inner in step.steps:
                self.step(inner)
            if step.raises:
                raise UnhandledError("in a span of the app")


def touch(span: Span, step: Touch) -> None:
    """Call what the step says on the current span."""
    match step.how:
        case "attribute":
            span.set_attribute("app.attribute", step.value)
        case "attributes":
            span.set_attributes({"app.list": [1, 2], "http.route": "/as/the/app/says"})
        case "name":
            span.update_name(f"user.{step.value}")
        case "event":
            span.add_event("app.event", {"value": step.value})
        case "exception":
            span.record_exception(UnhandledError(step.value), {"noted": True})
        case "error":
            span.set_status(StatusCode.ERROR, step.value)
        case "ok":
            span.set_status(StatusCode.OK)
        case "link":
            span.add_link(LINK.context, LINK.attributes)


def look() -> dict[str, Any]:
    """Return what app code can see of the telemetry."""
    span = trace.get_current_span()
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return {
        "span": identity(span.get_span_context()),
        "recording": span.is_recording(),
        "baggage": dict(baggage.get_all()),
        "headers": carrier,
    }


def identity(context: SpanContext) -> dict[str, Any]:
    """Return a span context as plain values."""
    return {
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "remote": context.is_remote,
        "flags": int(context.trace_flags),
        "trace_state": dict(context.trace_state),
    }


class Correlation(logging.Handler):
    """Notes the current trace and span with each line of the log, as log correlation does."""

    def emit(self, record: logging.LogRecord) -> None:
        play = request.environ.get(KEY) if request else None
        seen = play.seen if play is not None else []
        context = trace.get_current_span().get_span_context()
        seen.append({"log": record.levelname, "trace_id": context.trace_id, "span_id": context.span_id})


log = logging.getLogger("tests.parity")
log.setLevel(logging.INFO)
log.propagate = False
log.addHandler(Correlation())


def add_views(app: Flask) -> None:
    """Give the app its views and functions: each does what its request says."""
    app.register_error_handler(HandledError, lambda _: ("handled", 409))
    app.register_error_handler(404, lambda _: ("not here", 404))
    shop = Blueprint("shop", __name__, url_prefix="/shop")
    app.add_url_rule("/", "index", view)
    app.add_url_rule("/item/<int:number>", "item", view, methods=["GET", "POST", "PUT"])
    app.add_url_rule("/files/<path:name>", "files", view)
    app.add_url_rule("/<any(a, b):kind>/kind", "kind", view, methods=["GET", "PATCH"])
    app.add_url_rule("/only-post", "only_post", view, methods=["POST"])
    app.add_url_rule("/folder/", "folder", view)
    app.add_url_rule("/search", "search", view, methods=["PROPFIND", "GET"])
    app.add_url_rule("/ping", "ping", view)
    shop.add_url_rule("/", "all", view, methods=["GET", "POST"])
    shop.add_url_rule("/<slug>", "one", view, methods=["GET", "DELETE"])
    app.register_blueprint(shop)
    app.before_request(before)
    app.after_request(after)
    app.teardown_request(lambda _: play().perform("teardown"))
    app.teardown_appcontext(lambda _: g.play.perform("app teardown") if "play" in g else None)


def play() -> Play:
    """Return the request that is being served."""
    found: Play = request.environ[KEY]
    return found


def before() -> str | None:
    """Stand in front of every view."""
    g.play = play()
    play().perform("before")
    return "answered before" if play().request.answers_before else None


def after(response: Response) -> Response:
    """Stand behind every view."""
    play().perform("after")
    return response


def view(**_: object) -> Any:
    """Do what the request says."""
    current = play()
    current.perform("view")
    sent = current.request
    answers: dict[str, Callable[[], Any]] = {
        "text": lambda: "text",
        "status": lambda: ("status", sent.status),
        "json": lambda: {"json": True},
        "abort": lambda: abort(sent.status),
        "redirect": lambda: redirect("/elsewhere"),
        "handled": lambda: fail(HandledError()),
        "unhandled": lambda: fail(UnhandledError("in the view")),
        "exit": lambda: fail(SystemExit(3)),
        "stream": lambda: Response(body(current), status=sent.status),
        "stream fails": lambda: Response(body(current)),
        "stream with context": lambda: Response(stream_with_context(body(current))),
    }
    return answers[sent.end]()


def fail(error: BaseException) -> NoReturn:
    """Raise `error`."""
    raise error


def body(current: Play) -> Iterator[str]:
    """Yield a body whose making does steps as well."""
    yield "first"
    current.perform("body")
    if current.request.end == "stream fails":
        raise UnhandledError("in the body")
    yield "last"


def send(app: Flask, current: Play) -> dict[str, Any]:
    """Serve one request as a WSGI server does, and return its answer."""
    sent = current.request
    environ: dict[str, Any] = {
        "REQUEST_METHOD": sent.method,
        "SCRIPT_NAME": sent.script_name,
        "PATH_INFO": sent.path,
        "QUERY_STRING": sent.query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "5000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(),
        "wsgi.errors": BytesIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        KEY: current,
        **{"HTTP_" + name.upper().replace("-", "_"): value for name, value in sent.headers},
        **dict(sent.environ),
    }
    answer: dict[str, Any] = {"raised": None, "status": None, "body": b""}

    def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
        answer["status"], answer["headers"] = status, headers

    try:
        made: Iterable[bytes] = app(environ, start_response)
        try:
            answer["body"] = b"".join(made)
        finally:
            close = getattr(made, "close", None)
            if close is not None:
                close()
    except (Exception, SystemExit) as error:
        answer["raised"] = f"{type(error).__name__}: {error}"
    return answer
