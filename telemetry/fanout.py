"""What the queries of one request come to: groups that are alike, and the verdict on them.

A finding states its evidence, so that it can be checked: the statement, the line, how often, how long. False alarms are worse
than silence: what repeats for a good reason, reading page by page, waiting for something, trying again, gets its own word and
is no warning.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import TYPE_CHECKING, Final, NamedTuple

from telemetry import source
from telemetry.admin import figures
from telemetry.fingerprint import Statement, statement
from telemetry.requests import MANY, SCRIPT, by_query

if TYPE_CHECKING:
    from telemetry.recent import KeptRequest
    from telemetry.requests import Query
    from telemetry.source import Site, SourceLine

OK: Final = "ok"
N_PLUS_ONE: Final = "n_plus_one"
DUPLICATES: Final = "duplicates"
WRITE_LOOP: Final = "write_loop"
FULL_SCAN: Final = "full_scan"
LOCK_WAIT: Final = "lock_wait"
BY_TIME: Final = (FULL_SCAN, LOCK_WAIT)
"""Verdicts on what queries took, not on how often they ran."""
VERDICTS: Final = (N_PLUS_ONE, DUPLICATES, WRITE_LOOP, *BY_TIME, OK)
"""What a request may be called, worst first."""

PAGING: Final = "paging"
POLLING: Final = "polling"
RETRIES: Final = "retries"
BATCH: Final = "batch"
BULK: Final = "bulk"
CHUNKS: Final = "chunks"
REMARKS: Final = (RETRIES, POLLING, PAGING, CHUNKS, BULK, BATCH)
"""What is worth saying without being wrong."""

REPEATS: Final = 5
"""So many runs of one statement from one line make a finding, unless the setting `repeats_warning` says another number."""

_WORTH_TELLING_WAIT_NS: Final = 10_000_000
_WORTH_TELLING_SHARE: Final = 4  # of a request's duration, at least the fourth part
_LONG_LIST: Final = 10
_SHORT_PAGE: Final = 5
_PAUSE_NS: Final = 5_000_000
_PAUSE_RATIO: Final = 5
_NAMES: Final = {
    N_PLUS_ONE: "N+1",
    DUPLICATES: "duplicates",
    WRITE_LOOP: "loop of writes",
    FULL_SCAN: "full scan",
    LOCK_WAIT: "lock wait",
    PAGING: "paging",
    POLLING: "polling",
    RETRIES: "retries",
    BATCH: "fixed batch",
    BULK: "executemany",
    CHUNKS: "in chunks",
    OK: "no finding",
}


def name_of(kind: str) -> str:
    """Return how pages call a verdict or a remark."""
    return _NAMES[kind]


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
    def is_recursive(self) -> bool:
        """Whether the function that runs it calls itself, or does so in a comprehension or lambda of its own."""
        code, caller = self.site[0], self.site[2]
        if not isinstance(code, CodeType) or caller is None:
            return False
        return code is caller or any(caller is each for each in code.co_consts)

    @property
    def parameters(self) -> list[object]:
        """For each of `runs_kept` what is equal where statement and parameters are."""
        return [(query[0], self.repeats.get(query[1], query[1])) for query in self.runs_kept]

    def sum_up(self, fetched: Mapping[int, tuple[int, int]]) -> None:
        """Count `runs_kept`; `fetched` is of queries by their starts what their rows took and how many there were."""
        runs = self.runs_kept
        durations_ns, rows = [query[2] for query in runs], [query[5] for query in runs]
        if fetched:
            for at, query in enumerate(runs):
                fetch = fetched.get(query[1])
                if fetch is not None:
                    durations_ns[at] += fetch[0]
                    rows[at] = max(rows[at], 0) + fetch[1]
        flags = 0
        for each in {query[4] for query in runs}:
            flags |= each
        errors, known_rows = sum([query[3] is not None for query in runs]), [number for number in rows if number >= 0]
        of_all = sum(known_rows) if known_rows else -1
        self._count(len(runs), sum(durations_ns), max(durations_ns), errors, of_all, flags)
        if len({query[0] for query in runs}) == 1:
            self.listed = self.statement.list_size * len(runs)
        else:
            self.listed = sum([statement(query[0]).list_size for query in runs])
        self.transactions = {query[6] for query in runs if query[6]}
        self.distinct = len(set(self.parameters)) if self.repeats else len(runs)

    def _count(self, runs: int, duration_ns: int, longest_ns: int, errors: int, rows: int, flags: int) -> None:
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
        starts = [(query[1], query[2]) for query in self.runs_kept]
        gaps = [later - start - took for (start, took), (later, _) in itertools.pairwise(starts)]
        if not gaps:
            return False
        from statistics import median  # with its fractions it takes half a megabyte

        gap_ns, took_ns = median(gaps), median(took for _, took in starts)
        return gap_ns >= _PAUSE_NS and gap_ns >= _PAUSE_RATIO * took_ns


class Finding(NamedTuple):
    """A verdict or a remark on one group, or on the request as a whole."""

    kind: str
    tell: Callable[[], str]
    """Writes `text`: of most requests nobody reads more than the verdict."""
    mend: str = ""
    """What would help; empty where nothing has to."""
    group: Group | None = None
    feeder: Group | None = None
    """The query whose rows the group runs for, where it can be told."""
    of_all_callers: int = 0
    """How often the line ran it, where that is more often than the group's caller did."""

    @property
    def text(self) -> str:
        """What is the matter, with the evidence, as a sentence."""
        return self.tell()

    @property
    def is_warning(self) -> bool:
        """Whether something should be done."""
        return self.kind in VERDICTS

    @property
    def runs(self) -> int:
        """How many runs it is said of; 0 where it is said of the request."""
        return self.of_all_callers or (self.group.runs if self.group is not None else 0)


