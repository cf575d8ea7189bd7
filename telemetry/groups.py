"""The queries of one request that are alike: one statement, from one line."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import TYPE_CHECKING, Final

from telemetry import source
from telemetry.fingerprint import Statement, statement
from telemetry.query import (
    CALLER,
    CALLER_POSITION,
    CODE,
    DATABASE_SHIFT,
    DURATION_NS,
    ERROR_TYPE,
    FLAGS,
    FROM_FIRST,
    FURTHER,
    POSITION,
    ROWS,
    SITE,
    SQL,
    START_NS,
    TRANSACTION,
)
from telemetry.sums import by_query

if TYPE_CHECKING:
    from telemetry.query import Query
    from telemetry.recent import KeptRequest
    from telemetry.source import Site, SourceLine

_PAUSE_NS: Final = 50_000_000  # less may be what is done with the rows
_PAUSE_RATIO: Final = 5


@dataclass(slots=True)
class Group:
    """Queries with one fingerprint from one line."""

    statement: Statement
    sql: str
    """The statement as its first run was written."""
    site: Site
    first: int
    """Position of the first run among the request's queries."""
    runs: int = 0
    duration_ns: int = 0
    longest_ns: int = 0
    distinct: int = 0
    """How many different statements with their parameters there were."""
    errors: int = 0
    rows: int | None = None
    flags: int = 0
    listed: int = 0
    """Values in lists behind IN, of all runs."""
    transactions: set[int] = field(default_factory=set)
    idle_ns: int = 0
    """Time between the runs, where they are not kept one by one."""
    more_transactions: int = 0
    """Transactions beside those, which are not known by their numbers."""
    runs_kept: list[Query] = field(default_factory=list)
    took_ns: list[int] = field(default_factory=list)
    """How long each of `runs_kept` took, with fetching its rows."""
    database: int = 0
    """The number of the database that was asked, where there are several; 0 is any."""
    repeats: Mapping[int, int] = field(default_factory=dict)
    """For the starts of runs whose parameters others have too, what is equal where the parameters are."""

    @property
    def line(self) -> SourceLine | None:
        """The line of the app's code that ran it; `None` where that was not recorded."""
        return source.line_of(self.site[0], self.site[1])

    @property
    def caller(self) -> SourceLine | None:
        """The line of the app's code that called the function of `line`."""
        return source.caller_of(self.site)

    @property
    def place(self) -> str:
        """Where it runs, as a sentence says it; empty where that was not recorded."""
        line, caller = self.line, self.caller
        if line is None:
            return ""
        if caller is None or (caller.file == line.file and caller.function == line.function):
            return f"at {line}"
        return f"at {line}, called at {caller}"

    @property
    def is_of_first_rows(self) -> bool:
        """Whether each run is known to have asked for the first rows, whatever OFFSET it has."""
        return bool(self.flags & FROM_FIRST) and not self.flags & FURTHER

    @property
    def line_key(self) -> tuple[object, ...]:
        """What groups of one statement from one line have in common, whoever calls it."""
        return (self.statement.text, self.database, *_line_key(self.site[0], self.site[1]))

    @property
    def is_recursive(self) -> bool:
        """Whether the function that runs it calls itself, or does so in a comprehension or lambda of its own."""
        code, caller = self.site[0], self.site[2]
        if not isinstance(code, CodeType) or caller is None:
            return False
        return code is caller or any(caller is each for each in code.co_consts)

    @property
    def parameters(self) -> list[object]:
        """For each of `runs_kept` what is equal where statement and parameters are."""
        return [(query[SQL], self.repeats.get(query[START_NS], query[START_NS])) for query in self.runs_kept]

    def sum_up(self, fetched: Mapping[int, tuple[int, int]]) -> None:
        """Count `runs_kept`; `fetched` is of queries by their starts what their rows took and how many there were."""
        runs = self.runs_kept
        durations_ns, rows = [query[DURATION_NS] for query in runs], [query[ROWS] for query in runs]
        if fetched:
            for at, query in enumerate(runs):
                fetch = fetched.get(query[START_NS])
                if fetch is not None:
                    durations_ns[at] += fetch[0]
                    rows[at] = max(rows[at], 0) + fetch[1]
        self.took_ns = durations_ns
        flags = 0
        for each in {query[FLAGS] for query in runs}:
            flags |= each
        errors = sum([query[ERROR_TYPE] is not None for query in runs])
        known_rows = [number for number in rows if number >= 0]
        of_all = sum(known_rows) if known_rows else -1
        self.count(len(runs), sum(durations_ns), max(durations_ns), errors, of_all, flags)
        if len({query[SQL] for query in runs}) == 1:
            self.listed = self.statement.list_size * len(runs)
        else:
            self.listed = sum([statement(query[SQL]).list_size for query in runs])
        self.transactions = {query[TRANSACTION] for query in runs if query[TRANSACTION]}
        self.distinct = len(set(self.parameters)) if self.repeats else len(runs)

    def count(self, runs: int, duration_ns: int, longest_ns: int, errors: int, rows: int, flags: int) -> None:
        """Add runs with what they took, and the longest of them; `rows` below 0 are not known."""
        self.runs += runs
        self.duration_ns += duration_ns
        self.longest_ns = max(self.longest_ns, longest_ns)
        self.errors += errors
        self.flags |= flags
        if rows >= 0:
            self.rows = rows + (self.rows or 0)

    @property
    def pauses(self) -> bool:
        """Whether much more time lies between the runs than they take, as where something is waited for."""
        if len(self.runs_kept) < self.runs:
            gap_ns, took_ns = self.idle_ns / max(self.runs - 1, 1), self.duration_ns / self.runs
            return gap_ns >= _PAUSE_NS and gap_ns >= _PAUSE_RATIO * took_ns
        starts = [(query[START_NS], took) for query, took in zip(self.runs_kept, self.took_ns, strict=True)]
        gaps = [later - start - took for (start, took), (later, _) in itertools.pairwise(starts)]
        if not gaps:
            return False
        from statistics import median  # with its fractions it takes half a megabyte

        gap_ns, took_ns = median(gaps), median(took for _, took in starts)
        return gap_ns >= _PAUSE_NS and gap_ns >= _PAUSE_RATIO * took_ns


