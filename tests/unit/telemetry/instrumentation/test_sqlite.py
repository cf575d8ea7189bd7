"""Every call style of `sqlite3` is counted once, and works as it does without."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import gc
import inspect
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from sqlite3 import dbapi2
from typing import Any, NamedTuple

import pytest
from flask import Flask, copy_current_request_context
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from telemetry import PerformanceMetrics, instrument, requests, source, uninstrument
from telemetry.fanout import analyse
from telemetry.instrumentation import sqlite, subclasses
from telemetry.instrumentation.capture import EXTENSION
from telemetry.query import DATABASE_SHIFT, DURATION_NS, FLAGS, FROM_FIRST, FURTHER, MADE, MANY, ROWS, SCRIPT, START_NS
from telemetry.recent import KeptRequest
from telemetry.requests import MAX_PENDING_QUERIES
from telemetry.sums import by_query
from tests.unit.telemetry.queries import library

Instrumented = Callable[..., Flask]


@pytest.fixture
def count(instrumented: Instrumented, metrics: PerformanceMetrics) -> Callable[[Callable[[], Any]], int]:
    """Run a function inside a request and return how many queries the request made."""
    work: list[Callable[[], Any]] = []
    app = Flask(__name__)

    @app.get("/")
    def view() -> str:
        work.pop()()
        return "done"

    instrumented(app)

    def run(function: Callable[[], Any]) -> int:
        work.append(function)
        with contextlib.suppress(sqlite3.Error):
            assert app.test_client().get("/").status_code == 200
        return int(metrics.db_queries_per_request[-1])

    app.testing = True
    return run


def connection(**options: Any) -> sqlite3.Connection:
    made = sqlite3.connect(":memory:", check_same_thread=False, **options)
    made.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    return made


STYLES: dict[str, tuple[int, Callable[[sqlite3.Connection], Any]]] = {
    "connection.execute": (1, lambda c: c.execute("SELECT * FROM t").fetchall()),
    "connection.execute with parameters": (1, lambda c: c.execute("SELECT ?", (1,)).fetchone()),
    "connection.executemany is one": (1, lambda c: c.executemany("INSERT INTO t VALUES (?)", [(1,), (2,), (3,)])),
    "connection.executescript is one": (1, lambda c: c.executescript("SELECT 1; SELECT 2; SELECT 3")),
    "cursor.execute": (1, lambda c: c.cursor().execute("SELECT 1").fetchone()),
    "cursor.executemany": (1, lambda c: c.cursor().executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])),
    "cursor.executescript": (1, lambda c: c.cursor().executescript("SELECT 1")),
    "chained on the cursor": (2, lambda c: c.cursor().execute("SELECT 1").execute("SELECT 2")),
    "chained on the connection": (2, lambda c: c.execute("SELECT 1").execute("SELECT 2")),
    "a commit, a rollback and a fetch are none": (
        1,
        lambda c: (c.execute("SELECT 1").fetchone(), c.commit(), c.rollback()),
    ),
    "an implicit BEGIN is none": (1, lambda c: (c.execute("INSERT INTO t VALUES (1)"), c.commit())),
    "as a context manager": (1, lambda c: c.__enter__().execute("SELECT 1")),
    "a query that fails": (1, lambda c: c.execute("SELECT * FROM missing")),
}


@pytest.mark.parametrize("style", STYLES)
def test_each_call_style_counts_its_queries_once(style: str, count: Callable[..., int]) -> None:
    expected, run = STYLES[style]
    opened = connection()
    assert count(lambda: run(opened)) == expected
    opened.close()


def test_a_connection_opened_through_dbapi2_is_seen(count: Callable[..., int]) -> None:
    with contextlib.closing(dbapi2.connect(":memory:")) as opened:
        assert count(lambda: opened.execute("SELECT 1")) == 1


class AppConnection(sqlite3.Connection):
    """A caller's own class: it asks twice for everything."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        super().execute(sql, *parameters)
        return super().execute(sql, *parameters)

    def answer(self) -> Any:
        return self.execute("SELECT 42").fetchone()[0]


class AppCursor(sqlite3.Cursor):
    def execute(self, sql: str, *parameters: Any) -> AppCursor:
        super().execute("SELECT 'before'")
        return super().execute(sql, *parameters)


class CursorChoosingConnection(sqlite3.Connection):
    def cursor(self, factory: Any = AppCursor) -> Any:
        return super().cursor(factory)


def test_a_callers_own_connection_class_keeps_its_behaviour_and_what_reaches_sqlite_is_counted(
    count: Callable[..., int],
) -> None:
    with contextlib.closing(sqlite3.connect(":memory:", factory=AppConnection)) as opened:
        assert isinstance(opened, AppConnection)
        found: list[Any] = []
        assert count(lambda: found.append(opened.answer())) == 2
        assert found == [42]


