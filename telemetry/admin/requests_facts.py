"""What is told of the requests that are kept: the facts that the JSON, the pages, the command line and the exports share."""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from telemetry import fanout, figures, forked, growth, locks, plans
from telemetry.admin import downloads
from telemetry.admin.missing_request import MissingRequestError
from telemetry.document import rfc3339, rounded
from telemetry.failure import clean
from telemetry.groups import groups_of, numbers_of
from telemetry.percentiles import percentile
from telemetry.query import DURATION_NS, ERROR_TYPE, ROWS, START_NS
from telemetry.source import text_of
from telemetry.sums import by_query

if TYPE_CHECKING:
    from flask import Flask

    from telemetry.document import Figures, RouteWindow
    from telemetry.exporters.status import Exporting
    from telemetry.fanout import Finding
    from telemetry.groups import Group
    from telemetry.performance import PerformanceMetrics
    from telemetry.query import Query
    from telemetry.recent import KeptRequest
    from telemetry.settings import TelemetrySettings
    from telemetry.source import SourceLine
    from telemetry.writes import Commit

REQUEST_ID: Final = re.compile(r"(?P<trace>[0-9a-f]{32})(?:-(?P<span>[0-9a-f]{16}))?", re.ASCII)
SLOW_STATEMENT_NS: Final = 10_000_000
"""From this time on, all runs together, a statement's plan is looked at without being asked for."""
_MOST_PLANS: Final = 5
_lock: Final = forked.lock()  # one for all readers, of which each request for a page may make one
_LEAST_KNOWN: Final = 100
OF_LATE_NS: Final = 15 * 60 * 10**9
"""A finding is told of its route for so long, or as long as its request is in the route's window."""


class Warned(NamedTuple):
    """The worst finding of a request, without what it was found in."""

    kind: str
    weight: int
    """What it is compared with others of its kind by: runs, or nanoseconds."""
    line: str
    text: str
    """The short of it."""


class Known(NamedTuple):
    """What lists say of a request, which is worked out once, and holds nothing of the request."""

    summary: fanout.Summary
    warned: Warned | None
    steps: tuple[growth.Step, ...]
    scans: Mapping[int, str]
    """Positions of groups that read all of a large table, and the indexes that they want."""


class GroupPlan(NamedTuple):
    """The plan of the statement of one group of a request, as JSON has it."""

    groups: int
    """How many groups the request has."""
    body: dict[str, Any] | None
    """`None` where it has no such group."""


class Source(Protocol):
    """What the pages show and by what it is judged; it may be exchanged while they are mounted, as by another `instrument`."""

    @property
    def metrics(self) -> PerformanceMetrics: ...
    @property
    def settings(self) -> TelemetrySettings: ...


