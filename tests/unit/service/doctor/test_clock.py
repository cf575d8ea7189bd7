"""What the doctor says of the clock."""

from __future__ import annotations

import os
import time

import pytest

from service.doctor.clock import ClockWatch

NOW = 1_790_000_000.0


class Clocks:
    """A clock and a monotonic one; waiting moves both, and the clock by `jump` more."""

    def __init__(self, now=NOW, jump=0.0):
        self.now, self.ticks, self.jump = now, 50.0, jump
        self.waited = []

    def wait(self, seconds):
        self.waited.append(seconds)
        self.ticks += seconds
        self.now += seconds + self.jump

    def watch(self):
        return ClockWatch(lambda: self.now, lambda: self.ticks, self.wait)


def only(findings):
    (finding,) = findings
    return finding


def test_a_clock_that_runs_evenly(tmp_path):
    clocks = Clocks()
    found = only(clocks.watch().check(tmp_path))
    assert (found.level, found.text) == ("ok", "it runs evenly; it says 2026-09-21 14:13:20 UTC.")
    assert clocks.waited == [pytest.approx(0.3)]


def test_nobody_waits_where_looking_took_long_enough(tmp_path):
    clocks = Clocks()
    watch = clocks.watch()
    clocks.ticks += 1
    clocks.now += 1
    assert only(watch.check(tmp_path)).level == "ok"
    assert clocks.waited == []


@pytest.mark.parametrize(("jump", "text"), [(3.21, "3.2 s ahead"), (-7200, "7200.0 s back")])
def test_a_clock_that_jumps(jump, text, tmp_path):
    found = only(Clocks(jump=jump).watch().check(tmp_path))
    assert (found.level, found.text) == ("problem", f"it jumps: {text} while this looked.")
    assert "timedatectl" in found.remedy


def test_a_clock_that_can_not_be_right(tmp_path):
    found = only(Clocks(now=100.0).watch().check(tmp_path))
    assert (found.level, found.text) == ("problem", "it can't be right: it says 1970-01-01 00:01:40 UTC.")


def test_a_clock_that_was_set_back_since_the_data_were_written(tmp_path):
    file = tmp_path / "library.sqlite3"
    file.write_bytes(b"")
    os.utime(file, (NOW + 7200, NOW + 7200))
    found = only(Clocks().watch().check(tmp_path))
    assert found.level == "problem"
    assert found.text == (
        "it jumps: 'library.sqlite3' in the data folder was written at 2026-09-21 16:13:20 UTC, "
        "and now it says 2026-09-21 14:13:20 UTC."
    )
    os.utime(file, (NOW + 30, NOW + 30))
    assert only(Clocks().watch().check(tmp_path)).level == "ok"


def test_the_real_clock_over_a_folder_that_is_not_there(tmp_path):
    begun = time.monotonic()
    assert only(ClockWatch().check(tmp_path / "none")).level == "ok"
    assert time.monotonic() - begun < 5