class OddConnection(sqlite3.Connection):
    """Goes by the class of the object and not by its own, as many do."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super(self.__class__, self).__init__(*args, **options)
        self.execute("SELECT 1")


def test_a_class_whose_methods_go_by_the_class_of_the_object_works(count: Callable[..., int]) -> None:
    def connect() -> None:
        with contextlib.closing(sqlite3.connect(":memory:", factory=OddConnection)) as opened:
            assert opened.__class__ is OddConnection

            class Further(type(opened)):  # type: ignore[misc]
                def __init__(self, *args: Any) -> None:
                    sqlite3.Connection.__init__(self, *args)

            with contextlib.closing(Further(":memory:")) as further:
                assert further.__class__ is Further

    assert count(connect) == 1


class AgainConnection(sqlite3.Connection):
    def again(self) -> sqlite3.Connection:
        return self.__class__(":memory:")


def test_what_makes_another_of_its_kind_makes_one_that_is_seen(count: Callable[..., int]) -> None:
    with (
        contextlib.closing(sqlite3.connect(":memory:", factory=AgainConnection)) as opened,
        contextlib.closing(opened.again()) as other,
    ):
        assert count(lambda: other.execute("SELECT 1")) == 1


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="from Python 3.15 on it has to be named")
@pytest.mark.filterwarnings("ignore:Passing more than 1 positional argument:DeprecationWarning")  # since Python 3.13
def test_the_factory_may_be_passed_by_position(count: Callable[..., int]) -> None:
    with contextlib.closing(sqlite3.connect(":memory:", 5.0, 0, "", True, AppConnection)) as opened:
        assert isinstance(opened, AppConnection)
        assert count(opened.answer) == 2


def test_a_callers_own_cursor_class_is_counted_by_what_it_does(count: Callable[..., int]) -> None:
    with contextlib.closing(connection()) as opened:
        assert isinstance(opened.cursor(AppCursor), AppCursor)
        assert count(lambda: opened.cursor(AppCursor).execute("SELECT 1")) == 2


def test_a_connection_class_that_chooses_its_cursors_is_seen(count: Callable[..., int]) -> None:
    with contextlib.closing(sqlite3.connect(":memory:", factory=CursorChoosingConnection)) as opened:
        assert count(lambda: opened.cursor().execute("SELECT 1")) == 2


def test_a_factory_that_is_a_function_is_seen_when_it_makes_a_subclass(count: Callable[..., int]) -> None:
    def factory(*args: Any, **kwargs: Any) -> AppConnection:
        return AppConnection(*args, **kwargs)

    with contextlib.closing(sqlite3.connect(":memory:", factory=factory)) as opened:
        assert isinstance(opened, AppConnection)
        assert count(opened.answer) == 2


def test_a_cursor_factory_that_is_a_function_is_seen_when_it_makes_a_subclass(count: Callable[..., int]) -> None:
    def factory(connection: sqlite3.Connection) -> AppCursor:
        return AppCursor(connection)

    with contextlib.closing(connection()) as opened:
        assert count(lambda: opened.cursor(factory).execute("SELECT 1")) == 2


def test_a_factory_that_makes_the_plain_class_works_and_says_that_it_is_not_seen(
    count: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    def factory(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return sqlite3.Connection(*args, **kwargs)

    with contextlib.closing(sqlite3.connect(":memory:", factory=factory)) as opened:
        assert count(lambda: opened.execute("SELECT 1")) == 0
    assert "queries of Connection objects are not seen" in caplog.text


def test_row_factories_backup_iterdump_and_isinstance_work_as_without(
    instrumented: Instrumented, tmp_path: Path
) -> None:
    instrumented(Flask(__name__))
    with contextlib.closing(connection()) as opened, contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        opened.row_factory = sqlite3.Row
        assert opened.execute("SELECT a FROM t").fetchone()["a"] == 1
        opened.commit()
        opened.backup(copy)
        assert copy.execute("SELECT a FROM t").fetchone() == (1,)
        assert any("CREATE TABLE t" in line for line in opened.iterdump())
        assert isinstance(opened, sqlite3.Connection)
        assert isinstance(opened.execute("SELECT 1"), sqlite3.Cursor)
        with opened:
            opened.execute("INSERT INTO t VALUES (2)")
        assert opened.in_transaction is False


def test_errors_are_the_errors_of_sqlite3(instrumented: Instrumented) -> None:
    instrumented(Flask(__name__))
    with contextlib.closing(connection()) as opened:
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            opened.execute("SELECT * FROM missing")
        with pytest.raises(sqlite3.ProgrammingError):
            opened.execute("SELECT ?")
        with pytest.raises(TypeError):
            opened.execute()  # type: ignore[call-arg]


def test_queries_of_threads_count_when_they_have_the_requests_context(count: Callable[..., int]) -> None:
    with contextlib.closing(connection()) as opened:

        def in_threads() -> None:
            for context in (contextvars.copy_context(), contextvars.copy_context(), None):
                target = opened.execute if context is None else context.run
                args = ("SELECT 1",) if context is None else (opened.execute, "SELECT 1")
                thread = threading.Thread(target=target, args=args)
                thread.start()
                thread.join()

        assert count(in_threads) == 2


def test_a_request_of_ten_thousand_queries_is_counted_exactly(
    count: Callable[..., int], metrics: PerformanceMetrics
) -> None:
    with contextlib.closing(connection()) as opened:

        def work() -> None:
            def some() -> None:
                for _ in range(2500):
                    opened.execute("SELECT 1")

            threads = [threading.Thread(target=contextvars.copy_context().run, args=(some,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert count(work) == 10_000


def test_threads_that_outlive_their_request_cost_it_nothing(
    instrumented: Instrumented, metrics: PerformanceMetrics
) -> None:
    threads: list[threading.Thread] = []
    app = instrumented(Flask(__name__))

    def work() -> None:
        with contextlib.closing(sqlite3.connect(":memory:")) as opened:
            for at in range(60):
                opened.execute("SELECT ?", (at % 3,)).fetchall()

    @app.get("/")
    def view() -> str:
        threads.extend(threading.Thread(target=contextvars.copy_context().run, args=(work,)) for _ in range(3))
        for thread in threads[-3:]:
            thread.start()
        return "done"

    client, switch_interval_s = app.test_client(), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(200):
            assert "Server-Timing" in client.get("/").headers
    finally:
        sys.setswitchinterval(switch_interval_s)
        for thread in threads:
            thread.join()
    assert metrics.failures == 0
    kept = metrics.recent.all()
    assert [each.query_count for each in kept] == [len(each.queries) for each in kept]
    assert [each.query_count for each in kept[:20]] == metrics.db_queries_per_request[:-21:-1]


def test_open_connections_go_on_uncounted_after_uninstrument(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    original = sqlite3.connect
    app = instrumented(Flask(__name__))
    assert sqlite3.connect is not original
    opened = connection()
    uninstrument(app)
    assert sqlite3.connect is original
    assert dbapi2.connect is original
    assert opened.execute("SELECT a FROM t").fetchone() == (1,)
    opened.close()


def test_a_reference_to_connect_taken_while_instrumented_opens_plain_connections_afterwards(
    instrumented: Instrumented,
) -> None:
    app = instrumented(Flask(__name__))
    kept = sqlite3.connect
    uninstrument(app)
    with contextlib.closing(kept(":memory:")) as opened:
        assert type(opened) is sqlite3.Connection


# -- what goes with each query ---------------------------------------------------------------------------------------------

Kept = Callable[[Callable[[], Any]], KeptRequest]


def test_rows_flags_and_errors_go_with_each_query(kept_of: Kept) -> None:
    with contextlib.closing(connection()) as opened:

        def view() -> None:
            opened.execute("UPDATE t SET a = a")
            opened.executemany("INSERT INTO t VALUES (?)", [(1,), (2,), (3,)])
            opened.execute("SELECT * FROM t")
            opened.executescript("SELECT 1")
            opened.execute("DELETE FROM t")
            with contextlib.suppress(sqlite3.Error):
                opened.execute("SELECT * FROM missing")

        told = [(query[3], query[4] % (1 << DATABASE_SHIFT) & ~MADE, query[5]) for query in kept_of(view).queries]
    assert told == [
        (None, 0, 1),
        (None, MANY, 3),
        (None, 0, -1),
        (None, SCRIPT, -1),
        (None, 0, 4),
        ("sqlite3.OperationalError", 0, -1),
    ]


def test_rows_go_with_the_query_whose_cursor_they_were_fetched_from(kept_of: Kept) -> None:
    with contextlib.closing(connection()) as opened:

        def view() -> None:
            outer, again = opened.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3"), opened.cursor()
            while outer.fetchmany(1):
                again.execute("SELECT 1 UNION SELECT 2").fetchall()
            opened.cursor().fetchall()  # it has run nothing

        kept = kept_of(view)
        fetched = by_query(kept.fetches)
        assert [fetched[query[1]][1] for query in kept.queries] == [3, 2, 2, 2]


def test_rows_go_with_their_query_also_when_its_request_has_very_many(kept_of: Kept) -> None:
    with contextlib.closing(connection()) as opened:

        def view() -> None:
            first, second = opened.execute("SELECT 1 UNION SELECT 2"), opened.execute("SELECT 3")
            for at in range(2 * MAX_PENDING_QUERIES + 10):
                opened.execute("SELECT ?", (at % 7,))
            first.fetchall()
            second.execute("SELECT 4 UNION SELECT 5 UNION SELECT 6").fetchall()

        sums = {each.sql: each for each in kept_of(view).sums or ()}
    assert sums["SELECT ?"].runs == 2 * MAX_PENDING_QUERIES + 10
    assert sums["SELECT ?"].distinct == 7
    assert sums["SELECT 4 UNION SELECT 5 UNION SELECT 6"].rows == 3


def test_a_query_that_is_kept_of_very_many_has_its_rows_and_what_fetching_them_took(kept_of: Kept) -> None:
    with contextlib.closing(connection()) as opened:

        def view() -> None:
            opened.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3").fetchall()
            for at in range(2 * MAX_PENDING_QUERIES):
                opened.execute("SELECT ?", (at,))

        kept = kept_of(view)
    (first,) = [each for each in kept.sums or () if each.sql.endswith("SELECT 3")]
    query = kept.queries[0]
    took_ns, rows = by_query(kept.fetches)[query[START_NS]]
    assert (rows, query[DURATION_NS] + took_ns) == (3, first.duration_ns)
    assert kept.db_time_ns == sum(each.duration_ns for each in kept.sums or ())


def test_rows_that_are_fetched_one_by_one_take_no_room_each(kept_of: Kept) -> None:
    rows = 3 * requests._MOST_FETCHES
    with contextlib.closing(connection()) as opened:

        def view() -> None:
            all_rows = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows}) SELECT i FROM n"
            cursor = opened.execute(all_rows)
            while cursor.fetchmany(1):
                pass

        kept = kept_of(view)
    (only,) = analyse(kept).groups
    assert (only.runs, only.rows) == (1, rows)
    assert len(kept.fetches) <= requests._MOST_FETCHES


def test_every_row_that_was_fetched_is_in_a_group_however_many_queries_there_are(kept_of: Kept) -> None:
    runs = 3 * MAX_PENDING_QUERIES + 1
    with contextlib.closing(connection()) as opened:

        def view() -> None:
            for at in range(runs):
                opened.execute("SELECT ? UNION SELECT -1", (at,)).fetchall()

        kept = kept_of(view)
    (only,) = analyse(kept).groups
    assert (only.runs, only.rows) == (runs, 2 * runs)
    assert only.duration_ns == kept.db_time_ns


@pytest.mark.parametrize("runs", [9, 900])
def test_the_longest_run_takes_as_long_as_it_does_with_its_rows(runs: int, kept_of: Kept) -> None:
    with contextlib.closing(connection()) as opened:

        def view() -> None:
            for _ in range(runs):
                opened.execute("SELECT a FROM t WHERE a = ?", (1,))
            opened.execute(
                "WITH n(x) AS (VALUES(1) UNION ALL SELECT x + 1 FROM n LIMIT 9000) SELECT x FROM n"
            ).fetchall()

        rows = analyse(kept_of(view)).groups[-1]
    assert rows.longest_ns == rows.duration_ns


@pytest.mark.parametrize("runs", [60, 600, 2 * MAX_PENDING_QUERIES])
def test_callers_of_one_line_are_told_apart_however_many_queries_there_are(runs: int, kept_of: Kept) -> None:
    with contextlib.closing(connection()) as opened:

        def ask(at: int) -> None:
            opened.execute("SELECT a FROM t WHERE a = ?", (at,))

        def view() -> None:
            for at in range(3):
                ask(at)
            for at in range(runs):
                ask(at)

        few, many = analyse(kept_of(view)).groups
    assert (few.runs, many.runs) == (3, runs)
    assert few.caller is not None
    assert many.caller is not None
    assert many.caller.line == few.caller.line + 2


@pytest.mark.parametrize(
    ("sql", "collection"),
    [
        ("SELECT a FROM main.t", "t"),
        ('SELECT a FROM "main" . [my t]', "my t"),
        ("UPDATE OR IGNORE `t` SET a = 1", "t"),
        ("INSERT INTO t SELECT a FROM other.u", "t"),
        ("SELECT a FROM (SELECT a FROM main.t)", "t"),
        ("SELECT 1", None),
    ],
)
def test_a_series_names_the_table_without_its_schema(
    sql: str, collection: str | None, instrumented: Instrumented
) -> None:
    middleware = instrumented(Flask(__name__)).extensions[EXTENSION].middleware
    assert middleware.capture.operation(sql).get("db.collection.name") == collection


class Point:
    """A parameter that has no hash but is adapted."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    def __conform__(self, _: Any) -> int:
        return self.x


