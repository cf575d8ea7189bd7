"""Instruments bound to their attributes, after OpenTelemetry's `bind` (specification #4126), which Python does not have yet.

`BoundHistogram.record` and `BoundCounter.add` reach the same aggregations as the SDK's instruments, without resolving the
attributes, building a `Measurement` and hashing each time. Histograms of explicit buckets, which most readers want, take their
values in batches: when there are some, and before anybody collects them. If anything inside the SDK is not as expected
(instruments of another class, an aggregation that can't be found), every call takes the public method instead. `test_bound.py`
names the versions it was checked with and compares the points that both ways give.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import operator
import threading
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.metrics import (
    AlignedHistogramBucketExemplarReservoir,
    AlwaysOffExemplarFilter,
    Histogram,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics._internal.aggregation import (
    _Aggregation,
    _DropAggregation,
    _ExplicitBucketHistogramAggregation,
    _SumAggregation,
)
from opentelemetry.trace import get_current_span

from telemetry.readers.performance import PerformanceMetricReader
from telemetry.readers.window import Add, RouteAggregation
from telemetry.requests import serving

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter as APICounter
    from opentelemetry.metrics import Histogram as APIHistogram
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader

_log = logging.getLogger(__name__)
_NO_SEAM: Final = "this version of the OpenTelemetry SDK has no seam to bind to (%s): using the public API"

_tell_once: Final = functools.lru_cache(maxsize=64)(_log.info)  # what is the same for every series


class _Measurement:
    """What aggregations and exemplar reservoirs read of the SDK's `Measurement`, at a tenth of its price."""

    __slots__ = ("attributes", "context", "time_unix_nano", "value")

    def __init__(self, value: float, time_unix_nano: int, attributes: Mapping[str, Any], context: Context) -> None:
        self.value = value
        self.time_unix_nano = time_unix_nano
        self.attributes = attributes
        self.context = context


class _Bound(ABC):
    """One series of an instrument. Thread-safe, as far as the SDK's own aggregations are."""

    __slots__ = ("_adds", "_consumer", "_filter_kind", "_instrument", "_others", "_storages", "attributes")

    def __init__(self, instrument: Any, attributes: Mapping[str, Any]) -> None:
        self._instrument = instrument
        self.attributes = dict(attributes)
        consumer = getattr(instrument, "_measurement_consumer", None)
        expected = hasattr(consumer, "_reader_storages") and hasattr(consumer, "_sdk_config")
        self._consumer: Any = consumer if expected else None
        if not expected and type(instrument).__module__ == Histogram.__module__:
            _tell_once(_NO_SEAM, "its instruments lead to no readers")
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

    def _readers(self) -> Any:
        """Return what the readers keep at present, by reader; another object once one has come or gone."""
        return getattr(self._consumer, "_reader_storages", None)

    def _bind(self, storages: Any) -> None:
        """Find the aggregations that the public method has just used, `storages` being what the readers had before; on any
        surprise, stay with that.
        """
        consumer = self._consumer
        if consumer is None or consumer._reader_storages is not storages:
            return  # in the latter case a reader has come or gone meanwhile, so that the next value binds
        try:
            if type(self._instrument).__module__ != Histogram.__module__ or not self._instrument._is_enabled():
                self._consumer = None
                return
            aggregations: list[Any] = [
                found
                for storage in storages.values()
                for match in storage._get_or_init_view_instrument_match(self._instrument)
                for found in ((_Passing(match),) if _throws_away(match) else _find(match, self.attributes))
            ]
        except (AttributeError, TypeError, LookupError) as error:
            _tell_once(_NO_SEAM, str(error))
            self._consumer = None
            return
        kept = [found for found in aggregations if not isinstance(found, _DropAggregation)]
        self._adds = tuple(found.add for found in kept if isinstance(found, RouteAggregation))
        self._others = tuple(found for found in kept if not isinstance(found, RouteAggregation))
        self._filter_kind = type(consumer._sdk_config.exemplar_filter)
        self._sort_others()
        self._storages = storages  # last: from here on, other threads take this series for bound

    @abstractmethod
    def _sort_others(self) -> None:
        """Find out how each of the others takes its values."""

    def _aggregate(
        self,
        aggregations: Sequence[_Aggregation[Any]],
        value: float,
        time_unix_nano: int,
        context: Context,
        sampled: bool,
    ) -> None:
        """Give `value` to `aggregations` as the SDK does, as an exemplar where the filter wants it."""
        one = _Measurement(value, time_unix_nano, self.attributes, context)
        offered = self.offers(value, time_unix_nano, context, sampled)
        for aggregation in aggregations:
            aggregation.aggregate(one, offered)  # type: ignore[arg-type]  # the stand-in has what is read


