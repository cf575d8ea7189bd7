"""Decisions asked for late are those of the sampler."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    AlwaysRecordSampler,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from telemetry.instrumentation.sampling import decider


class Own(Sampler):
    """A sampler that is not the SDK's."""

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "Own"


class Subclass(TraceIdRatioBased):
    """May do anything."""


SAMPLERS = [
    *(ALWAYS_ON, ALWAYS_OFF, DEFAULT_ON, DEFAULT_OFF, StaticSampler(Decision.RECORD_ONLY)),
    *(TraceIdRatioBased(0), TraceIdRatioBased(0.3), TraceIdRatioBased(1), ParentBasedTraceIdRatio(0.3)),
    ParentBased(TraceIdRatioBased(0.5), ALWAYS_OFF, ALWAYS_ON, TraceIdRatioBased(0.2), DEFAULT_ON),
]


@given(
    sampler=st.sampled_from(SAMPLERS),
    trace_id=st.integers(1, 2**128 - 1),
    parent=st.none() | st.tuples(st.booleans(), st.booleans()),
)
def test_a_decision_is_what_the_sampler_says(sampler: Sampler, trace_id: int, parent: tuple[bool, bool] | None) -> None:
    around, context = None, Context()
    if parent is not None:
        is_remote, sampled = parent
        around = SpanContext(trace_id, 1, is_remote, TraceFlags(int(sampled)))
        context = trace.set_span_in_context(NonRecordingSpan(around), context)
    decide = decider(sampler)
    assert decide is not None
    said = sampler.should_sample(context, trace_id, "GET /").decision is Decision.RECORD_AND_SAMPLE
    assert decide(around, trace_id) is said


@pytest.mark.parametrize("sampler", [Own(), Subclass(0.5), AlwaysRecordSampler(ALWAYS_OFF), ParentBased(Own())])
def test_a_sampler_that_is_not_known_is_not_guessed(sampler: Sampler) -> None:
    assert decider(sampler) is None
