"""What the middleware measures, and that it stays out of the way."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import operator
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from flask import (
    Blueprint,
    Flask,
    Request,
    Response,
    abort,
    current_app,
    got_request_exception,
    redirect,
    request,
    send_file,
    stream_with_context,
)
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.context import Context, attach, detach, set_value
from opentelemetry.propagators.textmap import TextMapPropagator, default_getter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import BaseConverter, RequestRedirect
from werkzeug.test import Client, EnvironBuilder
from werkzeug.wsgi import ClosingIterator

from telemetry import (
    InstrumentationError,
    PerformanceMetrics,
    SettingsError,
    TelemetrySettings,
    instrument,
    uninstrument,
)
from telemetry.exporters.processor import DeferredSpanProcessor
from telemetry.instrumentation import holders
from telemetry.instrumentation.capture import EXTENSION
from telemetry.instrumentation.spans import request_attributes

Instrumented = Callable[..., Flask]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def one_view(view: Callable[[], Any], rule: str = "/", **options: Any) -> Flask:
    app = Flask(__name__)
    app.add_url_rule(rule, "view", view, **options)
    return app


def counts(metrics: PerformanceMetrics) -> dict[str, tuple[int, int]]:
    return {
        route: (stats["request_count"], stats["error_count"])
        for route, stats in metrics.snapshot()["endpoints"].items()
    }


@pytest.mark.parametrize(
    ("rule", "path", "route"),
    [
        ("/watch/<path:filename>", "/watch/a/b.mp4", "GET /watch/<filename>"),
        ("/<any(a, b):kind>/<int(min=3):n>", "/a/5", "GET /<kind>/<n>"),
        ("/user/<name>", "/user/x", "GET /user/<name>"),
        ("/", "/", "GET /"),
    ],
)
def test_a_route_is_named_by_method_and_rule_without_converters(
    rule: str, path: str, route: str, metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    def view(**_: Any) -> str:
        return "ok"

    app = instrumented(one_view(view, rule))
    assert app.test_client().get(path).status_code == 200
    stats = metrics.snapshot()["endpoints"][route]
    assert (stats["route"], stats["endpoint"]) == (route, "view")


def test_where_the_other_workers_cannot_be_met_requests_are_measured_all_the_same(
    metrics: PerformanceMetrics, instrumented: Instrumented, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = instrumented(one_view(lambda: "ok"))
    tried = []

    def meet() -> bool:
        tried.append(1)
        raise OSError("as asked")

    monkeypatch.setattr(app.extensions[EXTENSION].middleware, "_begin", meet)
    assert [app.test_client().get("/").status_code for _ in range(2)] == [200, 200]
    assert (counts(metrics), len(tried)) == ({"GET /": (2, 0)}, 1)


@pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 499])
def test_no_status_under_500_is_an_error(status: int, metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    instrumented(one_view(lambda: ("", status))).test_client().get("/")
    assert counts(metrics) == {"GET /": (1, 0)}


@pytest.mark.parametrize("status", [500, 503, 599])
def test_every_5xx_is_an_error(status: int, metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    instrumented(one_view(lambda: ("", status))).test_client().get("/")
    assert counts(metrics) == {"GET /": (1, 1)}


def fail() -> str:
    raise ValueError("as asked")


def test_an_unhandled_exception_is_an_error_when_flask_turns_it_into_a_500(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = instrumented(one_view(fail))
    app.logger.disabled = True
    assert app.test_client().get("/").status_code == 500
    assert counts(metrics) == {"GET /": (1, 1)}


def test_an_unhandled_exception_is_an_error_when_flask_raises_it_again(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = instrumented(one_view(fail))
    app.testing = True
    with pytest.raises(ValueError, match="as asked"):
        app.test_client().get("/")
    assert counts(metrics) == {"GET /": (1, 1)}


def test_an_unhandled_exception_is_an_error_even_behind_a_page_that_answers_200(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = one_view(fail)
    app.register_error_handler(500, lambda _: ("sorry", 200))
    app.logger.disabled = True
    assert instrumented(app).test_client().get("/").status_code == 200
    assert counts(metrics) == {"GET /": (1, 1)}


def test_an_exception_that_the_app_handles_is_none(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    app = one_view(fail)
    app.register_error_handler(ValueError, lambda _: ("handled", 400))
    assert instrumented(app).test_client().get("/").status_code == 400
    assert counts(metrics) == {"GET /": (1, 0)}


@pytest.mark.parametrize("exception", [NotFound(), KeyError()])
@pytest.mark.parametrize(("answered", "errors"), [(404, 0), (500, 1)])
def test_an_exception_that_an_extension_signals_and_answers_is_an_error_if_it_is_answered_so(
    answered: int, errors: int, exception: Exception, metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    def view() -> tuple[str, int]:  # as Flask-RESTX and Flask-RESTful do
        got_request_exception.send(current_app._get_current_object(), exception=exception)  # type: ignore[attr-defined]
        return "no such thing", answered

    instrumented(one_view(view)).test_client().get("/")
    assert counts(metrics) == {"GET /": (1, errors)}


def lazy(app: Any) -> Any:
    """Return middleware that runs `app` when the first byte is asked for, as Werkzeug's debugger does."""

    def generator(environ: Any, start_response: Any) -> Iterator[bytes]:
        yield from app(environ, start_response)

    return generator


