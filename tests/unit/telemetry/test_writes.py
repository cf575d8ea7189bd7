"""What is noted of the commits of a request, beside its queries."""

from __future__ import annotations

import contextlib
import contextvars
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, copy_current_request_context, stream_with_context

from telemetry.performance import PerformanceMetrics
from telemetry.recent import KeptRequest
from telemetry.requests import current_request
from telemetry.writes import MOST_COMMITS, Commit, Writes
from tests.conftest import Instrument

Kept = Callable[[Callable[[], Any]], KeptRequest]


@pytest.fixture
def db(tmp_path: Path, kept_of: Kept) -> Iterator[sqlite3.Connection]:
    """A connection that is seen, to a database with a table."""
    with contextlib.closing(sqlite3.connect(tmp_path / "data.db", check_same_thread=False)) as db:
        db.execute("CREATE TABLE t (a UNIQUE)")
        db.commit()
        yield db


def insert(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO t VALUES (1)")


def in_with(db: sqlite3.Connection) -> None:
    with db:
        insert(db)


def in_with_that_fails(db: sqlite3.Connection) -> None:
    with contextlib.suppress(ZeroDivisionError), db:
        insert(db)
        raise ZeroDivisionError


def by_call(db: sqlite3.Connection) -> None:
    insert(db)
    db.commit()
    db.commit()  # there is nothing to commit any more


def after_reading(db: sqlite3.Connection) -> None:
    db.execute("SELECT * FROM t").fetchall()
    db.commit()


def rolled_back(db: sqlite3.Connection) -> None:
    insert(db)
    db.rollback()
    db.commit()


def by_statement(db: sqlite3.Connection) -> None:
    insert(db)
    db.execute("COMMIT")  # a query, as it is written


@pytest.mark.parametrize(
    ("function", "number"),
    [(by_call, 1), (in_with, 1), (in_with_that_fails, 0), (after_reading, 0), (rolled_back, 0), (by_statement, 0)],
)
def test_commits_of_write_transactions_are_noted(
    db: sqlite3.Connection, kept_of: Kept, function: Callable[[sqlite3.Connection], None], number: int
) -> None:
    kept = kept_of(lambda: function(db))
    assert kept.commit_count == len(list(kept.commits)) == number


def test_a_commit_is_no_query_and_lies_between_its_statement_and_the_end_of_the_request(
    db: sqlite3.Connection, kept_of: Kept
) -> None:
    kept = kept_of(lambda: by_call(db))
    (query,), (commit,) = kept.queries, kept.commits
    assert (kept.query_count, kept.db_time_ns) == (1, query[2] + commit.duration_ns)
    assert query[1] + query[2] <= commit.start_ns
    assert commit.start_ns + commit.duration_ns <= kept.start_ns + kept.duration_ns
    assert kept.commit_ns == commit.duration_ns > 0


def test_a_thread_of_the_request_commits_for_it_and_one_that_outlives_it_does_not(
    tmp_path: Path, metrics: PerformanceMetrics, instrumented: Instrument
) -> None:
    app, has_ended = Flask("threads"), threading.Event()
    instrumented(app)

    @app.get("/")
    def view() -> str:
        def later() -> None:
            assert has_ended.wait(10)
            commit()

        def commit() -> None:
            with contextlib.closing(sqlite3.connect(tmp_path / "data.db")) as db:
                db.execute("CREATE TABLE IF NOT EXISTS t (a)")
                db.execute("INSERT INTO t VALUES (1)")
                db.commit()

        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=[function]) for function in (commit, later)
        ]
        for thread in threads:
            thread.start()
        threads[0].join()
        view.late = threads[1]  # type: ignore[attr-defined]
        return "done"

    app.test_client().get("/")
    has_ended.set()
    view.late.join()  # type: ignore[attr-defined]
    (kept,) = metrics.recent.all()
    assert kept.commit_count == 1


