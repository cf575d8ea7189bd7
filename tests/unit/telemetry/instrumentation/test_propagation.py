"""What a request continues is what the propagators say, however it is found out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from telemetry.instrumentation.propagation import incoming_context

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEX = st.sampled_from("0123456789abcdef")
HEADERS = st.one_of(
    st.builds(
        "{}-{}-{}-{}{}".format,
        st.sampled_from(["00", "00", "00", "01", "ff", "0"]),
        st.one_of(st.just("0" * 32), st.text(HEX, min_size=32, max_size=32), st.text(HEX, max_size=33)),
        st.one_of(st.just("0" * 16), st.text(HEX, min_size=16, max_size=16), st.text(HEX, max_size=17)),
        st.one_of(st.text(HEX, min_size=2, max_size=2), st.text(HEX, max_size=3)),
        st.sampled_from(["", "", "", " ", "\t", "-", "-more", "\n"]),
    ),
    st.sampled_from(
        ["", " " + TRACEPARENT, TRACEPARENT.upper(), TRACEPARENT, TRACEPARENT[:-1], TRACEPARENT[:-2] + "½½"]
    ),
    st.text(),
)


@given(
    HEADERS, st.sampled_from([{}, {}, {"HTTP_TRACESTATE": "a=1,b=2"}, {"HTTP_BAGGAGE": "a=1"}, {"HTTP_ACCEPT": "*/*"}])
)
def test_a_request_continues_what_the_propagators_say_that_it_continues(header: str, others: dict[str, str]) -> None:
    environ = {"HTTP_TRACEPARENT": header, **others}
    said = propagate.extract({name[5:].lower(): value for name, value in environ.items()}, Context())
    found = incoming_context(environ) or Context()
    assert found.keys() == said.keys()
    assert baggage.get_all(found) == baggage.get_all(said)
    ours, theirs = (trace.get_current_span(each).get_span_context() for each in (found, said))
    assert (ours, ours.is_remote, ours.trace_state) == (theirs, theirs.is_remote, theirs.trace_state)


class UntrustingPropagator(CompositePropagator):
    """One that believes nobody."""

    def extract(self, *_: Any, **__: Any) -> Context:
        return Context()


def test_a_propagator_of_the_app_decides_what_a_request_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    propagator = UntrustingPropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    monkeypatch.setattr(propagate, "get_global_textmap", lambda: propagator)
    assert incoming_context({"HTTP_TRACEPARENT": TRACEPARENT}) is None
