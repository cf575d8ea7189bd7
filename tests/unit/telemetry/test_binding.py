"""A bound instrument gives every reader the points that the public API gives."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import opentelemetry.sdk.version
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    Counter,
    ExemplarFilter,
    Histogram,
    MeterProvider,
    SimpleFixedSizeExemplarReservoir,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics._internal._view_instrument_match import _ViewInstrumentMatch
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from telemetry import PerformanceMetrics, binding
from telemetry.binding import NO_IDS, BoundCounter, BoundHistogram
from telemetry.requests import serving

CHECKED_WITH = ("1.45.0", "1.45.1", "1.45.2")
ATTRIBUTES = {"http.request.method": "GET", "http.route": "/", "http.response.status_code": 200}
NAME = "http.server.request.duration"
durations_ns = st.lists(st.integers(0, 20_000_000_000), min_size=1, max_size=30)


def test_this_version_of_the_sdk_has_been_checked() -> None:
    assert opentelemetry.sdk.version.__version__ in CHECKED_WITH


def bound_for(reader: InMemoryMetricReader) -> BoundHistogram:
    """Return a series of a provider with that reader."""
    provider = MeterProvider([reader], shutdown_on_exit=False)
    return BoundHistogram(provider.get_meter("test").create_histogram(NAME), ATTRIBUTES)


def points(reader: InMemoryMetricReader) -> list[dict[str, object]]:
    data = reader.get_metrics_data()
    if data is None:
        return []
    found = [
        point
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if metric.name == NAME
        for point in metric.data.data_points
    ]
    left_out = {"time_unix_nano", "start_time_unix_nano", "exemplars"}
    return [
        {
            name: pytest.approx(getattr(point, name)) if name == "sum" else getattr(point, name)
            for name in point.__dataclass_fields__
            if name not in left_out
        }
        for point in found
    ]


def collected(reader: InMemoryMetricReader) -> list[dict[str, object]] | str:
    """Return the points, or what the SDK complains of: its exponential histograms can't merge some values that are far apart."""
    try:
        return points(reader)
    except Exception as error:
        if str(error) != "Incorrect merge scale":
            raise
        return str(error)


VIEWS: dict[str, list[View]] = {
    "no view": [],
    "other boundaries": [View(instrument_name=NAME, aggregation=ExplicitBucketHistogramAggregation((1, 2)))],
    "fewer attributes": [View(instrument_name=NAME, attribute_keys={"http.route"})],
    "no boundaries": [View(instrument_name=NAME, aggregation=ExplicitBucketHistogramAggregation((), False))],
    "other reservoir": [
        View(instrument_name=NAME, exemplar_reservoir_factory=lambda _: lambda **_: SimpleFixedSizeExemplarReservoir(2))
    ],
    "exponential": [View(instrument_name=NAME, aggregation=ExponentialBucketHistogramAggregation())],
    "dropped": [View(instrument_name=NAME, aggregation=DropAggregation())],
    "twice": [View(instrument_name=NAME), View(instrument_name=NAME, name="other")],
}


@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("view", VIEWS)
@settings(max_examples=50)  # 32 times
@given(first=durations_ns, second=durations_ns)
@example(first=[4_000_000, 200_000_000, 1_500_000_000], second=[100_000, 20_000_000_000])
def test_other_readers_see_the_points_of_the_public_api(
    view: str, many: bool, temporality: AggregationTemporality, first: list[int], second: list[int]
) -> None:
    ours, reference = (InMemoryMetricReader({Histogram: temporality}) for _ in range(2))
    bound_provider = MeterProvider([ours], views=VIEWS[view], shutdown_on_exit=False)
    public_provider = MeterProvider([reference], views=VIEWS[view], shutdown_on_exit=False)
    series = BoundHistogram(bound_provider.get_meter("test").create_histogram(NAME), ATTRIBUTES)
    histogram = public_provider.get_meter("test").create_histogram(NAME)
    for batch in (first, second):
        if many:
            series.record_many(batch, Context(), 1, NO_IDS, False)
        else:
            for duration_ns in batch:
                series.record(duration_ns / 1e9, Context(), 1, NO_IDS, False)
        for duration_ns in batch:
            histogram.record(duration_ns / 1e9, ATTRIBUTES)
        assert collected(ours) == collected(reference)


