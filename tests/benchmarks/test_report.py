"""How what was measured is written."""

from __future__ import annotations

import pytest

from benchmarks.report import share


@pytest.mark.parametrize(("part", "shown"), [(10.0, "1/10.0"), (200.0, "1/0.5"), (0.0, "–"), (-8.0, "–")])
def test_what_seems_to_cost_nothing_has_no_share(part: float, shown: str) -> None:
    assert share(part, 100.0) == shown
