"""What is told of samples."""

from __future__ import annotations

from benchmarks import cpu, latency
from benchmarks.apps import BASELINE, OWN_EXPORTING, OWN_TWO_READERS, STOCK, STOCK_EXPORTING
from benchmarks.peers.apps import PROMETHEUS
from benchmarks.report import Grid, markdown, quartiles

STEADY = {BASELINE: 100.0, OWN_TWO_READERS: 110.0, OWN_EXPORTING: 150.0, STOCK: 200.0, STOCK_EXPORTING: 260.0}


def samples(added: dict[str, float]) -> cpu.Samples:
    return {(name, queries): [us, us + 1, us + 2] for name, us in added.items() for queries in cpu.QUERIES}


def verdict_of(found: list[cpu.Verdict], target: str) -> cpu.Verdict:
    return next(verdict for verdict in found if verdict.target.startswith(target))


def test_a_share_of_stock_is_what_is_added_over_what_stock_adds() -> None:
    found = cpu.verdicts(samples(STEADY))

    verdict = verdict_of(found, f"{OWN_TWO_READERS}, 5 queries: at most 1/10")
    assert verdict.measured == "1/10.0 (1/10.0–1/10.0)"
    assert verdict.holds


def test_a_target_that_is_missed_is_said_to_be() -> None:
    found = cpu.verdicts(samples(STEADY))

    verdict = verdict_of(found, f"{OWN_TWO_READERS}, 50 queries: at most 1/15")
    assert verdict.cells()[2] == "MISSED"


def test_queries_have_an_allowance_beside_an_exporter_that_sees_none() -> None:
    found = cpu.verdicts(samples(STEADY | {PROMETHEUS: 105.0}))

    assert not verdict_of(found, f"{OWN_TWO_READERS}, 0 queries: at most {PROMETHEUS}").holds
    assert verdict_of(found, f"{OWN_TWO_READERS}, 5 queries: at most {PROMETHEUS}").measured == "10.0 µs of 12.5 µs"


def test_without_peers_the_targets_beside_them_are_left_out() -> None:
    assert not any(PROMETHEUS in verdict.target for verdict in cpu.verdicts(samples(STEADY)))


def test_a_p99_that_is_not_worse_than_the_bare_apps_holds() -> None:
    measured: latency.Samples = {
        (name, queries): [(us, us * 2)] * 3 for name, us in STEADY.items() for queries in latency.RATES
    }
    for queries in latency.RATES:
        measured[OWN_TWO_READERS, queries] = [(90.0, 190.0)] * 3

    verdict = latency.verdicts(measured)[0]
    assert verdict.holds
    assert verdict.measured == "nothing: -10 µs (-10–-10) of +200 µs"


def test_one_sample_is_its_own_quartiles() -> None:
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)


def test_a_grid_is_shown_as_markdown() -> None:
    assert markdown(Grid("Title", ("name", "figure"), [("a", "1")])) == (
        "**Title**\n\n| name | figure |\n| --- | ---: |\n| a | 1 |"
    )
