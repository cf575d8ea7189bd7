"""The server span of a request: a real span that costs little while nobody looks at it, or the SDK's own at once."""

from __future__ import annotations

import contextlib
import copy
import enum
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import starmap
from random import getrandbits
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import SpanLimits, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from telemetry import instruments
from telemetry.exporters.ended_request import (
    MOST_OWN,
    NO_ATTRIBUTES,
    EndedRequest,
    Source,
    has_room,
    is_plain,
    query_attributes,
    query_figures,
    query_span_name,
    request_attributes,
    source_attributes,
    span_name,
)
from telemetry.exporters.processor import DeferredSpanProcessor
from telemetry.failure import Failure, failure_in
from telemetry.forked import reentrant_lock
from telemetry.instrumentation.propagation import SPAN_KEY, Environ, traceparent
from telemetry.instrumentation.sampling import decider
from telemetry.query import DURATION_NS, ERROR_TYPE, FLAGS, MADE, SITE, SQL, START_NS, with_span
from telemetry.settings import TelemetrySettings
from telemetry.source import NO_SITE, Site
from telemetry.tail import stronger

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span
    from opentelemetry.util.types import Attributes, AttributeValue
    from werkzeug.routing import Rule

    from telemetry.exporters.ended_request import Plain, ServerFacts
    from telemetry.exporters.processor import Item
    from telemetry.query import Query
    from telemetry.requests import Held, RequestRecord
    from telemetry.tail import Decision, TailPolicy

_log = logging.getLogger(__name__)
_SPAN_ID = 2**64 - 1


def server_kind(parent: Context) -> SpanKind:
    """Return the kind of a request's span: one that is served inside a span of this process is internal to it."""
    around = trace.get_current_span(parent).get_span_context()
    return SpanKind.INTERNAL if around.is_valid and not around.is_remote else SpanKind.SERVER


