"""Instruments bound to their attributes, after OpenTelemetry's `bind` (specification #4126), which Python does not have yet.

`BoundHistogram.record` and `BoundCounter.add` reach the same aggregations as the SDK's instruments, without resolving the
attributes, building a `Measurement` and hashing each time. If anything inside the SDK is not as expected (instruments of another
class, an aggregation that can't be found), every call takes the public method instead. `test_bound.py` names the versions it was
checked with and compares the points that both ways give.
"""

from __future__ import annotations

import dataclasses
import logging
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, Histogram, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics._internal.aggregation import (
    _Aggregation,
    _DropAggregation,
    _ExplicitBucketHistogramAggregation,
    _SumAggregation,
)
from opentelemetry.trace import get_current_span

from telemetry.readers.window import Add, RouteAggregation
from telemetry.requests import serving

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter as APICounter
    from opentelemetry.metrics import Histogram as APIHistogram
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader

_log = logging.getLogger(__name__)


class _Measurement:
    """What aggregations and exemplar reservoirs read of the SDK's `Measurement`, at a tenth of its price."""

    __slots__ = ("attributes", "context", "time_unix_nano", "value")

    def __init__(self, value: float, time_unix_nano: int, attributes: Mapping[str, Any], context: Context) -> None:
        self.value = value
        self.time_unix_nano = time_unix_nano
        self.attributes = attributes
        self.context = context


class _Bound:
    """One series of an instrument. Thread-safe, as far as the SDK's own aggregations are."""

    __slots__ = ("_adds", "_consumer", "_filter_kind", "_instrument", "_others", "_storages", "attributes")

    def __init__(self, instrument: Any, attributes: Mapping[str, Any]) -> None:
        self._instrument = instrument
        self.attributes = dict(attributes)
        consumer = getattr(instrument, "_measurement_consumer", None)
        expected = hasattr(consumer, "_reader_storages") and hasattr(consumer, "_sdk_config")
        self._consumer: Any = consumer if expected else None
        self._filter_kind: type | None = None
        self._storages: Any = None
        self._adds: tuple[Add, ...] = ()
        self._others: tuple[_Aggregation[Any], ...] = ()

    def offers(self, value: float, time_unix_nano: int, context: Context, sampled: bool) -> bool:
        """Tell whether the exemplar filter wants `value`; the default one, which asks for sampled spans, costs nothing."""
        kind = self._filter_kind
        if kind is TraceBasedExemplarFilter:
            return sampled
        if kind is AlwaysOffExemplarFilter:
            return False
        chosen = self._consumer._sdk_config.exemplar_filter
        return bool(chosen.should_sample(value, time_unix_nano, self.attributes, context))

    def _bind(self) -> None:
        """Find the aggregations that the public method has just used; on any surprise, stay with that."""
        if self._consumer is None:
            return
        try:
            if type(self._instrument).__module__ != Histogram.__module__ or not self._instrument._is_enabled():
                self._consumer = None
                return
            storages = self._consumer._reader_storages
            aggregations = [
                found
                for storage in storages.values()
                for match in storage._get_or_init_view_instrument_match(self._instrument)
                for found in _find(match, self.attributes)
            ]
        except (AttributeError, TypeError, LookupError) as error:
            _log.info("this version of the OpenTelemetry SDK has no seam to bind to (%s): using the public API", error)
            self._consumer = None
            return
        kept = [found for found in aggregations if not isinstance(found, _DropAggregation)]
        self._adds = tuple(found.add for found in kept if isinstance(found, RouteAggregation))
        self._others = tuple(found for found in kept if not isinstance(found, RouteAggregation))
        self._filter_kind = type(self._consumer._sdk_config.exemplar_filter)
        self._storages = storages


class BoundHistogram(_Bound):
    """One series of `histogram`.

    Values must be finite and not negative: they are measured durations and counts, so that is not checked again.
    """

    __slots__ = ()

    def __init__(self, histogram: APIHistogram, attributes: Mapping[str, Any]) -> None:
        super().__init__(histogram, attributes)

    def record(self, value: float, context: Context, time_unix_nano: int, trace_id: int | None, sampled: bool) -> None:
        """Record one value; `trace_id` and `sampled` are those of the span that `context` leads to."""
        consumer = self._consumer
        if consumer is None or consumer._reader_storages is not self._storages:
            self._instrument.record(value, self.attributes, context)
            self._bind()
            return
        for add in self._adds:
            add(value, time_unix_nano, trace_id)
        if self._others:
            offered = self.offers(value, time_unix_nano, context, sampled)
            for aggregation in self._others:
                _aggregate_one(aggregation, value, time_unix_nano, self, context, offered)

    def record_many(self, durations_ns: Sequence[int], context: Context, time_unix_nano: int, sampled: bool) -> None:
        """Record durations (at least one) of a histogram of seconds; exemplars are offered for the longest of them alone."""
        consumer = self._consumer
        if consumer is None or consumer._reader_storages is not self._storages:
            for duration_ns in durations_ns:
                self._instrument.record(duration_ns / 1e9, self.attributes, context)
            self._bind()
            return
        for add in self._adds:
            for duration_ns in durations_ns:
                add(duration_ns / 1e9, time_unix_nano, None)
        for aggregation in self._others:
            _aggregate_many(aggregation, durations_ns, time_unix_nano, self, context, sampled)


