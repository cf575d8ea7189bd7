"""Samplers whose decision may be asked for late: nobody can tell when they were called.

The SDK's own samplers decide by the parent and the trace id alone. For these there is a function that says the same without
making a `SamplingResult`; any other sampler is called by the SDK, when the span starts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanContext

Decider = Callable[[SpanContext | None, int], bool]
"""Says whether the span with this valid parent, or none, and this trace id is sampled."""


@functools.lru_cache(maxsize=16)
def decider(sampler: Sampler) -> Decider | None:
    """Return a function that decides as `sampler` does, or `None` for one that is not the SDK's."""
    kind = type(sampler)
    if kind is StaticSampler:
        sampled = sampler.should_sample(None, 1, "").decision is Decision.RECORD_AND_SAMPLE
        return lambda _, __: sampled
    if kind is TraceIdRatioBased:
        limit, bound = TraceIdRatioBased.TRACE_ID_LIMIT, sampler.bound  # type: ignore[attr-defined]  # by its type
        return lambda _, trace_id: trace_id & limit < bound
    if kind in (ParentBased, ParentBasedTraceIdRatio):
        return _by_parent(sampler)
    return None


def _by_parent(sampler: Sampler) -> Decider | None:
    delegates = [
        getattr(sampler, name, None)
        for name in (
            "_root",
            "_remote_parent_sampled",
            "_remote_parent_not_sampled",
            "_local_parent_sampled",
            "_local_parent_not_sampled",
        )
    ]
    found = [None if delegate is None else decider(delegate) for delegate in delegates]
    root, remote_sampled, remote_not_sampled, local_sampled, local_not_sampled = found
    if not (root and remote_sampled and remote_not_sampled and local_sampled and local_not_sampled):
        return None

    def decide(parent: SpanContext | None, trace_id: int) -> bool:
        if parent is None:
            return root(None, trace_id)
        if parent.is_remote:
            delegate = remote_sampled if parent.trace_flags.sampled else remote_not_sampled
        else:
            delegate = local_sampled if parent.trace_flags.sampled else local_not_sampled
        return delegate(parent, trace_id)

    return decide