@pytest.mark.parametrize(
    ("sql", "same", "different"),
    [
        ("SELECT a FROM t WHERE a = ?", lambda _: (1,), lambda at: (at,)),
        ("SELECT a FROM t WHERE a = ?", lambda _: [1], lambda at: [at]),
        ("SELECT a FROM t WHERE a = ?", lambda _: ["x" * 99], lambda at: ["x" * at]),
        ("SELECT a FROM t WHERE a = ?", lambda _: (b"x",), lambda at: (bytes(at + 1),)),
        ("SELECT a FROM t WHERE a = :a", lambda _: {"a": 1, "b": 2}, lambda at: {"a": at, "b": 2}),
        ("SELECT a FROM t WHERE a = ?", lambda _: (None,), lambda at: (-10 * at,)),
    ],
    ids=["tuple", "list", "long text", "bytes", "dict", "none and negative"],
)
def test_equal_parameters_are_told_from_different_ones(
    sql: str, same: Callable[[int], Any], different: Callable[[int], Any], kept_of: Kept
) -> None:
    with contextlib.closing(connection()) as opened:
        found = analyse(kept_of(lambda: [opened.execute(sql, same(at)) for at in range(6)]))
        assert [group.distinct for group in found.groups] == [1]
        assert found.verdict == "duplicates"
        found = analyse(kept_of(lambda: [opened.execute(sql, different(at)) for at in range(6)]))
        assert [group.distinct for group in found.groups] == [6]
        assert found.verdict == "n_plus_one"


