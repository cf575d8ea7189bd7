"""Which requests are exported, where not all are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from flask import Flask, abort, request
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import attach, detach, get_current
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, StaticSampler, TraceIdRatioBased
from opentelemetry.sdk.trace.sampling import Decision as SamplingDecision

from telemetry import PerformanceMetrics, SettingsError, TelemetrySettings
from telemetry.exporters.processor import DeferredSpanProcessor
from telemetry.requests import MAX_PENDING_QUERIES
from telemetry.tail import Decision, TailPolicy, mixed
from tests.unit.telemetry.queries import ask

BY_SHARE = sorted(range(1, 2000), key=mixed)
KEPT, LEFT_OUT = BY_SHARE[0], BY_SHARE[-1]  # trace ids at both ends of the shares below


class Ids(RandomIdGenerator):
    """Trace ids that a test has chosen."""

    def __init__(self) -> None:
        self.trace_id = LEFT_OUT

    def generate_trace_id(self) -> int:
        return self.trace_id


class Backend:
    """A provider behind our processor, with chosen trace ids."""

    def __init__(self) -> None:
        self.ids = Ids()
        self.exporter = InMemorySpanExporter()
        self.processor = DeferredSpanProcessor(self.exporter)
        self.provider = TracerProvider(id_generator=self.ids, shutdown_on_exit=False)
        self.provider.add_span_processor(self.processor)
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def spans(self) -> list[ReadableSpan]:
        assert self.processor.force_flush()
        found = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return found

    def names(self) -> list[str]:
        return sorted(span.name for span in self.spans())

    def exemplars(self) -> set[tuple[str, int]]:
        """Return what exemplars lead to: the metric and the trace."""
        data = self.reader.get_metrics_data()
        return {
            (metric.name, exemplar.trace_id)
            for metric in (data.resource_metrics[0].scope_metrics[0].metrics if data else ())
            for point in metric.data.data_points
            for exemplar in point.exemplars
        }


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    yield made
    made.provider.shutdown()


Client = Callable[..., Any]


@pytest.fixture
def client(instrumented: Callable[..., Flask], backend: Backend) -> Client:
    """Return a function that makes a test client of an app with the setting `export`."""

    def make(export: str, **settings: Any) -> Any:
        app = Flask("shop")
        tracer = backend.provider.get_tracer("app")

        def child() -> str:
            with tracer.start_as_current_span("work"):
                pass
            return "ok"

        def children(number: int) -> str:
            for _ in range(number):
                child()
            abort(500)

        def nested(path: str) -> str:
            return app.test_client().get("/" + path).text

        def nested_fails(path: str) -> str:
            nested(path)
            abort(500)

        def thread() -> str:
            context = get_current()

            def work() -> None:
                token = attach(context)
                with tracer.start_as_current_span("work"):
                    pass
                detach(token)

            made = threading.Thread(target=work)
            made.start()
            made.join()
            return abort(500) if "fails" in request.args else "ok"

        app.add_url_rule("/nested-fails/<path:path>", "nested_fails", nested_fails)
        app.add_url_rule("/thread", "thread", thread)
        app.add_url_rule("/", "home", lambda: "ok")
        app.add_url_rule("/fails", "fails", lambda: abort(500))
        app.add_url_rule("/raises", "raises", lambda: {}["missing"])
        app.add_url_rule("/queries/<int:number>", "queries", ask)
        app.add_url_rule("/child", "child", child)
        app.add_url_rule("/children/<int:number>", "children", children)
        app.add_url_rule("/nested/<path:path>", "nested", nested)
        chosen = TelemetrySettings.load(export=export, **settings)
        providers = {"tracer_provider": backend.provider, "meter_provider": backend.meter_provider}
        return instrumented(app, settings=chosen, **providers).test_client()

    return make


def of(export: str) -> TailPolicy:
    policy = TailPolicy.of(export, slow_ms=200.0, fan_out=20)
    assert policy is not None
    return policy


def test_all_needs_no_policy() -> None:
    assert TailPolicy.of("all", slow_ms=200.0, fan_out=20) is None


@pytest.mark.parametrize("trace_id", [LEFT_OUT, KEPT])
def test_exemplars_lead_to_traces_that_are_exported(client: Client, backend: Backend, trace_id: int) -> None:
    """The first request of a series, too, which is measured through the SDK's public API."""
    backend.ids.trace_id = trace_id
    asked = client("1/2")
    for _ in range(3):
        assert asked.get("/queries/2").status_code == 200
        names = {name for name, found in backend.exemplars() if found == trace_id}
        measured = {"http.server.request.duration", "telemetry.request.db_operations", "db.client.operation.duration"}
        assert names == (measured if trace_id == KEPT else set())
        assert bool(backend.spans()) is (trace_id == KEPT)


