"""What writing takes beside its statements: waiting for locks, and the commits, in which SQLite writes to the disk."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Final, NamedTuple

MOST_COMMITS: Final = 500
"""Commits of one request that are kept one by one."""

_BYTES: Final = 400
_NUMBER_BYTES: Final = 30  # a number of three


class Commit(NamedTuple):
    """A call that committed a write transaction; times are of `perf_counter_ns`."""

    start_ns: int
    duration_ns: int
    has_failed: bool


class Writes:
    """What a request has lost to locks, and its commits of write transactions; times in nanoseconds."""

    __slots__ = ("_commits", "_of_databases", "commit_count", "commit_ns", "wait_ns", "waited_for")

    def __init__(
        self, wait_ns: int = 0, waited_for: tuple[int, str] | None = None, commit_count: int = 0, commit_ns: int = 0
    ) -> None:
        self.wait_ns = wait_ns
        self.waited_for = waited_for  # the longest of that, and the route of who held the lock
        self.commit_count = commit_count
        self.commit_ns = commit_ns
        self._commits: list[int] = []  # the numbers of a `Commit`, one after the other
        self._of_databases: dict[int, tuple[int, int]] = {}  # by their numbers, how many there were and what they took

    def add_commit(self, start_ns: int, duration_ns: int, has_failed: bool, database: int = 0) -> None:
        """Add a commit to the database of that number."""
        self.commit_count += 1
        self.commit_ns += duration_ns
        if self.commit_count <= MOST_COMMITS:
            self._commits += (start_ns, duration_ns, has_failed)
        if has_failed:
            return
        count, took_ns = self._of_databases.get(database, (0, 0))
        self._of_databases[database] = count + 1, took_ns + duration_ns

    @property
    def of_one_database(self) -> tuple[int, int]:
        """How many commits the database took on which they took longest, and how long that was."""
        longest = max(self._of_databases.values(), key=itemgetter(1), default=None)
        return longest or (self.commit_count, self.commit_ns)

    @property
    def commits(self) -> Iterator[Commit]:
        """The first commits, one by one."""
        numbers = iter(self._commits)
        for start_ns, duration_ns, has_failed in zip(numbers, numbers, numbers, strict=True):
            yield Commit(start_ns, duration_ns, bool(has_failed))

    def shortened(self, max_bytes: int) -> Writes:
        """Return the same with as many of the first commits as take no more than that by themselves; the figures stay."""
        return self._with(self._commits[: max(0, max_bytes // (3 * _NUMBER_BYTES)) * 3])

    def copy(self) -> Writes:
        """Return what nothing is added to any more."""
        return self._with(self._commits[:])

    def _with(self, commits: list[int]) -> Writes:
        made = Writes(self.wait_ns, self.waited_for, self.commit_count, self.commit_ns)
        made._of_databases = self._of_databases.copy()
        made._commits = commits
        return made

    @property
    def estimated_bytes(self) -> int:
        """What it is taken to need."""
        return _BYTES + _NUMBER_BYTES * len(self._commits)
