"""Query budgets in tests: a pytest plugin, and what works without pytest.

    def test_home(client, queries):
        client.get("/")
        assert queries.count <= 3

    @pytest.mark.max_queries(3)
    def test_home_by_marker(client): ...

    with assert_max_queries(3):
        client.get("/")

What is recorded is what the app's requests and the test itself ask SQLite in this process, by whatever call, on connections that
were opened in an instrumented app, in a test with a budget (its fixtures included), or inside the block. A budget that is
exceeded fails with the report: statements, how often, from which lines.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from telemetry import fanout
from telemetry.figures import plural
from telemetry.fingerprint import statement
from telemetry.instrumentation import sqlite
from telemetry.query import SQL, START_NS
from telemetry.recent import KeptRequest

if TYPE_CHECKING:
    from telemetry.query import Query

_MOST_LINES = 12


class QueryRecorder:
    """The queries that are made while it is there. Thread-safe."""

    def __init__(self) -> None:
        self._queries: list[Query] = []
        self._asked: dict[int, int] = {}  # start of a query -> keyed hash of its statement and parameters
        self._lock = threading.Lock()

    def __call__(self, query: Query, asked: int | None = None) -> None:
        """Add a query; equal `asked` are of equal statements with equal parameters."""
        with self._lock:
            self._queries.append(query)
            if asked is not None:
                self._asked[query[START_NS]] = asked

    def clear(self) -> None:
        """Forget what has been recorded so far."""
        with self._lock:
            self._queries.clear()
            self._asked.clear()

    @property
    def count(self) -> int:
        """How many queries were made: calls of execute, executemany and executescript."""
        return len(self._queries)

    @property
    def sql(self) -> list[str]:
        """The statements as they were written, in order."""
        return [query[SQL] for query in self._queries]

    @property
    def fingerprints(self) -> dict[str, int]:
        """How often each statement was made, whatever its literals and parameters."""
        found: dict[str, int] = {}
        for sql in self.sql:
            text = statement(sql).text
            found[text] = found.get(text, 0) + 1
        return found

    def report(self) -> str:
        """Return the statements by how often they ran, with the lines that ran them, as text."""
        with self._lock:
            queries, asked = list(self._queries), self._asked.copy()
        made = SimpleNamespace(queries=queries, sums=None, repeats=asked, fetches=(), query_count=len(queries))
        analysis = fanout.analyse(_as_kept(made))
        lines = []
        for group in sorted(analysis.groups, key=lambda group: -group.runs)[:_MOST_LINES]:
            place = f"  {group.line}" if group.line else ""
            called = f", called at {group.caller}" if group.caller else ""
            lines.append(f"{group.runs:>6} × {group.statement.text}{place}{called}")
        left = len(analysis.groups) - len(lines)
        lines += [f"       and {left} more statements"] if left else []
        lines += [
            f"  {fanout.name_of(found.kind)}: {found.text}. Mend: {found.mend}."
            for found in analysis.findings
            if found.is_warning
        ]
        return "\n".join(lines)


def _ignore(query: Query, asked: int | None = None) -> None:
    """Be told of queries for the sake of those who are too."""


def _as_kept(made: Any) -> KeptRequest:
    empty: dict[str, Any] = {**dict.fromkeys(KeptRequest._fields), "duration_ns": 0}
    return KeptRequest(**(empty | vars(made)))


class QueryBudgetError(AssertionError):
    """More queries were made than the budget allows; the text is the report."""


@contextlib.contextmanager
def record_queries() -> Iterator[QueryRecorder]:
    """Record the queries that are made inside the block, in every thread."""
    recorder = QueryRecorder()
    sqlite.listen(recorder)
    try:
        yield recorder
    finally:
        sqlite.unlisten(recorder)


@contextlib.contextmanager
def assert_max_queries(most: int) -> Iterator[QueryRecorder]:
    """Fail when more than `most` queries are made inside the block.

    Raises:
        QueryBudgetError: with the statements, how often and from which lines.
        ValueError: `most` is below 0.
    """
    __tracebackhide__ = True
    if most < 0:
        raise ValueError(f"most must be 0 or more, got {most}")
    with record_queries() as recorder:
        yield recorder
    check(recorder, most)


def check(recorder: QueryRecorder, most: int) -> None:
    """Fail when `recorder` has more than `most` queries."""
    __tracebackhide__ = True
    if recorder.count > most:
        raise QueryBudgetError(f"{plural(recorder.count, 'query')}, at most {most} allowed:\n{recorder.report()}")


def assert_constant_queries(
    make_rows: Callable[[int], Any], request: Callable[[], Any], *, steps: tuple[int, ...] = (1, 5, 20)
) -> None:
    """Fail when the number of queries of `request` grows with the data.

    Args:
        make_rows: adds so many rows to the data; called before each request with the next of `steps`.
        request: makes the request.
        steps: how many rows are added each time, at least two numbers.

    Raises:
        QueryBudgetError: with the numbers, and the statements of the last request.
        ValueError: `steps` are fewer than two.
    """
    __tracebackhide__ = True
    if len(steps) < 2:
        raise ValueError(f"steps must be at least two numbers, got {steps}")
    request()  # what is set up once is no part of it
    counts = []
    report = ""
    for rows in steps:
        make_rows(rows)
        with record_queries() as recorder:
            request()
        counts.append(recorder.count)
        report = recorder.report()
    if counts[-1] > counts[0]:
        grown = " → ".join(map(str, counts))
        raise QueryBudgetError(f"the queries grow with the data, {grown} for {steps} more rows:\n{report}")


# What else is here works without pytest. Its wrappers are those of pluggy from 1.2 on; older ones don't take the argument, and a
# plugin may not stop the tests of those who don't use it.
with contextlib.suppress(ImportError, TypeError):
    import pytest

    _wrapper = pytest.hookimpl(wrapper=True)

    def pytest_configure(config: pytest.Config) -> None:
        """Tell pytest of the marker."""
        config.addinivalue_line("markers", "max_queries(n): fail the test when it makes more than n queries")

    @pytest.fixture
    def queries() -> Iterator[QueryRecorder]:
        """The queries that the test makes, its fixtures aside: `.count`, `.sql`, `.fingerprints`, `.report()`."""
        with record_queries() as recorder:
            yield recorder

    def _has_budget(item: pytest.Item) -> bool:
        return "queries" in getattr(item, "fixturenames", ()) or item.get_closest_marker("max_queries") is not None

    @_wrapper
    def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
        """Have `sqlite3` open connections that are seen, in every test of a run in which one has a budget: fixtures that
        several tests share are set up by any of them."""
        if not any(map(_has_budget, session.items)):
            return (yield)
        sqlite.listen(_ignore)
        try:
            return (yield)
        finally:
            sqlite.unlisten(_ignore)

    @_wrapper
    def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
        """Count what the test itself makes, and hold the budget of `@pytest.mark.max_queries(n)`."""
        recorder = getattr(item, "funcargs", {}).get("queries")
        if isinstance(recorder, QueryRecorder):
            recorder.clear()  # of what fixtures have made
        marker = item.get_closest_marker("max_queries")
        if marker is None:
            return (yield)
        if len(marker.args) != 1 or marker.kwargs or not isinstance(marker.args[0], int) or marker.args[0] < 0:
            raise pytest.UsageError(f"max_queries must be given one number of 0 or more, got {marker.args}")
        with assert_max_queries(marker.args[0]):
            return (yield)
