"""What the queries of one request come to: groups that are alike, and the verdict on them.

A finding states its evidence, so that it can be checked: the statement, the line, how often, how long. False alarms are worse
than silence: what repeats for a good reason, reading page by page, waiting for something, trying again, gets its own word and
is no warning.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from telemetry import figures
from telemetry.groups import Group, groups_of
from telemetry.locks import ITSELF, READERS
from telemetry.query import MANY, SCRIPT, START_NS
from telemetry.settings import TelemetrySettings

if TYPE_CHECKING:
    from telemetry.recent import KeptRequest

OK: Final = "ok"
N_PLUS_ONE: Final = "n_plus_one"
DUPLICATES: Final = "duplicates"
WRITE_LOOP: Final = "write_loop"
FULL_SCAN: Final = "full_scan"
LOCK_WAIT: Final = "lock_wait"
COMMITS: Final = "commits"
BY_TIME: Final = (FULL_SCAN, LOCK_WAIT, COMMITS)
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
_OF_WRITES: Final = frozenset({WRITE_LOOP, CHUNKS})
"""What tells of its commits itself, or writes many rows for each of them, which others may write between."""

REPEATS: Final = TelemetrySettings.repeats_warning
"""So many runs of one statement from one line make a finding, unless the setting `repeats_warning` says another number."""

_WORTH_TELLING_NS: Final = 10_000_000
_WORTH_TELLING_SHARE: Final = 4  # of a request's duration, at least the fourth part
_LONG_LIST: Final = 10
_SHORT_PAGE: Final = 5
_NAMES: Final = {
    N_PLUS_ONE: "N+1",
    DUPLICATES: "duplicates",
    WRITE_LOOP: "loop of writes",
    FULL_SCAN: "full scan",
    LOCK_WAIT: "lock wait",
    COMMITS: "many commits",
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
    groups = groups_of(kept)
    found = [finding for each in groups if (finding := _judge(kept, each, groups, repeats)) is not None]
    found += _asked_from_many_places(groups, {id(finding.group) for finding in found}, repeats)
    found += _waits(kept)
    found += _commits(kept, groups, {id(finding.group) for finding in found if finding.kind in _OF_WRITES}, repeats)
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
        return _summary(groups_of(kept), next((finding.kind for finding in _waits(kept)), OK))
    return analyse(kept, repeats).summary


def _summary(groups: Sequence[Group], verdict: str) -> Summary:
    of_lines: dict[tuple[object, ...], int] = {}
    for each in groups:
        if each.sql:  # else it stands for all that there was no room for
            line = each.line_key
            of_lines[line] = of_lines.get(line, 0) + each.runs
    return Summary(len({line[0] for line in of_lines}), verdict, max(of_lines.values(), default=0))


def _judge(kept: KeptRequest, one: Group, groups: Sequence[Group], repeats: int) -> Finding | None:
    """Return what is to be said of a group, if anything is."""
    if one.flags & SCRIPT:
        return None
    if one.flags & MANY:
        if one.runs >= repeats:
            return None
        return Finding(BULK, lambda: f"{_ran(one)}{_rows(one)}, by executemany", group=one)
    if one.runs < repeats:
        return None
    if one.errors == one.runs - 1 or (one.errors == one.runs and one.distinct == 1):
        return Finding(RETRIES, lambda: f"{_ran(one)}, {one.errors} of them failed: it was tried again", group=one)
    if one.statement.writes:
        if not _is_in_chunks(one):
            return _write_loop(kept, one)
        return Finding(CHUNKS, lambda: f"{_ran(one)}{_rows(one)}: many at a time", group=one)
    if not one.statement.reads:
        return None
    if one.distinct == 1:
        return None if _may_have_changed(one, groups) else _same_again(one, groups)
    if one.statement.is_of_schema:
        return None
    if is_paging(one, groups):
        part = f"each for another part of {one.statement.table or 'the rows'}"
        return Finding(PAGING, lambda: f"{_ran(one)}, {part}", group=one)
    return _n_plus_one(one, groups)


def _asked_from_many_places(groups: Sequence[Group], told: Collection[int], repeats: int) -> Iterator[Finding]:
    """Find what one line asked again and again, called from here and there: each too seldom to tell. It was with the same
    parameters, or from several places that were each passed more than once, as in a loop over what has several of a kind.

    Of requests that are kept as sums it can't be told; `told` are the ids of groups that something is said of already.
    """
    of_lines: dict[tuple[object, ...], list[Group]] = {}
    for each in groups:
        is_one_query = not each.flags & (MANY | SCRIPT)
        if each.statement.reads and is_one_query and not each.errors and id(each) not in told:
            of_lines.setdefault(each.line_key, []).append(each)
    for alike in of_lines.values():
        if len(alike) < 2 or not alike[0].runs_kept:
            continue
        runs = Counter(parameters for each in alike for parameters in each.parameters)
        most, number = runs.most_common(1)[0]
        if number >= repeats:
            together, places = _together(alike, lambda asked, most=most: asked == most)  # type: ignore[misc]
            if not _may_have_changed(together, groups):
                yield _same_again(together, groups, places)._replace(group=alike[0], of_all_callers=number)
        elif len(looped := [each for each in alike if each.runs > 1]) > 1 and not alike[0].statement.is_of_schema:
            together, places = _together(looped, lambda _: True)
            if together.distinct >= repeats and not is_paging(together, groups):
                found = _n_plus_one(together, groups, places)
                yield found._replace(group=looped[0], of_all_callers=together.runs)


def _together(alike: Sequence[Group], is_wanted: Callable[[object], bool]) -> tuple[Group, int]:
    """Return the runs of groups of one line whose parameters are wanted as one group, and how many of these there are."""
    together = Group(alike[0].statement, alike[0].sql, alike[0].site, alike[0].first, repeats=alike[0].repeats)
    places, took_ns = 0, []
    for each in alike:
        runs = zip(each.runs_kept, each.took_ns, each.parameters, strict=True)
        wanted = [(query, took) for query, took, asked in runs if is_wanted(asked)]
        places += bool(wanted)
        together.runs_kept += [query for query, _ in wanted]
        took_ns += [took for _, took in wanted]
    together.sum_up({})
    together.took_ns, together.duration_ns = took_ns, sum(took_ns)
    return together, places


def _may_have_changed(one: Group, groups: Sequence[Group]) -> bool:
    """Tell whether the request wrote between most of the runs, or the answer is no table's, as of a clock: it asks anew."""
    if not one.statement.table or one.statement.is_random:
        return True
    writers = _writers(groups)
    if not one.runs_kept or len(one.runs_kept) < one.runs:
        return sum(each.runs for each in writers) * 2 >= one.runs
    writes = sorted(query[START_NS] for each in writers for query in each.runs_kept)
    seen = {bisect_left(writes, query[START_NS]) for query in one.runs_kept}
    return len(seen) * 2 > one.runs