@pytest.mark.parametrize(
    ("error_type", "duration_ms", "queries", "reason"),
    [
        ("500", 1, 0, "error"),
        ("500", 900, 90, "error"),
        (None, 1, 20, "fan_out"),
        (None, 200, 0, "slow"),
        (None, 199, 19, None),
    ],
)
def test_notable_is_what_fails_takes_long_or_fans_out(
    error_type: str | None, duration_ms: int, queries: int, reason: str | None
) -> None:
    decision = of("notable").decide(LEFT_OUT, error_type, duration_ms * 1_000_000, queries)
    assert decision == (None if reason is None else Decision(reason, 1.0))


@given(st.integers(1, 2**128 - 1), st.fractions(min_value="1/1000", max_value=1, max_denominator=10**9))
def test_a_share_is_of_the_traces_and_the_same_for_each_request_of_one(trace_id: int, share: Fraction) -> None:
    decisions = {of(f"{prefix}{share}").decide(trace_id, None, 0, 0) for prefix in ("", "notable+")}
    assert len(decisions) == 1
    assert decisions <= {Decision("share", float(share)), None}
    assert of("1").decide(trace_id, None, 0, 0) == Decision("share", 1.0)
    if None not in decisions:  # a larger share keeps what a smaller one does
        assert of(str((share + 1) / 2)).decide(trace_id, None, 0, 0) is not None


@pytest.mark.parametrize("export", ["1/10", "notable+1/10"])
def test_a_share_is_one_of_what_a_sampler_by_ratio_has_left_too(export: str) -> None:
    sampler, policy, random = TraceIdRatioBased(0.1), of(export), Random(5)
    sampled = [
        trace_id
        for trace_id in (random.getrandbits(128) for _ in range(50_000))
        if sampler.should_sample(None, trace_id, "").decision is SamplingDecision.RECORD_AND_SAMPLE
    ]
    kept = [trace_id for trace_id in sampled if policy.decide(trace_id, None, 0, 0)]
    assert len(kept) == pytest.approx(len(sampled) / 10, rel=0.2)


@pytest.mark.parametrize("share", ["1/10", "0.1", "1e-1"])
def test_a_share_can_be_written_in_several_ways(share: str) -> None:
    assert of(share).share == of(f"notable+{share}").share == 0.1


@pytest.mark.parametrize(
    "wrong",
    ["", "none", "0", "-0.1", "1.5", "1/0", "nan", "inf", "10 %", "notable+", "notable+2", "1e400", "1e-99999999"],
)
def test_a_wrong_setting_is_told(wrong: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^export must be all, a share of the requests such as 1/10 or 0\.1, notable"
    ) as told:
        TelemetrySettings.load(export=wrong)
    assert repr(wrong) in str(told.value)


def test_a_request_that_is_kept_says_why_and_for_how_many_it_stands(client: Client, backend: Backend) -> None:
    http = client("notable+1/4", fan_out_warning=3)
    said = {}
    for path in ("/fails", "/raises", "/queries/3", "/"):
        backend.ids.trace_id = KEPT
        http.get(path)
        (server,) = [span for span in backend.spans() if span.name.startswith("GET")]
        assert server.attributes is not None
        said[path] = (server.attributes["telemetry.export.reason"], server.attributes["telemetry.export.share"])
    assert said == {
        "/fails": ("error", 1.0),
        "/raises": ("error", 1.0),
        "/queries/3": ("fan_out", 1.0),
        "/": ("share", 0.25),
    }


def test_what_is_not_kept_leaves_no_span_and_every_figure(
    client: Client, backend: Backend, metrics: PerformanceMetrics
) -> None:
    http = client("notable")
    for path in ("/", "/queries/3", "/child", "/nested/child"):
        assert http.get(path).status_code == 200
    assert backend.names() == []
    assert metrics.db_queries_per_request[:] == [0, 3, 0, 0, 0]


def test_what_is_kept_is_kept_whole(client: Client, backend: Backend) -> None:
    http = client("1/2")
    backend.ids.trace_id = KEPT
    http.get("/child")
    assert backend.names() == ["GET /child", "work"]
    http.get("/queries/2")
    assert backend.names() == ["GET /queries/<int:number>", "SELECT", "SELECT"]


