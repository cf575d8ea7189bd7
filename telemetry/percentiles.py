"""Percentiles out of raw samples, nothing estimated."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(samples: Sequence[float], percent: int) -> float:
    """Return the percentile (1 to 99) of `samples`, between two samples by linear interpolation; 0.0 without a sample.

    The figures are those of `statistics.quantiles(samples, n=100, method="inclusive")`, which always computes all 99.
    """
    return of_ordered(sorted(samples), percent)


def of_ordered(ordered: Sequence[float], percent: int) -> float:
    """Return what `percentile` does, of samples that are in rising order already."""
    if not ordered:
        return 0.0
    at, remainder = divmod(percent * (len(ordered) - 1), 100)
    if not remainder:
        return ordered[at]
    return (ordered[at] * (100 - remainder) + ordered[at + 1] * remainder) / 100
