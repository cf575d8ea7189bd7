"""Shapes that write."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

from flask import current_app

from benchmarks.corpus import shape
from telemetry.fanout import BATCH, BULK, CHUNKS, N_PLUS_ONE, RETRIES, WRITE_LOOP

NAMES = [f"name {at}" for at in range(8)]
INSERT = "INSERT INTO events (name) VALUES (?)"


@shape((WRITE_LOOP, "events"))
def inserts_in_one_transaction(db: Any) -> Any:
    with db:
        for name in NAMES:
            db.execute(INSERT, (name,))


@shape(
    (WRITE_LOOP, "events"), source="TryGhost/node-sqlite3 issue 437, rogerbinns/apsw issue 195: each insert its commit"
)
def inserts_each_in_its_transaction(db: Any) -> Any:
    for name in NAMES:
        db.execute(INSERT, (name,))
        db.commit()


@shape((WRITE_LOOP, "events"), source="Nike-Inc/SQift issue 11: INSERT INTO … VALUES with literals, in a loop")
def inserts_of_literals(db: Any) -> Any:
    for name in NAMES:
        db.execute(f"INSERT INTO events (name) VALUES ('{name}')")
    db.commit()


@shape((BULK, "events"), source="lemon24/reader issue 144: executemany where it is appropriate")
def inserts_by_executemany(db: Any) -> Any:
    with db:
        db.executemany(INSERT, [(name,) for name in NAMES])


@shape(source="consbio/tpkutils issue 2: a generator and executemany, here batch after batch")
def inserts_by_executemany_in_batches(db: Any) -> Any:
    with db:
        for _ in range(6):
            db.executemany(INSERT, ((name,) for name in NAMES))


@shape((CHUNKS, "events"))
def inserts_of_many_rows_in_chunks(db: Any) -> Any:
    for _ in range(6):
        db.execute(f"INSERT INTO events (name) VALUES {', '.join(['(?)'] * 100)}", ["name"] * 100)
        db.commit()


@shape((CHUNKS, "comments"))
def deletes_by_lists_in_chunks(db: Any) -> Any:
    for start in range(0, 600, 100):
        db.execute(f"DELETE FROM comments WHERE id IN ({','.join('?' * 100)})", range(start, start + 100))
    db.commit()


@shape((CHUNKS, "events"))
def retention_in_chunks(db: Any) -> Any:
    db.executescript("INSERT INTO events (name) SELECT 'old' FROM users, posts, categories LIMIT 140")
    while db.execute("DELETE FROM events WHERE id IN (SELECT id FROM events LIMIT 20)").rowcount:
        db.commit()


@shape((WRITE_LOOP, "comments"))
def deletes_of_what_belongs_to_each_row(db: Any) -> Any:
    for post in range(1, 9):
        db.execute("DELETE FROM comments WHERE post_id = ?", (post,))
    db.commit()


@shape(source="nycdb/nycdb pull 67: many rows in a single statement")
def insert_of_many_rows(db: Any) -> Any:
    with db:
        db.execute(f"INSERT INTO events (name) VALUES {', '.join(['(?)'] * len(NAMES))}", NAMES)


@shape()
def insert_of_a_select(db: Any) -> Any:
    with db:
        db.execute("INSERT INTO events (name) SELECT name FROM users")


@shape((WRITE_LOOP, "posts"))
def update_of_each_row(db: Any) -> Any:
    with db:
        for (post,) in db.execute("SELECT id FROM posts").fetchall():
            db.execute("UPDATE posts SET title = title || '!' WHERE id = ?", (post,))


@shape()
def update_of_all_rows(db: Any) -> Any:
    with db:
        db.execute("UPDATE posts SET title = title || '!'")


@shape((WRITE_LOOP, "comments"))
def delete_of_each_row(db: Any) -> Any:
    for key in range(100, 108):
        db.execute("DELETE FROM comments WHERE id = ?", (key,))
    db.commit()


@shape((WRITE_LOOP, "tags"), source="ahmed-machine/PokemonGo-Map issue 1624: an upsert, and a commit, for each row")
def upsert_of_each_row(db: Any) -> Any:
    for name in NAMES:
        db.execute("INSERT INTO tags (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET name = excluded.name", (name,))
        db.commit()


@shape((WRITE_LOOP, "settings"), source="RocketMap/RocketMap pull 2464: REPLACE INTO for each row")
def replace_of_each_row(db: Any) -> Any:
    with db:
        for name in NAMES:
            db.execute("REPLACE INTO settings VALUES (?, ?)", (name, "off"))


@shape((WRITE_LOOP, "settings"))
def update_or_insert(db: Any) -> Any:
    with db:
        for name in NAMES:
            if not db.execute("UPDATE settings SET value = 'x' WHERE name = ?", (name,)).rowcount:
                db.execute("INSERT INTO settings VALUES (?, 'x')", (name,))


@shape((N_PLUS_ONE, "tags"), (WRITE_LOOP, "tags"), source="SpareCores/sc-crawler pull 11: a SELECT before each write")
def select_or_insert(db: Any) -> Any:
    with db:
        for name in NAMES:
            if db.execute("SELECT id FROM tags WHERE name = ?", (name,)).fetchone() is None:
                db.execute("INSERT INTO tags (name) VALUES (?)", (name,))


@shape(
    (WRITE_LOOP, "settings"), source="gboudreau/Greyhole issue 244: a setting is written, and read again, many times"
)
def read_again_after_each_write(db: Any) -> Any:
    for name in NAMES:
        db.execute("UPDATE settings SET value = ? WHERE name = 'setting 1'", (name,))
        db.execute("SELECT value FROM settings WHERE name LIKE 'setting 1'").fetchone()
    db.commit()


@shape((WRITE_LOOP, "events"), source="gboudreau/Greyhole issue 244: SELECT LAST_INSERT_ID() behind each INSERT")
def key_of_each_insert(db: Any) -> Any:
    with db:
        for name in NAMES:
            db.execute(INSERT, (name,))
            db.execute("SELECT last_insert_rowid()").fetchone()


@shape((WRITE_LOOP, "jobs"), source="kent8192/reinhardt-web pull 5889: the next pending row is selected, then claimed")
def jobs_claimed_one_by_one(db: Any) -> Any:
    sql = "SELECT id FROM jobs WHERE state = 'queued' ORDER BY id LIMIT 1"
    while job := db.execute(sql).fetchone():
        db.execute("UPDATE jobs SET state = 'done' WHERE id = ?", job)
        db.commit()


@shape((WRITE_LOOP, "events"))
def savepoint_around_each_insert(db: Any) -> Any:
    db.isolation_level = None
    db.execute("BEGIN")
    for name in NAMES:
        db.execute("SAVEPOINT row")
        db.execute(INSERT, (name,))
        db.execute("RELEASE row")
    db.execute("COMMIT")


@shape((RETRIES, ""), source="grafana/grafana pull 17276: the transaction is begun again while the database is locked")
def tried_again_while_locked(db: Any) -> Any:
    db.isolation_level = None
    db.execute("PRAGMA busy_timeout = 0")
    with contextlib.closing(sqlite3.connect(current_app.config["DATABASE"])) as other:
        other.execute("UPDATE jobs SET state = 'held' WHERE id = 1")
        for attempt in range(8):
            if attempt == 7:
                other.rollback()
            with contextlib.suppress(sqlite3.OperationalError):
                db.execute("BEGIN IMMEDIATE")
    db.execute("ROLLBACK")


@shape((WRITE_LOOP, "users"))
def inserts_of_which_some_fail(db: Any) -> Any:
    for key in range(8, 20):
        with contextlib.suppress(sqlite3.IntegrityError):
            db.execute("INSERT INTO users VALUES (?, 'new')", (key,))
    db.commit()


@shape(source="Flask's tutorial, flaskr: the schema by executescript; here migration after migration")
def migrations(db: Any) -> Any:
    for number in range(8):
        db.executescript(f"CREATE TABLE IF NOT EXISTS made (a); PRAGMA user_version = {number};")


@shape((BATCH, ""))
def tables_made_one_by_one(db: Any) -> Any:
    for number in range(6):
        db.execute(f"CREATE TABLE made_{number} (a)")
