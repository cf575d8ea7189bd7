"""OTLP over HTTP: the SDK's own exporter, fed with bytes that are written straight from the records.

The standard exporter resolves endpoint, headers, certificates and timeouts, and sends and retries. Its `_client.export(bytes)` is
a seam to the inside of the package; where it is not as expected, every batch takes the exporter's public `export`.
`tests/unit/telemetry/exporters/test_otlp.py` names the versions that this was checked with.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult

from telemetry.exporters import wire
from telemetry.exporters.ended import EndedRequest
from telemetry.exporters.processor import DeferredSpanProcessor, Item, as_spans

_log = logging.getLogger(__name__)


class RecordSender:
    """Sends batches through `exporter`, as bytes where that can be done."""

    def __init__(self, exporter: OTLPSpanExporter) -> None:
        self._exporter = exporter
        self._send_bytes = getattr(getattr(exporter, "_client", None), "export", None)
        if type(exporter) is not OTLPSpanExporter or not callable(self._send_bytes):
            _log.info("this OTLP exporter has no seam to send bytes through: using its public API")
            self._send_bytes = None

    def __call__(self, items: Sequence[Item]) -> bool:
        """Send a batch; return whether the backend has taken it."""
        if self._send_bytes is None:
            return self._exporter.export(as_spans(items)) is SpanExportResult.SUCCESS
        plain: list[EndedRequest] = []
        others: list[Item] = []
        for item in items:
            if isinstance(item, EndedRequest) and wire.is_plain(item.source.limits):
                plain.append(item)
            else:
                others.append(item)
        body = wire.encode(plain)
        if others:  # messages of protobuf are merged by putting one behind the other
            body += encode_spans(as_spans(others)).SerializePartialToString()
        result = self._send_bytes(body)
        return bool(getattr(result, "success", False))


def processor() -> DeferredSpanProcessor:
    """Return a processor that exports as the standard `OTEL_EXPORTER_OTLP_*` variables say."""
    exporter = OTLPSpanExporter()
    return DeferredSpanProcessor(exporter, RecordSender(exporter))
