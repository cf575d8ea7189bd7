"""Which exporters a program has chosen: by names, by the standard variables, and what is said of a wrong one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from telemetry import SettingsError, TelemetrySettings, pipeline
from telemetry.exporters.options import Options
from telemetry.exporters.processor import DeferredSpanProcessor
from telemetry.exporters.registry import PACKAGES, Chosen, choose, known, of_settings


def names(exporters: tuple[Any, ...]) -> list[str]:
    return [exporter.name for exporter in exporters]


def chosen(**environment: str) -> tuple[list[str], list[str]]:
    found = choose(environment=environment)
    return names(found.traces), names(found.metrics)


def test_without_an_endpoint_nothing_is_sent() -> None:
    assert chosen() == ([], [])


def test_an_endpoint_alone_means_otlp_for_what_it_is_for() -> None:
    assert chosen(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318") == (["otlp"], ["otlp"])
    assert chosen(OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://127.0.0.1:4318/v1/metrics") == ([], ["otlp"])


def test_the_standard_variables_name_several_and_win_over_an_endpoint() -> None:
    found = chosen(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318",
        OTEL_TRACES_EXPORTER="jsonfile, console",
        OTEL_METRICS_EXPORTER="none",
    )
    assert found == (["jsonfile", "console"], [])


def test_given_names_win_over_the_variables_and_are_for_both_signals() -> None:
    found = choose(["jsonfile", "prometheus"], {"OTEL_TRACES_EXPORTER": "otlp"})
    assert names(found.traces) == names(found.metrics) == ["jsonfile", "prometheus"]
    assert choose(["none"], {"OTEL_TRACES_EXPORTER": "otlp"}) == Chosen()
    assert choose([], {"OTEL_TRACES_EXPORTER": "otlp"}) == Chosen()


def test_the_whole_sdk_can_be_switched_off() -> None:
    assert choose(["otlp"], {"OTEL_SDK_DISABLED": "True"}) == Chosen()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "oltp"},
            "OTEL_TRACES_EXPORTER must be one or more of console, jaeger, jsonfile, none, otlp",
        ),
        ({"OTEL_TRACES_EXPORTER": "prometheus"}, "got 'prometheus', which is for metrics alone$"),
        ({"OTEL_METRICS_EXPORTER": "jaeger"}, "got 'jaeger', which is for traces alone$"),
        ({"OTEL_TRACES_EXPORTER": "gcp_trace"}, "it comes with: pip install 'opentelemetry-exporter-gcp-trace'"),
        ({"OTEL_TRACES_EXPORTER": "none,otlp"}, "must be none alone or without it, got 'none, otlp'"),
    ],
)
def test_a_wrong_name_stops_the_start_with_those_that_are_known(environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace("(", r"\(")):
        choose(environment=environment)


def test_a_wrong_name_is_blamed_on_the_variable_that_has_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"^exporters must be"):
        of_settings(TelemetrySettings(exporters=("nope",)))
    monkeypatch.setenv("LVS_TELEMETRY_EXPORTERS", '["nope"]')
    with pytest.raises(SettingsError, match=r"^LVS_TELEMETRY_EXPORTERS must be"):
        of_settings(TelemetrySettings.load())
    with pytest.raises(SettingsError, match=r"^exporters must be"):
        of_settings(TelemetrySettings(exporters=("otlp", "nope")))


@pytest.mark.parametrize("wrong", ["otlp", [7], [SimpleNamespace(name="otlp")]])
def test_what_is_no_list_of_exporters_is_told(wrong: Any) -> None:
    with pytest.raises(SettingsError, match="exporters must be"):
        choose(wrong)


@pytest.mark.parametrize(
    ("variable", "value", "must_be"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "4318", "an address such as http://127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://127.0.0.1", "an address such as http://127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/protobuf or grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "none or gzip or deflate"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "a number of seconds over 0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "inf", "a number of seconds over 0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "nan", "a number of seconds over 0"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/no/such/file", "a file that exists"),
    ],
)
def test_a_wrong_otlp_variable_is_told_at_the_start(
    variable: str, value: str, must_be: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f"{variable} must be {must_be}, got {value!r}"
    with pytest.raises(SettingsError) as caught:
        choose(["otlp"], {variable: value})
    assert str(caught.value) == said
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        choose(["otlp"])
    assert str(caught.value) == said
    choose(["otlp"], {})


def test_a_wrong_endpoint_is_told_without_its_password() -> None:
    with pytest.raises(SettingsError, match="got '…@collector:x'"):
        choose(["otlp"], {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://name:secret@collector:x"})


@pytest.mark.parametrize("value", ["Basic%20AAAA%0ASECRET", "AAAA\nSECRET", "%E2%82%AC SECRET"])
def test_a_header_that_can_t_be_sent_is_told_at_the_start_without_its_value(value: str) -> None:
    variable = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
    with pytest.raises(SettingsError, match=f"^{variable} must be headers .* the value of 'authorization'") as caught:
        choose(["otlp"], {variable: f"a=b,authorization={value}"})
    assert "SECRET" not in str(caught.value)
    choose(["otlp"], {variable: "authorization=Basic%20AAAA,x-name=caf%C3%A9"})


@pytest.mark.parametrize("value", ["Authorization: Bearer SECRET", "a=b,SECRET"])
def test_a_header_in_another_form_is_told_at_the_start_without_its_value(value: str) -> None:
    variable = "OTEL_EXPORTER_OTLP_HEADERS"
    with pytest.raises(SettingsError, match=f"^{variable} must be headers such as key=value") as caught:
        choose(["otlp"], {variable: value})
    assert "SECRET" not in str(caught.value)
    choose(["otlp"], {variable: "a=b, c=d,"})


@pytest.mark.parametrize("endpoint", ["dns:///localhost:4317", "unix:///run/otlp.sock", "ipv4:127.0.0.1:4317"])
def test_endpoints_of_grpc_may_be_named_as_grpc_has_it(endpoint: str) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")
    choose(["otlp"], {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    with pytest.raises(SettingsError, match="must be an address"):
        choose(["otlp"], {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})


def test_a_missing_package_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("opentelemetry.exporter.otlp.proto.grpc", "opentelemetry.exporter.prometheus"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError, match=r"_PROTOCOL=grpc needs .* 'opentelemetry-exporter-otlp-proto-grpc'"):
        choose(["otlp"], {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    with pytest.raises(SettingsError, match=r"prometheus needs .* 'opentelemetry-exporter-prometheus'"):
        choose(["prometheus"])


def test_names_of_known_packages_are_none_of_ours() -> None:
    assert not PACKAGES.keys() & {"otlp", "jaeger", "console", "jsonfile", "none"}
    assert {"console", "jsonfile", "otlp"} <= set(known())


class Mine:
    """An exporter of an app's own."""

    name = "mine"

    def __init__(self) -> None:
        self.made: list[DeferredSpanProcessor] = []

    def span_processor(self, options: Options) -> SpanProcessor:
        self.made.append(DeferredSpanProcessor(SimpleNamespace(shutdown=lambda: None), name=self.name))  # type: ignore[arg-type]
        return self.made[-1]

    def metric_reader(self, options: Options) -> MetricReader | None:
        return None


