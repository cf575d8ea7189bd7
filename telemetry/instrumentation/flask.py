"""What sees the requests of a Flask app."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, got_request_exception, request
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach, get_current
from werkzeug.wsgi import ClosingIterator

from telemetry.instrumentation.capture import Capture, method_of
from telemetry.instrumentation.spans import Environ, incoming_context
from telemetry.requests import RECORD_KEY, RequestRecord

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

_RECORD = "telemetry.request"


class RequestMiddleware:
    """Measures each request from its first byte of work to its return, for streamed bodies to the first byte.

    It stands around `app.wsgi_app`. When it has been switched off it passes requests on untouched, because other middleware
    may have been wrapped around it meanwhile.
    """

    def __init__(self, app: Flask, capture: Capture) -> None:
        self.capture = capture
        self.active = False
        self._app = app
        self._wsgi_app: WSGIApplication = app.wsgi_app

    def install(self) -> None:
        """Start measuring; may be called after the app has served requests."""
        self.active = True
        self._app.wsgi_app = self  # type: ignore[method-assign]
        self._app.before_request_funcs.setdefault(None, []).insert(0, self._before_request)
        self._app.after_request_funcs.setdefault(None, []).insert(0, self._after_request)
        got_request_exception.connect(self._on_exception, self._app)

    def remove(self) -> None:
        """Stop measuring and take out everything that `install` put in."""
        self.active = False
        self._app.before_request_funcs[None].remove(self._before_request)
        self._app.after_request_funcs[None].remove(self._after_request)
        got_request_exception.disconnect(self._on_exception, self._app)
        if self._app.wsgi_app is self:
            self._app.wsgi_app = self._wsgi_app  # type: ignore[method-assign,assignment]

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if not self.active:
            return self._wsgi_app(environ, start_response)
        start_ns = perf_counter_ns()
        record = RequestRecord(self.capture, environ.get("REQUEST_METHOD", ""), start_ns, time_ns())

        def recording_start_response(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            record.status = _status_code(status)
            return start_response(status, headers, *exc_info)

        environ[_RECORD] = record
        token = attach(self._context(record, environ))
        try:
            body = self._wsgi_app(environ, recording_start_response)
        except BaseException as error:
            record.error = error
            self._finish(record, environ, perf_counter_ns())
            raise
        finally:
            detach(token)
        if record.streamed and record.method != "HEAD":
            return StreamedBody(body, record, environ, self._finish)
        self._finish(record, environ, perf_counter_ns())
        return body

    def _context(self, record: RequestRecord, environ: Environ) -> Context:
        """Return the context that the request runs in: what its headers carry, its record and its span."""
        try:
            context = Context({**get_current(), **incoming_context(environ), RECORD_KEY: record})
            tracing = self.capture.tracing
            span = None if tracing.listened_to else tracing.deferred_span(context, record, environ)
            record.span = span
            record.context = context if span is None else trace.set_span_in_context(span, context)
            return record.context
        except Exception:
            self.capture.fail("a request's context could not be made")
            record.context = Context({**get_current(), RECORD_KEY: record})
            return record.context

    def _before_request(self) -> None:
        record = request.environ.get(_RECORD)
        if not isinstance(record, RequestRecord) or record.capture is not self.capture:
            return
        record.rule = request.url_rule
        if record.span is None and self.capture.tracing.listened_to:
            self._start_span(record, request.environ)
            if record.context is not None:
                attach(record.context)  # the middleware's detach takes it off together with its own

    def _start_span(self, record: RequestRecord, environ: Environ) -> None:
        try:
            if record.rule is not None and self.capture.is_excluded(record.rule):
                return
            if record.rule is None:
                record.method = method_of(record.method)
            context = record.context or Context()
            record.span = self.capture.tracing.start_server_span(record, environ, context)
            record.context = trace.set_span_in_context(record.span, context)
        except Exception:
            self.capture.fail("a server span could not be started")

    def _after_request(self, response: Response) -> Response:
        record = request.environ.get(_RECORD)
        if isinstance(record, RequestRecord):
            record.streamed = _is_streamed(response)
            record.rule = record.rule or request.url_rule  # something may have answered before `_before_request`
        return response

    def _on_exception(self, _: Flask, exception: BaseException, **__: Any) -> None:
        record = request.environ.get(_RECORD)
        if isinstance(record, RequestRecord):
            record.error = exception
            record.rule = record.rule or request.url_rule

    def _finish(self, record: RequestRecord, environ: Environ, end_ns: int) -> None:
        """Complete the record, unless an instrumented app that is mounted inside this one has answered instead."""
        try:
            if record.complete or environ.get(_RECORD) is not record:
                return
            if record.rule is None:
                record.method = method_of(record.method)
            if record.span is None and self.capture.tracing.listened_to:
                self._start_span(record, environ)
            self.capture.complete(record, end_ns)
        except Exception:
            self.capture.fail("a request could not be recorded")


def _is_streamed(response: Response) -> bool:
    """Tell whether the body is still to be made.

    A file that the server is handed as it is counts as made. So does an error page: Werkzeug makes a response of an HTTP
    exception by running it as a WSGI app, which looks like a stream but for its length.
    """
    if response.is_sequence or response.direct_passthrough:
        return False
    return not (isinstance(response.response, ClosingIterator) and response.content_length is not None)


def _status_code(status: str) -> int:
    code = status[:3]
    return int(code) if code.isdecimal() else 0


class StreamedBody:
    """A body that is made while it is sent: its queries and its errors belong to the request, its duration ends at the
    first byte. The request is complete when the body is exhausted, fails, is closed or is thrown away."""

    def __init__(
        self,
        body: Iterable[bytes],
        record: RequestRecord,
        environ: Environ,
        finish: Callable[[RequestRecord, Environ, int], None],
    ) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None
        self._record = record
        self._environ = environ
        self._finish = finish
        self._first_byte_ns: int | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = attach(self._record.context or Context())
        try:
            if self._chunks is None:
                self._chunks = iter(self._body)
            return next(self._chunks)
        except StopIteration:
            self._end()
            raise
        except BaseException as error:
            self._record.error = error
            self._end()
            raise
        finally:
            if self._first_byte_ns is None:
                self._first_byte_ns = perf_counter_ns()
            detach(token)

    def close(self) -> None:
        """Close the body, in the request's context, and complete the request."""
        token = attach(self._record.context or Context())
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._record.error = error
            raise
        finally:
            detach(token)
            self._end()

    def _end(self) -> None:
        self._finish(self._record, self._environ, self._first_byte_ns or perf_counter_ns())

    def __del__(self) -> None:
        if not self._record.complete:
            self._end()
