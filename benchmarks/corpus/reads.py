"""Shapes that read."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Response, current_app, g, render_template_string, stream_with_context

from benchmarks.corpus import shape
from telemetry.fanout import BATCH, DUPLICATES, N_PLUS_ONE, PAGING, POLLING

USER = "SELECT name FROM users WHERE id = ?"
DATAVERSE = "IQSS/dataverse issue 2650: 117 times SELECT … FROM setting WHERE name = ? in one page"


def posts(db: sqlite3.Connection) -> list[Any]:
    """The query that feeds most of them."""
    return db.execute("SELECT id, author_id, title FROM posts ORDER BY created DESC").fetchall()


def query_db(sql: str, *parameters: Any, one: bool = False) -> Any:
    """The helper that Flask's documentation of sqlite3 shows."""
    rows = g.db.execute(sql, parameters).fetchall()
    return (rows[0] if rows else None) if one else rows


# -- one query for each row -------------------------------------------------------------------------------------------------


@shape((N_PLUS_ONE, "users"))
def author_of_each_post(db: Any) -> Any:
    return [db.execute(USER, (author,)).fetchone() for _, author, _ in posts(db)]


@shape((N_PLUS_ONE, "comments"), source="Flask's documentation, Using SQLite 3 with Flask: query_db")
def helper_in_a_loop(_: Any) -> Any:
    for post, _, _ in query_db("SELECT id, author_id, title FROM posts"):
        query_db("SELECT body FROM comments WHERE post_id = ?", post)


@shape((N_PLUS_ONE, "users"), source="mozilla/normandy issue 1669: the creator is loaded for each revision")
def few_authors_of_many_comments(db: Any) -> Any:
    for (author,) in db.execute("SELECT author_id FROM comments WHERE author_id < 4").fetchall():
        db.execute(USER, (author,)).fetchone()


@shape((N_PLUS_ONE, "comments"), source="flaskbb/flaskbb pull 454: the last post of each topic in the forum view")
def last_comment_of_each_post(db: Any) -> Any:
    for post, _, _ in posts(db):
        db.execute("SELECT body FROM comments WHERE post_id = ? ORDER BY id DESC LIMIT 1", (post,)).fetchone()


@shape((N_PLUS_ONE, "jobs"), source="paultag/moxie issue 69: the overview does N queries where it should JOIN")
def literals_in_the_sql(db: Any) -> Any:
    for (job,) in db.execute("SELECT id FROM jobs").fetchall():
        db.execute(f"SELECT state FROM jobs WHERE id = {job} AND state <> 'it''s over'").fetchone()


@shape((N_PLUS_ONE, "users"))
def named_parameters(db: Any) -> Any:
    for _, author, _ in posts(db):
        db.execute("SELECT name FROM users WHERE id = :id", {"id": author}).fetchone()


@shape((N_PLUS_ONE, "comments"))
def count_for_each_post(db: Any) -> Any:
    return [
        db.execute("SELECT COUNT(*) FROM comments WHERE post_id = ?", (post,)).fetchone() for post, _, _ in posts(db)
    ]


@shape((N_PLUS_ONE, "comments"), (N_PLUS_ONE, "users"))
def nested_loops(db: Any) -> Any:
    for post, _, _ in posts(db):
        for (author,) in db.execute("SELECT author_id FROM comments WHERE post_id = ?", (post,)).fetchall():
            db.execute(USER, (author,)).fetchone()


@shape((N_PLUS_ONE, "users"))
def in_lists_of_one(db: Any) -> Any:
    for _, author, _ in posts(db):
        db.execute("SELECT name FROM users WHERE id IN (?)", (author,)).fetchall()


@shape((N_PLUS_ONE, "post_tags"), (N_PLUS_ONE, "tags"), source="gouthambs/Flask-Blogging pull 119: tags of each post")
def in_lists_of_few(db: Any) -> Any:
    for post, _, _ in posts(db):
        found = [tag for (tag,) in db.execute("SELECT tag_id FROM post_tags WHERE post_id = ?", (post,)).fetchall()]
        marks = ", ".join("?" * len(found))
        db.execute(f"SELECT name FROM tags WHERE id IN ({marks})", found).fetchall()