def _writers(groups: Sequence[Group]) -> list[Group]:
    return [each for each in groups if each.statement.writes or each.flags & SCRIPT]


def _called_from(one: Group, places: int) -> str:
    return f"at {one.line}, called from {places} places" if places and one.line else ""


def _same_again(one: Group, groups: Sequence[Group], places: int = 0) -> Finding:
    place = _called_from(one, places)
    if one.pauses:
        told = "with the same parameters, with long pauses: as who waits for something"
        return Finding(POLLING, lambda: f"{_ran(one, place)} {told}", group=one)
    mend = "ask once and keep the answer for the request, in flask.g or a local variable"
    if _writers(groups):
        mend += "; ask again after a write"
    return Finding(DUPLICATES, lambda: f"{_ran(one, place)}, each time with the same parameters", mend, one)


def _n_plus_one(one: Group, groups: Sequence[Group], places: int = 0) -> Finding:
    feeder = _told_feeder(one, groups)

    def tell() -> str:
        ran = _ran(one, _called_from(one, places))
        told = f"one statement {ran[3:]}" if ran.startswith("it ") else ran
        if one.distinct < one.runs:
            told += f", for {one.distinct} different parameters"
        if feeder is not None:
            told += f". It follows the query {feeder.place}" if feeder.line else f". It follows {feeder.statement.text}"
        return told

    return Finding(N_PLUS_ONE, tell, _mend(one, feeder, groups), one, feeder)