class Reader:
    """Reads figures and kept requests of `source`; what has been worked out of a request is remembered. Thread-safe."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._known: dict[tuple[int, ...], Known] = {}
        self._most_known = _LEAST_KNOWN

    @property
    def metrics(self) -> PerformanceMetrics:
        """What this process has measured, at present."""
        return self.source.metrics

    @property
    def figures(self) -> Figures:
        """What the pages show."""
        return self.metrics

    @property
    def settings(self) -> TelemetrySettings:
        """The thresholds that they are judged by at present."""
        return self.source.settings

    def all(self) -> list[KeptRequest]:
        """Return all requests, the newest first."""
        return self.metrics.recent.all()

    def find(self, request_id: str) -> list[KeptRequest]:
        """Return the request that is kept by `TRACE_ID-SPAN_ID`, or by `TRACE_ID` those of the trace, the newest first.

        Raises:
            MissingRequestError: a worker that may keep it does not answer. So does each method that tells of a request.
        """
        return [each for each in self.all() if request_id in (each.request_id, f"{each.trace_id:032x}")]

    def known(self, kept: KeptRequest) -> Known:
        """Return the short of a request, as it was when it was first looked at."""
        key = (kept.trace_id, kept.span_id, kept.query_count, self.settings.repeats_warning)
        found = self._known.get(key)
        if found is None:
            analysis = fanout.analyse(kept, self.settings.repeats_warning)
            scans, is_settled = _full_scans(analysis.groups)
            analysis = _with_scans(analysis, scans)
            found = Known(analysis.summary, _warned(kept, analysis), growth.steps_of(analysis.groups), scans)
            if is_settled:
                with _lock:
                    if len(self._known) >= self._most_known:
                        self._forget_what_is_gone()
                    self._known[key] = found
        return found

    def _forget_what_is_gone(self) -> None:
        """Forget the short of requests that are not kept any more; it is done again when there are twice as many."""
        kept = {(each.trace_id, each.span_id) for each in self.metrics.recent.all()}
        self._known = {key: known for key, known in self._known.items() if key[:2] in kept}
        self._most_known = max(_LEAST_KNOWN, 2 * len(self._known))

    def growth(self, requests: Sequence[KeptRequest]) -> list[growth.Growth]:
        """Return the routes among `requests` whose queries grow."""
        return growth.growing((kept.route, self.known(kept).steps) for kept in requests if kept.query_count)

    def brief(self, kept: KeptRequest) -> dict[str, Any]:
        """Return a request as lists have it: times in milliseconds."""
        summary = self.known(kept).summary
        db_ns = kept.db_time_ns
        return {
            "trace_id": f"{kept.trace_id:032x}",
            "span_id": f"{kept.span_id:016x}",
            "route": kept.route,
            "endpoint": kept.endpoint,
            "path": kept.address,
            "status": kept.status,
            "error_type": kept.error_type,
            "started_at": _rfc3339(kept.start_unix_ns),
            "duration_ms": rounded(kept.duration_ns / 1e6),
            "transfer_ms": None if (whole_ns := kept.whole_transfer_ns) is None else rounded(whole_ns / 1e6),
            "query_count": kept.query_count,
            "db_ms": rounded(db_ns / 1e6),
            "db_share_percent": rounded(100 * db_ns / max(kept.duration_ns, kept.transfer_ns or 0, 1)),
            "lock_wait_ms": rounded(kept.wait_ns / 1e6),
            "commit_count": kept.commit_count,
            "commit_ms": rounded(kept.commit_ns / 1e6),
            "statements": summary.statements,
            "repeated": summary.repeated,
            "verdict": summary.verdict,
            "severity": _status(kept, summary.verdict, self.settings).word,
        }

    def analyse(self, kept: KeptRequest) -> fanout.Analysis:
        """Return all that can be said of a request's queries."""
        return _with_scans(fanout.analyse(kept, self.settings.repeats_warning), self.known(kept).scans)

    def detail(self, kept: KeptRequest, analysis: fanout.Analysis) -> dict[str, Any]:
        """Return all that is known of a request, whose queries come to `analysis`; no parameter is."""
        number = {id(group): at for at, group in enumerate(analysis.groups)}
        slow = {id(group): plans.explain(group.sql, [file]) for group, file in _slow(analysis.groups)}
        groups = [_group(group, slow.get(id(group))) for group in analysis.groups]
        findings = [_finding(finding, number) for finding in analysis.findings]
        of_queries, fetched = numbers_of(kept, analysis.groups), by_query(kept.fetches)
        return {
            **self.brief(kept),
            "findings": findings,
            "checked": _checked(kept, analysis, self.settings.repeats_warning),
            "groups": groups,
            "queries": [
                _query(kept, query, fetched.get(query[START_NS], (0, -1)), group)
                for query, group in zip(kept.queries, of_queries, strict=True)
            ],
            "commits": [_commit(kept, commit) for commit in kept.commits],
        }

    def facts(self, requests: Sequence[KeptRequest]) -> list[dict[str, Any]]:
        """Return what pages tell of each of `requests`: the details, and the code that its queries come from.

        Those that another worker keeps, and does not tell of, are left out.
        """
        return [self._facts(kept) for kept in requests]

    def fact(self, kept: KeptRequest) -> dict[str, Any]:
        """Return what `facts` does of one."""
        found = self.facts([kept])
        if not found:
            raise MissingRequestError(kept.request_id, is_silent=True)
        return found[0]

    def _facts(self, kept: KeptRequest) -> dict[str, Any]:
        analysis = self.analyse(kept)
        detail = self.detail(kept, analysis)
        for group, told in zip(analysis.groups, detail["groups"], strict=True):
            told["code"] = code_of(group)
        return detail

    def plan(self, kept: KeptRequest, at: int) -> GroupPlan:
        """Return the plan of the statement of a request's group `at`."""
        groups = groups_of(kept)
        if not groups:
            return GroupPlan(0, plan_body(plans.Plan("", error="this request has made no query")))
        return GroupPlan(len(groups), plan_body(plan_of(groups[at])) if at < len(groups) else None)

    def test(self, kept: KeptRequest) -> str:
        """Return a test that holds a request to its number of queries."""
        return downloads.pytest_of(kept, self.analyse(kept))

    def spans(self, requests: Sequence[KeptRequest], app: Flask) -> list[dict[str, Any]]:
        """Return the spans of `requests`, which `app` has answered, as `resourceSpans` of OTLP JSON."""
        found: list[dict[str, Any]] = downloads.otlp_json(requests, app).get("resourceSpans", [])
        return found

    def silent(self) -> list[int]:
        """Return the processes of workers that live, and have not told their figures in time."""
        return []

    def untold(self) -> list[int]:
        """Return the processes of those that have, but have not told their requests."""
        return []

    def exporting(self, own: Sequence[Exporting]) -> Sequence[Exporting]:
        """Return the exporters that are shown, where those of this process are its `own`."""
        return own

    def databases(self) -> list[dict[str, Any]]:
        """Return the paths of databases with the size of their write-ahead logs and who held the write lock longest."""
        return databases()