def test_a_notable_request_inside_another_keeps_both(client: Client, backend: Backend) -> None:
    client("notable").get("/nested/fails")
    assert backend.names() == ["GET /fails", "GET /nested/<path:path>"]


def test_requests_inside_others_say_for_how_many_they_stand(client: Client, backend: Backend) -> None:
    http = client("notable+1/4", fan_out_warning=3)

    def shares(path: str, trace_id: int) -> dict[str, tuple[Any, Any]]:
        backend.ids.trace_id = trace_id
        http.get(path)
        return {
            span.name: (span.attributes.get("telemetry.export.reason"), span.attributes.get("telemetry.export.share"))
            for span in backend.spans()
            if span.attributes is not None and span.name.startswith("GET")
        }

    outer, error = "GET /nested-fails/<path:path>", ("error", 1.0)
    assert shares("/nested-fails/queries/1", KEPT) == {"GET /queries/<int:number>": error, outer: error}
    assert shares("/nested-fails/queries/1", LEFT_OUT) == {"GET /queries/<int:number>": error, outer: error}
    assert shares("/nested-fails/queries/3", LEFT_OUT) == {"GET /queries/<int:number>": ("fan_out", 1.0), outer: error}
    assert shares("/nested/fails", LEFT_OUT) == {"GET /fails": error, "GET /nested/<path:path>": error}
    assert shares("/nested/queries/1", KEPT) == {
        "GET /queries/<int:number>": ("share", 0.25),
        "GET /nested/<path:path>": ("share", 0.25),
    }
    assert shares("/nested/queries/1", LEFT_OUT) == {}


def test_a_span_of_a_thread_that_has_opentelemetrys_context_alone_is_held_back_with_its_request(
    client: Client, backend: Backend
) -> None:
    http = client("notable")
    assert http.get("/thread").status_code == 200
    assert backend.names() == []
    assert http.get("/thread?fails=yes").status_code == 500
    assert backend.names() == ["GET /thread", "work"]


def test_of_very_many_spans_of_the_app_in_one_request_the_first_are_held_back(
    client: Client, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.exporters.processor.MAX_HELD_SPANS", 3)
    client("notable").get("/children/10")
    assert backend.names() == ["GET /children/<int:number>", "work", "work", "work"]
    assert dict(backend.processor.status.dropped_by) == {"queue_full": 7}


def test_a_request_of_so_many_queries_that_it_cannot_be_held_back_is_notable(client: Client, backend: Backend) -> None:
    client("notable", fan_out_warning=5000).get(f"/queries/{MAX_PENDING_QUERIES + 5}")
    assert len(backend.names()) == MAX_PENDING_QUERIES + 6


def test_a_setting_that_a_sampler_of_the_apps_own_makes_void_is_told(
    instrumented: Callable[..., Flask], caplog: pytest.LogCaptureFixture
) -> None:
    class Own(StaticSampler):
        pass

    app = Flask("shop")
    app.add_url_rule("/", "home", lambda: "ok")
    provider = TracerProvider(sampler=Own(SamplingDecision.RECORD_AND_SAMPLE), shutdown_on_exit=False)
    settings = TelemetrySettings.load(export="notable")
    client = instrumented(app, settings=settings, tracer_provider=provider).test_client()
    client.get("/")
    client.get("/")
    assert [record.message for record in caplog.records if "export" in record.message] == [
        "the setting export has no effect: span processors or a sampler of the app's own see every span start"
    ]


def test_a_request_of_very_many_queries_is_not_held_back(client: Client, backend: Backend) -> None:
    number = MAX_PENDING_QUERIES + 5
    http = client("notable")
    http.get(f"/queries/{number}")
    assert len(backend.names()) == number + 1
    share = client("1/2")
    share.get(f"/queries/{number}")
    assert backend.names() == []
    backend.ids.trace_id = KEPT
    share.get(f"/queries/{number}")
    assert len(backend.names()) == number + 1


def test_spans_outside_of_requests_are_exported_whatever_the_setting(client: Client, backend: Backend) -> None:
    client("notable")
    backend.provider.get_tracer("app").start_span("alone").end()
    assert backend.names() == ["alone"]


def test_what_the_sampler_leaves_out_is_not_brought_back(instrumented: Callable[..., Flask], backend: Backend) -> None:
    app = Flask("shop")
    app.add_url_rule("/", "home", lambda: abort(500))
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(backend.processor)
    instrumented(app, settings=TelemetrySettings.load(export="notable"), tracer_provider=provider).test_client().get(
        "/"
    )
    assert backend.names() == []