class DeferredSpan(trace.Span):
    """The current span of a request that nobody needs a span of yet.

    It becomes a span of the SDK, with its ids, its sampling and its limits, the moment somebody wants more of it than its ids,
    whether it records, and to set a few plain attributes. Until then it costs nothing but itself. Thread-safe.
    """

    __slots__ = (
        "_chosen",
        "_environ",
        "_ids",
        "_made",
        "_parent",
        "_record",
        "_tracing",
        "facts",
        "made_for",
        "own",
        "reserved",
    )

    def __init__(self, tracing: Tracing, parent: Context, record: RequestRecord, environ: Environ) -> None:
        self._tracing = tracing
        self._parent = parent
        self._record = record
        self._environ = environ
        self._made: Span | None = None
        self.made_for: Rule | None = None
        """The rule that was known when the span was made."""
        self._ids: SpanContext | None = None
        self._chosen: tuple[SpanContext, bool] | None = None
        self.own = NO_ATTRIBUTES
        """The attributes that the app has set on it."""
        self.facts: tuple[Any, ...] = ()
        """What is told of the environment, where the span is exported: as the app gets it, behind other middleware."""
        self.reserved: tuple[int, int] | None = None
        """Trace and span id that the span must have whatever becomes of it: from the start while nobody listens, else once they
        have been told to somebody."""
        if not record.exported:
            self.reserved = tracing.new_ids(self.parent_context if parent else None)

    @property
    def around(self) -> Context:
        """The context that the request came in."""
        return self._parent

    @property
    def made(self) -> Span | None:
        """The span of the SDK, if it has been needed."""
        return self._made

    def make(self) -> Span:
        """Return the span of the SDK; after the end of the request, or for an excluded route, one that records nothing."""
        record = self._record
        is_left_out = record.capture.leaves_out(record)
        with _making:
            if self._made is None:
                if record.complete or is_left_out:
                    self._made = trace.NonRecordingSpan(self._late_ids())
                else:
                    self.made_for = record.rule
                    made = self._tracing.start_server_span(record, self._environ, self._parent, self.reserved)
                    made.set_attributes(self.own)
                    self._made = made
            return self._made

    def _notes(self, attributes: Mapping[str, AttributeValue]) -> bool:
        """Note attributes that the app sets, or drop them where the span is not sampled; tell whether that can be done without
        making it."""
        if self._made is not None or not all(starmap(is_plain, attributes.items())):
            return False
        with _making:
            if self._choose() is not self or not self._tracing.has_room or len(self.own) + len(attributes) > MOST_OWN:
                return False
            if self.chosen_ids()[1]:
                plain = cast("Mapping[str, Plain]", attributes)
                self.own = {**self.own, **plain}  # a new one: what is exported may hold the one before
            return True

    def traceparent(self) -> str:
        """Return the value of a `traceparent` header that names the span, without making it."""
        if self._record.exported or self._made is not None or self.reserved is None:
            return traceparent(*self._reserve())
        trace_id, span_id = self.reserved
        return f"00-{trace_id.to_bytes(16).hex()}-{span_id.to_bytes(8).hex()}-00"

    def _reserve(self) -> tuple[int, int, int]:
        with _making:
            ids = self.chosen_ids()[0] if self._made is None else self._made.get_span_context()
            self.reserved = ids.trace_id, ids.span_id
            return *self.reserved, ids.trace_flags

    def chosen_ids(self) -> tuple[SpanContext, bool]:
        """Return the ids of a span that nobody has looked at, those told already among them, and whether it is sampled."""
        chosen = self._chosen
        if chosen is None:
            with _making:  # threads of a request may ask at once
                chosen = self._chosen
                if chosen is None:
                    chosen = self._chosen = self._tracing.ids(self.parent_context, self.reserved)
        return chosen

    def settle(self, ids: SpanContext) -> bool:
        """Fix the ids at the end of the request; tell whether they came in time, before anybody has looked."""
        with _making:
            self._ids = ids
            return self._made is None

    def _choose(self) -> trace.Span:
        """Return this span with its ids fixed if the SDK's span is not needed yet, else the SDK's span."""
        record, rule = self._record, self._record.find_rule()
        with _making:
            is_open = self._made is None and not record.complete and self._tracing.decides_late
            if not is_open or rule is None or record.capture.is_excluded(rule):
                return self.make()
            self._ids = self.chosen_ids()[0]
            self.reserved = self._ids.trace_id, self._ids.span_id
            return self

    def _late_ids(self) -> SpanContext:
        """Return the ids of a request whose span nobody has looked at until its end."""
        record, parent = self._record, self.parent_context
        if record.capture.leaves_out(record):
            return parent or trace.INVALID_SPAN_CONTEXT
        return self._ids or self._tracing.ids(parent, self.reserved)[0]

    @property
    def parent_context(self) -> SpanContext | None:
        """The span that the request continues, if there is one."""
        parent = self._parent.get(SPAN_KEY)
        if not isinstance(parent, trace.Span):
            return None
        span_context = parent.get_span_context()
        return span_context if span_context.is_valid else None

    def get_span_context(self) -> SpanContext:
        """Return the ids, which the span does not have to be made for: metrics ask for them with each measurement."""
        if self._made is None and self._ids is not None:
            return self._ids
        return (self._made or self._choose()).get_span_context()

    def is_recording(self) -> bool:
        if self._made is None:
            with _making:
                if self._choose() is self:
                    return self.chosen_ids()[1]
        return (self._made or self.make()).is_recording()

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        if not (is_plain(key, value) and self._notes({key: value})):  # a key may be of any type
            (self._made or self.make()).set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        if not self._notes(attributes or {}):
            (self._made or self.make()).set_attributes(attributes)

    def update_name(self, name: str) -> None:
        (self._made or self.make()).update_name(name)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        (self._made or self.make()).add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        (self._made or self.make()).add_link(context, attributes)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        (self._made or self.make()).set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        (self._made or self.make()).record_exception(exception, attributes, timestamp, escaped)

    def end(self, end_time: int | None = None) -> None:
        (self._made or self.make()).end(end_time)

    def __getattr__(self, name: str) -> Any:
        """What spans of the SDK have beyond the API (`name`, `attributes`, `parent`), for code that expects one."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._made or self.make(), name)


def random_ids() -> tuple[int, int]:
    """Return a trace and a span id, out of one random number."""
    made = getrandbits(192)
    return made >> 64 or 1, made & _SPAN_ID or 1


_making = reentrant_lock()  # a sampler or an id generator may look at the current span


class Mode(enum.Enum):
    """What becomes of spans."""

    SILENT = "nobody listens: no span is made that nobody looks at"
    DEFERRED = "only processors of ours listen: spans are made of records, behind the requests"
    EAGER = "somebody is there to see spans start: they are made at once"


_METHODS = ("on_start", "_on_ending", "on_end")
_SEEING_SPANS = tuple(vars(BatchSpanProcessor).get(name) for name in _METHODS)


class _Batches:
    """Gives the spans of ended requests to a batch processor that the app has set up: its exporter gets them later anyway, and
    it does nothing when a span starts."""

    def __init__(self, processor: SpanProcessor) -> None:
        self._processor = processor

    @property
    def is_plain(self) -> bool:
        """Whether it is as OpenTelemetry has made it: some set functions of their own on a processor, which see spans start."""
        own = vars(self._processor)
        return tuple(
            vars(BatchSpanProcessor).get(name) for name in _METHODS
        ) == _SEEING_SPANS and own.keys().isdisjoint(_METHODS)

    def emit(self, item: Item) -> None:
        """Make the spans and hand them over, in the order in which they ended."""
        assert isinstance(item, EndedRequest)  # the SDK hands over what it makes itself
        spans = item.spans(told=query_figures)
        for span in spans if item.server is None else (*spans[1:], spans[0]):
            self._processor.on_end(span)


class Tracing:
    """Makes the spans of requests and queries on one tracer provider; one that is not the SDK's makes none."""

    def __init__(
        self,
        provider: trace.TracerProvider,
        operation: Callable[[str], dict[str, str]],
        tail: TailPolicy | None = None,
        repeats: int = TelemetrySettings.repeats_warning,
    ) -> None:
        """Make spans by `provider`; `operation` returns the attributes of a statement, `tail` thins out requests, and `repeats`
        runs of a statement from one line are a finding.
        """
        self.provider = provider
        self.repeats = repeats
        self.operation = operation
        self.tail = tail
        self.tracer = provider.get_tracer(instruments.SCOPE, schema_url=instruments.SCHEMA_URL)
        self._sdk = provider if isinstance(provider, TracerProvider) and isinstance(self.tracer, Tracer) else None
        self._seen: object = None
        self._mode = Mode.SILENT
        self._processors: tuple[DeferredSpanProcessor | _Batches, ...] = ()
        self._batches: tuple[_Batches, ...] = ()  # those among them
        self._decide = decider(self._sdk.sampler) if self._sdk is not None else None
        self._source: Source | None = None

    @property
    def mode(self) -> Mode:
        """What becomes of spans now; follows processors that are added later."""
        sdk = self._sdk
        if sdk is None:
            return Mode.SILENT
        try:
            processors = sdk._active_span_processor._span_processors
        except AttributeError:  # a version of the SDK that keeps them elsewhere
            return Mode.EAGER
        if processors is not self._seen:
            self._look_at(processors)
            self._seen = processors
        if self._batches and not all(batches.is_plain for batches in self._batches):
            return Mode.EAGER  # also while requests are under way whose spans these are to get
        return self._mode

    def _look_at(self, processors: Sequence[SpanProcessor]) -> None:
        self._processors = tuple(filter(None, map(self._taker, processors)))
        self._batches = tuple(taker for taker in self._processors if isinstance(taker, _Batches))
        if self._decide is None or len(self._processors) < len(processors):
            self._mode = Mode.EAGER
            if self.tail is not None:
                _log.warning(
                    "the setting export has no effect: span processors or a sampler of the app's own see every span start"
                )
        else:
            self._mode = Mode.DEFERRED if processors else Mode.SILENT

    def _taker(self, processor: SpanProcessor) -> DeferredSpanProcessor | _Batches | None:
        """Return what takes the spans of a processor that need not see them start; `None` for others."""
        if isinstance(processor, DeferredSpanProcessor):
            return processor
        if type(processor) is not BatchSpanProcessor or self.tail is not None:
            return None  # what the SDK ends itself goes past us, so that a request could not be kept back whole
        return _Batches(processor)

    @property
    def has_room(self) -> bool:
        """Whether a span may have the attributes that are noted of it without any limit being met."""
        return has_room(self._current_source().limits)

    @property
    def decides_late(self) -> bool:
        """Whether it can be told without the SDK if a span is sampled."""
        return self._decide is not None

    @property
    def listened_to(self) -> bool:
        """Whether spans that are made end anywhere."""
        return self.mode is not Mode.SILENT

    def deferred_span(self, parent: Context, record: RequestRecord, environ: Environ) -> DeferredSpan | None:
        """Return a span that is made when it is looked at; `None` where spans are switched off."""
        return None if self._sdk is None else DeferredSpan(self, parent, record, environ)

    def start_server_span(
        self, record: RequestRecord, environ: Environ, parent: Context, told: tuple[int, int] | None = None
    ) -> Span:
        """Start the SDK's own span for a request, with the ids that somebody was `told`, if anybody was."""
        rule = record.rule.rule if record.rule is not None else None
        attributes = request_attributes(environ, record.method, rule)
        tracer = self.tracer if told is None else _with_ids(self.tracer, told)
        span = tracer.start_span(
            span_name(record.method, rule), parent, server_kind(parent), attributes, start_time=record.start_unix_ns
        )
        return _with_attributes(span, attributes)

    def start_query_span(
        self, sql: str, start_unix_ns: int | None = None, site: Site = NO_SITE, context: Context | None = None
    ) -> Span:
        """Start the span of one query that comes from `site`, in `context` or the current one."""
        operation = self.operation(sql)
        attributes = query_attributes(operation, sql) | source_attributes(site[0], site[1])
        name = query_span_name(operation)
        span = self.tracer.start_span(name, context, SpanKind.CLIENT, attributes, start_time=start_unix_ns)
        return _with_attributes(span, attributes)

    def make_query_span(self, record: RequestRecord, query: Query, context: Context | None = None) -> None:
        """Make the span of a query that is over, in `context` or the current one."""
        start_unix_ns = record.start_unix_ns + query[START_NS] - record.start_ns
        span = self.start_query_span(query[SQL], start_unix_ns, query[SITE:], context)
        end_span(span, None, query[ERROR_TYPE], query[DURATION_NS], start_unix_ns)

    def new_ids(self, parent: SpanContext | None) -> tuple[int, int]:
        """Return trace and span id for a new span, as the SDK would."""
        assert self._sdk is not None
        generator = self._sdk.id_generator
        if type(generator) is RandomIdGenerator:
            made = random_ids()
            return made if parent is None else (parent.trace_id, made[1])
        trace_id = generator.generate_trace_id() if parent is None else parent.trace_id
        return trace_id, generator.generate_span_id()

    def ids(self, parent: SpanContext | None, told: tuple[int, int] | None = None) -> tuple[SpanContext, bool]:
        """Return the ids that the SDK would give a span with this parent, or those `told` already, and whether it is sampled."""
        assert self._sdk is not None
        assert self._decide is not None
        generator = self._sdk.id_generator
        trace_id, span_id = told or self.new_ids(parent)
        is_random = generator.is_trace_id_random() if parent is None else parent.trace_flags.random_trace_id
        sampled = self._decide(parent, trace_id)
        flags = _FLAGS[sampled, is_random]
        trace_state = None if parent is None else parent.trace_state
        return SpanContext(trace_id, span_id, False, flags, trace_state), sampled

    def emit(
        self, record: RequestRecord, ids: SpanContext, server: ServerFacts | None, queries: Sequence[Query]
    ) -> None:
        """Give what is left of a sampled request to the processors that make spans of it."""
        if sum([query[FLAGS] & MADE for query in queries]):  # what others are made of would count twice in the queue
            queries = [query for query in queries if not query[FLAGS] & MADE]
        if server is None and not queries:
            return
        ended = EndedRequest(self._current_source(), ids, record.start_ns, record.start_unix_ns, server, queries)
        if record.held is not None:
            record.held.append((None, ended))
        elif not record.is_rejected:
            self._give(((None, ended),))

    def emit_inside(self, record: RequestRecord, noted: Sequence[tuple[Query, SpanContext]]) -> None:
        """Give queries that were made inside of spans of the app's own, as children of these."""
        assert self._decide is not None
        by_parent: dict[tuple[int, int], tuple[SpanContext, list[Query]]] = {}
        for query, parent in noted:
            found = by_parent.setdefault((parent.trace_id, parent.span_id), (parent, []))
            found[1].append(with_span(query))
        for parent, inside in by_parent.values():
            try:
                if self._decide(parent, parent.trace_id):
                    flags = _FLAGS[True, parent.trace_flags.random_trace_id]
                    ids = SpanContext(parent.trace_id, parent.span_id, False, flags, parent.trace_state)
                    self.emit(record, ids, None, inside)
            except Exception:  # it is what the app says that it is
                record.capture.fail("queries could not be exported as children of a span of the app")

    def hold(self, record: RequestRecord, outer: RequestRecord | None) -> None:
        """Keep back what `record` would export until it is known whether it is kept."""
        record.held = []
        if outer is not None and outer.held is not None and outer.capture.tracing is self:
            record.outer = outer

    def release(self, record: RequestRecord) -> None:
        """Export what was kept back, drop it, or leave it to the request around, by `record.decision`."""
        held = record.take_held()
        if held is None:
            return
        outer = record.outer
        if outer is not None and outer.held is not None:
            outer.held += held
            outer.decision = stronger(outer.decision, record.decision)
        elif record.decision is not None:
            self._give([(only, _decided(item, record.decision)) for only, item in held])
        else:
            record.is_rejected = True

    def _give(self, items: Sequence[Held]) -> None:
        for only, item in items:
            for processor in self._processors if only is None else (only,):
                processor.emit(item)

    def _current_source(self) -> Source:
        assert self._sdk is not None
        source, resource = self._source, self._sdk.resource
        if source is None or source.resource is not resource:  # a fork changes the resource
            limits = getattr(self.tracer, "_span_limits", None) or SpanLimits()
            info = getattr(self.tracer, "instrumentation_info", None)
            source = Source(resource, _SCOPE, limits, self._sdk.id_generator, self.operation, info, self.repeats)
            self._source = source
        return source