class Summary(NamedTuple):
    """What a list of requests says of one."""

    statements: int
    verdict: str
    repeated: int
    """The most runs of one statement from one line."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that can be said of the queries of one request."""

    groups: tuple[Group, ...]
    findings: tuple[Finding, ...]
    """Warnings first, the costliest first."""

    @property
    def verdict(self) -> str:
        """The worst finding's kind, `ok` without a warning."""
        kinds = {finding.kind for finding in self.findings}
        return next((kind for kind in VERDICTS if kind in kinds), OK)

    @property
    def summary(self) -> Summary:
        """The short of it."""
        return _summary(self.groups, self.verdict)

    def with_scans(self, scans: Iterable[Finding]) -> Analysis:
        """Return it with what the plans of its statements tell; a fixed batch is no news beside that."""
        found = [*scans]
        if not found:
            return self
        return replace(self, findings=_ordered([*found, *(each for each in self.findings if each.kind != BATCH)]))


def analyse(kept: KeptRequest, repeats: int = REPEATS) -> Analysis:
    """Return what the queries of a request come to; `repeats` runs of one statement from one line are a finding."""
    groups = group(kept)
    found = [finding for each in groups if (finding := _judge(each, groups, repeats)) is not None]
    found += _asked_from_many_places(groups, {id(finding.group) for finding in found}, repeats)
    found += _waits(kept)
    if not found and (batch := _batch(groups, kept.query_count, repeats)) is not None:
        found.append(batch)
    return Analysis(tuple(groups), _ordered(found))


_ORDER: Final = {kind: at for at, kind in enumerate((*VERDICTS, *REMARKS))}