def _told_feeder(one: Group, groups: Sequence[Group]) -> Group | None:
    """Return the query whose rows `one` runs for, where more speaks for it than that it was before."""
    weighed = [(_feeds(each, one), each.first, each) for each in _before(one, groups)]
    weight, _, found = max(weighed, key=itemgetter(0, 1), default=(0, 0, None))
    return found if weight else None


def _feeds(before: Group, one: Group) -> int:
    """Return how much speaks for it that `one` runs for the rows of a query: that there were just as many; or, of one in the same
    function, that there were more, or where that is not known, that it is not the query for one row.
    """
    if not before.statement.table:
        return 0
    is_near = _is_near(before, one)
    if before.rows is not None:
        return 3 if before.rows in (one.runs, one.distinct) else 2 if is_near and before.rows > one.distinct else 0
    limit = before.statement.limit
    if before.statement.equals or (limit is not None and limit * before.runs < one.distinct):
        return 0
    return int(is_near)


def _mend(one: Group, feeder: Group | None, groups: Sequence[Group]) -> str:
    column = one.statement.key
    if not one.statement.table:
        return "work it out in Python, or in the query whose rows it is for"
    if one.is_recursive and any(each is not one and each.line_key == one.line_key for each in groups):
        return "one WITH RECURSIVE query that walks the tree in the database"
    if one.statement.is_counted and not one.statement.text.startswith("SELECT EXISTS"):
        return f"one query with GROUP BY {column}" if column else "one query with GROUP BY"
    in_list = f"one query with {column} IN (…)" if column else "one query with an IN list"
    if feeder is not None and feeder.statement.table == one.statement.table:
        return f"its columns in the query of {one.statement.table} before it, or {in_list}; an ORM reads again after a commit"
    if feeder is not None:
        return f"a JOIN of {one.statement.table} in the query of {feeder.statement.table}, or {in_list}"
    return f"a JOIN, or {in_list}"


def _write_loop(kept: KeptRequest, one: Group) -> Finding:
    verb, number = one.statement.operation, _transactions(one)
    where = "in one transaction" if number == 1 else f"in {number:,} transactions" if number else "one by one"
    mend = "one executemany" if verb in ("INSERT", "REPLACE") else f"one executemany, or one {verb} for all rows"
    if number > 1:
        mend += ", in one transaction: each commit waits for the disk"
        if kept.commit_ns >= _WORTH_TELLING_NS:
            where += f"; the request's commits took {_ms(kept.commit_ns)}"
    return Finding(WRITE_LOOP, lambda: f"{_ran(one)} {where}", mend, one)


def _is_in_chunks(one: Group) -> bool:
    """Tell whether each run writes many rows: those of a long VALUES or of a long list, or as many as a LIMIT lets through."""
    known = one.statement
    if one.listed >= _LONG_LIST * one.runs:
        return True
    is_bounded = known.has_limit or ("VALUES" in known.text and known.operation in ("INSERT", "REPLACE"))
    return is_bounded and (one.rows or 0) >= _LONG_LIST * one.runs


def is_paging(one: Group, groups: Sequence[Group]) -> bool:
    """Tell whether each run reads another part of the same rows: by OFFSET, by the last key, or by a long list of keys.

    A page of the rows that equal something looks like the first rows for each of many things: it is told by its order, or
    by there being nothing that it could run for.
    """
    known = one.statement
    if known.has_limit and (known.limit is None or known.limit >= _SHORT_PAGE):
        if known.is_ranged and (not known.equals or (known.is_ordered_by_range and not _is_for_each_row(one, groups))):
            return True
        if known.has_offset and not one.is_of_first_rows and (not known.equals or not _before(one, groups)):
            return True
    return one.listed >= _LONG_LIST * one.runs