@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
@pytest.mark.parametrize("chosen", [TraceBasedExemplarFilter(), AlwaysOnExemplarFilter(), AlwaysOffExemplarFilter()])
@settings(max_examples=30)  # 6 times
@given(
    first=st.lists(st.tuples(st.integers(-3, 9), st.booleans())),
    second=st.lists(st.tuples(st.integers(0, 9), st.booleans())),
)
def test_a_bound_counter_gives_the_points_of_the_public_api(
    chosen: ExemplarFilter,
    temporality: AggregationTemporality,
    first: list[tuple[int, bool]],
    second: list[tuple[int, bool]],
) -> None:
    ours, reference = (InMemoryMetricReader({Counter: temporality}) for _ in range(2))
    providers = [
        MeterProvider([reader], exemplar_filter=chosen, shutdown_on_exit=False) for reader in (ours, reference)
    ]
    counters = [provider.get_meter("test").create_counter(NAME) for provider in providers]
    series = BoundCounter(counters[0], ATTRIBUTES)
    for batch in (first, second):
        for amount, is_sampled in batch:
            flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
            span = NonRecordingSpan(SpanContext(5, amount + 4, False, flags))
            with trace.use_span(span):
                series.add(amount)
                counters[1].add(amount, ATTRIBUTES)
        assert points(ours) == points(reference)