_SCOPE = InstrumentationScope(instruments.SCOPE, "", instruments.SCHEMA_URL)
_FLAGS = {
    (sampled, is_random): TraceFlags(
        (TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        | (TraceFlags.RANDOM_TRACE_ID if is_random else TraceFlags.DEFAULT)
    )
    for sampled in (False, True)
    for is_random in (False, True)
}


class _ToldIds(IdGenerator):
    """Gives out the ids of one span."""

    def __init__(self, ids: tuple[int, int], generator: IdGenerator) -> None:
        self._ids = ids
        self._generator = generator

    def generate_trace_id(self) -> int:
        return self._ids[0]

    def generate_span_id(self) -> int:
        return self._ids[1]

    def is_trace_id_random(self) -> bool:
        return self._generator.is_trace_id_random()


def _with_ids(tracer: trace.Tracer, ids: tuple[int, int]) -> trace.Tracer:
    """Return a tracer like `tracer` whose next span has these ids; one that is not the SDK's stays as it is."""
    if not isinstance(tracer, Tracer):
        return tracer
    made = copy.copy(tracer)
    made.id_generator = _ToldIds(ids, tracer.id_generator)
    return made


def _with_attributes(span: Span, attributes: Mapping[str, AttributeValue]) -> Span:
    """Return `span` with its attributes, which the SDK throws away where a sampler returns attributes of its own."""
    kept = getattr(span, "attributes", None)
    is_cut = getattr(span, "dropped_attributes", 0)  # by a limit
    if kept is not None and next(iter(attributes)) not in kept and not is_cut and span.is_recording():
        span.set_attributes(attributes)
    return span


def _decided(item: Item, decision: Decision) -> Item:
    """Return what was kept back with the reason why it is exported: that of the request around, where that is stronger."""
    if isinstance(item, EndedRequest) and item.server is not None:
        item.server = item.server._replace(decision=stronger(item.server.decision, decision))
    return item


def end_span(
    span: Span, error: BaseException | None, error_type: str | None, duration_ns: int, start_unix_ns: int
) -> None:
    """End `span` `duration_ns` after its start, as failed where there is an error type, which may tell of an exception too."""
    if error_type is not None and span.is_recording():
        failure = failure_in(error_type) if error is None else Failure.of(error)
        if failure is not None:
            _add_exception(span, error, failure)
        description = None if failure is None else failure.description
        span.set_attribute(instruments.ERROR_TYPE, str(error_type))
        span.set_status(Status(StatusCode.ERROR, description))
    span.end(start_unix_ns + duration_ns)


def _add_exception(span: Span, error: BaseException | None, failure: Failure) -> None:
    """Add the event of an exception; where that is left to the span's class, by what it has for that."""
    if error is not None and type(span).record_exception is not SdkSpan.record_exception:
        with contextlib.suppress(Exception):  # it can't be written as text
            span.record_exception(error, failure.attributes, escaped=True)
            return
    span.add_event("exception", failure.attributes)
