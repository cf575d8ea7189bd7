"""Whether the verdict on a request is right: precision and recall over the corpus of request shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks import corpus
from benchmarks.corpus import Finds, Shape
from benchmarks.plan import Plan
from benchmarks.report import Grid, Report, Verdict
from telemetry import fanout


@dataclass(frozen=True, slots=True)
class Judged:
    """A shape, and what was found in its request."""

    shape: Shape
    found: Finds


def judged(shapes: Iterable[Shape]) -> list[Judged]:
    """Make a request of each shape, and judge it."""
    return [Judged(shape, _finds(fanout.analyse(kept, shape.at))) for shape, kept in corpus.requests(shapes)]


def _finds(analysis: fanout.Analysis) -> Finds:
    return frozenset(
        (finding.kind, finding.group.statement.table if finding.group else "")
        for finding in analysis.findings
        if finding.kind not in fanout.BY_TIME  # which another machine need not find
    )


def precision_and_recall(all_judged: Iterable[Judged], kinds: Iterable[str]) -> tuple[float, float, int]:
    """Return how many of the findings of these kinds are right, how many of those expected are found, and their number."""
    kinds = set(kinds)
    count: Counter[str] = Counter()
    for each in all_judged:
        found = {finding for finding in each.found if finding[0] in kinds}
        expected = {finding for finding in each.shape.finds if finding[0] in kinds}
        count.update(right=len(found & expected), found=len(found), expected=len(expected))
    return _share(count["right"], count["found"]), _share(count["right"], count["expected"]), count["expected"]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def run(plan: Plan) -> Report:
    """Judge the corpus."""
    with plan.console.status("judging the corpus"):
        found = judged(corpus.all_shapes())
    warnings = [kind for kind in fanout.VERDICTS if kind not in (fanout.OK, *fanout.BY_TIME)]
    rows = []
    for kind in (*warnings, *fanout.REMARKS):
        precision, recall, number = precision_and_recall(found, [kind])
        rows.append((fanout.name_of(kind), str(number), f"{precision:.3f}", f"{recall:.3f}"))
    precision, recall, number = precision_and_recall(found, (*warnings, *fanout.REMARKS))
    rows.append(("all", str(number), f"{precision:.3f}", f"{recall:.3f}"))
    quiet = sum(not any(kind in warnings for kind, _ in each.shape.finds) for each in found)
    known = sum(bool(each.shape.source) for each in found)
    return Report(
        "Verdicts",
        [Grid(f"{len(found)} request shapes", ("what is found", "expected", "precision", "recall"), rows)],
        [
            Verdict("precision 1.0: no false alarm", f"{precision:.3f}", precision == 1),
            Verdict("recall 1.0: nothing is missed", f"{recall:.3f}", recall == 1),
        ],
        [
            f"{known} of {len(found)} shapes are after real apps and their issues; in {quiet} there is nothing to warn of",
            *(
                f"{each.shape.name}: expected {sorted(each.shape.finds)}, found {sorted(each.found)}"
                for each in found
                if each.found != each.shape.finds
            ),
        ],
        [
            {"shape": each.shape.name, "expected": sorted(each.shape.finds), "found": sorted(each.found)}
            for each in found
        ],
    )