def test_parameters_that_cannot_be_compared_are_taken_for_different_ones(kept_of: Kept) -> None:
    with contextlib.closing(connection()) as opened:
        found = analyse(kept_of(lambda: [opened.execute("SELECT a FROM t WHERE a = ?", (Point(1),)) for _ in range(6)]))
        assert [group.distinct for group in found.groups] == [6]


class Place:
    """A parameter that is adapted, and whose hash is that of its address."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __conform__(self, _: Any) -> int:
        return self.x


@pytest.mark.parametrize("style", ["by position", "by name", "a list"])
def test_parameters_that_are_told_apart_by_their_address_are_different_ones(style: str, kept_of: Kept) -> None:
    def ask(opened: sqlite3.Connection, x: int) -> None:
        if style == "by name":
            opened.execute("SELECT a FROM t WHERE a = :x", {"x": Place(x)})
        else:
            opened.execute("SELECT a FROM t WHERE a = ?", [Place(x)] if style == "a list" else (Place(x),))

    with contextlib.closing(connection()) as opened:
        found = analyse(kept_of(lambda: [ask(opened, x) for x in range(6)]))
        assert ([group.distinct for group in found.groups], found.verdict) == ([6], "n_plus_one")


def of_files(folder: Path, number: int) -> Iterator[sqlite3.Connection]:
    """Yield connections to as many files with a table, one after the other."""
    for at in range(number):
        with contextlib.closing(sqlite3.connect(folder / f"{at}.db")) as opened:
            opened.execute("CREATE TABLE IF NOT EXISTS t (a)")
            opened.commit()
            yield opened


@pytest.mark.parametrize("parameters", [lambda _: (1,), lambda at: (at,)], ids=["same", "different"])
def test_what_is_asked_of_one_database_after_another_is_no_finding(
    tmp_path: Path, kept_of: Kept, parameters: Callable[[int], Any]
) -> None:
    for opened in of_files(tmp_path, 2):
        opened.execute("SELECT a FROM t")

    def view() -> None:
        for at, opened in enumerate(of_files(tmp_path, 8)):
            opened.execute("SELECT a FROM t WHERE a = ?", parameters(at)).fetchall()

    found = analyse(kept_of(view))
    assert found.verdict == "ok"
    assert [group.runs for group in found.groups if group.statement.operation == "SELECT"] == [1] * 8


def test_what_is_asked_of_one_file_over_new_connections_is_a_finding(tmp_path: Path, kept_of: Kept) -> None:
    list(of_files(tmp_path, 2))

    def view() -> None:
        for _ in range(6):
            for opened in of_files(tmp_path, 1):
                opened.execute("SELECT a FROM t WHERE a = 1").fetchall()

    assert "SELECT t ran 6 times" in " ".join(finding.text for finding in analyse(kept_of(view)).findings)


def test_databases_in_memory_are_others_unless_they_share_a_name(kept_of: Kept) -> None:
    def view(name: str, is_uri: bool) -> None:
        with contextlib.closing(sqlite3.connect(name, uri=is_uri)) as first:
            first.execute("CREATE TABLE t (a)")
            for _ in range(6):
                with contextlib.closing(sqlite3.connect(name, uri=is_uri)) as opened:
                    opened.execute("CREATE TABLE IF NOT EXISTS t (a)")
                    opened.execute("SELECT a FROM t").fetchall()

    own = analyse(kept_of(lambda: view(":memory:", False)))
    assert own.summary.repeated == 1
    shared = analyse(kept_of(lambda: view("file:of-this-test?mode=memory&cache=shared", True)))
    assert shared.summary.repeated == 6


def test_a_list_of_parameters_is_the_same_as_a_tuple_of_them(kept_of: Kept) -> None:
    with contextlib.closing(connection()) as opened:
        both = ([1], (1,)) * 3
        found = analyse(kept_of(lambda: [opened.execute("SELECT a FROM t WHERE a = ?", each) for each in both]))
        assert [group.distinct for group in found.groups] == [1]


class Row(NamedTuple):
    """Parameters as many apps have them."""

    a: int


class Endless:
    """A sequence that sqlite3 takes for as long as it says that it is, and that has no end to iterate to."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> int:
        self.reads += 1
        return 1


