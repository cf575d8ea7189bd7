"""What connections lose to each other's write locks, told from the transactions that they hold."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import pytest

from telemetry import fanout, locks
from telemetry.recent import KeptRequest
from telemetry.writes import Writes

Kept = Callable[[Callable[[], Any]], KeptRequest]
MS = 1_000_000


@pytest.fixture
def file(tmp_path: Path, kept_of: Kept) -> Path:
    """A database with a table, whose connections are seen."""
    path = tmp_path / "data.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (a)")
        db.execute("CREATE TABLE one (a UNIQUE)")
        db.execute("INSERT INTO one VALUES (1)")
        db.commit()
    return path


@contextlib.contextmanager
def opened(file: Path, **options: Any) -> Iterator[Any]:
    with contextlib.closing(sqlite3.connect(file, check_same_thread=False, **options)) as db:
        yield db


def transactions(kept: KeptRequest) -> list[int]:
    """Return the transactions of the writes of a request, numbered from 0."""
    found = [query[6] for query in kept.queries if query[6]]
    return [found.index(number) and sorted(set(found)).index(number) for number in found]


def insert_twice(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO t VALUES (1)")
    db.execute("INSERT INTO t VALUES (2)")


ENDS: dict[str, Callable[[sqlite3.Connection], Any]] = {
    "commit()": lambda db: db.commit(),
    "rollback()": lambda db: db.rollback(),
    "COMMIT": lambda db: db.execute("COMMIT"),
    "END": lambda db: db.cursor().execute("  -- over\n end"),
    "ROLLBACK": lambda db: db.execute("rollback"),
    "a script, which commits first": lambda db: db.executescript("SELECT 1"),
    "with, which commits": lambda db: db.__exit__(None, None, None),
    "an error, which rolls back": lambda db: fail(db, "INSERT OR ROLLBACK INTO one VALUES (1)"),
}


def fail(db: sqlite3.Connection, sql: str) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        db.execute(sql)


def test_a_connection_that_is_closed_by_garbage_waits_for_nobody(file: Path) -> None:
    """The collector may come while a lock is held here, and finalizers do what they like."""

    def collect() -> None:
        with opened(file) as db:
            insert_twice(db)
            with locks._lock:
                db.commit()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("end", ENDS)
def test_however_a_transaction_ends_the_next_one_is_another(end: str, file: Path, kept_of: Kept) -> None:
    with opened(file) as db:

        def view() -> None:
            insert_twice(db)
            ENDS[end](db)
            insert_twice(db)
            db.commit()

        assert transactions(kept_of(view)) == [0, 0, 1, 1]


def test_a_context_manager_is_one_transaction_and_autocommit_many(file: Path, kept_of: Kept) -> None:
    with opened(file) as db, opened(file, isolation_level=None) as plain:

        def view() -> None:
            with db:
                insert_twice(db)
            insert_twice(plain)

        assert transactions(kept_of(view)) == [0, 0, 1, 2]


@pytest.mark.parametrize("sees_change", [True, False])
def test_a_lock_that_is_lost_by_a_change_of_the_isolation_level_is_not_held(
    sees_change: bool, file: Path, kept_of: Kept
) -> None:
    with opened(file) as db:

        def view() -> None:
            insert_twice(db)
            assert is_held(file)
            db.commit()
            insert_twice(db)
            if sees_change:
                db.isolation_level = None
            else:
                sqlite3.Connection.isolation_level.__set__(db, None)  # type: ignore[attr-defined]
            assert is_held(file) is db.in_transaction  # which depends on the version of Python
            if sees_change and not db.in_transaction:
                db.execute("BEGIN")
                insert_twice(db)
            db.execute("COMMIT") if db.in_transaction else None

        found = transactions(kept_of(view))
        assert found[:4] == [0, 0, 1, 1]
        assert found[4:] in ([], [2, 2])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="connections have no such attribute")
@pytest.mark.parametrize("end", ["commit", "rollback", "with"])
def test_where_each_transaction_begins_the_next_one_no_lock_is_held_between_them(
    end: str, file: Path, kept_of: Kept
) -> None:
    with opened(file, autocommit=False) as db:

        def view() -> None:
            for _ in range(2):
                insert_twice(db)
                assert is_held(file)
                db.__exit__(None, None, None) if end == "with" else getattr(db, end)()
                assert db.in_transaction
                assert not any(state.transaction for state in locks._writers.values())
            insert_twice(db)
            db.autocommit = True
            assert not is_held(file)

        assert transactions(kept_of(view)) == [0, 0, 1, 1, 2, 2]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="connections have no such attribute")
def test_where_python_leaves_transactions_alone_a_commit_of_its_own_ends_none(file: Path, kept_of: Kept) -> None:
    with opened(file, autocommit=True) as db:

        def view() -> None:
            db.execute("BEGIN")
            insert_twice(db)
            for end in (db.commit, db.rollback, lambda: db.__exit__(None, None, None)):
                end()
                assert is_held(file)
            insert_twice(db)
            db.execute("COMMIT")
            assert not is_held(file)

        assert transactions(kept_of(view)) == [0, 0, 0, 0]


def test_a_script_on_a_closed_connection_holds_no_lock_and_is_counted(file: Path, kept_of: Kept) -> None:
    with opened(file) as db:
        cursor = db.cursor()
        db.close()

        def view() -> None:
            with pytest.raises(sqlite3.ProgrammingError):
                cursor.executescript("INSERT INTO t VALUES (1)")
            assert not is_held(file)

        assert kept_of(view).query_count == 1


@pytest.mark.parametrize("sql", ["SELECT count(*) FROM attachments x, attachments y", "SELECT 'attach ; attach'"])
def test_what_only_sounds_like_another_file_leads_to_none(sql: str, file: Path, kept_of: Kept) -> None:
    with opened(file) as db:
        db.execute("CREATE TABLE attachments (a)")

        def view() -> None:
            locks.wrote(db.execute(sql), None, sql, 0, 0, -1)
            insert_twice(db)
            assert is_held(file)
            db.commit()

        kept_of(view)


def test_a_slow_read_behind_a_common_table_expression_is_no_write(file: Path, kept_of: Kept) -> None:
    sql = "WITH q AS (SELECT 'update the set') SELECT * FROM q"
    with opened(file) as db:

        def view() -> None:
            assert locks.wrote(db.execute(sql), None, sql, 0, 2 * locks.WORTH_ASKING_NS, -1) == 0

        kept_of(view)


def test_a_write_behind_a_common_table_expression_is_one(file: Path, kept_of: Kept) -> None:
    writes = [
        "WITH q(v) AS (SELECT 1) INSERT INTO t SELECT v FROM q",
        "/* all */ with q as (select 1) update t set a = 2",
        "WITH q AS (SELECT 1) DELETE FROM t",
        "WITH q(v) AS (SELECT 1) REPLACE INTO t SELECT v FROM q",
    ]
    with opened(file, isolation_level=None) as db:

        def view() -> None:
            for sql in writes:
                db.execute(sql)
            db.execute("BEGIN")
            for sql in writes:
                db.execute(sql)
            assert is_held(file)
            db.execute("COMMIT")
            db.execute("WITH q AS (SELECT a FROM t) SELECT * FROM q").fetchall()

        assert transactions(kept_of(view)) == [0, 1, 2, 3, 4, 4, 4, 4]


def test_savepoints_are_parts_of_their_transaction(file: Path, kept_of: Kept) -> None:
    with opened(file, isolation_level=None) as db:

        def view() -> None:
            db.execute("BEGIN")
            for name in ("one", "two"):
                db.execute(f"SAVEPOINT {name}")
                db.execute("INSERT INTO t VALUES (1)")
                db.execute(f"RELEASE {name}")
            db.execute("COMMIT")

        assert transactions(kept_of(view)) == [0, 0]


def test_a_statement_that_fails_for_a_lock_has_lost_its_time(file: Path, kept_of: Kept) -> None:
    with opened(file, isolation_level=None) as holder, opened(file, timeout=0.02) as other:

        def view() -> None:
            holder.execute("BEGIN IMMEDIATE")
            with contextlib.suppress(sqlite3.OperationalError):
                other.execute("INSERT INTO t VALUES (1)")
            holder.execute("ROLLBACK")

        kept = kept_of(view)
        failed = kept.queries[1]
        assert failed[3] == "sqlite3.OperationalError"
        assert kept.wait_ns == failed[2] > 0


@pytest.mark.parametrize(
    "taken", [["INSERT INTO t VALUES (1)"], ["BEGIN IMMEDIATE", "SELECT * FROM t"], ["BEGIN", "CREATE TABLE u (a)"]]
)
def test_the_time_another_connection_held_the_lock_is_time_waited(taken: list[str], file: Path, kept_of: Kept) -> None:
    with opened(file) as holder, opened(file, timeout=30) as other:
        for sql in taken:
            holder.execute(sql).fetchall()
        waiting = threading.Event()

        def view() -> None:
            def insert() -> None:
                waiting.set()
                other.execute("INSERT INTO t VALUES (2)")

            thread = threading.Thread(target=contextvars.copy_context().run, args=(insert,))
            thread.start()
            waiting.wait(5)
            until = perf_counter_ns() + 30 * MS
            while perf_counter_ns() < until:
                pass  # the other one is in its call, and waits
            holder.commit()
            thread.join()
            other.rollback()

        kept = kept_of(view)
        waited = next(query for query in kept.queries if query[0].startswith("INSERT"))
        assert 0 < kept.wait_ns <= waited[2]
        assert kept.waited_for is None, "no request held it"
        hold = next(hold for hold in locks.longest_holds() if hold.file == str(file))
        assert hold.end_ns - hold.start_ns >= kept.wait_ns


def test_a_write_that_is_refused_keeps_the_lock_until_its_transaction_ends(file: Path, kept_of: Kept) -> None:
    with opened(file) as db:

        def view() -> None:
            fail(db, "INSERT INTO one VALUES (1)")
            assert db.in_transaction
            assert is_held(file)
            db.execute("INSERT INTO one VALUES (2)")
            db.rollback()
            assert not is_held(file)
            with pytest.raises(sqlite3.IntegrityError):
                db.executemany("INSERT INTO one VALUES (?)", [(3,), (1,)])
            assert is_held(file)
            fail(db, "INSERT OR ROLLBACK INTO one VALUES (1)")
            assert not is_held(file)
            with pytest.raises(sqlite3.OperationalError):
                db.execute("INSERT INTO nowhere VALUES (1)")
            assert not is_held(file)

        kept_of(view)


def test_a_write_that_is_refused_without_a_transaction_holds_nothing(file: Path, kept_of: Kept) -> None:
    with opened(file, isolation_level=None) as db:
        kept_of(lambda: fail(db, "INSERT INTO one VALUES (1)"))
        assert not is_held(file)


def is_held(file: Path) -> bool:
    return any(state.holds and state.file == str(file) for state in locks._writers.values())


@pytest.mark.parametrize(
    ("statements", "takes_it"),
    [
        (["BEGIN IMMEDIATE"], True),
        (["-- now\n/* really */ begin exclusive transaction"], True),
        (["BEGIN", "DROP TABLE t"], True),
        (["BEGIN", "CREATE TEMP TABLE u (a)"], False),
        (["BEGIN"], False),
        (["BEGIN", "PRAGMA user_version"], False),
        (["BEGIN", "PRAGMA user_version = 5"], True),
        (["BEGIN", "pragma main.application_id(7)"], True),
        (["CREATE TABLE u (a)"], False),
    ],
)
def test_the_lock_is_held_from_the_statement_that_takes_it(
    statements: list[str], takes_it: bool, file: Path, kept_of: Kept
) -> None:
    with opened(file, isolation_level=None) as db:
        for sql in statements:
            db.execute(sql)
        assert is_held(file) == takes_it
        if db.in_transaction:
            db.execute("ROLLBACK")
        assert not is_held(file)


@pytest.mark.parametrize(
    ("script", "holds_it"),
    [
        ("INSERT INTO t VALUES (held()); SELECT 1", True),
        ("BEGIN; INSERT INTO t VALUES (held()); COMMIT", True),
        ("-- first\nBEGIN IMMEDIATE; SELECT held(); ROLLBACK", True),
        ("SELECT held(); INSERT INTO t VALUES (1)", False),
        ("INSERT INTO t VALUES (held()); SELECT nothing", True),
        ("CREATE TABLE u (a); BEGIN; INSERT INTO t VALUES (held())", True),
    ],
)
def test_a_script_that_begins_with_a_write_holds_the_lock_while_it_runs(
    script: str, holds_it: bool, file: Path, kept_of: Kept
) -> None:
    held: list[bool] = []
    with opened(file) as db:
        db.create_function("held", 0, lambda: held.append(is_held(file)))
        with contextlib.suppress(sqlite3.OperationalError):
            db.executescript(script)
        assert held == [holds_it]
        assert is_held(file) == db.in_transaction
    assert not is_held(file)


def test_a_statement_of_comments_alone_is_looked_through_at_once(file: Path, kept_of: Kept) -> None:
    with opened(file) as db:

        def view() -> None:
            db.executescript("/**/" * 5000)
            db.execute("/**/" * 5000)

        assert kept_of(view).query_count == 2


def test_a_connection_that_is_thrown_away_in_a_transaction_holds_nothing(file: Path, kept_of: Kept) -> None:
    db: Any = sqlite3.connect(file)
    db.execute("INSERT INTO t VALUES (1)")
    assert is_held(file)
    db._telemetry_connection_state, state = None, db._telemetry_connection_state
    db.close()
    del state
    gc.collect()
    assert not is_held(file)


def test_close_ends_the_hold(file: Path, kept_of: Kept) -> None:
    with opened(file) as db:
        db.execute("INSERT INTO t VALUES (1)")
    assert not is_held(file)


@pytest.mark.parametrize(
    ("database", "is_uri", "expected"),
    [
        ("data.db", False, str(Path.cwd() / "data.db")),
        (Path("/srv/data.db"), False, "/srv/data.db"),
        (b"/srv/data.db", False, "/srv/data.db"),
        ("file:/srv/my%20data.db?mode=ro", True, "/srv/my data.db"),
        ("file::memory:?cache=shared", True, None),
        ("file:name?mode=memory&cache=shared", True, None),
        (":memory:", False, None),
        ("", False, None),
        (None, False, None),
    ],
)
def test_the_path_of_what_connect_was_given(database: Any, is_uri: bool, expected: str | None) -> None:
    assert locks.path_of(database, is_uri) == expected


def test_files_are_known_and_so_is_the_size_of_their_log(file: Path, kept_of: Kept) -> None:
    assert locks.wal_bytes(str(file)) is None
    with opened(file) as db:
        db.execute("PRAGMA journal_mode = WAL")
        with db:
            insert_twice(db)
        assert locks.files()[0] == str(file)
        assert (locks.wal_bytes(str(file)) or 0) > 0


def state_of(file: Path) -> locks.ConnectionState:
    return locks.ConnectionState(str(file))


@pytest.mark.parametrize("how", ["commit", "with"])
def test_a_commit_that_readers_do_not_let_through_was_a_wait(file: Path, kept_of: Kept, how: str) -> None:
    """Of a database without a write-ahead log."""
    with opened(file) as reader, opened(file, timeout=0.05) as writer:
        reader.execute("PRAGMA journal_mode = DELETE")
        reader.execute("INSERT INTO t VALUES (1), (2)")
        reader.commit()
        rows = reader.execute("SELECT * FROM t")
        assert rows.fetchone() == (1,)

        def write() -> None:
            with writer if how == "with" else contextlib.nullcontext():
                writer.execute("INSERT INTO t VALUES (3)")
            writer.commit()

        def view() -> None:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                write()

        kept = kept_of(view)
        rows.close()
    assert 40 * MS < kept.wait_ns <= kept.duration_ns
    assert [each[2] < kept.wait_ns for each in kept.queries] == [True], "the write itself did not wait"
    assert [commit.has_failed for commit in kept.commits] == [True]
    assert kept.commit_ns == kept.wait_ns
    (finding,) = fanout.analyse(kept).findings
    assert finding.text.endswith("went by in a commit that readers did not let through")
    assert "journal_mode = WAL" in finding.mend


def test_a_request_that_waits_for_a_connection_of_its_own_is_told_so(file: Path, kept_of: Kept) -> None:
    with opened(file, isolation_level=None) as first, opened(file, timeout=0.05) as second:

        def view() -> None:
            first.execute("BEGIN IMMEDIATE")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                second.execute("INSERT INTO t VALUES (1)")
            first.execute("ROLLBACK")

        kept = kept_of(view)
    assert kept.waited_for == locks.ITSELF
    (finding,) = fanout.analyse(kept).findings
    assert finding.text.endswith("write lock, which another connection of this request held")
    assert finding.mend == "one connection for what it writes, or a commit before another one writes"


class Waiting:
    """What `locks` sees of a request that waits."""

    def __init__(self) -> None:
        self.writes = Writes()

    def writing(self) -> Writes:
        return self.writes


def waited(file: Path, *holds: locks.Hold, start_ns: int = 0, end_ns: int = 100 * MS) -> Writes:
    """Return what is noted of a request that waited between these times, while the lock was held so."""
    record = Waiting()
    with locks._lock:
        locks._past.extend(holds)
    locks._waited(record, state_of(file), str(file), start_ns, end_ns)  # type: ignore[arg-type]
    return record.writes


def hold(file: Path, route: str | None, since_ms: int, until_ms: int, sure_ms: int | None = None) -> locks.Hold:
    return locks.Hold(str(file), since_ms * MS, until_ms * MS, route, (since_ms if sure_ms is None else sure_ms) * MS)


def test_the_one_that_held_the_lock_longest_is_named(tmp_path: Path) -> None:
    file = tmp_path / "named.db"
    writes = waited(file, hold(file, "POST /long", 0, 60), hold(file, "POST /short", 60, 90))
    assert (writes.wait_ns, writes.waited_for) == (90 * MS, (90 * MS, "POST /long"))


def test_of_several_waits_the_longest_is_told(tmp_path: Path) -> None:
    file = tmp_path / "several.db"
    record = Waiting()
    locks._past.extend([hold(file, "POST /long", 0, 80), hold(file, "POST /short", 200, 210)])
    locks._waited(record, state_of(file), str(file), 0, 100 * MS)  # type: ignore[arg-type]
    locks._waited(record, state_of(file), str(file), 200 * MS, 220 * MS)  # type: ignore[arg-type]
    assert (record.writes.wait_ns, record.writes.waited_for) == (90 * MS, (80 * MS, "POST /long"))


def test_who_may_have_waited_itself_is_not_said_to_have_held_the_lock(tmp_path: Path) -> None:
    file = tmp_path / "unsure.db"
    writes = waited(file, hold(file, "POST /also-waited", 0, 100, sure_ms=95))
    assert (writes.wait_ns, writes.waited_for) == (100 * MS, None)


@pytest.mark.parametrize("elsewhere", ["CREATE TEMP TABLE x (a)", "ATTACH ':memory:' AS x"])
def test_tables_that_are_elsewhere_hold_no_lock_of_the_file(elsewhere: str, file: Path, kept_of: Kept) -> None:
    with opened(file, isolation_level=None) as holder:

        def view() -> None:
            holder.execute(elsewhere)
            holder.execute("BEGIN")
            if elsewhere.startswith("ATTACH"):
                holder.execute("CREATE TABLE x.x (a)")
            holder.execute("INSERT INTO x VALUES (1)")
            assert not is_held(file)
            holder.execute("COMMIT")

        kept_of(view)


def test_a_file_is_the_same_by_whatever_name(file: Path, tmp_path: Path, kept_of: Kept) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(file)
    with opened(link) as holder:

        def view() -> None:
            holder.execute("INSERT INTO t VALUES (1)")
            assert is_held(file)
            holder.rollback()

        kept_of(view)


def test_the_file_of_a_slow_statement_is_known_as_long_as_it_is_one(file: Path, tmp_path: Path, kept_of: Kept) -> None:
    kept_of(lambda: None)
    with opened(file) as db, opened(tmp_path / "other.db") as other, opened(":memory:") as memory:  # type: ignore[arg-type]
        locks.ran_long(db, "SELECT 1")
        locks.ran_long(db, "SELECT 2")
        memory.create_function("waits", 0, lambda: time.sleep(0.002))
        memory.execute("SELECT 3 + waits()")
        locks.ran_long(memory, "SELECT 3")
        assert [locks.file_of(f"SELECT {number}") for number in range(1, 5)] == [
            str(file),
            str(file),
            locks.NOWHERE,
            None,
        ]
        assert locks.file_of("SELECT 3 + waits()") == locks.NOWHERE
        locks.ran_long(other, "SELECT 1")
        locks.ran_long(db, "SELECT 1")
        assert locks.file_of("SELECT 1") == locks.NOWHERE


@pytest.mark.parametrize("elsewhere", [":memory:", "ATTACH ':memory:' AS x", "CREATE TEMP TABLE x (a)"])
def test_while_a_connection_is_to_more_than_its_file_that_is_known(elsewhere: str, file: Path, kept_of: Kept) -> None:
    def view() -> None:
        with opened(file) as db:
            assert locks.is_all_in_files()
            if elsewhere == ":memory:":
                db = sqlite3.connect(elsewhere)
            else:
                db.execute(elsewhere)
            assert not locks.is_all_in_files()
            db.close()

    kept_of(view)
    gc.collect()
    assert locks.is_all_in_files()


def test_a_statement_that_fails_for_a_lock_names_who_held_it(file: Path, kept_of: Kept) -> None:
    with opened(file, isolation_level=None) as other, opened(file, timeout=0.02) as waiter:
        other.execute("BEGIN IMMEDIATE")
        state = other._telemetry_connection_state
        state.begin(other, perf_counter_ns(), perf_counter_ns(), None)
        locks._past.append(locks.Hold(str(file), 0, 2**62, "POST /orders", 0))

        def view() -> None:
            with contextlib.suppress(sqlite3.OperationalError):
                waiter.execute("INSERT INTO t VALUES (1)")

        kept = kept_of(view)
        locks._past.pop()
        other.execute("ROLLBACK")
    assert (kept.wait_ns, kept.waited_for) == (kept.queries[0][2], "POST /orders")