@pytest.mark.parametrize(("flags", "expected"), [(TraceFlags.SAMPLED, [(3, 5, 7)]), (TraceFlags.DEFAULT, [])])
def test_exemplars_of_a_counter_lead_to_sampled_spans(flags: int, expected: list[tuple[int, int, int]]) -> None:
    reader = InMemoryMetricReader()
    counter = MeterProvider([reader], shutdown_on_exit=False).get_meter("test").create_counter(NAME)
    series = BoundCounter(counter, ATTRIBUTES)
    series.add(1)
    with trace.use_span(NonRecordingSpan(SpanContext(5, 7, False, TraceFlags(flags)))):
        series.add(3)
    data = reader.get_metrics_data()
    assert data is not None
    (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert [(found.value, found.trace_id, found.span_id) for found in point.exemplars] == expected


def test_a_counter_has_no_exemplars_of_a_request_that_may_not_be_exported() -> None:
    reader = InMemoryMetricReader()
    counter = MeterProvider([reader], shutdown_on_exit=False).get_meter("test").create_counter(NAME)
    series = BoundCounter(counter, ATTRIBUTES)
    token = serving.set(SimpleNamespace(eager=False, exported=True, held=[]))  # type: ignore[arg-type]
    try:
        with trace.use_span(NonRecordingSpan(SpanContext(5, 7, False, TraceFlags(TraceFlags.SAMPLED)))):
            series.add(1)
            series.add(3)
    finally:
        serving.reset(token)
    assert exemplars(reader) == []


def test_a_counter_that_is_not_the_sdks_is_added_to_through_its_api() -> None:
    from opentelemetry.metrics import NoOpMeterProvider

    BoundCounter(NoOpMeterProvider().get_meter("test").create_counter(NAME), ATTRIBUTES).add(1)


def test_threads_lose_no_count() -> None:
    reader = InMemoryMetricReader()
    counter = MeterProvider([reader], shutdown_on_exit=False).get_meter("test").create_counter(NAME)
    series = BoundCounter(counter, ATTRIBUTES)

    def add() -> None:
        for _ in range(2000):
            series.add(1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [point["value"] for point in points(reader)] == [8000]


def test_a_reader_that_is_added_later_sees_what_is_recorded_from_then_on() -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    series = BoundHistogram(provider.get_meter("test").create_histogram(NAME), ATTRIBUTES)
    series.record(1, Context(), 1, NO_IDS, False)
    series.record_many([1, 2], Context(), 1, NO_IDS, False)
    late = InMemoryMetricReader()
    provider.add_metric_reader(late)
    series.record(2, Context(), 1, NO_IDS, False)
    series.record_many([3, 4], Context(), 1, NO_IDS, False)
    assert [point["count"] for point in points(late)] == [3]


@pytest.mark.parametrize("many", [False, True])
def test_a_reader_that_is_added_just_when_a_series_is_bound_leaves_it_bound(
    monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    late = InMemoryMetricReader()
    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    histogram = provider.get_meter("test").create_histogram(NAME)
    series = BoundHistogram(histogram, ATTRIBUTES)
    record = type(histogram).record

    def meanwhile(*args: Any) -> None:
        record(*args)
        monkeypatch.undo()
        provider.add_metric_reader(late)

    monkeypatch.setattr(type(histogram), "record", meanwhile)
    for _ in range(3):
        if many:
            series.record_many([1], Context(), 1, NO_IDS, False)
        else:
            series.record(1, Context(), 1, NO_IDS, False)
    assert [point["count"] for point in points(late)] == [2]
    assert len(series._batches) == 2


def test_a_reader_that_goes_just_when_a_series_is_bound_leaves_it_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, gone = InMemoryMetricReader(), InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.add_metric_reader(gone)
    histogram = provider.get_meter("test").create_histogram(NAME)
    series = BoundHistogram(histogram, ATTRIBUTES)
    record = type(histogram).record

    def meanwhile(*args: Any) -> None:
        monkeypatch.undo()
        provider.remove_metric_reader(gone)
        record(*args)

    monkeypatch.setattr(type(histogram), "record", meanwhile)
    for _ in range(3):
        series.record(1, Context(), 1, NO_IDS, False)
    assert [point["count"] for point in points(reader)] == [3]
    assert len(series._batches) == 1


@pytest.mark.parametrize("gone", ["_reader_storages", "_sdk_config"])
def test_without_the_seam_the_public_api_is_used_and_that_is_told_once(
    gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    binding._tell_once.cache_clear()
    caplog.set_level("INFO")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    histogram = provider.get_meter("test").create_histogram(NAME)
    inside = histogram._measurement_consumer  # type: ignore[attr-defined]

    class Renamed:
        """The consumer of an SDK whose inside has another name."""

        def __getattr__(self, name: str) -> object:
            if name == gone:
                raise AttributeError(name)
            return getattr(inside, name)

    histogram._measurement_consumer = Renamed()  # type: ignore[attr-defined]
    series = BoundHistogram(histogram, ATTRIBUTES)
    series.record(1, Context(), 1, NO_IDS, False)
    BoundHistogram(histogram, ATTRIBUTES).record(2, Context(), 1, NO_IDS, False)
    series.record_many([3, 4], Context(), 1, NO_IDS, False)
    assert [point["count"] for point in points(reader)] == [4]
    assert caplog.text.count("has no seam to bind to") == 1


def test_an_instrument_that_is_not_the_sdks_is_recorded_through_its_api() -> None:
    from opentelemetry.metrics import NoOpMeterProvider

    series = BoundHistogram(NoOpMeterProvider().get_meter("test").create_histogram(NAME), ATTRIBUTES)
    series.record(1, Context(), 1, NO_IDS, False)
    series.record_many([1], Context(), 1, NO_IDS, False)


def test_an_aggregation_that_can_t_be_found_means_the_public_api(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    series = bound_for(reader)

    def lost(*_: object) -> None:
        raise LookupError("moved")

    monkeypatch.setattr(binding, "_find", lost)
    for _ in range(3):
        series.record(1, Context(), 1, NO_IDS, False)
    assert [point["count"] for point in points(reader)] == [3]


def exemplars(reader: InMemoryMetricReader) -> list[tuple[object, ...]]:
    data = reader.get_metrics_data()
    return [
        (metric.name, found.value, found.trace_id, found.span_id, found.filtered_attributes)
        for metric in (data.resource_metrics[0].scope_metrics[0].metrics if data else ())
        for point in metric.data.data_points
        for found in point.exemplars
    ]


@pytest.mark.parametrize("chosen", [TraceBasedExemplarFilter(), AlwaysOnExemplarFilter(), AlwaysOffExemplarFilter()])
@pytest.mark.parametrize(
    "view", ["no view", "other boundaries", "fewer attributes", "twice", "other reservoir", "exponential"]
)
@settings(max_examples=20)  # 18 times
@given(batches=st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=70), max_size=3))
@example(batches=[[(0, True)] * 70, [], [(3, False), (3, True), (3, False)]])
def test_exemplars_are_those_of_the_public_api(
    view: str, chosen: ExemplarFilter, batches: list[list[tuple[int, bool]]]
) -> None:
    ours, reference = InMemoryMetricReader(), InMemoryMetricReader()
    histograms = [
        MeterProvider([reader], exemplar_filter=chosen, views=VIEWS[view], shutdown_on_exit=False)
        .get_meter("test")
        .create_histogram(NAME)
        for reader in (ours, reference)
    ]
    series = BoundHistogram(histograms[0], ATTRIBUTES)
    random.seed(0)  # the reservoirs of some keep some of the values, by chance
    series.record(0, Context(), 1, NO_IDS, False)
    histograms[1].record(0, ATTRIBUTES, Context())
    for number, batch in enumerate(batches):
        for to in (ours, reference):
            random.seed(number)
            for at, (value, is_sampled) in enumerate(batch):
                ids, flags = (5, at + 1), TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
                context = trace.set_span_in_context(NonRecordingSpan(SpanContext(*ids, False, flags)), Context())
                if to is ours:
                    series.record(value, context, 1, ids, is_sampled)
                else:
                    histograms[1].record(value, ATTRIBUTES, context)
        assert exemplars(ours) == exemplars(reference)


@pytest.mark.parametrize("number", [1, 5, 20])
def test_of_many_queries_the_longest_is_the_exemplar(number: int) -> None:
    reader = InMemoryMetricReader()
    series = bound_for(reader)
    series.record(0, Context(), 1, NO_IDS, False)
    series.record_many([at * 10**9 for at in range(number, 0, -1)], Context(), 1, (5, 7), True)
    assert exemplars(reader) == [(NAME, number, 5, 7, {})]


def sampled_context(ids: binding.Ids) -> Context:
    return trace.set_span_in_context(
        NonRecordingSpan(SpanContext(*ids, False, TraceFlags(TraceFlags.SAMPLED))), Context()
    )


def test_the_newest_of_a_bucket_is_the_exemplar_whichever_way_it_came() -> None:
    reader = InMemoryMetricReader()
    histogram = MeterProvider([reader], shutdown_on_exit=False).get_meter("test").create_histogram(NAME)
    series = BoundHistogram(histogram, ATTRIBUTES)
    series.record(1, Context(), 1, NO_IDS, False)
    series.record(2, sampled_context((5, 1)), 1, (5, 1), True)
    histogram.record(3, ATTRIBUTES, sampled_context((5, 2)))
    assert exemplars(reader) == [(NAME, 3, 5, 2, {})]
    histogram.record(3, ATTRIBUTES, sampled_context((5, 3)))
    series.record(2, sampled_context((5, 4)), 1, (5, 4), True)
    assert exemplars(reader) == [(NAME, 2, 5, 4, {})]


def test_an_exemplar_that_is_offered_during_a_collection_is_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    series = BoundHistogram(
        MeterProvider([reader], shutdown_on_exit=False).get_meter("test").create_histogram(NAME), ATTRIBUTES
    )
    series.record(1, Context(), 1, NO_IDS, False)
    found = []

    def meanwhile(*args: Any) -> int:
        monkeypatch.undo()
        found.extend(exemplars(reader))
        return bisect_left(*args)

    monkeypatch.setattr(binding, "bisect_left", meanwhile)
    series.record(1, sampled_context((5, 7)), 1, (5, 7), True)
    assert found + exemplars(reader) == [(NAME, 1, 5, 7, {})]


def test_a_point_has_the_values_of_its_exemplars(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    series = BoundHistogram(
        MeterProvider([reader], shutdown_on_exit=False).get_meter("test").create_histogram(NAME), ATTRIBUTES
    )
    series.record(1, Context(), 1, NO_IDS, False)
    take = binding._BatchedHistogram.take

    def meanwhile(batched: binding._BatchedHistogram) -> None:
        take(batched)
        series.record(20, sampled_context((5, 7)), 1, (5, 7), True)

    monkeypatch.setattr(binding._BatchedHistogram, "take", meanwhile)
    assert exemplars(reader) == []
    monkeypatch.undo()
    assert exemplars(reader) == [(NAME, 20, 5, 7, {})]


@pytest.mark.parametrize("at_once", [1, 8, 30])
def test_what_is_pending_is_bounded(at_once: int) -> None:
    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    series = BoundHistogram(provider.get_meter("test").create_histogram(NAME), ATTRIBUTES)
    series.record(1, Context(), 1, NO_IDS, False)
    (batched,) = series._batches
    for _ in range(100):
        series.record_many([1] * at_once, Context(), 1, NO_IDS, False)
        series.record(1, Context(), 1, NO_IDS, False)
        assert len(batched.pending) < binding._BATCH


@pytest.mark.parametrize("at_once", [1, 3, 20])
def test_threads_and_a_collector_lose_no_value(at_once: int) -> None:
    reader = InMemoryMetricReader({Histogram: AggregationTemporality.DELTA})
    series = bound_for(reader)
    series.record(1, Context(), 1, NO_IDS, False)

    def record() -> None:
        for _ in range(2000):
            series.record_many([10**9] * at_once, Context(), 1, NO_IDS, False)

    threads = [threading.Thread(target=record) for _ in range(4)]
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        found = []
        while any(thread.is_alive() for thread in threads):
            found += points(reader)
        found += points(reader)
    finally:
        sys.setswitchinterval(interval_s)
    total = 8000 * at_once + 1
    assert sum(point["count"] for point in found) == total  # type: ignore[misc]
    assert sum(sum(point["bucket_counts"]) for point in found) == total  # type: ignore[misc, call-overload]


WHILE_TAKEN = """
import gc
import sys

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from telemetry.binding import NO_IDS, BoundHistogram

reader = InMemoryMetricReader()
series = BoundHistogram(MeterProvider([reader], shutdown_on_exit=False).get_meter("test").create_histogram("h"), {})
for _ in range(20):
    series.record(1, Context(), 1, NO_IDS, False)
pending = series._batches[0].pending


class Litter:
    def __init__(self, left):
        self.itself, self.left = self, left

    def __del__(self):
        if sys.argv[1] == "others append":
            pending.extend([1.0] * 100_000)
        else:
            for _ in range(100):
                series.record(1, Context(), 1, NO_IDS, False)
        if self.left:
            Litter(self.left - 1)
            lists.extend([] for _ in range(100))  # so many that garbage is collected with the next one


lists = [[] for _ in range(200)]  # all that the interpreter has at hand
gc.disable()
Litter(4)
gc.enable()
gc.set_threshold(1)
series._batches[0].take()
gc.disable()
print(sum(p.count for p in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics[0].data.data_points))
"""


@pytest.mark.parametrize(("meanwhile", "at_once"), [("others append", 100_000), ("a finalizer records", 100)])
def test_values_that_come_while_others_are_taken_hurt_nothing(meanwhile: str, at_once: int) -> None:
    command = [sys.executable, "-c", WHILE_TAKEN, meanwhile]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 0
    assert int(done.stdout) % at_once == 20
    assert int(done.stdout) > 20


@pytest.mark.parametrize("at_once", [1, 8, 40])
def test_nobody_waits_for_who_aggregates(at_once: int) -> None:
    reader = InMemoryMetricReader()
    series = bound_for(reader)
    series.record(1, Context(), 1, NO_IDS, False)
    (batched,) = series._batches
    with batched._lock:  # which the thread that records may hold itself, where it collects garbage meanwhile
        for _ in range(50):
            series.record_many([1] * at_once, Context(), 1, NO_IDS, False)
    assert [point["count"] for point in points(reader)] == [50 * at_once + 1]


def test_a_value_that_is_recorded_while_another_thread_binds_the_series_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = InMemoryMetricReader()
    series = bound_for(reader)
    batched = binding._batched

    def meanwhile(aggregation: binding._Aggregation[object]) -> binding._BatchedHistogram | None:
        monkeypatch.setattr(binding, "_batched", batched)
        thread = threading.Thread(target=series.record, args=(1, Context(), 1, NO_IDS, False))
        thread.start()
        thread.join()
        return batched(aggregation)

    monkeypatch.setattr(binding, "_batched", meanwhile)
    series.record(1, Context(), 1, NO_IDS, False)
    assert [point["count"] for point in points(reader)] == [2]


def test_threads_that_bind_one_series_at_once_neither_wait_for_each_other_nor_lose_a_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = InMemoryMetricReader()
    series = bound_for(reader)
    used = binding._used
    ended: list[bool] = []

    def record() -> None:
        for _ in range(3):  # the first of them binds the series, the others wait in a batch
            series.record(1, Context(), 1, NO_IDS, False)

    def meanwhile(aggregation: object) -> object:
        monkeypatch.setattr(binding, "_used", used)
        thread = threading.Thread(target=record, daemon=True)
        thread.start()
        thread.join(5)
        ended.append(not thread.is_alive())
        return used(aggregation)

    monkeypatch.setattr(binding, "_used", meanwhile)
    series.record(1, Context(), 1, NO_IDS, False)
    assert ended == [True]
    assert [point["count"] for point in points(reader)] == [4]


def test_series_that_other_threads_add_do_not_disturb_the_search_for_one() -> None:
    known: dict[object, SimpleNamespace] = {}

    class Adding:
        """Lets another thread add a series in the middle of the search."""

        def __eq__(self, other: object) -> bool:
            known[len(known)] = SimpleNamespace(_attributes={"route": "/new"})
            return False

        __hash__ = None  # type: ignore[assignment]

    known["first"] = SimpleNamespace(_attributes={"route": Adding()})
    known["wanted"] = SimpleNamespace(_attributes={"route": "/"})
    match = SimpleNamespace(_attributes_aggregation=known, _view=SimpleNamespace(_attribute_keys=None), _name=NAME)
    assert binding._find(match, {"route": "/"}) == [known["wanted"]]


def test_series_beyond_the_limit_of_the_sdk_are_bound_as_well(caplog: pytest.LogCaptureFixture) -> None:
    reader = InMemoryMetricReader()
    histogram = MeterProvider([reader], shutdown_on_exit=False).get_meter("test").create_histogram(NAME)
    series = [BoundHistogram(histogram, {"http.route": f"/{number}"}) for number in range(2010)]
    with caplog.at_level("INFO"):
        for _ in range(2):
            for each in series:
                each.record(1, Context(), 1, NO_IDS, False)
    assert caplog.messages == []
    assert sum(point["count"] for point in points(reader)) == 2 * 2010  # type: ignore[misc]


def test_a_series_beyond_the_limit_looks_for_its_point_with_each_value() -> None:
    known = {number: SimpleNamespace(_attributes={"route": f"/{number}"}) for number in range(3)}
    match = SimpleNamespace(
        _attributes_aggregation=known,
        _view=SimpleNamespace(_attribute_keys=None),
        _name=NAME,
        _cardinality_limit=2,
        consume_measurement=lambda *_: None,
    )
    (found,) = binding._find(match, {"route": "/"})
    assert found.aggregate is match.consume_measurement
    match._cardinality_limit = 3
    with pytest.raises(LookupError):
        binding._find(match, {"route": "/"})


@pytest.mark.parametrize("throws_away", [False, True])
def test_deltas_are_told_in_each_collection_also_where_the_sdk_throws_aggregations_away_with_it(
    throws_away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect(match: Any, *args: Any) -> Any:  # as version 1.45.2 of the SDK does
        points = collect_all(match, *args)
        match._attributes_aggregation = {}
        return points

    collect_all = _ViewInstrumentMatch.collect
    if throws_away:
        monkeypatch.setattr(_ViewInstrumentMatch, "_reset_on_collect", True, raising=False)
        monkeypatch.setattr(_ViewInstrumentMatch, "collect", collect)
    delta = AggregationTemporality.DELTA
    reader = InMemoryMetricReader(preferred_temporality={Histogram: delta, Counter: delta})
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("t")
    series = BoundHistogram(meter.create_histogram(NAME), ATTRIBUTES)
    counter = BoundCounter(meter.create_counter("lookups"), ATTRIBUTES)
    for number in (3, 1, 2):
        for _ in range(number):
            series.record(1.0, Context(), 1, NO_IDS, False)
            counter.add(2)
        series.record_many([1_000_000_000] * 40, Context(), 1, NO_IDS, False)
        data = reader.get_metrics_data()
        assert data is not None
        found = {
            metric.name: [
                getattr(point, "count", None) or getattr(point, "value", None) for point in metric.data.data_points
            ]
            for metric in data.resource_metrics[0].scope_metrics[0].metrics
        }
        assert found == {NAME: [number + 40], "lookups": [2 * number]}


def test_a_histogram_that_takes_no_batches_takes_one_value_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def slotted(_: object) -> None:
        raise AttributeError("pending")

    monkeypatch.setattr(binding._BatchedHistogram, "begin", slotted)
    reader = InMemoryMetricReader()
    series = bound_for(reader)
    for _ in range(3):
        series.record(1, Context(), 1, NO_IDS, False)
    series.record_many([1, 2], Context(), 1, NO_IDS, False)
    assert [point["count"] for point in points(reader)] == [5]


@pytest.mark.parametrize("name", ["_lock", "_reservoir", "_sum"])
def test_a_histogram_that_lacks_a_part_which_batches_need_takes_one_value_after_the_other(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    batched = binding._batched

    def without(aggregation: binding._Aggregation[object]) -> binding._BatchedHistogram | None:
        part = vars(aggregation).pop(name)
        try:
            return batched(aggregation)
        finally:
            setattr(aggregation, name, part)

    monkeypatch.setattr(binding, "_batched", without)
    reader = InMemoryMetricReader()
    series = bound_for(reader)
    for _ in range(3):
        series.record(1, Context(), 1, NO_IDS, False)
    series.record_many([1, 2], Context(), 1, NO_IDS, False)
    assert series._batches == ()
    assert [point["count"] for point in points(reader)] == [5]


def test_a_users_view_does_not_take_the_samples_from_our_windows() -> None:
    other = InMemoryMetricReader()
    view = View(instrument_name=NAME, aggregation=ExplicitBucketHistogramAggregation((1, 2)), attribute_keys=set())
    provider = MeterProvider([other], views=[view], shutdown_on_exit=False)
    metrics = PerformanceMetrics(meter_provider=provider)
    metrics.record_endpoint_latency("GET /", 0.25)
    assert metrics.endpoint_latencies["GET /"] == [0.25]
    assert [point["explicit_bounds"] for point in points(other)] == [(1, 2)]


def test_without_that_seam_views_apply_and_nothing_fails(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        binding.keep_views_away(object(), InMemoryMetricReader())  # type: ignore[arg-type]
    assert "views of this meter provider apply" in caplog.text


def locks_of(provider: MeterProvider) -> Iterator[Any]:
    """Return the locks that a thread may hold which records or collects."""
    consumer: Any = provider._measurement_consumer
    yield consumer._lock
    for reader, storage in consumer._reader_storages.items():
        yield reader._lock
        yield storage._lock
        for matches in storage._instrument_view_instrument_matches.values():
            for match in matches:
                yield match._lock
                for aggregation in match._attributes_aggregation.values():
                    yield aggregation._lock
                    if aggregation._reservoir is not None:
                        yield aggregation._reservoir._lock


def test_a_forked_child_keeps_its_windows_and_waits_for_no_thread_of_its_parent() -> None:
    provider = MeterProvider([InMemoryMetricReader()], exemplar_filter=AlwaysOnExemplarFilter(), shutdown_on_exit=False)
    metrics = PerformanceMetrics(meter_provider=provider)
    metrics.record_endpoint_latency("GET /", 0.25)
    metrics.record_cache_hit()
    metrics.snapshot()
    found = []

    def serve() -> None:  # the thread that has forked: the only one that the child has
        metrics.record_endpoint_latency("GET /", 0.5)
        metrics.record_endpoint_latency("GET /new", 1)
        metrics.record_cache_hit()
        found.append(metrics.snapshot())

    with ExitStack() as held:
        for lock in locks_of(provider):
            held.enter_context(lock)
        binding.begin_anew(provider)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        thread.join(5)
    assert [body["cache"]["hits"] for body in found] == [2]
    assert metrics.endpoint_latencies == {"GET /": [0.25, 0.5], "GET /new": [1]}