def _with_scans(analysis: fanout.Analysis, scans: Mapping[int, str]) -> fanout.Analysis:
    return analysis.with_scans(fanout.full_scan(analysis.groups[at], index) for at, index in scans.items())


def _status(kept: KeptRequest, verdict: str, settings: TelemetrySettings) -> figures.Status:
    """Return how a request is shown: by its duration, by its queries and what they come to, and by whether it failed."""
    of_findings = figures.GOOD if verdict == fanout.OK else figures.WARNING
    of_queries = figures.fan_out_status(kept.query_count, settings)
    of_answer = figures.GOOD if kept.error_type is None else figures.POOR
    return figures.worst(figures.latency_status(kept.duration_ns / 1e6, settings), of_findings, of_queries, of_answer)


def _warned(kept: KeptRequest, analysis: fanout.Analysis) -> Warned | None:
    worst = next((finding for finding in analysis.findings if finding.is_warning), None)
    if worst is None:
        return None
    line = str(worst.group.line or "") if worst.group is not None else ""
    weight = worst.runs
    if worst.kind == fanout.LOCK_WAIT:
        weight = kept.wait_ns
        told = figures.milliseconds(weight / 1e6) + (f", {kept.waited_for} held it" if kept.waited_for else "")
    elif worst.kind == fanout.COMMITS:
        number, weight = kept.commits_of_one_database
        told = f"{figures.count(number)} took {figures.milliseconds(weight / 1e6)}"
    elif worst.kind == fanout.FULL_SCAN and worst.group is not None:
        weight = worst.group.duration_ns
        told = f"{figures.milliseconds(weight / 1e6)} without {worst.mend}"
    else:
        told = f"{figures.count(worst.runs)} of {figures.plural(kept.query_count, 'query')} alike"
    place = f" at {line}" if line else ""
    return Warned(worst.kind, weight, line, f"{fanout.name_of(worst.kind)}: {told}{place}")


def _checked(kept: KeptRequest, analysis: fanout.Analysis, repeats: int) -> str | None:
    """Return what was looked for where nothing was found, as a sentence."""
    if analysis.findings or not kept.query_count:
        return None
    most = analysis.summary.repeated
    if most < repeats:
        none = f"no statement ran {repeats:,} times or more from one line"
        is_all = all(group.sql for group in analysis.groups)
        return none if is_all else f"{none}, among those that there was room to tell apart"
    return f"nothing to mend, though one statement ran {most:,} times from one line"


def _query(kept: KeptRequest, query: Query, fetched: tuple[int, int], group: int | None) -> dict[str, Any]:
    fetch_ns, fetched_rows = fetched
    rows = max(query[ROWS], fetched_rows)
    return {
        "group": group,
        "start_ms": rounded((query[START_NS] - kept.start_ns) / 1e6),
        "duration_ms": rounded((query[DURATION_NS] + fetch_ns) / 1e6),
        "rows": rows if rows >= 0 else None,
        "error_type": query[ERROR_TYPE],
    }


def _commit(kept: KeptRequest, commit: Commit) -> dict[str, Any]:
    return {
        "start_ms": rounded((commit.start_ns - kept.start_ns) / 1e6),
        "duration_ms": rounded(commit.duration_ns / 1e6),
        "has_failed": commit.has_failed,
    }


