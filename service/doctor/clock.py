"""The clock: does it run evenly, and can it be right."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from service.doctor.finding import Finding

CLOCK_TOLERANCE_S: Final = 0.25
_CLOCK_WATCH_S: Final = 0.3
_OLDEST_CLOCK: Final = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
_FUTURE_TOLERANCE_S: Final = 60.0


class ClockWatch:
    """Compares the clock with the monotonic one from here until `check`."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._wait = wait or threading.Event().wait
        self._begun = (wall(), monotonic())

    def check(self, data: Path) -> Iterator[Finding]:
        """Say whether the clock has jumped since, can't be right, or was set back since files in `data` were written."""
        remaining_s = _CLOCK_WATCH_S - (self._monotonic() - self._begun[1])
        if remaining_s > 0:
            self._wait(remaining_s)
        now = self._wall()
        jump_s = now - self._begun[0] - (self._monotonic() - self._begun[1])
        remedy = (
            "Let the system set it (timedatectl set-ntp true), and look what else does. Durations stay right, they are "
            "by the monotonic clock; times of requests and of ratings do not."
        )
        newest = _newest_file(data)
        if abs(jump_s) > CLOCK_TOLERANCE_S:
            way = "ahead" if jump_s > 0 else "back"
            yield Finding("problem", "clock", f"it jumps: {abs(jump_s):.1f} s {way} while this looked.", remedy)
        elif now < _OLDEST_CLOCK:
            yield Finding("problem", "clock", f"it can't be right: it says {_date(now)}.", remedy)
        elif newest is not None and newest[0] - now > _FUTURE_TOLERANCE_S:
            text = (
                f"it jumps: '{newest[1].name}' in the data folder was written at {_date(newest[0])}, "
                f"and now it says {_date(now)}."
            )
            yield Finding("problem", "clock", text, remedy)
        else:
            yield Finding("ok", "clock", f"it runs evenly; it says {_date(now)}.")


def _newest_file(folder: Path) -> tuple[float, Path] | None:
    try:
        return max(((entry.stat().st_mtime, entry) for entry in folder.iterdir() if entry.is_file()), default=None)
    except OSError:
        return None


def _date(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