Ids = tuple[int, int]
"""Trace and span id of what a measurement belongs to."""
NO_IDS: Final[Ids] = (0, 0)
_BATCH: Final = 32
"""Values that are aggregated at once."""
_FEW: Final = 8
"""As many of one request at most wait for others; more are a batch themselves."""


class _BatchedHistogram(_ExplicitBucketHistogramAggregation):
    """The SDK's histogram, taking values in batches, at half of the price; `_batched` makes one of an aggregation that is in
    use. Thread-safe under the interpreter's lock, which makes appending to an array one step, and copying it another.
    """

    pending: array[float]
    _latest: dict[int, tuple[float, int, Mapping[str, Any], Ids]]
    """The newest value of a sampled span in each bucket: all that a reservoir aligned to the buckets keeps."""

    def begin(self) -> None:
        """Have what one needs; a thread that comes second finds what the first has put there, with its values."""
        vars(self).setdefault("pending", array("d"))
        vars(self).setdefault("_latest", {})

    def take(self) -> None:
        """Aggregate what is pending."""
        with self._lock:
            self._take()

    def take_unless_busy(self) -> None:
        """Aggregate what is pending, or leave it to the next if somebody is at it: that may be this thread, if it collects
        garbage meanwhile, and a finalizer in that records.
        """
        if self._lock.acquire(blocking=False):
            try:
                self._take()
            finally:
                self._lock.release()

    def add_unless_busy(self, durations_ns: Sequence[int]) -> None:
        """Aggregate durations (at least one) of a histogram of seconds, or have them wait if somebody is at it."""
        if self._lock.acquire(blocking=False):
            try:
                self._add(durations_ns, 1e9)
            finally:
                self._lock.release()
        else:
            self.pending.extend([duration_ns / 1e9 for duration_ns in durations_ns])

    def _take(self) -> None:
        # A copy's list: up to Python 3.11, garbage that is collected while `tolist` makes one lets others append, and then
        # it writes beyond its end.
        taken = self.pending[:].tolist()
        del self.pending[: len(taken)]
        if taken:
            self._add(taken, 1)

    def _add(self, values: Sequence[float], per_unit: float) -> None:
        counts: list[int] | None = self._value
        if counts is None:
            counts = self._get_empty_bucket_counts()
            self._value = counts  # type: ignore[assignment]  # the SDK declares None alone
        most = max(values) / per_unit
        self._sum += sum(values) / per_unit  # type: ignore[assignment]  # likewise int
        if self._record_min_max:
            self._min = min(self._min, min(values) / per_unit)
            self._max = max(self._max, most)
        boundaries = self._boundaries
        if not boundaries or most <= boundaries[0]:
            counts[0] += len(values)  # queries of less than a millisecond, mostly
            return
        for value in values:
            counts[bisect_left(boundaries, value / per_unit)] += 1

    def offer(self, value: float, now: int, attributes: Mapping[str, Any], ids: Ids) -> None:
        """Offer a value of a sampled span as an exemplar."""
        self._latest[bisect_left(self._boundaries, value)] = (value, now, attributes, ids)

    def aggregate(self, measurement: Any, should_sample_exemplar: bool = True) -> None:
        """Aggregate a value that comes by the public API; as an exemplar it is newer than those before it."""
        if should_sample_exemplar:
            self._hand_over()
        super().aggregate(measurement, should_sample_exemplar)

    def collect(self, *args: Any, **kwargs: Any) -> Any:
        """Aggregate what is pending, and return the point."""
        self._hand_over()  # first, so that the values of these are in the point as well
        self.take()
        return super().collect(*args, **kwargs)

    def _hand_over(self) -> None:
        """Offer the newest values to the reservoir."""
        for bucket in list(self._latest):  # one by one: threads may offer others meanwhile
            latest = self._latest.pop(bucket, None)
            if latest is not None:
                value, now, attributes, ids = latest
                span = trace.NonRecordingSpan(trace.SpanContext(*ids, False, _SAMPLED))
                self._reservoir.offer(value, now, attributes, trace.set_span_in_context(span, Context()))