def groups_of(kept: KeptRequest) -> list[Group]:
    """Return the queries of a request by fingerprint and line, in the order of their first runs."""
    groups: dict[tuple[object, ...], Group] = {}

    def of(sql: str, site: Site, at: int, database: int = 0) -> Group:
        key = _key(sql, site, database)
        found = groups.get(key)
        if found is None:
            found = groups[key] = Group(statement(sql), sql, site, at, database=database)
        return found

    if kept.sums is None:
        alike: dict[tuple[object, ...], Group] = {}  # by statement and place as they are, which is quicker told
        for at, query in enumerate(kept.queries):
            database = query[FLAGS] >> DATABASE_SHIFT
            place = (query[SQL], id(query[CODE]), query[POSITION], id(query[CALLER]), query[CALLER_POSITION], database)
            known = alike.get(place)
            if known is None:
                known = alike[place] = of(query[SQL], query[SITE:], at, database)
            known.runs_kept.append(query)
        fetched = by_query(kept.fetches)
        for found in groups.values():
            found.repeats = kept.repeats or {}
            found.sum_up(fetched)
        return list(groups.values())
    for at, each in enumerate(kept.sums):
        found = of(each.sql, each.site, at)
        found.count(each.runs, each.duration_ns, each.longest_ns, each.errors, each.rows, each.flags)
        found.distinct += each.distinct
        found.idle_ns += each.last_ns - each.first_ns - each.duration_ns
        found.transactions |= each.transactions
        found.more_transactions += each.more_transactions
        found.listed += statement(each.sql).list_size * each.runs
    return list(groups.values())


def numbers_of(kept: KeptRequest, groups: Sequence[Group]) -> list[int | None]:
    """Return for each query that is kept one by one the position of its group in `groups`, which are those of the request.

    A rare statement of a request that is kept as sums may share the one of all that there was no room for; `None` without it.
    """
    number = {_key(each.sql, each.site, each.database): at for at, each in enumerate(groups)}
    shared = number.get(_key("", source.NO_SITE, 0))
    databases = [0 if kept.sums is not None else query[FLAGS] >> DATABASE_SHIFT for query in kept.queries]
    return [
        number.get(_key(query[SQL], query[SITE:], database), shared)
        for query, database in zip(kept.queries, databases, strict=True)
    ]


def _key(sql: str, site: Site, database: int) -> tuple[object, ...]:
    """Return what queries of one group have in common."""
    return (statement(sql).text, database, *_line_key(site[0], site[1]), *_line_key(site[2], site[3]))


def _line_key(code: CodeType | str | None, position: int) -> tuple[object, int]:
    """Return what is equal for two places in one line."""
    if isinstance(code, CodeType):
        return id(code), source.line_number(code, position)
    return code, position