@shape((N_PLUS_ONE, "post_tags"))
def check_for_each_post(db: Any) -> Any:
    for post, _, _ in posts(db):
        db.execute("SELECT EXISTS (SELECT 1 FROM post_tags WHERE post_id = ? AND tag_id = 3)", (post,)).fetchone()


@shape((N_PLUS_ONE, "posts"))
def next_of_each_post(db: Any) -> Any:
    for post, _, _ in posts(db):
        db.execute("SELECT id FROM posts WHERE id > ? ORDER BY id LIMIT 1", (post,)).fetchone()


@shape((N_PLUS_ONE, "cnpj"), source="TryGhost/node-sqlite3 issue 1470: a giant table, one row after another by its id")
def row_after_row(db: Any) -> Any:
    db.execute("CREATE TEMP VIEW cnpj AS SELECT * FROM posts")
    last: Any = (0,)
    while last:
        last = db.execute("SELECT id FROM cnpj WHERE id > (?) ORDER BY id LIMIT 1", (last[0],)).fetchone()


@shape(
    (N_PLUS_ONE, "pragma_foreign_key_list"), source="simonw/datasette issue 1555: all those calls to foreign_key_list"
)
def foreign_keys_of_each_table(db: Any) -> Any:
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        db.execute("SELECT * FROM pragma_foreign_key_list(?)", (table,)).fetchall()


@shape((N_PLUS_ONE, "tags"), source="gerby-project/gerby-website issue 65: a macro of a Jinja template asks")
def query_in_a_template(db: Any) -> Any:
    template = """
    {% macro tag(key) %}{{ db.execute("SELECT name FROM tags WHERE id = ?", (key,)).fetchone()[0] }}{% endmacro %}
    {% for post in posts %}{{ tag(post[0]) }}{% endfor %}
    """
    return render_template_string(template, db=db, posts=posts(db))


@shape((N_PLUS_ONE, "users"))
def function_called_by_a_template(db: Any) -> Any:
    def name_of(author: int) -> Any:
        return db.execute(USER, (author,)).fetchone()[0]

    template = "{% for post in posts %}{{ name_of(post[1]) }}{% endfor %}"
    return render_template_string(template, posts=posts(db), name_of=name_of)


@shape((N_PLUS_ONE, "users"))
def streamed(_: Any) -> Any:
    connection = sqlite3.connect(current_app.config["DATABASE"], check_same_thread=False)

    @stream_with_context
    def lines() -> Iterator[str]:
        with contextlib.closing(connection):
            for _, author, title in posts(connection):
                yield f"{title} {connection.execute(USER, (author,)).fetchone()[0]}\n"

    return Response(lines())


@shape((N_PLUS_ONE, "users"))
def in_threads(db: Any) -> Any:
    file = current_app.config["DATABASE"]

    def name_of(author: int) -> Any:
        with contextlib.closing(sqlite3.connect(file)) as own:
            return own.execute(USER, (author,)).fetchone()

    with ThreadPoolExecutor(3) as pool:
        for _, author, _ in posts(db):
            pool.submit(contextvars.copy_context().run, name_of, author)


# -- trees ------------------------------------------------------------------------------------------------------------------


@shape((N_PLUS_ONE, "categories"), source="steemit/hivemind pull 383: a tree of comments, walked in the app")
def tree_walked_by_recursion(db: Any) -> Any:
    def below(parent: int) -> list[Any]:
        children = db.execute("SELECT id FROM categories WHERE parent_id = ?", (parent,)).fetchall()
        return [(child, below(child)) for (child,) in children]

    return below(1)


@shape(source="steemit/hivemind pull 383: one query for each level of the tree, four of them")
def tree_level_by_level(db: Any) -> Any:
    level = [1]
    while level:
        marks = ", ".join("?" * len(level))
        level = [key for (key,) in db.execute(f"SELECT id FROM categories WHERE parent_id IN ({marks})", level)]


@shape(source="steemit/hivemind pull 383: the mend")
def tree_by_with_recursive(db: Any) -> Any:
    db.execute(
        "WITH RECURSIVE below(id) AS (SELECT 1 UNION ALL SELECT c.id FROM categories c JOIN below ON c.parent_id = below.id)"
        " SELECT id FROM below"
    ).fetchall()