def test_parameters_of_a_tuples_subclass_are_compared_too(kept_of: Kept) -> None:
    with contextlib.closing(connection()) as opened:
        found = analyse(kept_of(lambda: [opened.execute("SELECT a FROM t WHERE a = ?", Row(1)) for _ in range(6)]))
        assert [group.distinct for group in found.groups] == [1]


def test_parameters_of_a_class_of_the_apps_own_are_read_by_sqlite_alone(kept_of: Kept) -> None:
    asked = Endless()
    with contextlib.closing(connection()) as opened:
        kept = kept_of(lambda: opened.execute("SELECT a FROM t WHERE a = ? LIMIT 1 OFFSET ?", [1, 0]))
        assert kept.query_count == 1
        kept = kept_of(lambda: opened.execute("SELECT a FROM t WHERE a = ?", asked))
        assert (kept.query_count, asked.reads) == (1, 1)


class CursorOfItsOwn(sqlite3.Cursor):
    """Gives names of `sqlite3.Cursor` another meaning."""

    @property
    def rowcount(self) -> Any:  # type: ignore[override]
        raise ValueError("nobody has to ask")

    description: Any = "of the app"
    connection: Any = None


def test_what_a_cursor_class_calls_by_names_of_sqlites_is_its_own_affair(kept_of: Kept) -> None:
    with contextlib.closing(connection()) as opened:
        kept = kept_of(lambda: opened.cursor(CursorOfItsOwn).execute("INSERT INTO t VALUES (2)"))
        assert [query[ROWS] for query in kept.queries] == [1]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_attributes_of_a_connection_of_the_apps_own_stay(moment: str, kept_of: Kept) -> None:
    class Tracked(sqlite3.Connection):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            if moment == "before":
                self._telemetry = "the app's own"

    with contextlib.closing(sqlite3.connect(":memory:", factory=Tracked)) as opened:
        opened._telemetry = "the app's own"
        opened.execute("CREATE TABLE t (a)")

        def view() -> None:
            opened.execute("INSERT INTO t VALUES (1)")
            opened.commit()

        assert kept_of(view).query_count == 1
        assert opened._telemetry == "the app's own"


