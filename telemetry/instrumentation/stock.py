"""OpenTelemetry's own instrumentations of Flask and sqlite3 in place of ours: the setting `instrumentation="stock"`.

They are driven through their public arguments alone. The providers that they are handed are thin stand-ins for the real ones:
they keep excluded routes out, and count the queries of a request by the spans that are asked for, sampled or not. What the
stock instrumentations do not see is listed in docs/PARITY.md.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, cast

from flask import Flask, request
from opentelemetry import trace
from opentelemetry.metrics import Histogram, Meter, MeterProvider
from opentelemetry.trace import NonRecordingSpan, Span, Tracer, TracerProvider
from werkzeug.routing import Rule

from telemetry import forked, instruments
from telemetry.errors import InstrumentationError
from telemetry.instrumentation.capture import Capture
from telemetry.instrumentation.flask import Around

try:
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
except ImportError as missing:
    raise InstrumentationError(
        f'the setting instrumentation="stock" needs OpenTelemetry\'s instrumentations ({missing}): '
        "pip install opentelemetry-instrumentation-flask opentelemetry-instrumentation-sqlite3"
    ) from missing

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

OPT_IN: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
SCOPE: Final = FlaskInstrumentor.__module__
"""The instrumentation scope that it measures requests in."""


class _Served:
    """The request that is being served: its rule, and how many queries it has made so far. Thread-safe."""

    __slots__ = ("_lock", "_queries", "middleware", "rule")

    def __init__(self, middleware: StockMiddleware) -> None:
        self.middleware = middleware
        self.rule: Rule | None = None
        self._queries = 0
        self._lock = threading.Lock()

    @property
    def is_excluded(self) -> bool:
        return self.rule is not None and self.middleware.capture.is_excluded(self.rule)

    @property
    def query_count(self) -> int:
        return self._queries

    def count_query(self) -> None:
        with self._lock:
            self._queries += 1


_serving: ContextVar[_Served | None] = ContextVar("telemetry_stock_request", default=None)
_installed: list[StockMiddleware] = []
_lock = threading.Lock()


class StockMiddleware(Around):
    """Stands around the app that `FlaskInstrumentor` has instrumented, and knows which request is being served."""

    def __init__(
        self,
        app: Flask,
        capture: Capture,
        tracer_provider: TracerProvider,
        meter_provider: MeterProvider,
        begin: Callable[[], bool] = lambda: True,
    ) -> None:
        """Measure `app`; `begin` is called as `RequestMiddleware` does."""
        self.capture = capture
        self._begin = begin
        self._has_begun = False
        forked.call_in_child(self._begin_anew)
        self.active = False
        self.tracer_provider = tracer_provider
        self._app = app
        self._meters = _Meters(meter_provider)
        self._stock: WSGIApplication = app.wsgi_app
        self._wsgi_app = app.wsgi_app

    def install(self) -> None:
        """Instrument the app, and `sqlite3` with the first one.

        Raises:
            InstrumentationError: the app has answered a request, or somebody else has set the instrumentations up already.
        """
        with _lock, _stable_conventions():
            if not _installed and SQLite3Instrumentor().is_instrumented_by_opentelemetry:
                raise InstrumentationError(
                    "sqlite3 is instrumented by SQLite3Instrumentor already: with the setting "
                    'instrumentation="stock", instrument(app) has to do that'
                )
            self._instrument_app()
            if not _installed:
                SQLite3Instrumentor().instrument(tracer_provider=_QueryTracers())
            _installed.append(self)
        self.active = True

    def _instrument_app(self) -> None:
        app = self._app
        try:
            FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
                app,
                response_hook=_note_rule,
                tracer_provider=_ServerTracers(self.tracer_provider),
                meter_provider=self._meters,
            )
        except AssertionError as error:
            vars(app).pop("_original_wsgi_app", None)
            self._restore()
            raise InstrumentationError(
                'with the setting instrumentation="stock", instrument(app) must be called before the app\'s first '
                f"request, got {app.name!r}, which has answered one"
            ) from error
        if not self._meters.asked:
            raise InstrumentationError(
                f"{app.name!r} is instrumented by FlaskInstrumentor already: with the setting "
                'instrumentation="stock", instrument(app) has to do that'
            )
        if not self._meters.measured:
            FlaskInstrumentor.uninstrument_app(app)  # type: ignore[no-untyped-call]
            self._restore()
            raise InstrumentationError(
                "another OpenTelemetry instrumentation, set up before instrument(app), has chosen the old names for "
                f"this process: set {OPT_IN}=http,database in its environment"
            )
        self._stock = app.wsgi_app
        app.wsgi_app = self  # type: ignore[method-assign]

    def remove(self) -> None:
        """Undo `install`; with the last one, `sqlite3` is no longer instrumented.

        Middleware that was wrapped around this one stays, and then passes requests on to the plain app.
        """
        self.active = self._has_begun = False
        outermost = self._app.wsgi_app
        FlaskInstrumentor.uninstrument_app(self._app)  # type: ignore[no-untyped-call]
        self._restore(None if outermost is self else outermost)
        with _lock:
            _installed.remove(self)
            if not _installed:
                SQLite3Instrumentor().uninstrument()

    def _begin_anew(self) -> None:
        self._has_begun = False

    def _restore(self, around: WSGIApplication | None = None) -> None:
        """Put `app.wsgi_app` back as it was, or leave it with what stands around this middleware."""
        vars(self._app).pop("wsgi_app", None)
        wanted = around or self._wsgi_app
        if self._app.wsgi_app != wanted:
            self._app.wsgi_app = wanted  # type: ignore[method-assign, assignment]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self.active:
            return self._wsgi_app(environ, start_response)
        if not self._has_begun:
            self._has_begun = self._begin()
        token = _serving.set(_Served(self))
        try:
            return self._stock(environ, start_response)
        finally:
            _serving.reset(token)


@contextlib.contextmanager
def _stable_conventions() -> Iterator[None]:
    """Opt into the stable names while the instrumentations are set up, which is when they read the variable."""
    before = os.environ.get(OPT_IN)
    chosen = [part.strip() for part in (before or "").split(",") if part.strip()]
    wanted = [name for name in ("http", "database") if name not in chosen and f"{name}/dup" not in chosen]
    os.environ[OPT_IN] = ",".join(chosen + wanted)
    try:
        yield
    finally:
        if before is None:
            del os.environ[OPT_IN]
        else:
            os.environ[OPT_IN] = before


def _note_rule(*_: Any) -> None:
    """Note the rule of the request, while Flask's request context is there; called with span, status and headers."""
    served = _serving.get()
    if served is not None:
        served.rule = request.url_rule