# -- done right -------------------------------------------------------------------------------------------------------------


@shape(source="Flask's tutorial, flaskr: the index joins post and user")
def joined(db: Any) -> Any:
    db.execute(
        "SELECT p.id, title, name FROM posts p JOIN users u ON p.author_id = u.id ORDER BY created DESC"
    ).fetchall()


@shape()
def prefetched_by_in_list(db: Any) -> Any:
    authors = [author for _, author, _ in posts(db)]
    db.execute(f"SELECT id, name FROM users WHERE id IN ({', '.join('?' * len(authors))})", authors).fetchall()


@shape((PAGING, "comments"), source="django ticket 27833, zanllp/infinite-image-browsing pull 956: IN lists in batches")
def prefetched_in_chunks(db: Any) -> Any:
    keys = [key for (key,) in db.execute("SELECT id FROM comments")]
    for at in range(0, len(keys), 12):
        some = keys[at : at + 12]
        db.execute(f"SELECT body FROM comments WHERE id IN ({', '.join('?' * len(some))})", some).fetchall()


@shape()
def counted_by_group(db: Any) -> Any:
    posts(db)
    db.execute("SELECT post_id, COUNT(*) FROM comments GROUP BY post_id").fetchall()


@shape()
def memoised(db: Any) -> Any:
    @functools.cache
    def name_of(author: int) -> Any:
        return db.execute(USER, (author,)).fetchone()

    for (author,) in db.execute("SELECT author_id FROM comments WHERE author_id < 5").fetchall():
        name_of(author)


@shape()
def below_the_limit(db: Any) -> Any:
    for author in (1, 2, 3, 4):
        db.execute(USER, (author,)).fetchone()


# -- pages ------------------------------------------------------------------------------------------------------------------


@shape((PAGING, "comments"), source="zknpr/SQLite-Explorer pull 100: export by LIMIT and OFFSET")
def pages_by_offset(db: Any) -> Any:
    at, rows = 0, [()]
    while rows:
        rows = db.execute("SELECT body FROM comments ORDER BY id LIMIT ? OFFSET ?", (10, at)).fetchall()
        at += 10


@shape((PAGING, "comments"), source="outerbase/starbasedb pull 233: export by keys, page after page")
def pages_by_key(db: Any) -> Any:
    last = 0
    while rows := db.execute("SELECT id FROM comments WHERE id > ? ORDER BY id LIMIT 10", (last,)).fetchall():
        last = rows[-1][0]


@shape((PAGING, "comments"), source="hail-is/hail pull 7348: the jobs of one batch, page after page")
def pages_of_one_author_by_key(db: Any) -> Any:
    last = 0
    db.execute(USER, (1,)).fetchone()
    sql = "SELECT id FROM comments WHERE author_id <> ? AND post_id = ? AND id > ? ORDER BY id LIMIT ?"
    for _ in range(6):
        rows = db.execute(sql, (99, 1, last, 1)).fetchall()
        last = rows[-1][0]


# -- batches ----------------------------------------------------------------------------------------------------------------


@shape((BATCH, ""))
def dashboard(db: Any) -> Any:
    db.execute("SELECT COUNT(*) FROM posts").fetchone()
    db.execute("SELECT COUNT(*) FROM users").fetchone()
    db.execute("SELECT MAX(created) FROM posts").fetchone()
    db.execute("SELECT name FROM settings WHERE value = ?", ("on",)).fetchall()
    db.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall()
    db.execute("SELECT body FROM comments ORDER BY id DESC LIMIT 5").fetchall()
    db.execute("SELECT name FROM tags").fetchall()


@shape((BATCH, ""), source="simonw/datasette issue 649: the index page counts the rows of each table")
def count_of_each_table(db: Any) -> Any:
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        db.execute(f"SELECT count(*) FROM [{table}]").fetchone()


@shape((BATCH, ""), source="narailabs/narai-primitives pull 33: PRAGMA table_info in a loop over the tables")
def pragma_of_each_table(db: Any) -> Any:
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        db.execute(f"PRAGMA table_info({table})").fetchall()


