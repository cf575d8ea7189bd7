"""What is kept of the queries of a request with very many: sums by statement and place, bounded whatever the request asks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from telemetry.query import CALLER, CALLER_POSITION, CODE, POSITION, SITE, SQL, START_NS, Query
from telemetry.source import NO_SITE, Site

MAX_SUMS: Final = 500
"""Statements that a request keeps sums of, three times as many for a while; of more, those that run least share one."""
_MAX_DISTINCT: Final = 2000
_FEW: Final = 8
_SAMPLE: Final = 1000
LITERAL: Final = re.compile(r"'(?:[^']|'')*'?|\b\d[\w.]*")
"""A literal in a statement, told without reading the statement."""


class Sums:
    """Sums over all queries of one statement and site, of a request with too many to keep one by one."""

    __slots__ = (
        "_last",
        "_seen",
        "distinct",
        "duration_ns",
        "errors",
        "first_ns",
        "flags",
        "last_ns",
        "longest_ns",
        "more_transactions",
        "rows",
        "runs",
        "site",
        "sql",
        "transactions",
    )

    def __init__(self, sql: str, site: Site) -> None:
        self.sql = sql
        self.site = site
        self.runs = 0
        self.duration_ns = 0
        self.longest_ns = 0
        self.first_ns = 0  # when the first run began
        self.last_ns = 0  # and the last one ended
        self.errors = 0
        self.flags = 0
        self.rows = -1
        self.distinct = 0  # how many different parameters there were, once it is settled
        self.transactions: set[int] = set()
        self.more_transactions = 0  # beside those, of which the numbers are kept
        self._seen: set[int] = set()  # keyed hashes of the parameters
        self._last = 0

    def add(self, query: Query, parameters: int | None, fetch: tuple[int, int] | None = None) -> None:
        """Count one query; `parameters` is their keyed hash, `fetch` what its rows took and how many there were."""
        start_ns, duration_ns, error_type, flags, rows, transaction = query[START_NS:SITE]
        if fetch is not None:
            duration_ns, rows = duration_ns + fetch[0], max(rows, 0) + fetch[1]
        self.first_ns = self.first_ns or start_ns
        self.last_ns = max(self.last_ns, start_ns + duration_ns)
        self.runs += 1
        self.duration_ns += duration_ns
        self.longest_ns = max(self.longest_ns, duration_ns)
        self.errors += error_type is not None
        self.flags |= flags
        if rows >= 0:
            self.rows = rows + max(self.rows, 0)
        if len(self._seen) < _MAX_DISTINCT:
            self._seen.add(-start_ns if parameters is None else parameters)
        if transaction and transaction not in self.transactions:
            if len(self.transactions) < _MAX_DISTINCT:
                self.transactions.add(transaction)
            elif transaction != self._last:
                self.more_transactions += 1
                self._last = transaction

    def fetched(self, took_ns: int, rows: int) -> None:
        """Count what it took to fetch rows of a query that is counted already."""
        self.duration_ns += took_ns
        self.longest_ns = max(self.longest_ns, took_ns)
        self.rows = rows + max(self.rows, 0)

    def settle(self) -> None:
        """End with the request: of hashes and transactions, numbers remain. Where too many differed to tell, all did."""
        self.distinct = self.runs if len(self._seen) >= _MAX_DISTINCT else len(self._seen)
        self._seen = set()
        if len(self.transactions) > _FEW:
            self.more_transactions += len(self.transactions) - _FEW
            self.transactions = set(sorted(self.transactions)[:_FEW])

    def absorb(self, other: Sums) -> None:
        """Take over the figures of `other`."""
        self.first_ns = min(self.first_ns or other.first_ns, other.first_ns)
        self.last_ns = max(self.last_ns, other.last_ns)
        self.runs += other.runs
        self.duration_ns += other.duration_ns
        self.longest_ns = max(self.longest_ns, other.longest_ns)
        self.errors += other.errors
        self.flags |= other.flags
        if other.rows >= 0:
            self.rows = other.rows + max(self.rows, 0)
        self.distinct += other.distinct
        if len(self._seen) < _MAX_DISTINCT:
            self._seen |= other._seen
        self.more_transactions += other.more_transactions
        if len(self.transactions) < _MAX_DISTINCT:
            self.transactions |= other.transactions
        else:
            self.more_transactions += len(other.transactions)


SumKey = tuple[str, int, int, int, int]
"""Statement, and the place that ran it with the one that called that."""


_REST: Final[SumKey] = ("", 0, 0, 0, 0)
"""Stands for all statements that there was no room for."""


def by_query(fetches: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return for the start of each query in the `fetches` of a request how long these took, and how many rows there were."""
    found: dict[int, tuple[int, int]] = {}
    for start_ns, took_ns, rows in zip(fetches[::3], fetches[1::3], fetches[2::3], strict=True):
        before_ns, before = found.get(start_ns, (0, 0))
        found[start_ns] = (before_ns + took_ns, before + rows)
    return found


def flat(fetched: Mapping[int, tuple[int, int]]) -> list[int]:
    """Return the `fetches` that `by_query` has read."""
    return [number for start_ns, (took_ns, rows) in fetched.items() for number in (start_ns, took_ns, rows)]


def with_room(sums: dict[SumKey, Sums], spared: Iterable[Sums]) -> dict[SumKey, Sums]:
    """Return `sums` with room for more. Where there are many, statements that differ in literals alone come together, and if
    that is not enough, all that ran least: what very many different ones precede is to be told apart too.

    `spared` are some that more is to be added to.
    """
    if len(sums) <= MAX_SUMS:
        return sums
    kept = set(map(id, spared))
    found = merged(sums, kept)
    if len(found) > MAX_SUMS:
        by_runs = sorted(found, key=lambda key: (found[key].runs, found[key].last_ns))
        rare = [key for key in by_runs[: len(found) - MAX_SUMS // 2] if id(found[key]) not in kept and key != _REST]
        if rare:
            rest = found.setdefault(_REST, Sums("", NO_SITE))
            for key in rare:
                rest.absorb(found.pop(key))
    return found


def merged(sums: Mapping[SumKey, Sums], spared: Collection[int] = ()) -> dict[SumKey, Sums]:
    """Return `sums` with those of statements that differ in literals alone as one; the ones with the ids `spared` stay."""
    found: dict[SumKey, Sums] = {}
    for key, each in sums.items():
        is_spared = id(each) in spared
        shared = key if is_spared else (_masked(each.sql), *key[1:])
        first = found.setdefault(shared, each)
        if first is each:
            continue
        if is_spared:
            found[shared] = each
            each.absorb(first)
        else:
            first.absorb(each)
    return found


def sums_of(sums: dict[SumKey, Sums], query: Query) -> Sums:
    """Return the sums that `query` belongs to, bounded in number however many statements there are."""
    sql, place = query[SQL], (id(query[CODE]), query[POSITION], id(query[CALLER]), query[CALLER_POSITION])
    key = (sql, *place)
    found = sums.get(key)
    if found is None:
        site = query[SITE:]
        if len(sums) >= MAX_SUMS:
            key = (_masked(sql), *place)
            found = sums.get(key)
            if found is None and len(sums) >= 3 * MAX_SUMS:
                key, sql, site = _REST, "", NO_SITE
                found = sums.get(key)
        if found is None:
            found = sums[key] = Sums(sql, site)
    return found


def _masked(sql: str) -> str:
    """Return the beginning of `sql` without its literals: what statements that differ in these alone have in common.

    The fingerprint says it better, but is not for the request's path.
    """
    return LITERAL.sub("?", sql[:_SAMPLE])