def _rfc3339(unix_ns: int) -> str:
    return rfc3339(unix_ns // 10**9).replace("Z", f".{unix_ns // 10**6 % 1000:03d}Z")


def _slow(groups: Sequence[Group]) -> Iterator[tuple[Group, str]]:
    """Yield the slowest SELECTs, whose plans are worth a look, with the files that they ran in, where these are known."""
    slow = [
        group for group in groups if group.duration_ns >= SLOW_STATEMENT_NS and group.statement.operation == "SELECT"
    ]
    for group in sorted(slow, key=lambda group: -group.duration_ns)[:_MOST_PLANS]:
        file = locks.file_of(group.sql)
        if file:
            yield group, file


def _full_scans(groups: Sequence[Group]) -> tuple[dict[int, str], bool]:
    """Return which of `groups` read all of a large table for want of which index, and whether all could be looked at."""
    found, number = {}, {id(group): at for at, group in enumerate(groups)}
    for group, file in _slow(groups):
        try:
            index = plans.missing_index(group.sql, file, None if group.rows is None else group.rows // group.runs)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                return {}, False
            continue
        except (sqlite3.Error, sqlite3.Warning, ValueError):
            continue
        if index is not None:
            found[number[id(group)]] = index
    return found, True


def plan_of(group: Group) -> plans.Plan:
    """Return the plan of a group's statement, in the file that it ran in if that is known, else in the one that it can have."""
    file = locks.file_of(group.sql)
    if file is not None:
        return plans.explain(group.sql, [file] if file else [])
    return plans.explain(group.sql, locks.files() if locks.is_all_in_files() else [])


def plan_body(plan: plans.Plan) -> dict[str, Any]:
    """Return a plan as JSON has it; of the file its name alone."""
    return {
        "file": plan.file.replace("\\", "/").rpartition("/")[2],
        "steps": [{"detail": step.detail, "depth": step.depth, "warning": step.warning} for step in plan.steps],
        "error": plan.error or None,
    }


def _group(group: Group, plan: plans.Plan | None) -> dict[str, Any]:
    line = group.line
    return {
        "statement": group.statement.text,
        "sql": group.sql,
        "runs": group.runs,
        "distinct": group.distinct,
        "total_ms": rounded(group.duration_ns / 1e6),
        "each_ms": rounded(group.duration_ns / 1e6 / group.runs),
        "longest_ms": rounded(group.longest_ns / 1e6),
        "rows": group.rows,
        "errors": group.errors,
        "source": _line(line),
        "called_from": _line(group.caller),
        "plan": None if plan is None else plan_body(plan),
    }


def _line(line: SourceLine | None) -> dict[str, Any] | None:
    return None if line is None else {"file": line.file, "line": line.line, "function": line.function}


def code_of(group: Group) -> str:
    """Return the line of code that a group comes from, as it is written now."""
    code, line = group.site[0], group.line
    if code is None or line is None:
        return ""
    return text_of(code if isinstance(code, str) else code.co_filename, line.line)


def _finding(finding: Finding, number: dict[int, int]) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "is_warning": finding.is_warning,
        "text": finding.text,
        "mend": finding.mend,
        "group": None if finding.group is None else number[id(finding.group)],
        "feeder": None if finding.feeder is None else number[id(finding.feeder)],
    }


def of_late(requests: Sequence[KeptRequest], windows: Iterable[RouteWindow], now_unix_nano: int) -> list[KeptRequest]:
    """Return those of `requests` that speak for their routes as they are now: the worst are kept for long after a mend."""
    in_windows = {sample.trace_id for window in windows for sample in window.samples}
    return [kept for kept in requests if kept.trace_id in in_windows or now_unix_nano - kept.start_unix_ns < OF_LATE_NS]


def fan_out(reader: Reader) -> dict[str, Any]:
    """Return how many queries the requests of each route make, which of them grow, and what locks have cost."""
    shown = reader.figures
    windows = shown.route_windows()
    growing = {growth.route: growth for growth in reader.growth(of_late(reader.all(), windows, time.time_ns()))}
    waits = shown.lock_waits()
    return {
        "routes": [
            {
                "route": window.route,
                "requests": len(window.queries),
                "queries_p50": rounded(float(percentile(window.queries, 50))),
                "queries_p95": rounded(float(percentile(window.queries, 95))),
                "queries_max": max(window.queries),
                "growth": growing[window.route].text if window.route in growing else None,
                "lock_wait_ms": rounded(1000 * waits.get(window.route, 0.0)),
            }
            for window in windows
            if window.queries
        ],
        "databases": shown_databases(reader),
    }


def databases() -> list[dict[str, Any]]:
    """Return what `Reader.databases` does, of this process."""
    longest = {hold.file: hold for hold in locks.longest_holds()}
    found = []
    for file in locks.files():
        hold = longest.get(file)
        found.append(
            {
                "file": clean(file),
                "wal_bytes": locks.wal_bytes(file),
                "longest_write_ms": None if hold is None else rounded((hold.end_ns - hold.start_ns) / 1e6),
                "longest_writer": None if hold is None else hold.route,
            }
        )
    return found


def shown_databases(reader: Reader) -> list[dict[str, Any]]:
    """Return the databases that `reader` knows, each by a name that is short and none of the others'."""
    found = reader.databases()
    names = _short_names([database["file"] for database in found])
    return [database | {"file": name} for database, name in zip(found, names, strict=True)]


def _short_names(files: Sequence[str]) -> list[str]:
    """Return each path without its folders, or with as many of the last of them as tell it from the others."""
    paths = [file.replace("\\", "/").split("/") for file in files]
    ends = Counter("/".join(path[-length:]) for path in paths for length in range(1, len(path) + 1))
    return [
        next((end for length in range(1, len(path)) if ends[end := "/".join(path[-length:])] == 1), "/".join(path))
        for path in paths
    ]