@shape()
def pragmas_of_each_connection(_: Any) -> Any:
    for _ in range(6):
        with contextlib.closing(sqlite3.connect(current_app.config["DATABASE"])) as own:
            own.execute("PRAGMA foreign_keys = ON")


@shape(source="jazzband/django-debug-toolbar pull 995: one statement from disparate code paths is meant that way")
def one_statement_from_many_lines(db: Any) -> Any:
    db.execute(USER, (1,)).fetchone()
    db.execute(USER, (2,)).fetchone()
    db.execute(USER, (3,)).fetchone()
    db.execute(USER, (4,)).fetchone()
    db.execute(USER, (5,)).fetchone()
    db.execute(USER, (6,)).fetchone()


# -- the same again ---------------------------------------------------------------------------------------------------------


@shape((DUPLICATES, "settings"), source=DATAVERSE)
def setting_asked_for_each_row(db: Any) -> Any:
    for _ in posts(db):
        db.execute("SELECT value FROM settings WHERE name = ?", ("setting 1",)).fetchone()


@shape((DUPLICATES, "users"), source="datalab-org/datalab issue 319: user_loader is called ten times in a request")
def current_user_again_and_again(db: Any) -> Any:
    def current_user() -> Any:
        return query_db("SELECT id, name FROM users WHERE id = ?", 1, one=True)

    for _ in posts(db):
        current_user()


@shape((DUPLICATES, "users"))
def current_user_wherever_it_is_wanted(db: Any) -> Any:
    def current_user() -> Any:
        return db.execute("SELECT id, name FROM users WHERE id = ?", (1,)).fetchone()

    current_user()
    current_user()
    current_user()
    db.execute("SELECT id FROM posts").fetchall()
    current_user()
    current_user()
    current_user()


@shape()
def users_wherever_they_are_wanted(db: Any) -> Any:
    def user(number: int) -> Any:
        return db.execute("SELECT id, name FROM users WHERE id = ?", (number,)).fetchone()

    user(1)
    user(2)
    user(3)
    user(1)
    user(2)
    user(3)
    user(1)


@shape()
def one_of_them_by_chance(db: Any) -> Any:
    for _ in range(6):
        db.execute("SELECT title FROM posts ORDER BY random() LIMIT 1").fetchone()


@shape(
    (DUPLICATES, "users"), source="maxcountryman/flask-login issue 110: back: back to the database for the user, again"
)
def current_user_in_a_template(db: Any) -> Any:
    template = "{% for _ in posts %}{{ db.execute('SELECT name FROM users WHERE id = 1').fetchone() }}{% endfor %}"
    return render_template_string(template, db=db, posts=posts(db))


@shape(source="UniSharp/laravel-settings issue 13: each setting is read twice")
def settings_read_twice(db: Any) -> Any:
    for _ in range(2):
        db.execute("SELECT value FROM settings WHERE name = 'setting 1'").fetchone()
        db.execute("SELECT value FROM settings WHERE name = 'setting 2' LIMIT 1").fetchone()


@shape((POLLING, "jobs"), source="Abhash-Chakraborty/Find pull 291: a loop that asks for the state, and sleeps")
def waiting_for_a_job(db: Any) -> Any:
    for _ in range(6):
        db.execute("SELECT state FROM jobs WHERE id = ?", (1,)).fetchone()
        time.sleep(0.06)


@shape()
def clock_asked_again(db: Any) -> Any:
    for _ in range(6):
        db.execute("SELECT strftime('%s', 'now')").fetchone()


@shape(source="simonw/sqlite-utils 4.2, insert_all: is it a table, a view, what columns has it")
def tables_looked_at_before_writing(db: Any) -> Any:
    for kind in ("table", "view") * 4:
        db.execute("SELECT name FROM sqlite_master WHERE type = ?", (kind,)).fetchall()


@shape((DUPLICATES, "posts"), source="beetbox/beets, its web plugin: FROM (albums), with brackets, for one of them")
def one_row_with_its_table_in_brackets(db: Any) -> Any:
    for _ in range(6):
        db.execute("SELECT posts.* FROM (posts) WHERE id = ? GROUP BY posts.id", (1,)).fetchone()
