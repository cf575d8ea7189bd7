"""EXPLAIN QUERY PLAN: for SELECT alone, read-only, with whole tables and missing indexes pointed out."""

from __future__ import annotations

import sqlite3
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
                "SQLite builds an index on tags for this query alone; an index that stays would serve it",
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_plan_is_told(sql: str, warnings: list[str], file: str) -> None:
    plan = plans.explain(sql, [file])
    assert plan.error == ""
    assert plan.steps
    assert [step.warning for step in plan.faults] == warnings


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


def test_the_first_file_that_has_the_tables_explains(tmp_path: Path, file: str) -> None:
    assert plans.explain("SELECT * FROM tags", [str(tmp_path / "none.db"), file]).file == file
