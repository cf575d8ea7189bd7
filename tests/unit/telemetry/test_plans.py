"""EXPLAIN QUERY PLAN: for SELECT alone, read-only, with whole tables and missing indexes pointed out."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from telemetry import plans


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "a b#c?.db"
    with closing(sqlite3.connect(path)) as made:
        made.executescript(
            "CREATE TABLE videos (id INTEGER PRIMARY KEY, title); CREATE TABLE tags (video_id, name);"
            "CREATE INDEX by_name ON tags (name)"
        )
    return str(path)


@pytest.mark.parametrize(
    ("sql", "warnings"),
    [
        ("SELECT * FROM videos WHERE id = ?", []),
        ("SELECT * FROM tags WHERE name = :name", []),
        ("SELECT * FROM tags WHERE name = ?2 OR name = ?1", []),
        ("SELECT 1", []),
        ("SELECT name FROM tags ORDER BY name", []),
        (
            "SELECT * FROM tags WHERE video_id = ? AND name LIKE ?",
            ["reads all of tags, without an index; an index on tags(video_id) would serve it"],
        ),
        ("SELECT * FROM tags WHERE name LIKE '%a'", ["reads all of tags, without an index"]),
        (
            "WITH some AS (SELECT * FROM tags WHERE video_id = 1) SELECT * FROM some",
            ["reads all of tags, without an index; an index on tags(video_id) would serve it"],
        ),
        (
            "SELECT * FROM videos JOIN tags ON tags.video_id = videos.title WHERE videos.title > ?",
            [
                "reads all of videos, without an index",
                "SQLite builds an index on tags for this query alone: make one that stays",
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_plan_is_told(sql: str, warnings: list[str], file: str) -> None:
    plan = plans.explain(sql, [file])
    assert plan.error == ""
    assert plan.steps
    assert plan.warnings == warnings


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM tags",
        "INSERT INTO tags VALUES (1, 2)",
        "WITH a AS (SELECT 1) DELETE FROM tags",
        "PRAGMA user_version",
        "",
    ],
)
def test_nothing_but_a_select_is_explained(sql: str, file: str) -> None:
    assert plans.explain(sql, [file]).error == plans.MUST_BE_SELECT


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT * FROM missing", "no such table: missing"),
        ("SELECT own_function(name) FROM tags", "no such function: own_function"),
        ("SELECT 1; DELETE FROM tags", "You can only execute one statement at a time."),
    ],
)
def test_what_sqlite_can_t_explain_says_why(sql: str, why: str, file: str) -> None:
    assert plans.explain(sql, [file]).error == f"SQLite does not explain it: {why}"


def test_without_a_file_there_is_no_plan(tmp_path: Path) -> None:
    assert "no database file is known" in plans.explain("SELECT 1", []).error
    assert "can't be opened" in plans.explain("SELECT 1", [str(tmp_path / "none.db")]).error


def test_where_several_files_have_the_tables_none_is_guessed(tmp_path: Path, file: str) -> None:
    other = str(tmp_path / "copy.db")
    shutil.copy(file, other)
    assert plans.explain("SELECT * FROM tags", [file, other]).error.startswith("several databases have its tables")


def test_the_file_that_has_the_tables_explains(tmp_path: Path, file: str) -> None:
    assert plans.explain("SELECT * FROM tags", [str(tmp_path / "none.db"), file]).file == file


@pytest.fixture
def large(tmp_path: Path) -> str:
    path = tmp_path / "large.db"
    with closing(sqlite3.connect(path)) as made:
        made.executescript(
            "CREATE TABLE big (id INTEGER PRIMARY KEY, x TEXT, y, z COLLATE NOCASE, w); CREATE INDEX by_y ON big (y);"
            "CREATE INDEX of_others ON big (w COLLATE RTRIM); CREATE VIRTUAL TABLE words USING fts5(body, lang);"
            "CREATE TABLE tiny (id INTEGER PRIMARY KEY, x); INSERT INTO tiny VALUES (5000000, 'a');"
            'CREATE VIEW seen AS SELECT * FROM big; CREATE TABLE "my table" (x);'
        )
        counted = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)"
        made.execute(f"{counted} INSERT INTO big SELECT i, i, i % 10, i, i FROM n")
        made.execute(f"{counted} INSERT INTO words SELECT 'word', i FROM n")
        made.execute(f'{counted} INSERT INTO "my table" SELECT i FROM n')
        made.commit()
    return str(path)


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        ("SELECT * FROM big WHERE x = ?", "big(x)"),
        ("SELECT b.id FROM big b WHERE (b.x = ? AND b.z = ?) ORDER BY b.id LIMIT 5", "big(x, z)"),
        ('SELECT COUNT(*) AS "__count" FROM "big" WHERE "big"."x" = ?', "big(x)"),
        ("SELECT z FROM big WHERE ? = x LIMIT ? OFFSET ?", "big(x)"),
        ('SELECT * FROM "my table" WHERE x = 5', "my table(x)"),
        ("SELECT t.id FROM tiny t JOIN big ON big.x = t.x", "big(x)"),
        ("SELECT count(*) AS n FROM big WHERE x = ? AND z = ?", "big(x, z)"),
        ("SELECT z FROM big WHERE x = ? LIMIT 1", "big(x)"),
        ("SELECT count(*) AS n FROM (SELECT big.id AS a, big.x AS b FROM big WHERE big.x = ?) AS anon_1", "big(x)"),
        ("SELECT COUNT(*) FROM (SELECT z FROM big WHERE x = 5 ORDER BY z)", "big(x)"),
        # nothing certain, or nothing to mend
        ("SELECT count(*) FROM big WHERE x = ? AND z > ?", None),
        ("SELECT b.id FROM big b WHERE b.x = ? AND b.z LIKE ?", None),
        ("SELECT id FROM big WHERE x = ? AND lower(z) = ?", None),
        ("SELECT id FROM big WHERE iif(x = ?, z, w) = ?", None),
        ("SELECT id FROM big WHERE x = ? ORDER BY z LIMIT 20 OFFSET 5", None),
        ("SELECT sum(id) FROM big WHERE x = ?", None),
        ("SELECT count(*) FROM (SELECT z FROM big WHERE x = ? LIMIT 5) AS anon_1", None),
        ("SELECT count(*) FROM (SELECT DISTINCT z FROM big WHERE x = ?) AS anon_1", None),
        ("SELECT count(*) FROM (SELECT z FROM big WHERE x > ?) AS anon_1", None),
        ("SELECT count(*) FROM (SELECT z FROM big WHERE x = ?) AS anon_1 WHERE z = ?", None),
        ("SELECT max(id), z FROM big WHERE x = ?", None),
        ("SELECT z FROM big WHERE x = ? ORDER BY z LIMIT 1", None),
        ("SELECT z FROM big WHERE x = ? ORDER BY z LIMIT ?", None),
        ("SELECT DISTINCT z FROM big WHERE x = ?", None),
        ("SELECT z FROM big WHERE x = ? GROUP BY z", None),
        ("SELECT * FROM big WHERE x = ? COLLATE NOCASE", None),
        ("SELECT * FROM big WHERE w = ?", None),
        ("SELECT * FROM words WHERE words MATCH ? AND lang = ?", None),
        ("SELECT * FROM words WHERE lang = ?", None),
        ("SELECT * FROM big WHERE y = ?", None),
        ("SELECT * FROM big WHERE id = ?", None),
        ("SELECT * FROM big", None),
        ("SELECT * FROM big WHERE 1 = 1", None),
        ("SELECT * FROM big WHERE x LIKE ?", None),
        ("SELECT * FROM big WHERE x = ? OR z = ?", None),
        ("SELECT * FROM big WHERE id = 1 UNION ALL SELECT * FROM big", None),
        ("SELECT y, count(*) FROM big GROUP BY y HAVING count(*) > 5", None),
        ("SELECT * FROM tiny WHERE x = ?", None),
        ("SELECT * FROM tiny t WHERE t.x = ?", None),
        ("SELECT * FROM tiny a JOIN tiny b ON a.x = b.x WHERE a.x = ?", None),
        ("SELECT * FROM seen WHERE x = ?", None),
        ("WITH t AS (SELECT * FROM big) SELECT * FROM t WHERE x = ?", None),
        (
            "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 9) SELECT * FROM t WHERE n = ?",
            None,
        ),
        ("SELECT * FROM tiny WHERE EXISTS (SELECT 1 FROM big WHERE big.x = tiny.x)", None),
    ],
)
def test_an_index_is_missing_where_that_is_certain(sql: str, index: str | None, large: str) -> None:
    assert plans.missing_index(sql, large, 1) == index


def test_an_index_would_not_help_where_most_rows_are_wanted(large: str) -> None:
    assert plans.missing_index("SELECT * FROM big WHERE x = ?", large, 600) == "big(x)"
    assert plans.missing_index("SELECT * FROM big WHERE x = ?", large, 601) is None
    assert plans.missing_index("SELECT * FROM big WHERE x = ?", large, 10**7) is None


def test_how_many_rows_are_wanted_is_not_known_where_they_are_sorted_and_fetched_one_by_one(large: str) -> None:
    assert plans.missing_index("SELECT * FROM big WHERE x = ?", large, None) == "big(x)", "the first was hard to find"
    assert plans.missing_index("SELECT * FROM big WHERE x = ? ORDER BY z", large, None) is None
    assert plans.missing_index("SELECT * FROM big WHERE x = ? ORDER BY z", large, 1) == "big(x)"


def test_a_database_that_is_locked_is_not_waited_for(large: str) -> None:
    with closing(sqlite3.connect(large, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            plans.missing_index("SELECT * FROM big WHERE x = ?", large, None)


def test_a_plan_leaves_the_locks_of_the_process_alone(tmp_path: Path) -> None:
    file = tmp_path / "held.db"
    other = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("CREATE TABLE t (a)")
        holder.execute("BEGIN IMMEDIATE")
        assert plans.explain("SELECT * FROM t", [str(file)]).steps
        assert plans.missing_index("SELECT * FROM t WHERE a = 1", str(file), 1) is None
        done = subprocess.run([sys.executable, "-c", other, file], capture_output=True, text=True)
    assert "database is locked" in done.stderr
