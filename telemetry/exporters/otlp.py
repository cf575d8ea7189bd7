"""OTLP over HTTP: the SDK's own exporters, fed with bytes that are written straight from the records.

The standard exporters resolve endpoint, headers, certificates and timeouts, and send and retry. Their `_client` is a seam to the
inside of the package: its `export(bytes)` takes what is encoded already, and its `_transport` tells what the backend has
answered. Where it is not as expected, every batch takes the exporter's public `export`.
`tests/unit/telemetry/exporters/test_otlp.py` names the versions that this was checked with.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_BSP_EXPORT_TIMEOUT
from opentelemetry.sdk.trace.export import SpanExportResult

from telemetry.exporters import answer, wire
from telemetry.exporters.ended_request import EndedRequest, has_room
from telemetry.exporters.processor import MAX_BODY_BYTES, DeferredSpanProcessor, Item, as_spans, exact_count
from telemetry.exporters.reader import PushReader
from telemetry.exporters.status import Delivery

if TYPE_CHECKING:
    from telemetry.exporters.options import Options

_log = logging.getLogger(__name__)
_silent: Final = logging.getLogger(f"{__name__}.attempts")
"""What the SDK logs at every attempt; whoever wants that sets this logger's level."""
_silent.setLevel(logging.CRITICAL)


class RecordSender:
    """Sends batches through `exporter`, as bytes where that can be done."""

    def __init__(self, exporter: OTLPSpanExporter, hint: str = "") -> None:
        """Send by `exporter`; `hint` follows what is said where something answers that is no OTLP receiver."""
        self._exporter = exporter
        client = getattr(exporter, "_client", None)
        self._send_bytes = getattr(client, "export", None)
        self._answers = listen(client, hint)
        if type(exporter) is not OTLPSpanExporter or not callable(self._send_bytes):
            _log.info("this OTLP exporter has no seam to send bytes through: using its public API")
            self._send_bytes = None

    def __call__(self, items: Sequence[Item]) -> Delivery:
        """Send a batch; return whether the backend has taken it, or might later."""
        if self._send_bytes is None:
            succeeded = self._exporter.export(as_spans(items)) is SpanExportResult.SUCCESS
        else:
            body = self.encode(items)
            if len(body) > MAX_BODY_BYTES and exact_count(items) > 1:
                return Delivery(False, too_large=True)
            succeeded = self._succeeds(body)
        if self._answers is None:
            return Delivery(succeeded, why="" if succeeded else "the exporter could not deliver them")
        return self._answers.judge(succeeded)

    def _succeeds(self, body: bytes) -> bool:
        assert self._send_bytes is not None
        try:
            return bool(getattr(self._send_bytes(body), "success", False))
        except OverflowError:  # the SDK reads for how long the backend asks to wait, which may be a date of any year
            return False

    @staticmethod
    def encode(items: Sequence[Item]) -> bytes:
        """Return an `ExportTraceServiceRequest` of a batch."""
        plain: list[EndedRequest] = []
        others: list[Item] = []
        for item in items:
            if isinstance(item, EndedRequest) and has_room(item.source.limits):
                plain.append(item)
            else:
                others.append(item)
        body = wire.encode(plain)
        if others:  # messages of protobuf are merged by putting one behind the other
            body += encode_spans(as_spans(others)).SerializePartialToString()
        return body


def listen(client: Any, hint: str = "") -> answer.ListeningTransport | None:
    """Put a transport that keeps the last answer into `client`, and quieten it; `None` if it is not as expected."""
    transport: Any = getattr(client, "_transport", None)
    if not callable(getattr(transport, "request", None)):
        return None
    client._transport = listening = answer.ListeningTransport(transport, hint)
    if hasattr(client, "_logger"):
        client._logger = _silent
    return listening


def processor(
    options: Options, name: str = "otlp", endpoint: str | None = None, hint: str = ""
) -> DeferredSpanProcessor:
    """Return a processor that exports as the standard `OTEL_EXPORTER_OTLP_*` variables say, or to `endpoint`."""
    exporter = OTLPSpanExporter(endpoint, session=answer.Session())
    bound_timeout(getattr(exporter, "_client", None))
    return DeferredSpanProcessor(
        exporter,
        RecordSender(exporter, hint),
        name=name,
        target=shown(getattr(exporter, "_endpoint", "")),
        shutdown_timeout_s=options.shutdown_timeout_s,
    )


def reader(options: Options) -> PushReader:
    """Return a reader that pushes metrics as the standard variables say."""
    exporter = OTLPMetricExporter(session=answer.Session())
    answers = listen(getattr(exporter, "_client", None))
    judge = None if answers is None else answers.judge
    target = shown(getattr(exporter, "_endpoint", ""))
    return PushReader(exporter, judge, name="otlp", target=target, shutdown_timeout_s=options.shutdown_timeout_s)


def shown(url: str) -> str:
    """Return `url` without a password and a query that may stand in it."""
    parts = urlsplit(url)
    if not parts.hostname:
        return url
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def bound_timeout(client: Any) -> None:
    """Let `OTEL_BSP_EXPORT_TIMEOUT` (milliseconds) bound an export too, which what the SDK sends by does not know of."""
    text = os.environ.get(OTEL_BSP_EXPORT_TIMEOUT, "").strip()
    if text.isascii() and text.isdecimal() and int(text) > 0 and hasattr(client, "_timeout"):
        client._timeout = min(client._timeout, int(text) / 1000)