@pytest.mark.parametrize("factory", [sqlite3.Connection, AppConnection])
def test_messages_call_connections_and_cursors_as_they_are_called_without(factory: type, kept_of: Kept) -> None:
    with contextlib.closing(sqlite3.connect(":memory:", factory=factory)) as opened:
        name = f"{factory.__module__}.{factory.__qualname__}"
        assert repr(opened).startswith(f"<{name} object at ")
        assert repr(opened.cursor()).startswith("<sqlite3.Cursor object at ")
        assert repr(opened.cursor(AppCursor)).startswith(f"<{__name__}.AppCursor object at ")


def test_connect_is_replaced_in_modules_that_had_taken_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    for _ in range(2):  # a test may import the app's modules anew
        module = types.ModuleType("an_app_that_had_taken_connect")
        exec("from sqlite3 import connect", module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        assert_seen_through(module)


def assert_seen_through(module: Any) -> None:
    metrics = PerformanceMetrics()
    app = instrument(Flask(__name__), metrics=metrics, tracer_provider=TracerProvider(shutdown_on_exit=False))
    app.add_url_rule("/", "view", lambda: str(ask()))

    def ask() -> Any:
        with contextlib.closing(module.connect(":memory:")) as opened:
            return opened.execute("SELECT 1").fetchone()

    try:
        app.test_client().get("/")
        assert metrics.recent.all()[0].query_count == 1
    finally:
        uninstrument(app)
        assert module.connect is sqlite3.connect


def test_what_a_test_has_put_in_the_place_of_connect_stays(
    monkeypatch: pytest.MonkeyPatch, instrumented: Instrumented, metrics: PerformanceMetrics
) -> None:
    def make() -> Flask:
        app = instrumented(Flask(__name__))
        app.add_url_rule("/", "view", lambda: str(sqlite3.connect(":memory:")))
        return app

    uninstrument(make())
    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", lambda _: "a mock")
        app = make()
        assert app.test_client().get("/").text == "a mock"
        uninstrument(app)
        assert sqlite3.connect(":memory:") == "a mock"  # type: ignore[comparison-overlap]
        make()
    app = instrumented(Flask(__name__))  # while that one is instrumented yet
    app.add_url_rule("/", "view", lambda: str(connection().execute("SELECT 1").fetchone()))
    app.test_client().get("/")
    assert metrics.recent.all()[0].query_count == 2


@pytest.mark.parametrize("spans", ["nobody listens", "made at once"])
def test_a_thread_that_has_flasks_context_alone_belongs_to_the_request(
    spans: str, instrumented: Instrumented, metrics: PerformanceMetrics
) -> None:
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    if spans == "made at once":
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = instrumented(Flask(__name__), tracer_provider=provider)

    @app.get("/")
    def view() -> str:
        @copy_current_request_context
        def work() -> None:
            with contextlib.closing(sqlite3.connect(":memory:")) as opened:
                opened.execute("SELECT 1 UNION SELECT 2").fetchall()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return "done"

    app.test_client().get("/")
    (kept,) = metrics.recent.all()
    assert (kept.query_count, [*kept.fetches[2::3]]) == (1, [2])
    spans_made = {span.name: span for span in exporter.get_finished_spans()}
    if spans_made:
        parent = spans_made["SELECT"].parent
        assert parent is not None
        assert parent.span_id == spans_made["GET /"].context.span_id


@pytest.mark.parametrize("spans", ["nobody listens", "made at once"])
def test_a_thread_that_outlives_its_request_works_for_the_one_whose_context_it_is_handed(
    spans: str, instrumented: Instrumented, metrics: PerformanceMetrics
) -> None:
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    if spans == "made at once":
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    app, jobs, threads = instrumented(Flask(__name__), tracer_provider=provider), Queue[Any](), list[threading.Thread]()

    def work() -> None:
        for job, is_done in iter(jobs.get, None):
            job()
            is_done.set()

    @app.get("/<int:number>")
    def view(number: int) -> str:
        @copy_current_request_context
        def job() -> None:
            with contextlib.closing(sqlite3.connect(":memory:")) as opened:
                for _ in range(number):
                    opened.execute("SELECT 1 UNION SELECT 2").fetchall()

        if not threads:  # which has the context of the first request, as where threads inherit it
            threads.append(threading.Thread(target=contextvars.copy_context().run, args=(work,)))
            threads[0].start()
        is_done = threading.Event()
        jobs.put((job, is_done))
        is_done.wait()
        return "done"

    for number in (2, 3):
        app.test_client().get(f"/{number}")
    jobs.put(None)
    threads[0].join()
    kept = {each.query_count: each for each in metrics.recent.all()}
    assert sorted(kept) == [2, 3]
    assert [*kept[3].fetches[2::3]] == [2, 2, 2]
    parents = Counter(span.parent.span_id for span in exporter.get_finished_spans() if span.parent is not None)
    assert not parents or parents == {kept[2].span_id: 2, kept[3].span_id: 3}


class _TakesNoAttributes(sqlite3.Connection):
    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError(name)


class _TakesNoSubclass(sqlite3.Connection):
    def __init_subclass__(cls, *, reason: str) -> None:
        super().__init_subclass__()


class _CursorTakesNoSubclass(sqlite3.Cursor):
    def __init_subclass__(cls, *, reason: str) -> None:
        super().__init_subclass__()


@pytest.mark.parametrize("factory", [_TakesNoAttributes, _TakesNoSubclass])
def test_a_class_that_is_hard_to_extend_works_as_it_does_without(
    factory: type[sqlite3.Connection], count: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    subclasses._log_once.cache_clear()
    with contextlib.closing(sqlite3.connect(":memory:", factory=factory)) as opened:
        seen = count(lambda: (opened.execute("SELECT 1"), opened.cursor(_CursorTakesNoSubclass).execute("SELECT 1")))
    assert seen == (1 if factory is _TakesNoAttributes else 0)
    assert "takes no subclass" in caplog.text


def test_lazy_loads_of_an_orm_have_the_line_that_reads_the_attribute(kept_of: Kept) -> None:
    from sqlalchemy import ForeignKey, Integer, String, create_engine, select
    from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, relationship
    from sqlalchemy.pool import StaticPool

    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "users"
        id = mapped_column(Integer, primary_key=True)
        name = mapped_column(String)

    class Post(Base):
        __tablename__ = "posts"
        id = mapped_column(Integer, primary_key=True)
        author_id = mapped_column(ForeignKey(User.id))
        author = relationship(User)

    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Post(id=key, author=User(id=key, name=f"name {key}")) for key in range(1, 8)])
        session.commit()

    def view() -> None:
        with Session(engine) as session:
            for post in session.scalars(select(Post)):  # all
                assert post.author.name  # lazily

    text, first = inspect.getsourcelines(view)
    kept = kept_of(view)
    engine.dispose()
    lines = [source.line_of(query[7], query[8]) for query in kept.queries]
    numbers = {
        mark: first + next(at for at, line in enumerate(text) if f"# {mark}" in line) for mark in ("all", "lazily")
    }
    assert [line.line for line in lines if line] == [numbers["all"], *[numbers["lazily"]] * 7]
    found = analyse(kept)
    assert found.verdict == "n_plus_one"
    assert "posts" in found.findings[0].mend