def _ordered(found: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(
        sorted(found, key=lambda finding: (_ORDER[finding.kind], -(finding.group.duration_ns if finding.group else 0)))
    )


def summary(kept: KeptRequest, repeats: int = REPEATS) -> Summary:
    """Return the short of `analyse`; a request with few queries needs no grouping."""
    if kept.query_count < repeats:
        return _summary(group(kept), next((finding.kind for finding in _waits(kept)), OK))
    return analyse(kept, repeats).summary


def _summary(groups: Sequence[Group], verdict: str) -> Summary:
    of_lines: dict[tuple[object, ...], int] = {}
    for each in groups:
        if each.sql:  # else it stands for all that there was no room for
            line = _line_of(each)
            of_lines[line] = of_lines.get(line, 0) + each.runs
    return Summary(len({line[0] for line in of_lines}), verdict, max(of_lines.values(), default=0))


def group(kept: KeptRequest) -> list[Group]:
    """Return the queries of a request by fingerprint and line, in the order of their first runs."""
    groups: dict[tuple[object, ...], Group] = {}

    def of(sql: str, site: Site, at: int) -> Group:
        key = _key(sql, site)
        found = groups.get(key)
        if found is None:
            found = groups[key] = Group(statement(sql), sql, site, at)
        return found

    if kept.sums is None:
        alike: dict[tuple[object, ...], Group] = {}  # by statement and place as they are, which is quicker told
        for at, query in enumerate(kept.queries):
            place = (query[0], id(query[7]), query[8], id(query[9]), query[10])
            known = alike.get(place)
            if known is None:
                known = alike[place] = of(query[0], query[7:], at)
            known.runs_kept.append(query)
        fetched = by_query(kept.fetches)
        for found in groups.values():
            found.repeats = kept.repeats or {}
            found.sum_up(fetched)
        return list(groups.values())
    for at, each in enumerate(kept.sums):
        found = of(each.sql, each.site, at)
        found._count(each.runs, each.duration_ns, each.longest_ns, each.errors, each.rows, each.flags)
        found.distinct += each.distinct
        found.idle_ns += each.last_ns - each.first_ns - each.duration_ns
        found.transactions |= each.transactions
        found.more_transactions += each.more_transactions
        found.listed += statement(each.sql).list_size * each.runs
    return list(groups.values())


def numbers(kept: KeptRequest, groups: Sequence[Group]) -> list[int | None]:
    """Return for each query that is kept one by one the position of its group in `groups`, which are those of the request.

    A rare statement of a request that is kept as sums may share the one of all that there was no room for; `None` without it.
    """
    number = {_key(each.sql, each.site): at for at, each in enumerate(groups)}
    shared = number.get(_key("", source.NO_SITE))
    return [number.get(_key(query[0], query[7:]), shared) for query in kept.queries]


def _key(sql: str, site: Site) -> tuple[object, ...]:
    """Return what queries of one group have in common."""
    return (statement(sql).text, *_line_key(site[0], site[1]), *_line_key(site[2], site[3]))


def _line_of(one: Group) -> tuple[object, ...]:
    """Return what groups of one statement from one line have in common, whoever calls it."""
    return (one.statement.text, *_line_key(one.site[0], one.site[1]))


def _line_key(code: CodeType | str | None, position: int) -> tuple[object, int]:
    """Return what is equal for two places in one line."""
    if isinstance(code, CodeType):
        return id(code), source.line_number(code, position)
    return code, position


def _judge(one: Group, groups: Sequence[Group], repeats: int) -> Finding | None:
    """Return what is to be said of a group, if anything is."""
    if one.flags & SCRIPT:
        return None
    if one.flags & MANY:
        if one.runs >= repeats:
            return None
        return Finding(BULK, lambda: f"{_ran(one)}{_rows(one)}, by executemany", group=one)
    if one.runs < repeats:
        return None
    if one.errors >= one.runs - 1:
        return Finding(RETRIES, lambda: f"{_ran(one)}, {one.errors} of them failed: it was tried again", group=one)
    if one.statement.writes:
        if not _is_in_chunks(one):
            return _write_loop(one)
        return Finding(CHUNKS, lambda: f"{_ran(one)}{_rows(one)}: many at a time", group=one)
    if not one.statement.reads:
        return None
    if one.distinct == 1:
        return None if _may_have_changed(one, groups) else _same_again(one)
    feeder = _feeder(one, groups)
    if _is_paging(one, feeder):
        part = f"each for another part of {one.statement.table or 'the rows'}"
        return Finding(PAGING, lambda: f"{_ran(one)}, {part}", group=one)
    return _n_plus_one(one, feeder)


def _asked_from_many_places(groups: Sequence[Group], told: Collection[int], repeats: int) -> Iterator[Finding]:
    """Find what one line asked again and again with the same parameters, called from here and there: each too seldom to tell.

    Of requests that are kept as sums it can't be told; `told` are the ids of groups that something is said of already.
    """
    of_lines: dict[tuple[object, ...], list[Group]] = {}
    for each in groups:
        is_one_query = not each.flags & (MANY | SCRIPT)
        if each.statement.reads and is_one_query and not each.errors and id(each) not in told:
            of_lines.setdefault(_line_of(each), []).append(each)
    for alike in of_lines.values():
        if len(alike) < 2 or not alike[0].repeats:
            continue
        runs = Counter(parameters for each in alike for parameters in each.parameters)
        most, number = runs.most_common(1)[0]
        if number < repeats:
            continue
        together = Group(alike[0].statement, alike[0].sql, alike[0].site, alike[0].first)
        places = 0
        for each in alike:
            same = [query for query, asked in zip(each.runs_kept, each.parameters, strict=True) if asked == most]
            places += bool(same)
            together.runs_kept += same
        together.sum_up({})
        if not _may_have_changed(together, groups):
            yield _same_again(together, places)._replace(group=alike[0], of_all_callers=number)


def _may_have_changed(one: Group, groups: Sequence[Group]) -> bool:
    """Tell whether the request wrote between most of the runs, or the answer is no table's, as of a clock: it asks anew."""
    if not one.statement.table or one.statement.is_random:
        return True
    writers = [each for each in groups if each.statement.writes or each.flags & SCRIPT]
    if not one.runs_kept or len(one.runs_kept) < one.runs:
        return sum(each.runs for each in writers) * 2 >= one.runs
    writes = sorted(query[1] for each in writers for query in each.runs_kept)
    seen = {bisect_left(writes, query[1]) for query in one.runs_kept}
    return len(seen) * 2 > one.runs


def _same_again(one: Group, places: int = 0) -> Finding:
    place = f"at {one.line}, called from {places} places" if places and one.line else ""
    if one.pauses:
        told = "with the same parameters, with pauses: it waited for something"
        return Finding(POLLING, lambda: f"{_ran(one, place)} {told}", group=one)
    mend = "ask once and keep the answer for the request, in flask.g or a local variable"
    return Finding(DUPLICATES, lambda: f"{_ran(one, place)}, each time with the same parameters", mend, one)


def _n_plus_one(one: Group, feeder: Group | None) -> Finding:
    def tell() -> str:
        ran = _ran(one)
        told = f"one statement {ran[3:]}" if ran.startswith("it ") else ran
        if one.distinct < one.runs:
            told += f", for {one.distinct} different parameters"
        if feeder is not None:
            told += f". It follows the query {_at(feeder)}" if feeder.line else f". It follows {feeder.statement.text}"
        return told

    return Finding(N_PLUS_ONE, tell, _mend(one, feeder), one, feeder)


def _mend(one: Group, feeder: Group | None) -> str:
    column = one.statement.equals[-1] if one.statement.equals else ""
    if one.is_recursive:
        return "one WITH RECURSIVE query that walks the tree in the database"
    if one.statement.is_counted:
        return f"one query with GROUP BY {column}" if column else "one query with GROUP BY"
    in_list = f"one query with {column} IN (…)" if column else "one query with an IN list"
    if feeder is not None and feeder.statement.table and one.statement.table:
        return f"a JOIN of {one.statement.table} in the query of {feeder.statement.table}, or {in_list}"
    return f"a JOIN, or {in_list}"


def _write_loop(one: Group) -> Finding:
    verb, number = one.statement.operation, len(one.transactions) + one.more_transactions
    where = "in one transaction" if number == 1 else f"in {number:,} transactions" if number else "one by one"
    mend = "one executemany" if verb in ("INSERT", "REPLACE") else f"one executemany, or one {verb} for all rows"
    if number > 1:
        mend += ", in one transaction: each commit waits for the disk"
    return Finding(WRITE_LOOP, lambda: f"{_ran(one)} {where}", mend, one)


def _is_in_chunks(one: Group) -> bool:
    """Tell whether each run writes many rows: those of a long VALUES or of a long list, or as many as a LIMIT lets through."""
    known = one.statement
    if one.listed >= _LONG_LIST * one.runs:
        return True
    is_bounded = known.has_limit or ("VALUES" in known.text and known.operation in ("INSERT", "REPLACE"))
    return is_bounded and (one.rows or 0) >= _LONG_LIST * one.runs


def _is_paging(one: Group, feeder: Group | None) -> bool:
    """Tell whether each run reads another part of the same rows: by OFFSET, by the last key, or by a long list of keys.

    A page of the rows that equal something looks like the first rows for each of many things: it is told by its order, or
    by there being nothing that it could run for.
    """
    known = one.statement
    if known.has_limit and (known.limit is None or known.limit >= _SHORT_PAGE):
        if known.is_ranged and (not known.equals or known.is_ordered_by_range):
            return True
        if known.has_offset and (not known.equals or feeder is None):
            return True
    return one.listed >= _LONG_LIST * one.runs


def _feeder(one: Group, groups: Sequence[Group]) -> Group | None:
    """Return the query whose rows `one` runs for: the last one before it that reads and runs less often."""
    before = [
        each for each in groups if each.first < one.first and each.statement.reads and not each.statement.is_counted
    ]
    fewer = [each for each in before if each.runs * 2 <= one.runs and not each.errors]
    return max(fewer, key=lambda each: each.first, default=None)


def full_scan(one: Group, index: str) -> Finding:
    """Return what is to be said of a statement that reads all of a table for want of an `index`, such as `tags(video_id)`."""
    table = index.partition("(")[0]
    return Finding(FULL_SCAN, lambda: f"{_ran(one)}, and read all of {table} each time", f"an index on {index}", one)


def _waits(kept: KeptRequest) -> Iterator[Finding]:
    """Tell of a request that has lost much of its time to others that write."""
    whole_ns = max(kept.duration_ns, kept.transfer_ns or 0)
    if kept.wait_ns < _WORTH_TELLING_WAIT_NS or kept.wait_ns * _WORTH_TELLING_SHARE < whole_ns:
        return
    holder = f", which {kept.waited_for} held" if kept.waited_for else ""
    text = f"{_ms(kept.wait_ns)} of {_ms(whole_ns)} went by waiting for the database's write lock{holder}"
    yield Finding(
        LOCK_WAIT, lambda: text, "shorter write transactions: nothing slow between the first write and the commit"
    )


def _batch(groups: Sequence[Group], queries: int, repeats: int) -> Finding | None:
    statements = len({each.statement.text for each in groups})
    if queries < repeats or statements * 2 <= queries:
        return None
    return Finding(BATCH, lambda: f"{queries} queries of {statements} different statements: a fixed batch")


def _ran(one: Group, place: str = "") -> str:
    what = one.statement.operation or "it"
    name = f"{what} {one.statement.table}".strip()
    times = "once" if one.runs == 1 else f"{one.runs:,} times"
    place = place or _at(one)
    return f"{name} ran {times}{place and ' ' + place}, {_ms(one.duration_ns)}"


def _at(one: Group) -> str:
    line, caller = one.line, one.caller
    if line is None:
        return ""
    if caller is None or (caller.file == line.file and caller.function == line.function):
        return f"at {line}"
    return f"at {line}, called at {caller}"


def _rows(one: Group) -> str:
    return "" if one.rows is None else f", {one.rows:,} rows"


def _ms(duration_ns: int) -> str:
    return figures.milliseconds(duration_ns / 1e6)


class Step(NamedTuple):
    """How often a statement ran for one thing after another in one request."""

    statement: str
    """Its fingerprint."""
    line: str
    what: str
    """The statement and its table, in short."""
    place: str
    runs: int


class Growth(NamedTuple):
    """A route whose queries grow with what it shows: one statement runs more often in one request than in another."""

    route: str
    step: Step
    runs: tuple[int, ...]
    """How often it ran in one request, the different numbers in rising order."""

    @property
    def text(self) -> str:
        """The evidence as a sentence."""
        shown = " → ".join(f"{number:,}" for number in _few(self.runs))
        place = f" {self.step.place}" if self.step.place else ""
        return f"its queries grow: {self.step.what} ran {shown} times{place}"


_LEAST_STEPS: Final = 3


def steps(groups: Sequence[Group]) -> tuple[Step, ...]:
    """Return the statements of one request that ran for one thing after another."""
    return tuple(
        Step(one.statement.text, str(one.line), f"{one.statement.operation} {one.statement.table}", _at(one), one.runs)
        for one in groups
        if _is_for_each(one, groups)
    )


def growth(requests: Iterable[tuple[str, Iterable[Step]]]) -> list[Growth]:
    """Return the routes in which a reading statement runs a growing number of times, most runs first.

    `requests` are the route and the `steps` of each. At least three different numbers are wanted, of runs that differ in
    their parameters: a cache that misses now and then, or something tried again, is no growth.
    """
    runs: dict[tuple[str, str, str], dict[int, Step]] = {}
    for route, of_request in requests:
        for step in of_request:
            runs.setdefault((route, step.statement, step.line), {})[step.runs] = step
    found: dict[str, Growth] = {}
    for (route, _, _), by_runs in runs.items():
        if len(by_runs) >= _LEAST_STEPS and (route not in found or max(by_runs) > found[route].runs[-1]):
            found[route] = Growth(route, by_runs[max(by_runs)], tuple(sorted(by_runs)))
    return sorted(found.values(), key=lambda each: -each.runs[-1])


def _is_for_each(one: Group, groups: Sequence[Group]) -> bool:
    """Tell whether a statement runs for one thing after another."""
    if not one.statement.reads or one.distinct < one.runs or one.errors:
        return False
    return not _is_paging(one, _feeder(one, groups))


def _few(numbers: Sequence[int]) -> Sequence[int]:
    return numbers if len(numbers) <= 3 else (numbers[0], numbers[len(numbers) // 2], numbers[-1])
