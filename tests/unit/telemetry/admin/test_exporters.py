"""What the pages know of the exporters."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from telemetry import TelemetrySettings
from telemetry.admin import exporters

OTHER = SimpleNamespace(name="otlp", target="http://collector:4318/v1/traces")


@pytest.mark.parametrize(
    ("target", "link"),
    [
        ("http://localhost:4318/v1/traces", "http://localhost:16686/trace/{trace_id}"),
        ("https://jaeger.example/v1/traces", "http://jaeger.example:16686/trace/{trace_id}"),
        ("http://[::1]:4318/v1/traces", "http://[::1]:16686/trace/{trace_id}"),
        ("", ""),
    ],
)
def test_a_trace_is_at_the_jaeger_that_it_is_sent_to(target: str, link: str) -> None:
    jaeger = SimpleNamespace(name="jaeger", target=target)
    assert exporters.trace_url(TelemetrySettings(), lambda: (OTHER, jaeger)) == link


def test_the_address_that_is_set_goes_first_and_without_either_there_is_none() -> None:
    settings = TelemetrySettings(trace_url="https://traces.example/{trace_id}")
    jaeger = SimpleNamespace(name="jaeger", target="http://localhost:4318")
    assert exporters.trace_url(settings, lambda: (jaeger,)) == "https://traces.example/{trace_id}"
    assert exporters.trace_url(TelemetrySettings(), lambda: (OTHER,)) == ""