class _Meters(MeterProvider):
    """The meter provider of `FlaskInstrumentor`."""

    def __init__(self, provider: MeterProvider) -> None:
        self._provider = provider
        self.asked = False  # for a meter: so the app was not instrumented before
        self.measured = False  # whether there is an instrument with the stable name

    def get_meter(self, *args: Any, **kwargs: Any) -> Meter:
        self.asked = True
        return cast(Meter, _Meter(self, self._provider.get_meter(*args, **kwargs)))


class _Meter:
    def __init__(self, meters: _Meters, meter: Meter) -> None:
        self._meters = meters
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._meter, name)

    def create_histogram(self, name: str, *args: Any, **kwargs: Any) -> _Duration:
        is_stable = name == instruments.REQUEST_DURATION
        self._meters.measured |= is_stable
        return _Duration(self._meter.create_histogram(name, *args, **kwargs), is_stable)


class _Duration:
    """A histogram of request durations without those of excluded routes.

    With each duration under the stable name goes the request's number of queries, so that both windows hold the same requests.
    """

    def __init__(self, histogram: Histogram, is_stable: bool) -> None:
        self._histogram = histogram
        self._is_stable = is_stable

    def record(self, amount: float, attributes: Mapping[str, Any], context: Any = None) -> None:
        served = _serving.get()
        if served is None or served.is_excluded:
            return
        self._histogram.record(amount, attributes, context)
        if self._is_stable:
            names = (instruments.HTTP_REQUEST_METHOD, instruments.HTTP_ROUTE)
            route = {name: attributes[name] for name in names if name in attributes}
            operations = served.middleware.capture.instruments.request_operations
            operations.record(served.query_count, route, context)


class _ServerTracers(TracerProvider):
    """The tracer provider of `FlaskInstrumentor`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        return cast(Tracer, _ServerTracer(self._provider.get_tracer(*args, **kwargs)))


class _ServerTracer:
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def start_span(self, name: str, context: Any = None, *args: Any, **kwargs: Any) -> Span:
        """Start the server span; for an excluded route, pass on the span context that the request came with."""
        _note_rule()
        served = _serving.get()
        if served is not None and served.is_excluded:
            return NonRecordingSpan(trace.get_current_span(context).get_span_context())
        return self._tracer.start_span(name, context, *args, **kwargs)


class _QueryTracers(TracerProvider):
    """The tracer provider of `SQLite3Instrumentor`, which is one for all apps of the process."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        return cast(Tracer, _QueryTracer(args, kwargs))


class _QueryTracer:
    """Makes the span of a query on the tracer provider of the app that is being served, and counts it."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._arguments = args, kwargs
        self._tracers: dict[TracerProvider, Tracer] = {}

    def start_as_current_span(self, name: str, **kwargs: Any) -> AbstractContextManager[Span]:
        served = _serving.get()
        middleware = next(iter(_installed), None) if served is None else served.middleware
        if served is not None:
            served.count_query()
        if middleware is None or (served is not None and served.is_excluded):
            return contextlib.nullcontext(trace.INVALID_SPAN)
        provider = middleware.tracer_provider
        tracer = self._tracers.get(provider)
        if tracer is None:
            args, named = self._arguments
            tracer = self._tracers[provider] = provider.get_tracer(*args, **named)
        return tracer.start_as_current_span(name, **kwargs)
