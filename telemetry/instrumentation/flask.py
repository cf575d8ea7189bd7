"""What sees the requests of a Flask app."""

from __future__ import annotations

import functools
import logging
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from threading import Thread, current_thread
from time import time_ns
from types import FrameType, MethodType
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response, got_request_exception, has_request_context, request
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach, get_current
from werkzeug.routing import Map, Rule
from werkzeug.wsgi import ClosingIterator

from telemetry import forked
from telemetry.clock import perf_counter_ns
from telemetry.exporters.ended_request import environ_facts
from telemetry.instrumentation.capture import Capture, method_of
from telemetry.instrumentation.holders import replace_held
from telemetry.instrumentation.propagation import SPAN_KEY, Environ, incoming_context, traceparent
from telemetry.instrumentation.spans import DeferredSpan, Mode
from telemetry.requests import ENVIRON_KEY, RECORD_KEY, RequestRecord, current_request, serving
from telemetry.source import WSGI_APP

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

_log = logging.getLogger(__name__)
_MOST_FRAMES = 8  # between a signal's sender and who hears it
# None where something without code of Python's own has been put there.
_HANDLE_EXCEPTION = getattr(Flask.handle_exception, "__code__", None)
_EAGER, _DEFERRED = Mode.EAGER, Mode.DEFERRED
_NO_QUERIES = 'db;dur=0.000;desc="0 queries"'
MayLook = Callable[[dict[str, Any]], bool]
"""Tells whether a request, by its environment, may see what it costs."""