def test_an_app_that_runs_when_its_body_is_asked_for_is_measured_like_any_other(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    def view() -> Response:
        with contextlib.closing(sqlite3.connect(":memory:")) as opened:
            opened.execute("SELECT 1")
        return Response(iter(["o", "k"]) if request.args else "ok")

    app = one_view(view)
    app.add_url_rule("/fails", "fail", fail)
    app.logger.disabled = True
    app.wsgi_app = lazy(app.wsgi_app)  # type: ignore[method-assign]
    client = instrumented(app).test_client()
    assert client.get("/").text == "ok"
    assert client.get("/?streamed").text == "ok"
    assert client.head("/").text == client.head("/?streamed").text == ""
    assert client.get("/fails").status_code == 500
    assert counts(metrics) == {"GET /": (2, 0), "HEAD /": (2, 0), "GET /fails": (1, 1)}
    assert [kept.query_count for kept in metrics.recent.all()] == [0, 1, 1, 1, 1]
    assert [kept.transfer_ns is None for kept in metrics.recent.all()] == [True, True, True, False, True]


def test_a_request_that_a_view_makes_of_a_copy_of_its_own_is_no_other(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = one_view(lambda: "part", "/part")
    app.add_url_rule("/fails", "fail", fail)
    app.logger.disabled = True

    @app.post("/batch")
    def batch() -> str:
        for path in ("/part", "/missing", "/fails"):
            environ = {**request.environ, "PATH_INFO": path, "REQUEST_METHOD": "GET"}
            with app.request_context(environ):
                try:
                    app.full_dispatch_request()
                except ValueError as error:
                    app.handle_exception(error)
        return "ok"

    instrumented(app).test_client().post("/batch")
    assert counts(metrics) == {"POST /batch": (1, 0)}


def test_a_request_that_middleware_asks_twice_is_what_it_is_answered_with(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = one_view(lambda: "index")
    inner = app.wsgi_app

    def falls_back(environ: Any, start_response: Any) -> Any:
        statuses: list[str] = []
        body = inner(dict(environ), lambda status, *_: statuses.append(status))  # type: ignore[arg-type, return-value]
        if not statuses[0].startswith("404"):
            return body
        return inner({**environ, "PATH_INFO": "/"}, start_response)

    app.wsgi_app = falls_back  # type: ignore[method-assign]
    assert instrumented(app).test_client().get("/some/page").text == "index"
    assert counts(metrics) == {"GET /": (1, 0)}


@pytest.fixture
def looks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this be the first app of a process, for which it is looked who has taken it before."""
    monkeypatch.setattr(holders, "_looks", itertools.count())


class Watchful:
    """An object whose attributes can't be looked at."""

    def __init__(self, app: Any) -> None:
        object.__setattr__(self, "app", app)

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("not now")


@pytest.mark.usefixtures("looks_anew")
def test_an_object_that_lets_nobody_look_at_it_does_not_keep_an_app_from_being_instrumented(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = one_view(lambda: "ok")
    watchful = Watchful(app.wsgi_app)
    assert instrumented(app).test_client().get("/").text == "ok"
    assert counts(metrics) == {"GET /": (1, 0)}
    assert isinstance(watchful, Watchful)


class InSlots:
    """Middleware whose attributes are in no dictionary."""

    __slots__ = ("app",)

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return self.app(environ, start_response)


def in_a_closure(app: Any) -> Any:
    return lambda environ, start_response: app(environ, start_response)


def in_a_module(app: Any) -> Any:
    module = ModuleType("wsgi")
    module.application = app  # type: ignore[attr-defined]
    return lambda environ, start_response: module.application(environ, start_response)


@pytest.mark.parametrize(
    "around",
    [
        ProxyFix,
        in_a_closure,
        in_a_module,
        lambda app: DispatcherMiddleware(app),
        lambda app: DispatcherMiddleware(Flask("other"), {"/sub": app}),
        lambda app: ProxyFix(ProxyFix(app)),
    ],
)
@pytest.mark.usefixtures("looks_anew")
def test_what_had_taken_the_app_before_is_measured_as_well(
    around: Callable[[Any], Any], metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = one_view(lambda: "ok")
    served = around(app.wsgi_app)
    instrumented(app)
    uninstrument(app)
    instrumented(app)
    for path in ("/", "/sub/"):
        Client(served).get(path)
    assert counts(metrics)["GET /"] == (1, 0)
    uninstrument(app)
    assert {Client(served).get(path).status_code for path in ("/", "/sub/")} == {200, 404}
    assert counts(metrics)["GET /"] == (1, 0)


@pytest.mark.usefixtures("looks_anew")
def test_an_attribute_of_a_class_stays_what_it_is(instrumented: Instrumented) -> None:
    """Python remembers where it has found one: to put another in its place behind Python's back would crash."""
    app = Flask("of-a-class")  # of this name the warning is told once
    app.add_url_rule("/", "view", lambda: "ok")
    handler = type("Handler", (), {"app": app.wsgi_app})
    instrumented(app)
    assert vars(handler)["app"] == app.wsgi_app._wsgi_app  # type: ignore[attr-defined]
    assert Client(lambda *given: handler.app(*given)).get("/").text == "ok"  # type: ignore[attr-defined]


@pytest.mark.parametrize("around", [ProxyFix, InSlots, in_a_closure])
@pytest.mark.usefixtures("looks_anew")
def test_middleware_that_has_been_put_around_the_app_stays_inside(
    around: Callable[[Any], Any], metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = one_view(lambda: "ok")
    app.wsgi_app = around(app.wsgi_app)
    instrumented(app)
    for _ in range(2):
        assert app.test_client().get("/").text == "ok"
    assert counts(metrics) == {"GET /": (2, 0)}


def test_requests_that_come_by_a_reference_taken_before_are_told_once(
    metrics: PerformanceMetrics, instrumented: Instrumented, caplog: pytest.LogCaptureFixture
) -> None:
    app = one_view(lambda: "ok")
    way_around = app.wsgi_app
    instrumented(app)
    environ = EnvironBuilder("/").get_environ()
    for _ in range(2):
        assert list(way_around(dict(environ), lambda *_: None)) == [b"ok"]
    with app.test_request_context("/"):
        pass
    assert caplog.text.count("are not measured") == 1
    assert counts(metrics) == {}


@pytest.mark.parametrize("is_instrumented", [True, False])
def test_a_function_after_the_request_that_forgets_to_return_fails_as_it_does_without(
    is_instrumented: bool, instrumented: Instrumented
) -> None:
    app = one_view(lambda: "ok")
    app.after_request(lambda _: None)  # type: ignore[arg-type, return-value]
    if is_instrumented:
        instrumented(app)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        app.test_client().get("/")


def test_an_app_that_middleware_runs_in_another_thread_is_measured_whole(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = one_view(lambda: Response(iter(["o", "k"])))
    app.add_url_rule("/fails", "fail", fail)
    app.logger.disabled = True
    inner = app.wsgi_app

    def in_a_thread(environ: Any, start_response: Any) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(inner, environ, start_response).result()

    app.wsgi_app = in_a_thread  # type: ignore[method-assign]
    client = instrumented(app).test_client()
    assert client.get("/").text == "ok"
    client.get("/fails")
    failed, streamed = metrics.recent.all()
    assert failed.error_type == "ValueError"
    assert streamed.transfer_ns is not None


@pytest.mark.parametrize("is_deferred", [True, False])
def test_the_span_of_an_app_that_is_mounted_before_another_one_has_the_parent_that_the_client_names(
    is_deferred: bool, instrumented: Instrumented
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(DeferredSpanProcessor(exporter) if is_deferred else SimpleSpanProcessor(exporter))
    inner = instrumented(one_view(lambda: "inner", "/e"), tracer_provider=provider)
    outer = one_view(lambda: inner.test_client().get("/e").text)
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/in": inner.wsgi_app})  # type: ignore[method-assign]
    client = instrumented(outer, tracer_provider=provider).test_client()
    for headers, parent in (({}, None), ({"traceparent": TRACEPARENT}, 0xB7AD6B7169203331)):
        assert client.get("/in/e", headers=headers).text == "inner"
        provider.force_flush()
        (span,) = exporter.get_finished_spans()
        assert span.kind is SpanKind.SERVER
        assert (span.parent and span.parent.span_id) == parent
        exporter.clear()
    client.get("/")  # in which the outer app asks the inner one
    provider.force_flush()
    kinds = {span.name: span.kind for span in exporter.get_finished_spans()}
    assert kinds == {"GET /e": SpanKind.INTERNAL, "GET /": SpanKind.SERVER}
    provider.shutdown()


def test_an_http_exception_in_teardown_is_an_error(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    app = one_view(lambda: "ok")
    app.teardown_request(lambda _: abort(404))
    with pytest.raises(NotFound):
        instrumented(app).test_client().get("/")
    assert counts(metrics) == {"GET /": (1, 1)}


def test_an_exception_in_teardown_is_an_error(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    app = one_view(lambda: "ok")

    @app.teardown_request
    def teardown(_: BaseException | None) -> None:
        raise RuntimeError("in teardown")

    with pytest.raises(RuntimeError):
        instrumented(app).test_client().get("/")
    assert counts(metrics) == {"GET /": (1, 1)}


def test_requests_that_match_no_rule_enter_no_window_but_the_metric(metrics: PerformanceMetrics) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    app = one_view(lambda: "ok")
    instrument(app, metrics=metrics, meter_provider=provider, tracer_provider=TracerProvider(shutdown_on_exit=False))
    client = app.test_client()
    client.get("/nothing")
    client.delete("/")
    client.open("/", method="BREW")
    uninstrument(app)
    assert counts(metrics) == {}
    points = [dict(point.attributes) for point in durations(reader)]
    assert sorted(points, key=str) == [
        {"http.request.method": "DELETE", "http.response.status_code": 405},
        {"http.request.method": "GET", "http.response.status_code": 404},
        {"http.request.method": "_OTHER", "http.response.status_code": 405},
    ]


def durations(reader: InMemoryMetricReader) -> list[Any]:
    data = reader.get_metrics_data()
    assert data is not None
    return [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "http.server.request.duration"
        for point in metric.data.data_points
    ]


def test_the_admin_pages_static_files_and_ping_stay_out_of_the_windows(
    metrics: PerformanceMetrics, instrumented: Instrumented, tmp_path: Any
) -> None:
    (tmp_path / "style.css").write_text("")
    app = Flask(__name__, static_folder=str(tmp_path), static_url_path="/static")
    app.add_url_rule("/ping", "ping", lambda: "pong")
    blueprint = Blueprint("shop", __name__, static_folder=str(tmp_path), static_url_path="/shop-static")
    app.register_blueprint(blueprint)
    client = instrumented(app).test_client()
    for path in (
        "/ping",
        "/static/style.css",
        "/shop-static/style.css",
        "/admin/performance",
        "/admin/performance/json",
    ):
        with client.get(path) as response:
            assert response.status_code == 200, path
    assert counts(metrics) == {}
    assert metrics.snapshot()["database"]["count"] == 0


def test_a_view_that_is_called_static_is_a_view(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    pages = Blueprint("pages", __name__)
    pages.add_url_rule("/pages/<slug>", "static", lambda slug: slug)
    app = Flask(__name__)
    app.register_blueprint(pages)
    instrumented(app).test_client().get("/pages/about")
    assert list(metrics.endpoint_latencies) == ["GET /pages/<slug>"]


def test_a_websocket_that_ends_under_gunicorn_is_no_error(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    class TakenOver(Response):
        def __call__(self, *_: object) -> Any:
            raise StopIteration

    app = Flask(__name__)
    app.add_url_rule("/socket", "socket", lambda: TakenOver(""))
    with pytest.raises(StopIteration):
        instrumented(app).wsgi_app(EnvironBuilder("/socket").get_environ(), lambda *_: None)
    assert [(row["route"], row["error_count"]) for row in metrics.route_stats()] == [("GET /socket", 0)]


@pytest.mark.parametrize("pattern", ["/internal/*", "/internal/<path:name>", "/internal/<name>"])
def test_a_setting_leaves_more_routes_out_and_the_sign_of_life_stays_so(
    pattern: str, metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = one_view(lambda **_: "ok", "/internal/<path:name>")
    app.add_url_rule("/ping", "ping", lambda: "pong")
    instrumented(app, settings=TelemetrySettings.load(excluded_routes=(pattern,)))
    for path in ("/internal/x", "/ping"):
        assert app.test_client().get(path).status_code == 200
    assert counts(metrics) == {}


def streaming(chunks: int, at_end: Callable[[], None] = lambda: None) -> Flask:
    def view() -> Response:
        def body() -> Iterator[str]:
            connection = sqlite3.connect(":memory:")
            for _ in range(chunks):
                connection.execute("SELECT 1")
                yield "chunk"
            connection.close()
            at_end()

        return current_app.response_class(stream_with_context(body()))

    return one_view(view)


def test_queries_of_a_streamed_body_belong_to_the_request(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    with instrumented(streaming(5)).test_client().get("/") as response:
        assert response.data == b"chunk" * 5
    assert metrics.db_queries_per_request == [5]


def test_a_stream_that_says_its_length_and_how_it_is_closed_is_one_too(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    def view() -> Response:
        def body() -> Iterator[str]:
            with contextlib.closing(sqlite3.connect(":memory:")) as connection:
                yield from (str(connection.execute("SELECT ?", (at,)).fetchone()[0]) for at in range(4))

        return Response(ClosingIterator(body(), [lambda: None]), headers={"Content-Length": "4"})

    assert instrumented(one_view(view)).test_client().get("/").data == b"0123"
    assert metrics.snapshot()["database"]["total_queries"] == 4
    (kept,) = metrics.recent.all()
    assert kept.transfer_ns is not None


@pytest.mark.parametrize("error", [NotFound(), RequestRedirect("/elsewhere")])
def test_the_page_of_an_http_exception_is_no_stream(
    error: Exception, metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    def view() -> str:
        raise error

    instrumented(one_view(view)).test_client().get("/")
    assert [kept.transfer_ns for kept in metrics.recent.all()] == [None]


class Mounted:
    """A middleware that its app asks for something by `app.wsgi_app`."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.script_name = "/here"

    def __call__(self, *args: Any) -> Any:
        return self._app(*args)


@pytest.mark.parametrize("how", ["own", "stock"])
def test_what_the_app_asks_its_middleware_for_is_answered(how: str, instrumented: Instrumented) -> None:
    app = one_view(lambda: app.wsgi_app.script_name)  # type: ignore[attr-defined]
    app.wsgi_app = mounted = Mounted(app.wsgi_app)  # type: ignore[method-assign, assignment]
    instrumented(app, settings=TelemetrySettings.load(instrumentation=how))
    assert app.test_client().get("/").text == "/here"
    assert not hasattr(app.wsgi_app, "elsewhere")
    app.wsgi_app.script_name = "/there"  # type: ignore[attr-defined]
    assert mounted.script_name == app.test_client().get("/").text == copy.copy(app.wsgi_app).script_name == "/there"
    uninstrument(app)
    if how == "own":
        assert app.wsgi_app is mounted


def test_a_stream_that_is_closed_early_is_counted_once(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    with instrumented(streaming(5)).test_client().get("/") as response:
        assert next(iter(response.response)) == b"chunk"
    assert metrics.db_queries_per_request == [1]


def test_a_request_whose_session_cannot_be_opened_is_an_error_of_its_route(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    class Store(SecureCookieSessionInterface):
        def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
            raise ConnectionError("the store is down")

    app = one_view(lambda: "", "/item/<int:number>")
    app.session_interface = Store()
    instrumented(app)
    assert [app.test_client().get(path).status_code for path in ("/item/5", "/nowhere")] == [500, 500]
    assert counts(metrics) == {"GET /item/<number>": (1, 1)}
    (kept,) = metrics.recent.all()
    assert (kept.route, kept.error_type) == ("GET /item/<number>", "ConnectionError")


def test_a_request_whose_converter_fails_is_an_error_of_its_route(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    calls = []

    class Item(BaseConverter):
        def to_python(self, value: str) -> Any:
            calls.append(value)
            raise ConnectionError("the database is down")

    app = Flask(__name__)
    app.url_map.converters["item"] = Item
    app.add_url_rule("/item/<item:item>", "item", lambda item: item)
    assert instrumented(app).test_client().get("/item/5").status_code == 500
    assert counts(metrics) == {"GET /item/<item>": (1, 1)}
    assert calls == ["5"]  # it is not asked again


def test_a_stream_is_complete_at_its_end_and_so_among_the_newest(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app, ends_unix_ns = instrumented(Flask("shop")), list[int]()

    @app.get("/")
    def stream() -> Response:
        def chunks() -> Iterator[str]:
            yield "chunk"
            ends_unix_ns.append(time.time_ns())

        return Response(chunks())

    for _ in range(2):  # the first measurement of a series takes another way
        app.test_client().get("/").get_data()
    for window in (metrics.store.samples("GET /"), metrics.store.queries()):
        assert len(window) == 2
        assert all(map(operator.ge, [each.time_unix_nano for each in window], ends_unix_ns))


def test_a_stream_that_is_thrown_away_unread_is_counted_with_the_next_request(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = instrumented(streaming(5))
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "HTTP_HOST": "localhost",
    }
    app.wsgi_app(environ, lambda *_: None)  # type: ignore[arg-type]
    gc.collect()
    app.test_client().get("/nowhere")
    assert metrics.db_queries_per_request == [0]
    (kept,) = metrics.recent.all()
    assert kept.transfer_ns is not None


def test_a_stream_that_is_thrown_away_last_is_counted_at_the_end(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = instrumented(streaming(1))
    environ = app.test_client().get("/nowhere").request.environ | {"PATH_INFO": "/"}
    app.wsgi_app(environ, lambda *_: None)  # type: ignore[arg-type]
    gc.collect()
    uninstrument(app)
    assert counts(metrics) == {"GET /": (1, 0)}


def test_a_stream_that_the_garbage_collector_finds_waits_for_no_lock(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = instrumented(streaming(1))
    environ = app.test_client().get("/nowhere").request.environ | {"PATH_INFO": "/"}
    body = app.wsgi_app(environ, lambda *_: None)  # type: ignore[arg-type]
    in_a_circle = [body]
    in_a_circle.append(in_a_circle)  # type: ignore[arg-type]
    del body, in_a_circle
    with metrics.recent._lock:  # as if the collector came by while somebody reads
        gc.collect()
    app.test_client().get("/nowhere")
    assert [kept.path for kept in metrics.recent.all()] == ["/"]


def test_a_stream_that_fails_is_an_error(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    def break_off() -> None:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        instrumented(streaming(2, break_off)).test_client().get("/").data  # noqa: B018
    assert counts(metrics) == {"GET /": (1, 1)}
    assert metrics.db_queries_per_request == [2]


def test_the_body_of_a_head_request_is_not_waited_for(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    app = instrumented(streaming(2))
    environ = app.test_client().head("/nowhere").request.environ | {"PATH_INFO": "/"}
    body = app.wsgi_app(environ, lambda *_: None)  # type: ignore[arg-type]
    assert counts(metrics) == {"HEAD /": (1, 0)}
    del body


def test_files_are_passed_through_to_the_server(
    metrics: PerformanceMetrics, instrumented: Instrumented, tmp_path: Any
) -> None:
    (tmp_path / "file.txt").write_text("content")
    app = instrumented(one_view(lambda: send_file(tmp_path / "file.txt")))
    with app.test_client().get("/") as response:
        assert response.data == b"content"
    assert counts(metrics) == {"GET /": (1, 0)}


def test_a_request_inside_a_request_has_its_own_count(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    app = Flask(__name__)

    @app.get("/outer")
    def outer() -> str:
        connection = sqlite3.connect(":memory:")
        connection.execute("SELECT 1")
        current_app.test_client().get("/inner")
        connection.execute("SELECT 2")
        connection.close()
        return "outer"

    @app.get("/inner")
    def inner() -> str:
        connection = sqlite3.connect(":memory:")
        for _ in range(3):
            connection.execute("SELECT 1")
        connection.close()
        return "inner"

    instrumented(app).test_client().get("/outer")
    assert metrics.db_queries_per_request == [3, 2]


def test_an_app_mounted_in_another_is_counted_once(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    outer, inner = one_view(lambda: "outer"), one_view(lambda: "inner", "/page")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    instrumented(inner, meter_provider=provider)
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/mounted": inner})  # type: ignore[method-assign]
    instrumented(outer, meter_provider=provider)
    client = outer.test_client()
    assert client.get("/mounted/page").text == "inner"
    assert client.get("/").text == "outer"
    assert counts(metrics) == {"GET /page": (1, 0), "GET /": (1, 0)}
    data = reader.get_metrics_data()
    assert data is not None
    measured = [
        point.count
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if metric.name == "http.server.request.duration"
        for point in metric.data.data_points
    ]
    assert sum(measured) == 2


def test_middleware_that_copies_the_environ_does_not_hide_the_route(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = one_view(lambda: "ok")
    inner = app.wsgi_app
    app.wsgi_app = lambda environ, start: inner(dict(environ), start)  # type: ignore[method-assign]
    instrumented(app).test_client().get("/")
    assert counts(metrics) == {"GET /": (1, 0)}


def test_middleware_put_around_an_instrumented_app_stays_after_uninstrument(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = instrumented(one_view(lambda: request.host))
    app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1)  # type: ignore[method-assign]
    client = app.test_client()
    headers = {"X-Forwarded-Host": "elsewhere"}
    assert client.get("/", headers=headers).text == "elsewhere"
    uninstrument(app)
    assert client.get("/", headers=headers).text == "elsewhere"
    assert counts(metrics) == {"GET /": (1, 0)}
    instrumented(app)
    assert client.get("/", headers=headers).text == "elsewhere"
    assert counts(metrics) == {"GET /": (2, 0)}


def test_instrumenting_twice_counts_once(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    app = instrumented(instrumented(one_view(lambda: "ok")))
    app.test_client().get("/")
    assert counts(metrics) == {"GET /": (1, 0)}


def test_two_apps_share_the_figures_of_the_process(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    first, second = instrumented(one_view(lambda: "1", "/first")), instrumented(one_view(lambda: "2", "/second"))
    first.test_client().get("/first")
    second.test_client().get("/second")
    assert counts(metrics) == {"GET /first": (1, 0), "GET /second": (1, 0)}
    uninstrument(first)
    second.test_client().get("/second")
    assert counts(metrics)["GET /second"] == (2, 0)


def test_uninstrument_leaves_the_app_as_it_was(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    app = one_view(lambda: "ok")
    before, own_attributes = app.wsgi_app, set(vars(app))
    instrumented(app)
    client = app.test_client()
    assert client.get("/admin/performance").status_code == 200
    uninstrument(app)
    uninstrument(app)
    assert app.wsgi_app == before
    assert client.get("/").text == "ok"
    assert client.get("/admin/performance").status_code == 404
    assert client.get("/admin/performance/json").status_code == 404
    assert set(vars(app)) == own_attributes
    assert counts(metrics) == {}


def test_only_a_flask_app_can_be_instrumented() -> None:
    with pytest.raises(InstrumentationError, match="app must be a Flask app, got str"):
        instrument("app")  # type: ignore[type-var]
    uninstrument(Flask(__name__))


def test_settings_of_another_type_are_refused_by_name() -> None:
    app = Flask("app")
    with pytest.raises(SettingsError, match=r"^settings must be made by TelemetrySettings\.load\(.*, got dict$"):
        instrument(app, settings={"window": 500})  # type: ignore[arg-type]
    assert EXTENSION not in app.extensions


def test_an_app_that_has_served_gets_no_admin_pages_says_so_and_leaves_nothing_behind(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app, provider = one_view(lambda: "ok"), MeterProvider(shutdown_on_exit=False)
    app.test_client().get("/")
    for _ in range(2):
        with pytest.raises(InstrumentationError, match="must be called before the app's first request"):
            instrumented(app, meter_provider=provider)
        assert not metrics.is_attached(provider)


def test_an_app_that_has_served_can_be_measured_without_admin_pages(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = one_view(lambda: "ok")
    app.test_client().get("/")
    instrumented(app, settings=TelemetrySettings.load(admin=False))
    assert app.test_client().get("/admin/performance").status_code == 404
    app.test_client().get("/")
    assert counts(metrics) == {"GET /": (1, 0)}


# -- spans and context -------------------------------------------------------------------------------------------------


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced(instrumented: Instrumented, exporter: InMemorySpanExporter) -> Instrumented:
    """`instrument` with a tracer provider of the user's own, whose processor sees spans start and end."""

    def make(app: Flask, **provider_options: Any) -> Flask:
        provider = TracerProvider(shutdown_on_exit=False, **provider_options)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return instrumented(app, tracer_provider=provider)

    return make


def server_span(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = [span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    return span


def query_app() -> Flask:
    def view(number: int) -> str:
        connection = sqlite3.connect(":memory:")
        connection.execute("CREATE TABLE videos (title)")
        connection.execute("SELECT title FROM videos WHERE title = ?", ("secret",))
        connection.close()
        return str(number)

    app = Flask(__name__)
    app.add_url_rule("/item/<int:number>", "view", view)
    return app


def test_a_request_is_one_trace_with_a_span_for_each_query(
    traced: Instrumented, exporter: InMemorySpanExporter
) -> None:
    traced(query_app()).test_client().get("/item/3?token=secret", headers={"User-Agent": "test"})
    server = server_span(exporter)
    assert server.name == "GET /item/<int:number>"
    attributes = dict(server.attributes or {})
    in_the_database_s = attributes.pop("telemetry.request.db_duration")
    assert isinstance(in_the_database_s, float)
    assert 0 < in_the_database_s < 60
    assert attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/item/<int:number>",
        "url.path": "/item/3",
        "url.scheme": "http",
        "server.address": "localhost",
        "server.port": 80,
        "client.address": "127.0.0.1",
        "user_agent.original": "test",
        "network.protocol.version": "1.1",
        "telemetry.request.db_operations": 2,
    }
    queries = [span for span in exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]
    assert [span.name for span in queries] == ["CREATE", "SELECT videos"]
    assert dict(queries[1].attributes or {}) == {
        "db.system.name": "sqlite",
        "db.operation.name": "SELECT",
        "db.collection.name": "videos",
        "db.query.text": "SELECT title FROM videos WHERE title = ?",
        "code.file.path": "test_flask.py",
        "code.function.name": "query_app.view",
        "code.line.number": query_app.__code__.co_firstlineno + 4,
    }
    for query in queries:
        assert query.parent is not None
        assert server.context is not None
        assert query.parent.span_id == server.context.span_id
        assert server.start_time <= query.start_time <= query.end_time <= server.end_time  # type: ignore[operator]


def test_the_path_of_a_span_is_percent_encoded(traced: Instrumented, exporter: InMemorySpanExporter) -> None:
    traced(Flask(__name__)).test_client().get("/caf%C3%A9/a%20b/what%3F")
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["url.path"] == "/caf%C3%A9/a%20b/what%3F"


def test_an_incoming_traceparent_is_the_parent(traced: Instrumented, exporter: InMemorySpanExporter) -> None:
    traced(query_app()).test_client().get("/item/3", headers={"traceparent": TRACEPARENT})
    server = server_span(exporter)
    assert server.parent is not None
    assert server.parent.is_remote
    assert f"{server.parent.trace_id:032x}" == TRACEPARENT.split("-")[1]
    assert {span.context.trace_id for span in exporter.get_finished_spans() if span.context} == {server.parent.trace_id}


def test_a_failed_request_is_a_failed_span_with_the_exception(
    traced: Instrumented, exporter: InMemorySpanExporter
) -> None:
    app = traced(one_view(fail))
    app.logger.disabled = True
    app.test_client().get("/")
    server = server_span(exporter)
    assert server.status.status_code is StatusCode.ERROR
    assert (server.attributes or {})["error.type"] == "ValueError"
    assert [event.name for event in server.events] == ["exception"]


class UnspeakableError(Exception):
    """An error that can't be written as text."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_an_error_that_cannot_be_written_costs_no_span(traced: Instrumented, exporter: InMemorySpanExporter) -> None:
    app = traced(Flask(__name__))

    class Parameters(list[int]):
        def __len__(self) -> int:
            raise UnspeakableError

    @app.get("/")
    def view() -> str:
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("SELECT 1")
            with pytest.raises(UnspeakableError):
                connection.execute("SELECT ?", Parameters())
        raise UnspeakableError

    with contextlib.suppress(Exception):
        app.test_client().get("/")
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert spans.keys() == {"GET /", "SELECT"}
    assert len(exporter.get_finished_spans()) == 3
    server = spans["GET /"]
    assert server.status.status_code is StatusCode.ERROR
    assert [event.name for event in server.events] == ["exception"]


class TwoForms(TextMapPropagator):
    """Writes one header and reads another too, as B3 does."""

    @property
    def fields(self) -> set[str]:
        return {"x-many-traceid"}

    def inject(self, *_: Any, **__: Any) -> None:
        pass

    def extract(self, carrier: Any, context: Context | None = None, getter: Any = default_getter) -> Context:
        found = getter.get(carrier, "x-single")
        if not found:
            return context or Context()
        ids = SpanContext(int(found[0], 16), 7, True, TraceFlags(1))
        return trace.set_span_in_context(NonRecordingSpan(ids), context)


def test_propagators_may_read_more_than_they_write(traced: Instrumented, exporter: InMemorySpanExporter) -> None:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(TwoForms())
    try:
        client = traced(Flask(__name__)).test_client()
        client.get("/", headers={"X-Single": "ab" * 16})
        client.get("/")
    finally:
        propagate.set_global_textmap(before)
    continued, own = exporter.get_finished_spans()
    assert continued.parent is not None
    assert continued.context.trace_id == int("ab" * 16, 16)
    assert own.parent is None


def test_a_failed_query_is_a_failed_span(traced: Instrumented, exporter: InMemorySpanExporter) -> None:
    def view() -> str:
        connection = sqlite3.connect(":memory:")
        try:
            connection.execute("SELECT * FROM missing")
        except sqlite3.OperationalError:
            return "handled"
        finally:
            connection.close()
        return "not reached"

    assert traced(one_view(view)).test_client().get("/").text == "handled"
    (query,) = [span for span in exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]
    assert query.status.status_code is StatusCode.ERROR
    assert (query.attributes or {})["error.type"] == "sqlite3.OperationalError"


def test_counts_do_not_depend_on_sampling(
    metrics: PerformanceMetrics, traced: Instrumented, exporter: InMemorySpanExporter
) -> None:
    traced(query_app(), sampler=ALWAYS_OFF).test_client().get("/item/3")
    assert exporter.get_finished_spans() == ()
    assert metrics.db_queries_per_request == [2]


def test_excluded_requests_make_no_spans(traced: Instrumented, exporter: InMemorySpanExporter) -> None:
    def ping() -> str:
        connection = sqlite3.connect(":memory:")
        connection.execute("SELECT 1")
        connection.close()
        return "pong"

    traced(one_view(ping, "/ping")).test_client().get("/ping")
    assert exporter.get_finished_spans() == ()


def test_unmatched_requests_have_a_span_named_by_the_method(
    traced: Instrumented, exporter: InMemorySpanExporter
) -> None:
    traced(query_app()).test_client().get("/nothing")
    assert server_span(exporter).name == "GET"


def test_a_request_that_fails_before_it_is_routed_still_has_a_span(
    traced: Instrumented, exporter: InMemorySpanExporter, metrics: PerformanceMetrics
) -> None:
    app = query_app()

    @app.url_value_preprocessor
    def refuse(_: str | None, __: dict[str, Any] | None) -> None:
        abort(410)

    traced(app).test_client().get("/item/3")
    assert server_span(exporter).name == "GET /item/<int:number>"
    assert counts(metrics) == {"GET /item/<number>": (1, 0)}


@pytest.mark.parametrize("with_processor", [True, False])
def test_app_code_sees_a_real_current_span(
    with_processor: bool, instrumented: Instrumented, exporter: InMemorySpanExporter
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    if with_processor:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    seen: dict[str, Any] = {}

    def view() -> str:
        span = trace.get_current_span()
        span.set_attribute("user", "x")
        span.set_attributes({"more": 1})
        span.add_event("happened")
        span.add_link(span.get_span_context())
        span.set_status(StatusCode.OK)
        span.record_exception(ValueError("noted"))
        seen["recording"] = span.is_recording()
        seen["valid"] = span.get_span_context().is_valid
        seen["sampled"] = span.get_span_context().trace_flags.sampled
        seen["baggage"] = baggage.get_baggage("tenant")
        with provider.get_tracer("app").start_as_current_span("child") as child:
            seen["same trace"] = child.get_span_context().trace_id == span.get_span_context().trace_id
            seen["parent"] = child.parent.span_id == span.get_span_context().span_id  # type: ignore[attr-defined]
        span.update_name("renamed")
        return "ok"

    app = instrumented(one_view(view), tracer_provider=provider)
    app.test_client().get("/", headers={"baggage": "tenant=home"})
    assert seen == {
        "recording": True,
        "valid": True,
        "sampled": True,
        "baggage": "home",
        "same trace": True,
        "parent": True,
    }
    assert not trace.get_current_span().get_span_context().is_valid
    if with_processor:
        assert server_span(exporter).name == "renamed"


def test_the_deferred_span_honours_the_sampler_and_the_incoming_parent(instrumented: Instrumented) -> None:
    seen: list[Any] = []

    def view() -> str:
        seen.append(trace.get_current_span())
        seen.append(trace.get_current_span().is_recording())
        seen.append(trace.get_current_span().get_span_context())
        return "ok"

    app = instrumented(one_view(view), tracer_provider=TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
    app.test_client().get("/", headers={"traceparent": TRACEPARENT})
    span, recording, span_context = seen
    assert not recording
    assert not span_context.trace_flags.sampled
    assert f"{span_context.trace_id:032x}" == TRACEPARENT.split("-")[1]
    assert not span.is_recording()
    span.end()


def test_without_the_sdk_there_is_no_span_and_every_figure(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    seen: list[bool] = []

    def view() -> str:
        seen.append(trace.get_current_span().get_span_context().is_valid)
        return "ok"

    app = instrumented(one_view(view), tracer_provider=trace.NoOpTracerProvider())
    app.test_client().get("/")
    assert seen == [False]
    assert counts(metrics) == {"GET /": (1, 0)}


def test_samples_carry_the_trace_that_they_belong_to(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    app = instrumented(one_view(lambda: f"{trace.get_current_span().get_span_context().trace_id}"))
    client = app.test_client()
    ids = [int(client.get("/").text) for _ in range(3)]
    (window,) = metrics.route_windows()
    assert [sample.trace_id for sample in window.samples] == ids


def test_queries_outside_of_requests_are_measured_and_enter_no_request(metrics: PerformanceMetrics) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    app = one_view(lambda: redirect("/elsewhere"))
    instrument(app, metrics=metrics, meter_provider=provider, tracer_provider=TracerProvider(shutdown_on_exit=False))
    connection = sqlite3.connect(":memory:")
    connection.execute("SELECT 1")
    token = attach(set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
    connection.execute("SELECT 2")
    detach(token)
    connection.close()
    uninstrument(app)
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = [
        metric
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if metric.name == "db.client.operation.duration"
    ]
    assert [point.count for point in metric.data.data_points] == [1]
    assert metrics.db_queries_per_request == []


def test_a_bug_in_the_telemetry_fails_no_request(
    instrumented: Instrumented,
    metrics: PerformanceMetrics,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from telemetry.instrumentation import capture as capture_module
    from telemetry.instrumentation import flask as flask_module

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    app = instrumented(query_app())
    client = app.test_client()
    monkeypatch.setattr(capture_module.Capture, "_complete", broken)
    assert client.get("/item/3").text == "3"
    monkeypatch.setattr(flask_module, "incoming_context", broken)
    assert client.get("/item/3").text == "3"
    monkeypatch.setattr(flask_module, "method_of", broken)
    assert client.get("/nothing").status_code == 404
    assert metrics.failures == 5
    assert len([record for record in caplog.records if record.name.startswith("telemetry")]) == 1


def spans_of(app: Flask, instrumented: Instrumented, **options: Any) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, **options)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumented(app, tracer_provider=provider).test_client().get("/")
    return list(exporter.get_finished_spans())


def test_a_request_inside_another_is_internal_to_it_whatever_its_headers_carry(instrumented: Instrumented) -> None:
    app = one_view(lambda: current_app.test_client().get("/inner", headers={"traceparent": TRACEPARENT}).text)
    app.add_url_rule("/inner", "inner", lambda: "ok")
    inner, outer = spans_of(app, instrumented)
    assert (outer.name, outer.kind) == ("GET /", SpanKind.SERVER)
    assert (inner.name, inner.kind) == ("GET /inner", SpanKind.INTERNAL)
    assert inner.parent == outer.context


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("videos.local:8443", "videos.local", 8443),
        ("videos.local", "videos.local", 80),
        ("[::1]:8443", "::1", 8443),
        ("", "localhost", 80),
    ],
)
def test_the_server_is_the_one_that_the_client_asked_for(host: str, address: str, port: int) -> None:
    environ = {"REQUEST_METHOD": "GET", "HTTP_HOST": host, "SERVER_NAME": "localhost", "SERVER_PORT": "80"}
    attributes = request_attributes(environ, "GET", None)
    assert (attributes["server.address"], attributes["server.port"]) == (address, port)


def test_a_method_in_another_case_is_the_same_route(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    app = instrumented(one_view(lambda: "ok"))
    environ = EnvironBuilder().get_environ() | {"REQUEST_METHOD": "gEt"}
    assert list(app(environ, lambda *_: lambda _: None)) == [b"ok"]
    assert counts(metrics) == {"GET /": (1, 0)}
    assert request_attributes(environ, "GET", "/")["http.request.method_original"] == "gEt"


class OwnAttributes(Sampler):
    """A sampler that returns attributes of its own and none of those it was given."""

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE, {"sampler.said": "yes"})

    def get_description(self) -> str:
        return "OwnAttributes"


def test_a_sampler_that_returns_attributes_takes_none_of_ours_away(instrumented: Instrumented) -> None:
    def view() -> str:
        connection = sqlite3.connect(":memory:")
        connection.execute("SELECT 1")
        connection.close()
        return "ok"

    query, server = spans_of(one_view(view), instrumented, sampler=OwnAttributes())
    for span, name in ((query, "db.query.text"), (server, "http.request.method")):
        assert span.attributes is not None
        assert {name, "sampler.said"} <= set(span.attributes)


@pytest.mark.parametrize("listened_to", [True, False])
def test_the_flag_of_a_random_trace_id_goes_on_as_it_came(listened_to: bool, instrumented: Instrumented) -> None:
    def view() -> dict[str, str]:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier

    provider = TracerProvider(shutdown_on_exit=False)
    if listened_to:
        provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    client = instrumented(one_view(view), tracer_provider=provider).test_client()
    for flags in ("00", "01", "02", "03"):
        sent = client.get("/", headers={"traceparent": TRACEPARENT[:-2] + flags}).json
        assert sent is not None
        assert sent["traceparent"][-2:] == flags
    own = client.get("/").json
    assert own is not None
    assert own["traceparent"][-2:] == "03", "the SDK's ids are random, and this trace has been started here"