@pytest.mark.parametrize("looked_at", [True, False], ids=["spans are looked at", "no exporter"])
def test_an_error_that_was_handled_keeps_no_cursor_and_so_no_lock(
    looked_at: bool, instrumented: Instrumented, tmp_path: Path
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    if looked_at:
        provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    app = instrumented(Flask(__name__), tracer_provider=provider)
    file = tmp_path / "data.db"

    @app.get("/")
    def view() -> str:
        with contextlib.closing(sqlite3.connect(file, timeout=0)) as opened:
            opened.execute("CREATE TABLE IF NOT EXISTS t (a UNIQUE)")
            with contextlib.suppress(sqlite3.IntegrityError):
                opened.execute("INSERT INTO t VALUES (1), (1)")
        return ""

    gc.disable()
    try:
        app.test_client().get("/")
        with contextlib.closing(sqlite3.connect(file, timeout=0)) as other:
            other.execute("INSERT INTO t VALUES (2)")
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("statement", "kept_as"),
    [
        (5, "<int>"),
        (None, "<NoneType>"),
        (["SELECT 1", "secret"], "<list>"),
        (b"SELECT 1", "<bytes>"),
        ("SELECT '\ud800'", "SELECT '?'"),
        ("SELECT \0", "SELECT \0"),
    ],
)
@pytest.mark.parametrize("method", ["execute", "executescript"])
def test_what_is_no_statement_at_all_is_recorded_without_its_value(
    statement: object, kept_as: str, method: str, metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = Flask(__name__)

    def view() -> str:
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            for target in (connection, connection.cursor()):
                with pytest.raises((TypeError, UnicodeEncodeError, ValueError, sqlite3.Error)):
                    getattr(target, method)(statement)
        return "ok"

    app.add_url_rule("/", "view", view)
    client = instrumented(app).test_client()
    trace_id = client.get("/").headers["traceparent"].split("-")[1]
    assert [query[0] for query in metrics.recent.all()[0].queries] == [kept_as] * 2
    assert client.get(f"/api/admin/performance/requests/{trace_id}").status_code == 200
    assert client.get(f"/admin/performance/requests/{trace_id}").status_code == 200


class Raising(SpanProcessor):
    """A processor of an app that has a bug."""

    def __init__(self, *at: str) -> None:
        self.at = at

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if "start" in self.at:
            raise RuntimeError("a bug at the start")

    def on_end(self, span: ReadableSpan) -> None:
        if "end" in self.at:
            raise RuntimeError("a bug at the end")


@pytest.mark.parametrize("at", ["start", "end"])
def test_a_query_that_has_run_has_run_whatever_a_span_processor_does(
    at: str, metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Raising(at))
    app = Flask("bug")
    app.add_url_rule("/", "view", lambda: str(connection().execute("SELECT a FROM t").fetchall()))
    answer = instrumented(app, tracer_provider=provider).test_client().get("/")
    assert (answer.status_code, answer.text) == (200, "[(1,)]")
    assert metrics.db_queries_per_request == [2]
    assert metrics.failures > 0


def test_a_query_that_can_t_be_recorded_has_run(
    count: Callable[[Callable[[], Any]], int], metrics: PerformanceMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = connection()

    def broken(*_: Any) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(sqlite.locks, "wrote", broken)
    monkeypatch.setattr(sqlite.locks, "failed", broken)

    def work() -> None:
        assert opened.execute("INSERT INTO t VALUES (2)").rowcount == 1
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            opened.execute("SELECT * FROM missing")

    count(work)
    assert metrics.failures == 2
    assert opened.execute("SELECT a FROM t").fetchall() == [(1,), (2,)]


def test_a_working_directory_that_is_gone_costs_no_query(
    count: Callable[[Callable[[], Any]], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {"opened": connection()}
    exec(compile("def late():\n    return opened.execute('SELECT 1').fetchall()", "plugins/late.py", "exec"), names)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert count(names["late"]) == 1


def test_how_many_rows_returning_has_changed_is_known_when_they_are_fetched(
    kept_of: Callable[..., KeptRequest],
) -> None:
    opened = connection()

    def work() -> None:
        opened.execute("UPDATE t SET a = 2 RETURNING a").fetchone()
        opened.execute("UPDATE t SET a = 3 RETURNING a").fetchall()

    kept = kept_of(work)
    assert [query[5] for query in kept.queries] == [-1, -1]
    assert [each.rows for each in analyse(kept).groups] == [None, 1]


def test_a_statement_of_a_class_of_its_own_that_is_refused_is_kept_as_text(kept_of: Kept) -> None:
    class Composed(str):
        __hash__ = None  # type: ignore[assignment]

    with contextlib.closing(connection()) as opened:

        def work() -> None:
            with contextlib.suppress(TypeError):
                opened.execute(Composed("SELECT 1"))

        kept = kept_of(work)
    assert [type(query[0]) for query in kept.queries] == [str]
    assert [each.sql for each in analyse(kept).groups] == ["SELECT 1"]


def test_a_librarys_offset_is_told_as_the_first_rows_or_others(kept_of: Callable[..., KeptRequest]) -> None:
    orm = library("orm.py")
    asked = "SELECT 1 LIMIT ? OFFSET ?"

    def view() -> None:
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            for given in ((1, 0), [1, 0], (1, 20), (1, "0")):
                orm(functools.partial(db.execute, asked, given))
            orm(functools.partial(db.execute, "SELECT ?", (0,)))
            orm(functools.partial(db.execute, "SELECT 1 LIMIT :a OFFSET :b", {"a": 1, "b": 0}))
            db.execute(asked, (1, 0))

    flags = [query[FLAGS] % (1 << DATABASE_SHIFT) for query in kept_of(view).queries]
    assert flags == [FROM_FIRST, FROM_FIRST, FURTHER, 0, 0, 0, 0]