def _is_for_each_row(one: Group, groups: Sequence[Group]) -> bool:
    """Tell whether the same function, or one that called it, had a query of just as many rows before."""
    return any(each.rows in (one.runs, one.distinct) and _is_near(each, one) for each in _before(one, groups))


def _is_near(before: Group, one: Group) -> bool:
    functions = (one.site[0], one.site[2])
    return any(code is not None and code in functions for code in (before.site[0], before.site[2]))


def _before(one: Group, groups: Sequence[Group]) -> list[Group]:
    """Return the queries whose rows `one` may run for: those before it that read and run less often."""
    before = [
        each for each in groups if each.first < one.first and each.statement.reads and not each.statement.is_counted
    ]
    return [each for each in before if each.runs * 2 <= one.runs and not each.errors]


def full_scan(one: Group, index: str) -> Finding:
    """Return what is to be said of a statement that reads all of a table for want of an `index`, such as `tags(video_id)`."""
    table = index.partition("(")[0]
    return Finding(FULL_SCAN, lambda: f"{_ran(one)}, and read all of {table} each time", f"an index on {index}", one)


def _waits(kept: KeptRequest) -> Iterator[Finding]:
    """Tell of a request that has lost much of its time to others that write."""
    if not _is_worth_telling(kept.wait_ns, kept):
        return
    lost = "waiting for the database's write lock"
    mend = "shorter write transactions: nothing slow between the first write and the commit"
    if kept.waited_for == READERS:
        lost = "in a commit that readers did not let through"
        mend = "rows that are fetched at once by who reads, or a write-ahead log: PRAGMA journal_mode = WAL"
    elif kept.waited_for == ITSELF:
        mend = "one connection for what it writes, or a commit before another one writes"
    holder = f", which {kept.waited_for} held" if kept.waited_for and kept.waited_for != READERS else ""
    text = f"{_ms(kept.wait_ns)} of {_ms(_whole_ns(kept))} went by {lost}{holder}"
    yield Finding(LOCK_WAIT, lambda: text, mend)


def _transactions(one: Group) -> int:
    return len(one.transactions) + one.more_transactions


def _commits(kept: KeptRequest, groups: Sequence[Group], told: Collection[int], repeats: int) -> Iterator[Finding]:
    """Tell of a request that has spent much of its time in many commits to one database, unless most are explained: by what is
    said of groups with the ids `told`, or by `executemany`.
    """
    number, took_ns = kept.commits_of_one_database
    if number < repeats or not _is_worth_telling(took_ns, kept):
        return
    explained = sum(_transactions(each) for each in groups if each.flags & MANY or id(each) in told)
    if 2 * explained < kept.commit_count:
        text = f"{number:,} commits took {_ms(took_ns)} of {_ms(_whole_ns(kept))}"
        mend = "one transaction for what belongs together: each commit waits for the disk"
        yield Finding(COMMITS, lambda: text, mend)


def _is_worth_telling(part_ns: int, kept: KeptRequest) -> bool:
    return part_ns >= _WORTH_TELLING_NS and part_ns * _WORTH_TELLING_SHARE >= _whole_ns(kept)


def _whole_ns(kept: KeptRequest) -> int:
    return max(kept.duration_ns, kept.transfer_ns or 0)


def _batch(groups: Sequence[Group], queries: int, repeats: int) -> Finding | None:
    statements = len({each.statement.text for each in groups})
    if queries < repeats or statements * 2 <= queries:
        return None
    return Finding(BATCH, lambda: f"{queries} queries of {statements} different statements: a fixed batch")


def _ran(one: Group, place: str = "") -> str:
    what = one.statement.operation or "it"
    name = f"{what} {one.statement.table}".strip()
    times = "once" if one.runs == 1 else f"{one.runs:,} times"
    place = place or one.place
    return f"{name} ran {times}{place and ' ' + place}, {_ms(one.duration_ns)}"


def _rows(one: Group) -> str:
    return "" if one.rows is None else f", {one.rows:,} rows"


def _ms(duration_ns: int) -> str:
    return figures.milliseconds(duration_ns / 1e6)