def test_commits_while_a_body_is_made_are_noted(
    db: sqlite3.Connection, metrics: PerformanceMetrics, instrumented: Instrument
) -> None:
    app = Flask("streams")
    instrumented(app)

    @app.get("/")
    def view() -> Any:
        def body() -> Iterator[str]:
            yield "first"
            in_with(db)

        return stream_with_context(body())

    assert app.test_client().get("/").text == "first"
    (kept,) = metrics.recent.all()
    assert kept.commit_count == 1


def test_a_wait_of_a_thread_that_outlives_the_request_is_none_of_it(db: sqlite3.Connection, kept_of: Kept) -> None:
    record = []

    def view() -> None:
        by_call(db)
        record.append(current_request())

    kept = kept_of(view)
    record[0].writing().wait_ns += 10**9
    record[0].writing().add_commit(1, 10**9, has_failed=False)
    assert (kept.wait_ns, kept.commit_count) == (0, 1)


def test_a_pool_thread_commits_for_the_request_whose_context_it_is_handed_last(
    tmp_path: Path, metrics: PerformanceMetrics, instrumented: Instrument
) -> None:
    app, work = Flask("pool"), queue.SimpleQueue[Any]()
    instrumented(app)

    def serve() -> None:
        for task, is_done in iter(work.get, None):
            task()
            is_done.set()

    def commit() -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "data.db")) as db:
            db.execute("CREATE TABLE IF NOT EXISTS t (a)")
            db.execute("INSERT INTO t VALUES (1)")
            db.commit()

    @app.get("/<name>")
    def view(name: str) -> str:
        if name == "first":
            view.thread = threading.Thread(target=contextvars.copy_context().run, args=[serve])  # type: ignore[attr-defined]
            view.thread.start()  # type: ignore[attr-defined]
            return "started"
        is_done = threading.Event()
        work.put((copy_current_request_context(commit), is_done))
        assert is_done.wait(10)
        return "done"

    for name in ("first", "second"):
        app.test_client().get(f"/{name}")
    work.put(None)
    view.thread.join()  # type: ignore[attr-defined]
    assert {kept.path: kept.commit_count for kept in metrics.recent.all()} == {"/first": 0, "/second": 1}


def test_what_does_not_reach_sqlite_is_no_commit(tmp_path: Path, kept_of: Kept) -> None:
    def view() -> None:
        db = sqlite3.connect(tmp_path / "data.db")
        db.execute("CREATE TABLE t (a)")
        insert(db)
        db.close()
        with pytest.raises(sqlite3.ProgrammingError):
            db.commit()

    assert kept_of(view).commit_count == 0


@pytest.mark.skipif(not hasattr(sqlite3.Connection, "autocommit"), reason="connections have no such attribute")
def test_in_autocommit_a_call_commits_nothing(tmp_path: Path, kept_of: Kept) -> None:
    def view() -> None:
        connect: Any = sqlite3.connect
        with contextlib.closing(connect(tmp_path / "data.db", autocommit=True)) as db:
            db.execute("CREATE TABLE t (a)")
            db.execute("BEGIN")
            insert(db)
            db.commit()
            db.execute("COMMIT")

    assert kept_of(view).commit_count == 0


def test_of_very_many_commits_the_first_are_kept_one_by_one_and_the_figures_are_of_all() -> None:
    writes = Writes()
    for at in range(MOST_COMMITS + 10):
        writes.add_commit(at, 7, has_failed=at == 1)
    assert (writes.commit_count, writes.commit_ns) == (MOST_COMMITS + 10, 7 * (MOST_COMMITS + 10))
    assert list(writes.commits)[:3] == [Commit(0, 7, False), Commit(1, 7, True), Commit(2, 7, False)]
    assert len(list(writes.commits)) == MOST_COMMITS


def test_shortened_it_fits_and_its_figures_stay() -> None:
    writes = Writes(5, (3, "POST /"))
    for at in range(50):
        writes.add_commit(at, 7, has_failed=False)
    short = writes.shortened(1000)
    assert short.estimated_bytes < writes.estimated_bytes
    assert list(short.commits) == list(writes.commits)[:11]
    assert (short.wait_ns, short.waited_for, short.commit_count, short.commit_ns) == (5, (3, "POST /"), 50, 350)
    assert short.of_one_database == (50, 350)
