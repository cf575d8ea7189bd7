"""What writing takes beside its statements: waiting for locks, and the commits, in which SQLite writes to the disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

MOST_COMMITS: Final = 500
"""Commits of one request that are kept one by one."""

_NUMBER_BYTES: Final = 30  # a number of three


class Commit(NamedTuple):
    """A call that committed a write transaction; times are of `perf_counter_ns`."""

    start_ns: int
    duration_ns: int
    has_failed: bool


class Writes:
    """What a request has lost to locks, and its commits of write transactions; times in nanoseconds."""

    __slots__ = ("_commits", "commit_count", "commit_ns", "wait_ns", "waited_for")

    def __init__(
        self, wait_ns: int = 0, waited_for: tuple[int, str] | None = None, commit_count: int = 0, commit_ns: int = 0
    ) -> None:
        self.wait_ns = wait_ns
        self.waited_for = waited_for  # the longest of that, and the route of who held the lock
        self.commit_count = commit_count
        self.commit_ns = commit_ns
        self._commits: list[int] = []  # the numbers of a `Commit`, one after the other

    def add_commit(self, start_ns: int, duration_ns: int, has_failed: bool) -> None:
        """Add a commit."""
        self.commit_count += 1
        self.commit_ns += duration_ns
        if self.commit_count <= MOST_COMMITS:
            self._commits += (start_ns, duration_ns, has_failed)

    @property
    def commits(self) -> Iterator[Commit]:
        """The first commits, one by one."""
        numbers = iter(self._commits)
        for start_ns, duration_ns, has_failed in zip(numbers, numbers, numbers, strict=True):
            yield Commit(start_ns, duration_ns, bool(has_failed))

    def shortened(self, max_bytes: int) -> Writes:
        """Return the same with as many of the first commits as take no more than that; the figures stay."""
        short = Writes(self.wait_ns, self.waited_for, self.commit_count, self.commit_ns)
        short._commits = self._commits[: max(0, max_bytes // (3 * _NUMBER_BYTES)) * 3]
        return short

    @property
    def estimated_bytes(self) -> int:
        """What it is taken to need."""
        return _NUMBER_BYTES * len(self._commits)