_SAMPLED: Final = trace.TraceFlags(trace.TraceFlags.SAMPLED)
_used: Final = operator.attrgetter(
    "_boundaries",
    "_get_empty_bucket_counts",
    "_lock",
    "_max",
    "_min",
    "_record_min_max",
    "_reservoir",
    "_sum",
    "_value",
)
"""What `_BatchedHistogram` needs of the SDK's class; raises `AttributeError` where that has become another."""


def _batched(aggregation: _Aggregation[Any]) -> _BatchedHistogram | None:
    """Return `aggregation` as one that takes batches; `None` if it is none of those that can."""
    # No lock, which a thread may hold while the process forks: all of this may be done twice at once.
    if type(aggregation) is _ExplicitBucketHistogramAggregation:
        try:
            _used(aggregation)
            if type(aggregation._reservoir) is AlignedHistogramBucketExemplarReservoir:
                _BatchedHistogram.begin(aggregation)  # type: ignore[arg-type]  # first: other threads may collect it
                aggregation.__class__ = _BatchedHistogram
        except (AttributeError, TypeError) as error:
            _tell_once("the histograms of this version of the OpenTelemetry SDK take no batches: %s", str(error))
    return aggregation if isinstance(aggregation, _BatchedHistogram) else None


class BoundHistogram(_Bound):
    """One series of `histogram`.

    Values must be finite and not negative: they are measured durations and counts, so that is not checked again.
    """

    __slots__ = ("_batches", "_gives_exemplars", "_single")

    def __init__(self, histogram: APIHistogram, attributes: Mapping[str, Any]) -> None:
        super().__init__(histogram, attributes)
        self._gives_exemplars = False  # those of sampled spans, where values are taken in batches
        self._batches: tuple[_BatchedHistogram, ...] = ()
        self._single: tuple[_Aggregation[Any], ...] = ()  # those of the others that take one value at a time

    def record(self, value: float, context: Context, time_unix_nano: int, ids: Ids, sampled: bool) -> None:
        """Record one value; `ids` and `sampled` are those of the span that `context` leads to."""
        consumer = self._consumer
        if consumer is None or consumer._reader_storages is not self._storages:
            storages = self._readers()
            self._instrument.record(value, self.attributes, _unless_rejected(context, sampled))
            self._bind(storages)
            return
        for add in self._adds:
            add(value, time_unix_nano, ids[0])
        for batched in self._batches:
            pending = batched.pending
            pending.append(value)
            if sampled and self._gives_exemplars:
                batched.offer(value, time_unix_nano, self.attributes, ids)
            if len(pending) >= _BATCH:
                batched.take_unless_busy()
        if self._single:
            self._aggregate(self._single, value, time_unix_nano, context, sampled)

    def record_many(
        self, durations_ns: Sequence[int], context: Context, time_unix_nano: int, ids: Ids, sampled: bool
    ) -> None:
        """Record durations (at least one) of a histogram of seconds; exemplars are offered for the longest of them alone,
        where the aggregation takes batches.
        """
        consumer = self._consumer
        if consumer is None or consumer._reader_storages is not self._storages:
            storages = self._readers()
            told = _unless_rejected(context, sampled)
            for duration_ns in durations_ns:
                self._instrument.record(duration_ns / 1e9, self.attributes, told)
            self._bind(storages)
            return
        if not self._adds and not self._others:
            return
        for add in self._adds:
            for duration_ns in durations_ns:
                add(duration_ns / 1e9, time_unix_nano, 0)
        for batched in self._batches:
            if len(durations_ns) <= _FEW:
                pending = batched.pending
                for duration_ns in durations_ns:
                    pending.append(duration_ns / 1e9)
                if len(pending) >= _BATCH:
                    batched.take_unless_busy()
            else:
                batched.add_unless_busy(durations_ns)
            if sampled and self._gives_exemplars:
                batched.offer(max(durations_ns) / 1e9, time_unix_nano, self.attributes, ids)
        if self._single:
            for duration_ns in durations_ns:
                self._aggregate(self._single, duration_ns / 1e9, time_unix_nano, context, sampled)

    def _sort_others(self) -> None:
        self._gives_exemplars = self._filter_kind is TraceBasedExemplarFilter
        can_batch = self._gives_exemplars or self._filter_kind is AlwaysOffExemplarFilter
        batches = [_batched(found) for found in self._others] if can_batch else []
        self._batches = tuple(found for found in batches if found is not None)
        self._single = tuple(found for found in self._others if found not in self._batches)


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
            storages = self._readers()
            context = get_current()
            self._instrument.add(amount, self.attributes, _unless_rejected(context, _is_sampled()))
            self._bind(storages)
            return
        sampled = _is_sampled()
        if sampled or not self._sums:
            self._aggregate(self._others, amount, time_ns(), get_current(), sampled)
            return
        for aggregation in self._sums:
            with aggregation._lock:
                aggregation._value = (aggregation._value or 0) + amount

    def _sort_others(self) -> None:
        is_plain = self._filter_kind in (TraceBasedExemplarFilter, AlwaysOffExemplarFilter)
        is_plain = is_plain and all(type(found) is _SumAggregation for found in self._others)
        self._sums = self._others if is_plain else ()


