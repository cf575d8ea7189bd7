"""Metrics that are pushed: nothing is lost by an export that fails, and all of it is told."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExporter, MetricExportResult, MetricsData

from telemetry import instruments
from telemetry.exporters import exporter_metrics
from telemetry.exporters import reader as reader_module
from telemetry.exporters.reader import PushReader
from telemetry.exporters.status import Delivery


class Exporter(MetricExporter):
    """Keeps what it gets, unless it is told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: str | None = None
        self.sums: list[int] = []
        self.is_shut_down = False

    def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
        if self.fails == "raises":
            raise ConnectionError("gone")
        if self.fails:
            return MetricExportResult.FAILURE
        (point,) = metrics_data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
        self.sums.append(point.value)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        self.is_shut_down = True


class Hanging(Exporter):
    """Its backend does not answer until it is `over`."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()

    def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
        self.over.wait(30)
        return MetricExportResult.SUCCESS


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


@pytest.fixture
def reader(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> Iterator[PushReader]:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    made = PushReader(exporter, name="otlp", target="http://collector")
    yield made
    made.shutdown()


@pytest.mark.parametrize("how", ["raises", "answers"])
def test_what_an_export_could_not_tell_the_next_one_does(
    reader: PushReader, exporter: Exporter, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    provider = MeterProvider([reader], shutdown_on_exit=False)
    counter = provider.get_meter("t").create_counter("count")
    counter.add(1)
    exporter.fails = how
    for _ in range(3):
        reader.collect()
    assert (reader.status.is_failing, reader.status.failures, reader.status.sent) == (True, 3, 0)
    exporter.fails = None
    counter.add(1)
    reader.collect()
    assert exporter.sums == [2]
    assert (reader.status.is_failing, reader.status.sent, reader.status.dropped) == (False, 1, 0)
    words = {"raises": "ConnectionError: gone", "answers": "the exporter could not deliver them"}[how]
    assert caplog.messages == [
        f"otlp: metrics could not be exported: {words} (told once, until it works again)",
        "otlp: metrics are exported again",
    ]


def test_the_last_export_comes_with_the_end(reader: PushReader, exporter: Exporter) -> None:
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("t").create_counter("count").add(5)
    provider.shutdown()
    reader.shutdown()
    assert (exporter.sums, exporter.is_shut_down) == ([5], True)


def test_the_end_comes_not_later_than_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    hangs = Hanging()
    reader = PushReader(hangs, shutdown_timeout_s=20)
    MeterProvider([reader], shutdown_on_exit=False).get_meter("t").create_counter("count").add(1)
    began = time.monotonic()
    reader.shutdown(until=began + 0.1)
    assert time.monotonic() - began < 10
    hangs.over.set()


def test_who_hears_the_backend_judges(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    reader = PushReader(exporter, lambda succeeded: Delivery(False, why=f"a web page, {succeeded}"))
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("t").create_counter("count").add(5)
    reader.collect()
    assert reader.status.last_error == "a web page, True"
    provider.shutdown()


DOWN = Delivery(False, retry=True, why="nobody there")


@pytest.fixture
def answers() -> list[Delivery]:
    """What becomes of exports, one after the other; the last one goes on."""
    return [Delivery(True)]


@pytest.fixture
def judged(
    exporter: Exporter, answers: list[Delivery], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[PushReader, MeterProvider]]:
    """A reader whose backend answers so, and a provider with one counter."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    monkeypatch.setattr(reader_module, "FIRST_PAUSE_S", 0.01)
    reader = PushReader(exporter, lambda _: answers.pop(0) if len(answers) > 1 else answers[0], name="otlp")
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("t").create_counter("count").add(5)
    yield reader, provider
    provider.shutdown()


@pytest.fixture
def waiting(
    judged: tuple[PushReader, MeterProvider], answers: list[Delivery], monkeypatch: pytest.MonkeyPatch
) -> threading.Thread:
    """The thread of an export that has failed, and waits for an hour to be tried again."""
    reader, _ = judged
    monkeypatch.setattr(reader_module, "FIRST_PAUSE_S", 3600.0)
    has_failed, failed = threading.Event(), reader._watched.tally.failed

    def notice(why: str) -> bool:
        is_first = failed(why)
        has_failed.set()
        return is_first

    monkeypatch.setattr(reader._watched.tally, "failed", notice)
    answers[:] = [DOWN]
    made = threading.Thread(target=lambda: reader.collect(timeout_millis=7_200_000))
    made.start()
    assert has_failed.wait(10)
    return made


