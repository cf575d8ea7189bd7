from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from service.db import MIGRATIONS, Database, DatabaseTooNewError, DatabaseUnusableError, bump

ROOT = Path(__file__).parents[3]


def test_a_new_database_has_the_schema_in_wal_mode(database, query):
    assert query(database, "PRAGMA journal_mode") == [("wal",)]
    assert query(database, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    tables = {row[0] for row in query(database, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables >= {"media", "files", "ratings", "tags", "changes"}


def test_every_connection_checks_foreign_keys(database):
    with database.connection() as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO tags VALUES ('unknown', 'tag')")


def test_opening_again_keeps_what_is_there(database, query):
    with database.connection() as connection, connection:
        bump(connection, "tags")
    again = Database(database.path)
    assert query(again, "SELECT value FROM changes WHERE kind = 'tags'") == [(1,)]
    again.close()


def test_a_database_of_a_later_program_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "library.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DatabaseTooNewError, match="has schema 99, this program knows"):
        Database(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize("content", [b"no database at all" * 300, b"SQLite format 3\0" + b"\xa5" * 5000])
def test_a_file_that_is_no_database_is_told_with_a_remedy(tmp_path, content):
    path = tmp_path / "library.sqlite3"
    path.write_bytes(content)
    with pytest.raises(DatabaseUnusableError, match=r"library\.sqlite3 can't be used: .*; put a backup in its place"):
        Database(path)


@pytest.mark.skipif(sys.platform == "win32", reason="rights are of another kind there")
def test_a_database_that_cannot_be_written_is_told_at_once_with_a_remedy(unprivileged):
    path = unprivileged / "data" / "library.sqlite3"
    Database(path).close()
    path.chmod(0o444)
    start = time.monotonic()
    with pytest.raises(
        DatabaseUnusableError, match=r"attempt to write a readonly database; give the user .* the right"
    ):
        Database(path)
    path.unlink()
    path.parent.chmod(0o555)
    with pytest.raises(DatabaseUnusableError, match="unable to open database file; give the user"):
        Database(path)
    assert time.monotonic() - start < 2


def test_many_openers_at_once_make_the_schema_once(tmp_path, query):
    path, errors = tmp_path / "library.sqlite3", []
    start = threading.Barrier(6)

    def open_it():
        start.wait()
        try:
            Database(path).close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_processes_that_start_together_make_the_schema_once(tmp_path):
    code = "import sys, pathlib; from service.db import Database; Database(pathlib.Path(sys.argv[1])).close()"
    command = [sys.executable, "-c", code, str(tmp_path / "library.sqlite3")]
    started = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[1] for process in started] == [b"", b"", b""]
    assert [process.returncode for process in started] == [0, 0, 0]


def test_a_connection_comes_back_without_what_was_not_committed(database, query):
    connection = database.borrow()
    connection.execute("UPDATE changes SET value = 7 WHERE kind = 'tags'")
    database.give_back(connection)
    assert database.borrow() is connection
    assert not connection.in_transaction
    assert query(database, "SELECT value FROM changes WHERE kind = 'tags'") == [(0,)]
    database.give_back(connection)


def test_connections_that_come_back_after_the_end_are_closed(tmp_path):
    database = Database(tmp_path / "library.sqlite3")
    connection = database.borrow()
    database.close()
    database.give_back(connection)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_no_more_idle_connections_are_kept_than_allowed(tmp_path):
    database = Database(tmp_path / "library.sqlite3", pooled=1)
    first, second = database.borrow(), database.borrow()
    database.give_back(first)
    database.give_back(second)
    assert database.borrow() is first
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        second.execute("SELECT 1")
    first.close()
    database.close()


def test_a_count_of_changes_grows_by_one(database):
    with database.connection() as connection, connection:
        assert [bump(connection, "ratings"), bump(connection, "ratings")] == [1, 2]


def test_a_request_keeps_one_connection_and_gives_it_back(make_app, monkeypatch):
    app = make_app()
    database = app.extensions["local_video_server"].database
    borrowed = []
    borrow = database.borrow
    monkeypatch.setattr(database, "borrow", lambda: borrowed.append(borrow()) or borrowed[-1])
    client = app.test_client()
    assert client.get("/").status_code == 200
    assert client.get("/?sort=rating").status_code == 200
    assert len(borrowed) == 2
    assert borrowed[0] is borrowed[1]
