"""CPU time of requests that ask in other ways: what is added, as a share of what OpenTelemetry's own instrumentation adds."""

from __future__ import annotations

from benchmarks.apps import BASELINE, OWN_EXPORTING, OWN_TWO_READERS, STOCK, STOCK_EXPORTING
from benchmarks.cpu import QUERIES, Samples, measure, middle_us, workers
from benchmarks.load_apps import LOADS
from benchmarks.plan import Plan
from benchmarks.report import Grid, Report, share
from benchmarks.variants import VARIANTS

ROUNDS = 9
_VARIANTS = [VARIANTS[name] for name in (BASELINE, OWN_TWO_READERS, OWN_EXPORTING, STOCK, STOCK_EXPORTING)]


def run(plan: Plan) -> Report:
    """Measure each of the loads in turn."""
    report = Report("CPU of other loads")
    head = ["load", *(f"{queries} queries" for queries in QUERIES), *(f"{queries}, OTLP" for queries in QUERIES)]
    rows, report.samples = [], []
    for name in LOADS:
        with workers(_VARIANTS, report.notes, name) as started:
            samples = measure(started, plan, ROUNDS)
        rows.append(
            [name, *_shares(samples, OWN_TWO_READERS, STOCK), *_shares(samples, OWN_EXPORTING, STOCK_EXPORTING)]
        )
        report.samples += [
            {"load": name, "variant": variant, "queries": queries, "us_per_request": values}
            for (variant, queries), values in samples.items()
        ]
    title = f"What {OWN_TWO_READERS} adds to a request, and the share that is of what {STOCK} adds"
    report.grids.append(Grid(title, head, rows))
    return report


def _shares(samples: Samples, own: str, stock: str) -> list[str]:
    cells = []
    for queries in QUERIES:
        added = middle_us(samples, own, queries)
        cells.append(f"{added:+.0f} µs, {share(added, middle_us(samples, stock, queries))}")
    return cells
