"""What a backend has answered, and what that means for a batch."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import requests
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.http.transport._base import BaseHTTPResult, BaseHTTPTransport
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from requests.adapters import HTTPAdapter

from telemetry.exporters.status import Delivery, told
from telemetry.forked import call_in_child

_LATER: Final = frozenset({429, 502, 503, 504})  # OTLP specification, "Retryable Response Codes"
_PROTOBUF: Final = "application/x-protobuf"
_MOST_BYTES: Final = 2000
NO_OTLP: Final = ("text/html", "text/plain; version=")
"""Beginnings of the content types of what answers but is no receiver: a web page, or a page of Prometheus metrics."""
_REASON: Final = re.compile(
    r"Failed to resolve '[^']*'|\[SSL: [A-Z_]+\] [^(\"']+|\[Errno -?\d+\] (?P<error>[^\"')]+)|Read timed out|Connection broken"
    r"|Error\(\d+, '(?P<reset>[^']+)'\)"
)
"""What went wrong, in the words of the operating system, out of those of the libraries around it."""
_IN_OTHER_WORDS: Final = {
    "BadStatusLine(": "what answers does not speak HTTP/1.1; if it is a gRPC port, OTEL_EXPORTER_OTLP_PROTOCOL must be grpc",
    "RemoteDisconnected(": "the connection was closed without an answer",
}


class _NotTakenError(Exception):
    """The backend has not taken a batch. The SDK tries again what an answer tells, but no exception of the transport."""


class ListeningTransport(BaseHTTPTransport):
    """Passes requests on, and keeps the last answer. For one thread.

    The SDK does not try again by itself, but for a connection that had been idle: whoever judges the answer does.
    """

    def __init__(self, inner: BaseHTTPTransport, hint: str = "") -> None:
        self._inner = inner
        self._hint = f": {hint}" if hint else ""
        self._has_lost_connection = False
        self.last: BaseHTTPResult | None = None

    def request(self, method: str, url: str, **options: Any) -> BaseHTTPResult:
        self.last = None
        self.last = self._inner.request(method, url, **options)
        status = self.last.status_code
        if self._has_lost_connection if status is None else status >= 400:
            raise _NotTakenError
        self._has_lost_connection = status is None
        return self.last

    def close(self) -> None:
        self.last = None  # it holds the connection, which must not outlive the modules that close it
        self._inner.close()

    def is_connection_error(self, exception: Exception | None) -> bool:
        return self._inner.is_connection_error(exception)

    def judge(self, succeeded: bool) -> Delivery:
        """Return what became of the batch whose last answer was kept; `succeeded` is what the SDK makes of it."""
        last = self.last
        self._has_lost_connection = False
        if last is None:
            return Delivery(succeeded, why="" if succeeded else "the exporter could not deliver them")
        status = last.status_code
        if status is None:
            return Delivery(False, retry=True, why=_in_words(last.error) + self._hint)
        kind = str(_headers(last).get("content-type", "")).lower()
        if 200 <= status < 300 and kind.startswith(NO_OTLP) and _content(last).strip():
            return Delivery(False, why=f"what answers is no OTLP receiver: {status}, {kind}{self._hint}")
        if succeeded and status < 300:
            return taken(_content(last) if not kind or kind.startswith(_PROTOBUF) else b"")
        why = ": ".join(filter(None, (f"the backend answers {status} {_phrase(status)}".rstrip(), _said(last, kind))))
        if status in _LATER:
            return Delivery(False, retry=True, wait_s=_retry_after_s(_headers(last)), why=why)
        return Delivery(False, why=why + self._hint, too_large=status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


def taken(content: bytes) -> Delivery:
    """Return a delivery, less what the backend says that it has thrown away (OTLP specification, "Partial Success")."""
    try:  # the response for metrics has the same field numbers
        partial = ExportTraceServiceResponse.FromString(content).partial_success
    except DecodeError:  # what can't be read says nothing
        return Delivery(True)
    if partial.rejected_spans <= 0:
        return Delivery(True)
    why = f"the backend has rejected {partial.rejected_spans}: {partial.error_message or 'it does not say why'}"
    return Delivery(True, why=why, rejected=partial.rejected_spans)


def _content(result: BaseHTTPResult) -> bytes:
    try:
        return bytes(result.content())
    except Exception:
        return b""


def _said(result: BaseHTTPResult, kind: str) -> str:
    """Return why, in the backend's own words: a `Status` (OTLP specification, "Failures"), or a text that is no page."""
    content = _content(result)
    if kind.startswith(_PROTOBUF):
        try:
            return str(Status.FromString(content).message)
        except DecodeError:
            return ""
    is_text = kind.startswith(("text/plain", "application/json"))
    return told(" ".join(content[:_MOST_BYTES].decode("utf-8", "replace").split())) if is_text else ""


def _headers(result: BaseHTTPResult) -> Any:
    try:
        return result.headers()
    except Exception:
        return {}


def _retry_after_s(headers: Any) -> float | None:
    text = str(headers.get("retry-after") or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        asked = parsedate_to_datetime(text)
        return max(0.0, (asked if asked.tzinfo else asked.replace(tzinfo=UTC)).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _in_words(error: Exception | None) -> str:
    """Return why nothing came back, without the names of Python objects."""
    if error is None:
        return "nothing came back"
    text = str(error)
    for of_python, words in _IN_OTHER_WORDS.items():
        if of_python in text:
            return words
    found = _REASON.search(text)
    if found is not None:
        text = found["error"] or found["reset"] or found[0]
    return text.strip() or type(error).__name__


class Session(requests.Session):
    """A session whose certificate is not overruled by `REQUESTS_CA_BUNDLE`, nor its `Authorization` by `~/.netrc`.

    The body of an answer comes within the timeout as a whole; to `requests` that is one for each piece of it. A forked child
    makes connections of its own: on those of its parent, what both send would mix.
    """

    def __init__(self) -> None:
        super().__init__()
        call_in_child(self._connect_anew)

    def _connect_anew(self) -> None:
        for prefix in tuple(self.adapters):
            self.mount(prefix, HTTPAdapter())

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        response: requests.Response = super().send(request, **options | {"stream": True})
        timeout_s = options.get("timeout")
        if isinstance(timeout_s, (int, float)):
            watch = threading.Timer(timeout_s, getattr(response.raw, "shutdown", response.close))
            watch.daemon = True
            with contextlib.suppress(RuntimeError):  # no more threads: the system has none, or Python 3.12 ends
                watch.start()
            try:
                _ = response.content  # reads it
            finally:
                watch.cancel()
        return response

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        prepared: requests.PreparedRequest = super().prepare_request(request)
        own = next((value for name, value in request.headers.items() if name.lower() == "authorization"), None)
        if own is not None:
            prepared.headers["Authorization"] = own
        return prepared

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        if verify is None and self.verify is not True:
            verify = self.verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)