class BoundCounter(_Bound):
    """One series of `counter`."""

    __slots__ = ("_sums",)

    def __init__(self, counter: APICounter, attributes: Mapping[str, Any]) -> None:
        super().__init__(counter, attributes)
        self._sums: tuple[
            Any, ...
        ] = ()  # the aggregations, where each is a sum and offers exemplars of sampled spans alone

    def add(self, amount: int) -> None:
        """Add `amount`; the SDK warns of a negative one and drops it."""
        consumer = self._consumer
        if consumer is None or amount < 0 or consumer._reader_storages is not self._storages:
            self._instrument.add(amount, self.attributes)
            self._bind()
            return
        record = serving.get()
        sampled = (record is None or record.eager or record.exported) and _is_sampled()
        if sampled or not self._sums:
            self._offer(amount, sampled)
            return
        for aggregation in self._sums:
            with aggregation._lock:
                aggregation._value = (aggregation._value or 0) + amount

    def _offer(self, amount: int, sampled: bool) -> None:
        context, now = get_current(), time_ns()
        one = _Measurement(amount, now, self.attributes, context)
        offered = self.offers(amount, now, context, sampled)
        for aggregation in self._others:
            aggregation.aggregate(one, offered)  # type: ignore[arg-type]  # the stand-in has what is read

    def _bind(self) -> None:
        super()._bind()
        is_plain = self._filter_kind in (TraceBasedExemplarFilter, AlwaysOffExemplarFilter)
        is_plain = is_plain and all(type(found) is _SumAggregation for found in self._others)
        self._sums = self._others if is_plain else ()


def _is_sampled() -> bool:
    return get_current_span().get_span_context().trace_flags.sampled


def _find(match: Any, attributes: Mapping[str, Any]) -> list[_Aggregation[Any]]:
    keys = match._view._attribute_keys
    wanted = attributes if keys is None else {key: value for key, value in attributes.items() if key in keys}
    found = [aggregation for aggregation in match._attributes_aggregation.values() if aggregation._attributes == wanted]
    if len(found) != 1:
        raise LookupError(f"{len(found)} aggregations of {match._name} have the attributes {wanted}")
    return found


def _aggregate_one(
    aggregation: _Aggregation[Any], value: float, now: int, series: BoundHistogram, context: Context, offered: bool
) -> None:
    if type(aggregation) is not _ExplicitBucketHistogramAggregation:
        one = _Measurement(value, now, series.attributes, context)
        aggregation.aggregate(one, offered)  # type: ignore[arg-type]  # the stand-in has what is read
        return
    with aggregation._lock:
        counts: list[int] | None = aggregation._value
        if counts is None:
            counts = aggregation._get_empty_bucket_counts()
            aggregation._value = counts  # type: ignore[assignment]  # the SDK declares None alone
        aggregation._sum += value  # type: ignore[assignment]  # likewise int
        if aggregation._record_min_max:
            if value < aggregation._min:
                aggregation._min = value
            if value > aggregation._max:
                aggregation._max = value
        counts[bisect_left(aggregation._boundaries, value)] += 1
    if offered:
        aggregation._reservoir.offer(value, now, series.attributes, context)


def _aggregate_many(
    aggregation: _Aggregation[Any],
    durations_ns: Sequence[int],
    now: int,
    series: BoundHistogram,
    context: Context,
    sampled: bool,
) -> None:
    if len(durations_ns) == 1 or type(aggregation) is not _ExplicitBucketHistogramAggregation:
        for duration_ns in durations_ns:
            value = duration_ns / 1e9
            _aggregate_one(aggregation, value, now, series, context, series.offers(value, now, context, sampled))
        return
    longest = max(durations_ns) / 1e9
    boundaries = aggregation._boundaries
    with aggregation._lock:
        counts: list[int] | None = aggregation._value
        if counts is None:
            counts = aggregation._get_empty_bucket_counts()
            aggregation._value = counts  # type: ignore[assignment]  # the SDK declares None alone
        aggregation._sum += sum(durations_ns) / 1e9  # type: ignore[assignment]  # likewise int
        if aggregation._record_min_max:
            aggregation._min = min(aggregation._min, min(durations_ns) / 1e9)
            aggregation._max = max(aggregation._max, longest)
        if not boundaries or longest <= boundaries[0]:
            counts[0] += len(durations_ns)  # queries of less than a millisecond, mostly
        else:
            for duration_ns in durations_ns:
                counts[bisect_left(boundaries, duration_ns / 1e9)] += 1
    if series.offers(longest, now, context, sampled):
        aggregation._reservoir.offer(longest, now, series.attributes, context)


def keep_views_away(meter_provider: MeterProvider, reader: MetricReader) -> None:
    """Let `reader` aggregate as it prefers, whatever views the user has set for his own readers.

    A view with another aggregation would take the raw samples from the windows. Where the SDK has no such seam, the views
    apply.
    """
    try:
        storages = meter_provider._measurement_consumer._reader_storages  # type: ignore[attr-defined]
        storage = storages[reader]
        storage._sdk_config = dataclasses.replace(storage._sdk_config, views=())
    except (AttributeError, TypeError, KeyError) as error:
        _log.info("the views of this meter provider apply to the performance reader as well: %s", error)
