"""OpenTelemetry's own instrumentations are the oracle: the same requests must come to the same spans, metrics and contexts.

What is otherwise on purpose is listed in docs/PARITY.md; each row of it is shown to be true here.
"""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.integration.telemetry.parity import set_apart
from tests.integration.telemetry.parity.deferred import as_trees, only_what_apps_see
from tests.integration.telemetry.parity.differences import DIFFERENCES, Difference, take_out_differences
from tests.integration.telemetry.parity.record import SAMPLERS, Listener, Outcome, Setup, outcomes
from tests.integration.telemetry.parity.traffic import Request, Traffic

PAGE = Path(__file__).resolve().parents[3] / "docs" / "PARITY.md"
REQUESTS = 250
BATCHES: list[tuple[int, Listener]] = [
    *((seed, "recorder") for seed in range(20)),
    *((seed, "exporter") for seed in range(20, 30)),
    *((seed, "nobody") for seed in range(30, 40)),
]  # 10,000 requests
SENT = int(os.environ.get("PARITY_REQUESTS", "2000")) // len(BATCHES)  # of a batch; `make test-witness` sends them all


@pytest.fixture(autouse=True)
def _stable_and_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Opt into the stable names, and keep complaints about the odd headers out of the log."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")
    logger = logging.getLogger("opentelemetry")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def drawn(seed: int, listener: Listener) -> tuple[Setup, list[Request]]:
    """Return the setup and the requests of one batch; each sampler comes in turn."""
    random = Random(seed)
    traffic = Traffic(random)
    setup = Setup(
        sampler=list(SAMPLERS)[seed % len(SAMPLERS)],
        listener=listener,
        propagate_exceptions=traffic.chance(40),
    )
    return setup, [traffic.request() for _ in range(REQUESTS)]


def comparable(outcome: Outcome, listener: Listener) -> None:
    """Leave out what can't be the same because of when spans are made."""
    if listener == "nobody":
        only_what_apps_see(outcome)
    elif listener == "exporter":
        as_trees(outcome)


def of_both(requests: list[Request], setup: Setup, seed: int = 0) -> Iterator[tuple[Request, Outcome, Outcome]]:
    """Yield each request with what it has come to with our capture, and with the stock instrumentations."""
    stock = outcomes("stock", requests, setup, seed * REQUESTS)
    own = outcomes("own", requests, setup, seed * REQUESTS)
    yield from zip(requests, own, stock, strict=True)


@pytest.mark.no_cover  # the tracer doubles its time, and the unit tests cover the same lines
@pytest.mark.parametrize(("seed", "listener"), BATCHES)
def test_random_requests_come_to_the_same_as_with_the_stock_instrumentations(seed: int, listener: Listener) -> None:
    setup, requests = drawn(seed, listener)
    for sent, own, stock in of_both(requests[:SENT], setup, seed):
        comparable(own, listener)
        comparable(stock, listener)
        take_out_differences(own, stock)
        for part in ("answer", "seen", "log", "metrics", "clean"):
            assert getattr(own, part) == getattr(stock, part), f"{part} of {sent} with {setup}"


def test_the_random_requests_are_ten_thousand_and_of_all_kinds() -> None:
    every = [sent for seed, listener in BATCHES for sent in drawn(seed, listener)[1]]
    assert len(every) == 10_000
    assert {"GET", "HEAD", "OPTIONS", "POST", "DELETE", "TRACE"} <= {sent.method for sent in every}
    assert {sent.end for sent in every} >= {"text", "abort", "redirect", "handled", "unhandled", "exit", "stream"}
    steps = {type(step).__name__ for sent in every for phase in sent.steps.values() for step in phase}
    assert steps == {"Query", "Child", "Touch", "Look", "Log", "Baggage", "Nested"}
    assert {sent.raises_in for sent in every} == {None, "before", "after"}
    assert any(sent.answers_before for sent in every)
    assert any(sent.inside_a_span for sent in every)
    assert any(sent.script_name for sent in every)


def test_the_context_is_what_it_was_after_every_request_of_ours() -> None:
    setup, requests = drawn(99, "recorder")
    assert all(outcome.clean for outcome in outcomes("own", requests, setup))


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.what)
def test_each_difference_is_there_and_is_all_that_its_request_differs_in(difference: Difference) -> None:
    ((_, own, stock),) = of_both([difference.shown_by], difference.setup)
    with_all, without = (copy.deepcopy((own, stock)) for _ in range(2))
    take_out_differences(*with_all)
    assert with_all[0] == with_all[1]
    take_out_differences(*without, without=difference)
    assert without[0] != without[1]


@pytest.mark.parametrize("case", set_apart.CASES, ids=lambda case: case.what)
def test_each_difference_that_random_requests_leave_out_is_there(
    case: set_apart.Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in case.environment:
        monkeypatch.setenv(name, value)
    ((_, own, stock),) = of_both([case.shown_by], case.setup)
    assert case.is_so(own, stock), (own, stock)


def test_the_page_lists_the_differences_and_no_others() -> None:
    rows = re.findall(r"^\| (.+?) \| .+ \| .+ \| .+ \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    listed = [row for row in rows if row not in ("what", "---")]
    assert listed == [difference.what for difference in (*DIFFERENCES, *set_apart.CASES)]