@pytest.fixture
def providers() -> Iterator[tuple[TracerProvider, MeterProvider]]:
    made = TracerProvider(shutdown_on_exit=False), MeterProvider(shutdown_on_exit=False)
    yield made
    for provider in made:
        provider.shutdown()


def test_an_exporter_is_added_to_a_provider_once(providers: tuple[TracerProvider, MeterProvider]) -> None:
    mine = Mine()
    for _ in range(2):
        pipeline.export(choose([mine]), Options(), *providers, to_foreign=True)
    assert len(mine.made) == 1
    assert [exporter.name for exporter in pipeline.exporters_of(*providers)] == ["mine"]


class Nameless:
    """An exporter that tells nothing of itself."""

    def __init__(self, sink: InMemorySpanExporter) -> None:
        self._sink = sink

    def span_processor(self, options: Options) -> SpanProcessor:
        return SimpleSpanProcessor(self._sink)

    def metric_reader(self, options: Options) -> None:
        return None


def test_each_exporter_without_a_name_is_added(providers: tuple[TracerProvider, MeterProvider]) -> None:
    sinks = [InMemorySpanExporter() for _ in range(5)]
    for sink in sinks:
        pipeline.export(choose([Nameless(sink)]), Options(), *providers, to_foreign=True)
    providers[0].get_tracer("t").start_span("one").end()
    assert [len(sink.get_finished_spans()) for sink in sinks] == [1] * 5


def test_what_the_environment_says_is_not_added_to_providers_of_the_app(
    providers: tuple[TracerProvider, MeterProvider],
) -> None:
    pipeline.export(choose([Mine()]), Options(), *providers, to_foreign=False)
    assert pipeline.exporters_of(*providers) == []


def test_jaeger_is_otlp_to_its_own_port_unless_an_endpoint_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    (jaeger,) = choose(["jaeger"]).traces
    made = jaeger.span_processor(Options())
    assert isinstance(made, DeferredSpanProcessor)
    assert (made.name, made.target) == ("jaeger", "http://localhost:4318/v1/traces")
    assert jaeger.metric_reader(Options()) is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@jaeger.home:4318")
    again = jaeger.span_processor(Options())
    assert isinstance(again, DeferredSpanProcessor)
    assert again.target == "http://jaeger.home:4318/v1/traces", "the password is not shown"
    for each in (made, again):
        each.shutdown()


def test_a_packages_exporter_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (console,) = choose(["console"]).metrics
    processor, reader = console.span_processor(Options()), console.metric_reader(Options())
    assert isinstance(processor, DeferredSpanProcessor)
    assert isinstance(reader, PeriodicExportingMetricReader)
    processor.shutdown()
    reader.shutdown()