def _is_sampled() -> bool:
    """Tell whether the current span is exported, as far as is known: of a request that may be left out at its end, it is not."""
    record = serving.get()
    if record is not None and not record.eager and (not record.exported or record.held is not None):
        return False
    return get_current_span().get_span_context().trace_flags.sampled


def _unless_rejected(context: Context, sampled: bool) -> Context:
    """Return a context whose span is as `sampled` says: of a request that is not exported its own context does not know that."""
    if sampled:
        return context
    ids = get_current_span(context).get_span_context()
    if not ids.trace_flags.sampled:
        return context
    rejected = trace.SpanContext(
        ids.trace_id, ids.span_id, ids.is_remote, trace.TraceFlags.get_default(), ids.trace_state
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(rejected), context)


class _Passing:
    """Stands for the aggregations of a match that has none for good: each value looks for its own there."""

    def __init__(self, match: Any) -> None:
        self.aggregate = match.consume_measurement


def _throws_away(match: Any) -> bool:
    """Tell whether nothing may hold on to the aggregations of `match`: those of deltas, from version 1.45.2 of the SDK on."""
    return bool(getattr(match, "_reset_on_collect", False))


def _find(match: Any, attributes: Mapping[str, Any]) -> Sequence[_Aggregation[Any] | _Passing]:
    keys = match._view._attribute_keys
    wanted = attributes if keys is None else {key: value for key, value in attributes.items() if key in keys}
    known = list(match._attributes_aggregation.values())  # a copy: other threads add series meanwhile
    found = [aggregation for aggregation in known if aggregation._attributes == wanted]
    if not found and len(known) > getattr(match, "_cardinality_limit", len(known)):
        return [_Passing(match)]  # beyond the limit that there is from version 1.45.2 on: the values share one point
    if len(found) != 1:
        raise LookupError(f"{len(found)} aggregations of {match._name} have the attributes {wanted}")
    return found


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


def begin_anew(meter_provider: MeterProvider) -> None:
    """Let the sums begin at zero in a forked child: those from before the fork are its parent's, who tells of them.

    What our own reader keeps stays: the windows, and the cache figures since the start. No lock is taken, and no old one is
    left: a thread of the parent may have held it.
    """
    try:
        consumer: Any = meter_provider._measurement_consumer  # type: ignore[attr-defined]
        consumer._lock = threading.Lock()
        consumer._reader_storages = {
            reader: _unlocked(reader, storage) if isinstance(reader, PerformanceMetricReader) else _empty(storage)
            for reader, storage in consumer._reader_storages.items()
        }
    except (AttributeError, TypeError) as error:
        _log.info("the sums of this version of the OpenTelemetry SDK go on in a forked process: %s", error)


def _empty(storage: Any) -> Any:
    made = copy.copy(storage)
    made._lock, made._instrument_view_instrument_matches = threading.RLock(), {}
    return made


def _unlocked(reader: PerformanceMetricReader, storage: Any) -> Any:
    reader.unlock()
    storage._lock = threading.RLock()
    for matches in storage._instrument_view_instrument_matches.values():
        for match in matches:
            match._lock = threading.Lock()
            for aggregation in match._attributes_aggregation.values():
                aggregation._lock = threading.Lock()
                if hasattr(aggregation._reservoir, "_lock"):
                    aggregation._reservoir._lock = threading.Lock()
    return storage