class RequestMiddleware:
    """Measures each request from its first byte of work to its return, for streamed bodies to the first byte.

    It stands around `app.wsgi_app`. When it has been switched off it passes requests on untouched, because other middleware
    may have been wrapped around it meanwhile.
    """

    def __init__(
        self,
        app: Flask,
        capture: Capture,
        may_look: MayLook | None = None,
        begin: Callable[[], bool] = lambda: True,
    ) -> None:
        """Measure `app`; responses to requests that `may_look` at the figures say what they cost.

        `begin` is called before the first request in each process that serves some, and before the next until it returns true.
        """
        self.capture = capture
        self._may_look = may_look
        self._begin = begin
        self._has_begun = False
        forked.call_in_child(self._begin_anew)
        self.active = False
        self._app = app
        self._inner_preprocess = app.preprocess_request
        self._inner_process = app.process_response
        self._inner_context = app.request_context
        self._starts_spans = False
        self._thrown_away: deque[Ended] = deque()
        self._wsgi_app: WSGIApplication = app.wsgi_app  # last, when there is all else

    def install(self) -> None:
        """Start measuring; may be called after the app has served requests."""
        app = self._app
        self.active = True
        app.wsgi_app = self  # type: ignore[method-assign]
        # Methods of the app that are made to be overridden: a function registered with `after_request` would cost
        # Flask's check for coroutines, 3 µs. `preprocess_request` follows when somebody wants to see spans start.
        app.request_context = self._request_context  # type: ignore[method-assign]
        app.process_response = self._process_response  # type: ignore[method-assign]
        got_request_exception.connect(self._on_exception, app)
        # Else who has taken it may be the middleware that this one stands around.
        if isinstance(self._wsgi_app, MethodType):
            replace_held(self._wsgi_app, self)

    def remove(self) -> None:
        """Stop measuring, and take out what `install` put in, unless something else was put around it."""
        app = self._app
        self.active = self._has_begun = False
        self._finish_thrown_away()
        got_request_exception.disconnect(self._on_exception, app)
        for name, ours, before in (
            ("wsgi_app", self, self._wsgi_app),
            ("preprocess_request", self._preprocess_request, self._inner_preprocess),
            ("process_response", self._process_response, self._inner_process),
            ("request_context", self._request_context, self._inner_context),
        ):
            if getattr(app, name) != ours:
                continue
            delattr(app, name)
            if getattr(app, name) != before:  # it had been replaced on the app itself
                setattr(app, name, before)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if not self._has_begun and not self._is_ready():
            return self._wsgi_app(environ, start_response)
        if self._thrown_away:
            self._finish_thrown_away()
        start_ns, start_unix_ns = perf_counter_ns(), time_ns()
        record = RequestRecord(self.capture, environ.get("REQUEST_METHOD", "").upper(), start_ns, start_unix_ns)
        may_look = self._may_look

        def recording_start_response(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            record.status = _status_code(status)
            if may_look is not None and (costs := self._costs(record, environ, may_look)):
                headers = [*headers, *costs]
            return start_response(status, headers, *exc_info)

        outer = environ.get(ENVIRON_KEY)
        environ[ENVIRON_KEY] = record
        token = attach(self._context(record, environ, outer))
        serving_token = serving.set(record)
        try:
            body = self._wsgi_app(environ, recording_start_response)
        except StopIteration:  # by which gunicorn learns that a websocket had taken the connection, and has ended
            self._finish(record, environ, perf_counter_ns())
            raise
        except BaseException as error:
            record.error = error
            self._finish(record, environ, perf_counter_ns())
            raise
        finally:
            serving.reset(serving_token)
            detach(token)
        # Without a status, the app has yet to run: inside of a generator, say, as Werkzeug's debugger is one.
        if not record.status or record.streamed:
            return StreamedBody(body, record, environ, self._finish, self._thrown_away.append)
        self._finish(record, environ, perf_counter_ns())
        return body

    def _is_ready(self) -> bool:
        """Begin, unless it has been switched off, which another thread may do meanwhile."""
        if self.active:
            forked.warn_if_unnoticed()
            try:
                self._has_begun = self._begin()
            except Exception:
                self._has_begun = True  # without them
                self.capture.fail("the other workers of the server could not be met")
        if not self.active:
            self._has_begun = False
        return self.active

    def _begin_anew(self) -> None:
        self._has_begun = False

    def _context(self, record: RequestRecord, environ: Environ, outer: RequestRecord | None) -> Context:
        """Return the context that the request runs in: what its headers carry, its record and its span.

        `outer` is what another app has begun to record of the same request: nothing, where that has handed it on unseen.
        """
        parent = get_current()
        span = None
        try:
            if outer is not None and outer.request is None and isinstance(outer.span, DeferredSpan):
                parent = outer.span.around if parent.get(SPAN_KEY) is outer.span else parent
            if parent.get(SPAN_KEY, trace.INVALID_SPAN) is trace.INVALID_SPAN:  # else it is part of what goes on here
                incoming = incoming_context(environ)
                if incoming is not None:
                    parent = Context({**parent, **incoming})
            tracing = self.capture.tracing
            mode = tracing.mode
            if mode is _EAGER:
                record.eager, record.early = True, []
                record.add = None
                if not self._starts_spans:
                    self._starts_spans = True
                    self._app.preprocess_request = self._preprocess_request  # type: ignore[method-assign]
            else:
                if mode is _DEFERRED:
                    record.exported = True
                    if tracing.tail is not None:
                        tracing.hold(record, serving.get())
                span = record.span = tracing.deferred_span(parent, record, environ)
        except Exception:
            self.capture.fail("a request's context could not be made")
        if span is None:
            context = Context({**parent, RECORD_KEY: record})
        else:
            context = Context({**parent, RECORD_KEY: record, SPAN_KEY: span})
        record.context = context
        return context

    def _preprocess_request(self, *args: Any, **kwargs: Any) -> Any:
        """Start the span that somebody wants to see start; its name needs the rule."""
        record = serving.get()
        if record is not None and record.eager and record.capture is self.capture and record.span is None:
            record.find_rule()
            self._start_span(record, request.environ)
            if record.context is not None:
                attach(record.context)  # the middleware's detach takes it off together with its own
        return self._inner_preprocess(*args, **kwargs)

    def _request_context(self, environ: dict[str, Any]) -> Any:
        """Note the request, which will know its rule: asking Flask's proxies for it costs ten times more."""
        context = self._inner_context(environ)
        record: RequestRecord | None = environ.get(ENVIRON_KEY)
        if record is None:
            if sys._getframe(1).f_code is WSGI_APP:
                _warn_of_a_way_around(self._app.name)
        elif record.capture is self.capture and _is_of(record, environ):
            record.request = context.request
            method = environ.get("REQUEST_METHOD", "")
            if method != record.method:  # other middleware may choose it
                record.method = method.upper()
            if record.exported and isinstance(record.span, DeferredSpan):
                record.span.facts = environ_facts(environ)
        return context

    def _process_response(self, *args: Any, **kwargs: Any) -> Any:
        response = self._inner_process(*args, **kwargs)
        record = serving.get() or current_request()
        if record is not None and record.capture is self.capture and hasattr(response, "is_sequence"):
            record.streamed = not response.is_sequence and record.method != "HEAD" and _is_streamed(response)
            if record.last_word is not None:
                record.last_word(response)
        return response

    def _costs(self, record: RequestRecord, environ: dict[str, Any], may_look: MayLook) -> tuple[tuple[str, str], ...]:
        """Return `Server-Timing` and `traceparent` for those who may see the figures, nothing for others."""
        try:
            rule = record.find_rule()
            if rule is None or self.capture.is_excluded(rule) or not may_look(environ):
                return ()
            number, span = record.query_count, record.span
            database = _NO_QUERIES
            if number or record.writes is not None:
                what = "1 query" if number == 1 else f"{number} queries"
                commits = record.writes.commit_count if record.writes is not None else 0
                if commits:
                    what += ", 1 commit" if commits == 1 else f", {commits} commits"
                database = f'db;dur={record.db_time_ns() / 1e6:.3f};desc="{what}"'
            timing = f"{database}, total;dur={(perf_counter_ns() - record.start_ns) / 1e6:.3f}"
            if span is None:
                return (("Server-Timing", timing),)
            if isinstance(span, DeferredSpan):
                return ("Server-Timing", timing), ("traceparent", span.traceparent())
            ids = span.get_span_context()
            return ("Server-Timing", timing), ("traceparent", traceparent(ids.trace_id, ids.span_id, ids.trace_flags))
        except Exception:
            self.capture.fail("what a request costs could not be told in its response")
            return ()

    def _on_exception(self, _: Flask, exception: BaseException, **__: Any) -> None:
        record = serving.get() or current_request()
        if record is None or (record.request is not None and not _is_inside(record.request)):
            return  # of a request that a view makes of a copy of its own
        if _is_unhandled():
            record.error = exception
        else:
            record.signalled = exception

    def _start_span(self, record: RequestRecord, environ: Environ) -> None:
        try:
            if self.capture.leaves_out(record):
                return
            record.method = method_of(record.method, record.rule)
            context = record.context or Context()
            record.span = self.capture.tracing.start_server_span(record, environ, context)
            record.context = trace.set_span_in_context(record.span, context)
            around = trace.get_current_span(context)
            for query, asked_in in record.early or ():  # before the routing
                is_inside = trace.get_current_span(asked_in) is not around  # of a span of the app's own
                self.capture.tracing.make_query_span(record, query, asked_in if is_inside else record.context)
            record.early = None
        except Exception:
            self.capture.fail("a server span could not be started")

    def _finish_thrown_away(self) -> None:
        """Complete the requests whose bodies were thrown away: the garbage collector, which comes at any time, may not."""
        while self._thrown_away:
            try:
                ended = self._thrown_away.popleft()
            except IndexError:  # another thread was quicker
                return
            self._finish(*ended)

    def _finish(self, record: RequestRecord, environ: Environ, end_ns: int) -> None:
        """Complete the record, unless an instrumented app that is mounted inside this one has answered instead."""
        try:
            if record.complete or environ.get(ENVIRON_KEY) is not record:
                return
            rule = record.find_rule()
            if record.signalled is not None and record.error is None and record.status >= 500:
                record.error = record.signalled
            if rule is None and record.error is not None and record.request is not None:
                rule = record.rule = self._rule_not_reached(record.request, record.error)
            if rule is None or rule.methods is None:
                record.method = method_of(record.method, rule)
            if record.span is None and record.eager:
                self._start_span(record, environ)
            self.capture.complete(record, end_ns, environ)
        except Exception:
            self.capture.fail("a request could not be recorded")

    def _rule_not_reached(self, failed: Request, error: BaseException) -> Rule | None:
        """Return the rule of a request that has failed before it was routed, or by a converter of the rule.

        Converters of the app's own are not run again. The one that failed is known by Werkzeug's frame around it, whose variable
        `rule` is no promise of Werkzeug's: without it, such a request is one to no route.
        """
        if failed.routing_exception is not None:
            return None
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals.get("__name__") == "werkzeug.routing.matcher":
                known = frame.f_locals.get("rule")
                return known if isinstance(known, Rule) else None
        if not set(self._app.url_map.converters.values()) <= set(Map.default_converters.values()):
            return None
        try:
            adapter = self._app.create_url_adapter(failed)
            return None if adapter is None else adapter.match(return_rule=True)[0]
        except Exception:  # there is none, or it is for the app to find one
            return None


def _is_of(record: RequestRecord, environ: Environ) -> bool:
    """Tell whether a request that is about to be routed is the one of `record`, not one that its view makes of a copy."""
    known = record.request
    return known is None or known.environ is environ or not _is_inside(known)


class Around:
    """What stands around a WSGI app and has what that has: apps find their own middleware by `app.wsgi_app`, and set it up."""

    _wsgi_app: WSGIApplication
    """What is inside; set last."""

    if not TYPE_CHECKING:  # a name that is mistyped in a subclass is still told

        def __getattr__(self, name: str) -> Any:
            if name == "_wsgi_app":  # of a copy that is being made
                raise AttributeError(name)
            return getattr(self._wsgi_app, name)

        def __setattr__(self, name: str, value: Any) -> None:
            own = vars(self)
            if name not in own and "_wsgi_app" in own and hasattr(self._wsgi_app, name):
                setattr(self._wsgi_app, name, value)
            else:
                object.__setattr__(self, name, value)


class RequestMiddlewareAround(Around, RequestMiddleware):
    """The same for an app that has middleware of its own inside. Python looks up a name of such a class more slowly."""


def middleware_class(app: Flask) -> type[RequestMiddleware]:
    """Return the class to measure `app` by."""
    return RequestMiddleware if isinstance(app.wsgi_app, MethodType) else RequestMiddlewareAround


def _is_inside(known: Request) -> bool:
    """Tell whether this is where `known` is being answered."""
    return has_request_context() and request.environ is known.environ


def _is_unhandled() -> bool:
    """Tell whether the signal that is being sent is Flask's own; extensions send it too, of what they have an answer for."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_MOST_FRAMES):
        if frame is None or frame.f_code is _HANDLE_EXCEPTION:
            break
        frame = frame.f_back
    else:
        return False
    return frame is not None


@functools.lru_cache(maxsize=64)
def _warn_of_a_way_around(name: str) -> None:
    _log.warning(
        "requests of the app %r are not measured: what calls it has taken its wsgi_app before instrument(app), or hands on "
        "an environment of its own. Call instrument(app) first, or hand on the app itself",
        name,
    )


def _is_streamed(response: Response) -> bool:
    """Tell whether the body is still to be made.

    A file that the server is handed as it is counts as made. So does an error page or a redirect: Werkzeug makes a response
    of an HTTP exception by running it as a WSGI app, which looks like a stream but for its length.
    """
    if response.direct_passthrough:
        return False
    is_page = response.status_code >= 300 and response.content_length is not None  # no success
    return not (is_page and isinstance(response.response, ClosingIterator))


@functools.lru_cache(maxsize=256)
def _status_code(status: str) -> int:
    code = status[:3]
    return int(code) if code.isdecimal() else 0


Ended = tuple[RequestRecord, Environ, int]
"""A request that has ended, its environment, and when it did by `perf_counter_ns`."""


class StreamedBody:
    """A body that is made while it is sent: its queries and its errors belong to the request, its duration ends at the
    first byte. The request is complete when the body is exhausted, fails or is closed; if it is thrown away, at the next one.

    So it is with an app that runs only when somebody asks for the first byte; what that has made in one piece is complete then.
    """

    def __init__(
        self,
        body: Iterable[bytes],
        record: RequestRecord,
        environ: Environ,
        finish: Callable[[RequestRecord, Environ, int], None],
        finish_later: Callable[[Ended], None],
    ) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None
        self._record = record
        self._environ = environ
        self._finish = finish
        self._finish_later = finish_later
        self._first_byte_ns: int | None = None
        self._context = self._own_context = record.context or Context()
        self._thread: Thread | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        context = self._context if self._context is self._own_context else self._context_here()
        token = attach(context)
        serving_token = serving.set(self._record)
        try:
            if self._chunks is None:
                self._chunks = iter(self._body)
            chunk = next(self._chunks)
            left = get_current()
            if left is not context:
                self._go_on_in(left)
            return chunk
        except StopIteration:
            self._context = self._own_context
            self._end()
            raise
        except BaseException as error:
            self._context = self._own_context
            self._record.error = error
            self._end()
            raise
        finally:
            if self._first_byte_ns is None:
                self._first_byte_ns = perf_counter_ns()
            serving.reset(serving_token)
            detach(token)
            if not self._record.streamed:
                self._end()

    def _go_on_in(self, left: Context) -> None:
        """Have the next chunk made in the context that one has left: a span may be current over several, until it ends."""
        self._context, self._thread = self._own_context, current_thread()
        if trace.get_current_span(left).is_recording():
            self._context = left

    def _context_here(self) -> Context:
        """Return the context to go on in: what was made current in another thread can't be taken back in this one."""
        if current_thread() is not self._thread:
            self._context = self._own_context
        return self._context

    def close(self) -> None:
        """Close the body, in the request's context, and complete the request."""
        token = attach(self._context_here())
        serving_token = serving.set(self._record)
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._record.error = error
            raise
        finally:
            serving.reset(serving_token)
            detach(token)
            self._end()

    def _end(self) -> None:
        self._finish(*self._ended())

    def _ended(self) -> Ended:
        now_ns = perf_counter_ns()
        if self._record.streamed and self._record.transfer_ns is None:
            self._record.transfer_ns = now_ns - self._record.start_ns
        return self._record, self._environ, self._first_byte_ns or now_ns

    def __del__(self) -> None:
        if not self._record.complete:
            self._finish_later(self._ended())
