"""How exporting goes: what the dashboard's panel, `doctor` and the metrics about exporting all read."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol

from telemetry.figures import printable
from telemetry.forked import call_in_child

Signal = Literal["traces", "metrics"]

QUEUE_FULL: Final = "queue_full"
REJECTED: Final = "rejected"
SHUTDOWN: Final = "shutdown"
_MOST_CHARACTERS: Final = 300
_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})


class Delivery(NamedTuple):
    """What became of a batch; it is true where the backend has taken it."""

    delivered: bool
    retry: bool = False
    """Whether the same batch may well be taken later."""
    wait_s: float | None = None
    """How long the backend asks to wait before that."""
    why: str = ""
    rejected: int = 0
    """How many items of a batch that was taken the backend says that it has thrown away."""
    too_large: bool = False
    """Whether the batch was not taken for its size, so that a part of it may be."""
    unwritable: bool = False
    """Whether something in the batch can't be written, such as text that is no UTF-8."""

    def __bool__(self) -> bool:
        return self.delivered


@dataclass(frozen=True, slots=True)
class ExportStatus:
    """Numbers since the start: of spans for traces, of data points for metrics."""

    queued: int = 0
    queue_limit: int = 0
    sent: int = 0
    dropped_by: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """What is lost, by reason: the queue was full, the backend rejected it, or there was no time left at shutdown."""
    failures: int = 0
    """Attempts that failed; what they tried to send may have been sent since."""
    is_failing: bool = False
    """Whether the last attempt failed."""
    last_success_unix_ns: int | None = None
    last_error: str | None = None
    last_error_unix_ns: int | None = None

    @property
    def dropped(self) -> int:
        """How many are lost."""
        return sum(self.dropped_by.values())

    def with_sibling(self, other: ExportStatus) -> ExportStatus:
        """Return how this one and the same exporter of another worker are doing, as one."""
        worse = max(self, other, key=lambda status: (status.is_failing, status.last_error_unix_ns or 0))
        successes = [at for at in (self.last_success_unix_ns, other.last_success_unix_ns) if at is not None]
        return ExportStatus(
            queued=self.queued + other.queued,
            queue_limit=self.queue_limit + other.queue_limit,
            sent=self.sent + other.sent,
            dropped_by=Counter(self.dropped_by) + Counter(other.dropped_by),
            failures=self.failures + other.failures,
            is_failing=self.is_failing or other.is_failing,
            last_success_unix_ns=max(successes, default=None),
            last_error=worse.last_error,
            last_error_unix_ns=worse.last_error_unix_ns,
        )


class Exporting(Protocol):
    """An exporter at work."""

    @property
    def name(self) -> str:
        """What it is called in the settings."""

    @property
    def signal(self) -> Signal:
        """What it exports."""

    @property
    def target(self) -> str:
        """Where that goes, without secrets."""

    @property
    def status(self) -> ExportStatus:
        """How it goes, now."""


def told(why: str) -> str:
    """Return a backend's own words as a log and a page can show them: on one line, and not too many."""
    return printable(why)[:_MOST_CHARACTERS]


class Tally:
    """Counts for one exporter, in one process: a forked child begins with none. Thread-safe."""

    def __init__(self, queue_limit: int = 0) -> None:
        self._lock = threading.Lock()
        self._status = ExportStatus(queue_limit=queue_limit)
        call_in_child(self._start_anew)

    def status(self, queued: int = 0) -> ExportStatus:
        """Return the counts, with so many items that wait."""
        with self._lock:
            return replace(self._status, queued=queued)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._status = ExportStatus(queue_limit=self._status.queue_limit)

    def sent(self, number: int, rejected: int = 0) -> bool:
        """Count a delivery of so many, some of which the backend may say that it has rejected.

        Return whether it is the first that was taken as a whole, after failures.
        """
        rejected = min(max(0, rejected), number)  # what backends say need not be so
        self.dropped(rejected, REJECTED)
        with self._lock:
            was_failing = self._status.is_failing
            self._status = replace(
                self._status,
                sent=self._status.sent + number - rejected,
                is_failing=was_failing and rejected > 0,
                last_success_unix_ns=time.time_ns(),
            )
            return was_failing and not rejected

    def failed(self, why: str) -> bool:
        """Count an attempt that failed, and `why`, which is `told`; return whether it is the first since one went well."""
        with self._lock:
            first = not self._status.is_failing
            self._status = replace(
                self._status,
                failures=self._status.failures + 1,
                is_failing=True,
                last_error=why,
                last_error_unix_ns=time.time_ns(),
            )
            return first

    def dropped(self, number: int, reason: str) -> bool:
        """Count what is lost, and return whether it is the first for that reason."""
        if not number:
            return False
        with self._lock:
            known = self._status.dropped_by
            self._status = replace(
                self._status, dropped_by=MappingProxyType({**known, reason: known.get(reason, 0) + number})
            )
            return reason not in known
