"""Durations are taken from the system's clock, whatever a test has put in its place."""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing

import pytest

from telemetry import clock
from telemetry.testing import record_queries


@pytest.fixture
def _frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the clock in every module that has it, as freezegun does."""
    real = time.perf_counter_ns
    for module in list(sys.modules.values()):
        names = [name for name, value in list(getattr(module, "__dict__", {}).items()) if value is real]
        for name in names:
            monkeypatch.setattr(module, name, lambda: 1)
    assert time.perf_counter_ns() == 1


@pytest.mark.usefixtures("_frozen")
@pytest.mark.parametrize(("values", "verdict"), [(range(6), "N+1"), ([1] * 6, "duplicates")])
def test_queries_are_told_apart_where_time_is_frozen(values: list[int], verdict: str) -> None:
    with record_queries() as queries, closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (a)")
        for value in values:
            connection.execute("SELECT a FROM t WHERE a = ?", (value,))
        assert f"{verdict}: SELECT t ran 6 times" in queries.report()


def test_it_is_the_clock_of_the_system() -> None:
    earlier, now, later = time.perf_counter_ns(), clock.perf_counter_ns(), time.perf_counter_ns()
    assert earlier <= now <= later