def test_what_a_backend_may_take_later_is_sent_again(
    judged: tuple[PushReader, MeterProvider], answers: list[Delivery], exporter: Exporter
) -> None:
    reader, _ = judged
    answers[:] = [DOWN, DOWN, Delivery(True)]
    reader.collect()
    assert exporter.sums == [5, 5, 5]
    assert (reader.status.sent, reader.status.failures, reader.status.is_failing) == (1, 2, False)


def test_while_it_is_tried_again_the_status_says_that_it_has_failed(
    judged: tuple[PushReader, MeterProvider], answers: list[Delivery], waiting: threading.Thread
) -> None:
    reader, provider = judged
    assert reader.status.is_failing
    assert reader.status.last_error == "nobody there"
    answers[:] = [Delivery(True)]
    provider.shutdown()
    waiting.join(10)
    assert not waiting.is_alive()
    assert reader.status.sent == 1, "the last export did not wait for the pause of the one before it"


def test_the_last_export_is_tried_again_while_there_is_time_and_told_if_it_is_lost(
    judged: tuple[PushReader, MeterProvider], answers: list[Delivery], caplog: pytest.LogCaptureFixture
) -> None:
    reader, _ = judged
    answers[:] = [DOWN]
    reader.shutdown(until=time.monotonic() + 0.3)
    assert reader.status.failures > 1
    assert caplog.messages[-1] == "otlp: what was measured last could not be sent before the end, lost"


def test_a_pause_that_the_backend_asks_for_is_kept_to_by_later_exports(
    judged: tuple[PushReader, MeterProvider], answers: list[Delivery], exporter: Exporter
) -> None:
    reader, _ = judged
    answers[:] = [DOWN._replace(wait_s=3600.0), Delivery(True)]
    for _ in range(3):
        reader.collect()
    assert (exporter.sums, reader.status.failures, reader.status.sent) == ([5], 1, 0)


def test_at_the_end_a_pause_that_is_longer_than_what_is_left_is_not_begun(
    judged: tuple[PushReader, MeterProvider], answers: list[Delivery]
) -> None:
    reader, _ = judged
    reader._shutdown_timeout_s = 20.0
    answers[:] = [DOWN._replace(wait_s=60.0)]
    began = time.monotonic()
    reader.shutdown()
    assert reader.status.failures == 1
    assert time.monotonic() - began < 10


def test_a_flush_does_not_wait_for_an_export_that_waits(
    judged: tuple[PushReader, MeterProvider], answers: list[Delivery], waiting: threading.Thread
) -> None:
    reader, _ = judged
    answers[:] = [Delivery(True)]
    reader.force_flush(1000)
    waiting.join(10)
    assert not waiting.is_alive()
    assert reader.status.sent == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_counts_its_own_exports(reader: PushReader) -> None:
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("t").create_counter("count").add(5)
    reader.collect()
    child = os.fork()
    if not child:
        os._exit(reader.status.sent)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert reader.status.sent == 1


def test_points_that_the_backend_rejects_are_counted_and_told_once(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    answers = [Delivery(True, why="bad points", rejected=rejected) for rejected in (1, 5)] + [Delivery(True)] * 2
    reader = PushReader(exporter, lambda _: answers.pop(0), name="otlp")
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("t").create_counter("count").add(5)
    for _ in range(2):
        reader.collect()
    assert (reader.status.sent, reader.status.dropped_by) == (0, {"rejected": 2})
    assert (reader.status.is_failing, reader.status.last_error) == (True, "bad points")
    reader.collect()
    assert (reader.status.sent, reader.status.dropped, reader.status.is_failing) == (1, 2, False)
    assert caplog.messages == [
        "otlp: metrics could not be exported: bad points (told once, until it works again)",
        "otlp: metrics are exported again",
    ]
    assert measured(reader) == {None: 1, "rejected": 2}
    provider.shutdown()


def measured(reader: PushReader) -> dict[object, int]:
    """Return what the metrics about exporting say of a reader's points, by `error.type`."""
    memory = InMemoryMetricReader()
    provider = MeterProvider([memory], shutdown_on_exit=False)
    exporter_metrics.register(provider, reader, lambda *_: [reader])
    data = memory.get_metrics_data()
    assert data is not None
    provider.shutdown()
    return {
        (point.attributes or {}).get("error.type"): point.value  # type: ignore[union-attr]
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == instruments.POINTS_EXPORTED
        for point in metric.data.data_points
    }
