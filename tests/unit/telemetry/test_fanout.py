"""What the queries of a request come to. The shapes of whole requests are in `benchmarks/corpus.py`."""

from __future__ import annotations

from types import CodeType
from typing import Any

import pytest

from telemetry import fanout, source
from telemetry.fanout import analyse, summary
from telemetry.groups import groups_of
from telemetry.growth import steps_of
from telemetry.query import FROM_FIRST, FURTHER, MADE, MANY, SCRIPT, START_NS, Query
from telemetry.recent import KeptRequest, summed
from telemetry.sums import Sums
from telemetry.writes import Writes
from tests.unit.telemetry.queries import MS, VIEW, code, each, kept, query

POSTS = query("SELECT id, author FROM posts", 0)
AUTHOR = "SELECT name FROM users WHERE id = ?"
INSERT = "INSERT INTO t VALUES (?)"
UPDATE = "UPDATE t SET a = ?"
QUIET = "SELECT 1 FROM t WHERE a = ?"


def both_ways(queries: list[Query]) -> tuple[KeptRequest, KeptRequest]:
    """Return a request as it is kept query by query and as sums; equal statements had equal parameters."""
    one_by_one = kept(queries, same=True)
    assert one_by_one.repeats is not None
    return one_by_one, one_by_one._replace(queries=[], sums=summed(queries, one_by_one.repeats, {}))


def test_one_statement_for_each_row_is_an_n_plus_one_with_its_evidence_and_the_query_that_feeds_it() -> None:
    found = analyse(kept([POSTS, *each(AUTHOR, 20, since=10, took_ns=MS)]))
    (finding,) = found.findings
    assert found.verdict == fanout.N_PLUS_ONE
    assert finding.is_warning
    assert finding.text == (
        "SELECT users ran 20 times at /srv/app/views.py:3, 20.0 ms. It follows the query at /srv/app/views.py:3"
    )
    assert finding.mend == "a JOIN of users in the query of posts, or one query with id IN (…)"
    assert finding.feeder is not None
    assert finding.feeder.sql == POSTS[0]


def test_what_feeds_is_the_last_query_before_that_has_rows_to_give() -> None:
    tags = "SELECT id FROM tags"
    loop = each(AUTHOR, 9, since=100)

    def feeder(*before: Query) -> str:
        (finding,) = analyse(kept([*before, *loop]), repeats=6).findings
        assert finding.feeder is not None
        return finding.feeder.sql

    assert feeder(POSTS, query(tags, 10)) == tags
    assert feeder(POSTS, query("SELECT COUNT(*) FROM tags", 10)) == POSTS[0]
    assert feeder(POSTS, query(tags, 10, error="sqlite3.OperationalError")) == POSTS[0]
    assert feeder(POSTS, query("INSERT INTO seen VALUES (?)", 10)) == POSTS[0]
    assert feeder(POSTS, *each("SELECT a FROM b WHERE c = ?", 5, since=10, step_ns=2)) == POSTS[0]


@pytest.mark.parametrize(
    ("before", "is_told"),
    [
        (query("SELECT id FROM posts", 1, rows=9), True),
        (query("SELECT id FROM posts", 1, rows=9, at=code("elsewhere")), True),
        (query("SELECT id FROM posts", 1, rows=8), False),
        (query("SELECT id FROM posts", 1, at=code("elsewhere")), False),
        (query("SELECT id FROM posts", 1, at=code("posts"), caller=VIEW), True),
        (query("SELECT id FROM posts LIMIT 8", 1), False),
        (query("SELECT id FROM posts WHERE author = ?", 1), False),
        (query("SELECT EXISTS(SELECT id FROM posts)", 1), False),
        (query("SELECT 1", 1), False),
    ],
    ids=[
        "enough rows",
        "enough rows, elsewhere",
        "too few rows",
        "rows not known, elsewhere",
        "rows not known, called by the same function",
        "too few rows by its limit",
        "perhaps one row",
        "whether there is one",
        "of no table",
    ],
)
def test_what_feeds_is_told_where_more_speaks_for_it_than_that_it_was_before(before: Query, is_told: bool) -> None:
    (finding,) = analyse(kept([before, *each(AUTHOR, 9, since=10)])).findings
    assert (finding.feeder is not None) is is_told
    assert ("It follows" in finding.text) is is_told
    assert (
        finding.mend
        == ("a JOIN of users in the query of posts" if is_told else "a JOIN") + ", or one query with id IN (…)"
    )


def test_of_those_that_may_feed_it_the_one_with_as_many_rows_is_told_then_the_last_whose_rows_are_known() -> None:
    albums, settings = query("SELECT id FROM albums", 1, rows=9), query("SELECT id FROM settings", 2, rows=50)
    user = query("SELECT id FROM user", 3)
    for before, table in (([albums, settings, user], "albums"), ([settings, user], "settings"), ([user], "user")):
        (finding,) = analyse(kept([*before, *each(AUTHOR, 9, since=10)])).findings
        assert finding.mend.startswith(f"a JOIN of users in the query of {table}")


@pytest.mark.parametrize(
    "where",
    [
        "run = ? AND key = ?",
        "name LIKE ? AND active = 1",
        "day BETWEEN ? AND ? AND kind = 'a'",
        "lower(name) = ? AND active = 1",
        "album IN (?) AND kind = 'a'",
    ],
)
def test_where_more_than_one_value_may_differ_no_column_is_named(where: str) -> None:
    (finding,) = analyse(kept(each(f"SELECT v FROM t WHERE {where}", 9))).findings
    assert finding.mend == "a JOIN, or one query with an IN list"


@pytest.mark.parametrize("behind", ["", " LIMIT 1", " ORDER BY id LIMIT 1 OFFSET 2", " LIMIT 1, 2"])
def test_how_many_rows_are_wanted_is_no_value_that_differs(behind: str) -> None:
    (finding,) = analyse(kept([POSTS, *each(f"SELECT 'x', v FROM t WHERE author = ?{behind}", 9, since=10)])).findings
    assert finding.mend == "a JOIN of t in the query of posts, or one query with author IN (…)"


def test_asking_whether_there_is_a_row_is_no_count() -> None:
    (finding,) = analyse(kept(each("SELECT EXISTS(SELECT 1 FROM roles WHERE name = ?)", 9))).findings
    assert finding.mend == "a JOIN, or one query with name IN (…)"


@pytest.mark.parametrize("table", ["sqlite_master", "SQLITE_SCHEMA", "main.sqlite_schema"])
def test_looking_at_what_tables_there_are_is_no_n_plus_one(table: str) -> None:
    request = kept(each(f"SELECT name FROM {table} WHERE type = ?", 9))
    assert analyse(request).findings == ()
    assert steps_of(groups_of(request)) == ()


@pytest.mark.parametrize(("runs", "repeats", "expected"), [(4, 5, "ok"), (5, 5, "n_plus_one"), (4, 4, "n_plus_one")])
def test_so_many_runs_make_a_finding(runs: int, repeats: int, expected: str) -> None:
    request = kept(each(AUTHOR, runs))
    assert analyse(request, repeats).verdict == summary(request, repeats).verdict == expected


def test_the_same_statement_from_other_lines_is_counted_for_each_line() -> None:
    queries = [query(AUTHOR, at, at=code(f"view{at}")) for at in range(1, 8)]
    found = analyse(kept(queries))
    assert found.findings == ()
    assert len(found.groups) == 7
    assert found.summary == (1, "ok", 1)


def test_a_qualified_name_is_the_tables_own_and_the_columns_own() -> None:
    feeder = query('SELECT id FROM main."my posts"', 0)
    found = analyse(kept([feeder, *each("SELECT a FROM main.users WHERE ? = users.post_id", 9, since=9)]))
    assert found.findings[0].mend == "a JOIN of users in the query of my posts, or one query with post_id IN (…)"


def test_a_helper_is_told_by_the_line_that_calls_it() -> None:
    helper = code("query_db")
    others = [query(AUTHOR, at, at=helper, caller=code(f"view{at}")) for at in range(1, 8)]
    loop = [query(AUTHOR, at, at=helper, caller=VIEW) for at in range(10, 17)]
    assert analyse(kept(others)).verdict == fanout.OK
    (finding,) = analyse(kept([*others, *loop])).findings
    assert "called at /srv/app/views.py:3" in finding.text


def test_statements_that_differ_in_their_literals_are_one() -> None:
    queries = [query(f"SELECT name FROM users WHERE id = {at}", at + 1) for at in range(9)]
    (one,) = analyse(kept(queries)).groups
    assert (one.runs, one.distinct, one.sql) == (9, 9, "SELECT name FROM users WHERE id = 0")


def test_equal_parameters_are_duplicates() -> None:
    (finding,) = analyse(kept(each(AUTHOR, 6), same=True)).findings
    assert finding.kind == fanout.DUPLICATES
    assert "6 times" in finding.text
    assert "same parameters" in finding.text
    assert "flask.g" in finding.mend


@pytest.mark.parametrize("flags", [0, MADE])
def test_one_line_that_asks_the_same_from_many_places_is_told_once_for_all_of_them(flags: int) -> None:
    helper = code("current_user")
    queries = [query(AUTHOR, at, took_ns=MS, flags=flags, at=helper, caller=code(f"view{at}")) for at in range(1, 7)]
    found = analyse(kept(queries, same=True))
    (finding,) = found.findings
    assert finding.kind == fanout.DUPLICATES
    assert finding.text == (
        "SELECT users ran 6 times at /srv/app/views.py:3, called from 6 places, 6.00 ms, each time with the same parameters"
    )
    assert finding.group is found.groups[0]
    assert found.summary == (1, "duplicates", 6)


@pytest.mark.parametrize(
    ("places", "passes", "verdict"),
    [(4, 4, fanout.N_PLUS_ONE), (2, 4, fanout.N_PLUS_ONE), (2, 2, fanout.OK), (6, 1, fanout.OK)],
)
def test_one_line_that_asks_from_several_places_of_a_loop_is_an_n_plus_one(
    places: int, passes: int, verdict: str
) -> None:
    """As for the author, the editor and the reviewer of each document."""
    helper, callers = code("user"), [code(f"of_{place}") for place in range(places)]
    queries = [
        query(AUTHOR, 10 + place + 10 * number, took_ns=MS, at=helper, caller=callers[place])
        for number in range(passes)
        for place in range(places)
    ]
    found = analyse(kept([POSTS, *queries]))
    assert found.verdict == verdict
    if found.findings:
        (finding,) = found.findings
        said = f"SELECT users ran {len(queries)} times at /srv/app/views.py:3, called from {places} places, "
        assert finding.text.startswith(said)
        assert finding.runs == len(queries)


@pytest.mark.parametrize(
    "sql", ["SELECT sql FROM sqlite_master WHERE name = ?", "SELECT * FROM posts ORDER BY id LIMIT 10 OFFSET ?"]
)
def test_one_line_that_turns_pages_or_looks_at_what_tables_there_are_from_several_places_is_no_n_plus_one(
    sql: str,
) -> None:
    helper, callers = code("ask"), [code("one"), code("other")]
    queries = [query(sql, 10 + at, at=helper, caller=callers[at % 2]) for at in range(8)]
    assert analyse(kept(queries)).findings == ()


def test_an_n_plus_one_of_the_rows_that_were_read_before_is_not_told_to_join_them() -> None:
    queries = [query("SELECT id, name FROM users", 0, rows=9), *each(AUTHOR, 9, since=10)]
    (finding,) = analyse(kept(queries)).findings
    assert finding.mend.startswith("its columns in the query of users before it, or one query with id IN (…)")


def test_what_chance_has_a_part_in_is_no_duplicate() -> None:
    assert analyse(kept(each("SELECT a FROM t ORDER BY RANDOM() LIMIT 1", 9), same=True)).findings == ()


@pytest.mark.parametrize(
    ("sql", "rows", "expected"),
    [
        (f"INSERT INTO t VALUES {', '.join(['(?)'] * 50)}", 50, fanout.CHUNKS),
        ("INSERT INTO t VALUES (?), (?)", 2, fanout.WRITE_LOOP),
        ("INSERT INTO t SELECT a FROM u WHERE b = ?", 50, fanout.WRITE_LOOP),
        (f"DELETE FROM t WHERE a IN ({', '.join('?' * 50)})", 0, fanout.CHUNKS),
        ("DELETE FROM t WHERE a IN (SELECT a FROM t WHERE b < ? LIMIT 50)", 50, fanout.CHUNKS),
        ("DELETE FROM t WHERE b = ?", 50, fanout.WRITE_LOOP),
        ("UPDATE t SET a = 1 WHERE b = ?", 1, fanout.WRITE_LOOP),
    ],
)
def test_many_rows_at_a_time_are_no_loop_of_writes(sql: str, rows: int, expected: str) -> None:
    one_by_one = kept(each(sql, 6, rows=rows))
    in_sums = one_by_one._replace(queries=[], sums=summed(one_by_one.queries, {}, {}))
    for request in (one_by_one, in_sums):
        (finding,) = analyse(request).findings
        assert finding.kind == expected
        assert finding.is_warning == (expected == fanout.WRITE_LOOP)


def test_asking_again_after_each_write_is_no_duplicate() -> None:
    asked, written = (
        each(sql, 6, since=since) for sql, since in (("SELECT count(*) FROM t", 0), ("INSERT INTO t VALUES (?)", 500))
    )
    queries = sorted([*asked, *written], key=lambda one: one[1])
    assert [each.kind for each in analyse(kept(queries, same=True)).findings] == [fanout.WRITE_LOOP]
    (duplicates, _) = analyse(kept([*asked, *each("INSERT INTO t VALUES (?)", 6, since=10**6)], same=True)).findings
    assert duplicates.kind == fanout.DUPLICATES
    assert duplicates.mend.endswith("in flask.g or a local variable; ask again after a write")


@pytest.mark.parametrize(("writes", "expected"), [(2, [fanout.DUPLICATES]), (3, [])])
def test_asking_again_is_no_duplicate_where_half_of_the_runs_may_see_something_new(
    writes: int, expected: list[str]
) -> None:
    asked = each("SELECT count(*) FROM t", 6)
    written = each("INSERT INTO t VALUES (?)", writes, since=500)
    for request in both_ways(sorted([*asked, *written], key=lambda one: one[1])):
        assert [finding.kind for finding in analyse(request).findings] == expected


def test_what_is_of_no_table_may_change_by_itself() -> None:
    assert analyse(kept(each("SELECT datetime('now')", 9), same=True)).findings == ()


def test_pauses_between_equal_runs_are_polling() -> None:
    for request in both_ways(each(QUIET, 6, step_ns=60 * MS)):
        (finding,) = analyse(request).findings
        assert (finding.kind, finding.is_warning, finding.mend) == (fanout.POLLING, False, "")


@pytest.mark.parametrize(
    ("step_ns", "took_ns"), [(60 * MS, 11 * MS), (40 * MS, 1000)], ids=["slow query", "short pause"]
)
def test_pauses_that_are_short_or_no_longer_than_the_runs_are_no_polling(step_ns: int, took_ns: int) -> None:
    for request in both_ways(each(QUIET, 6, step_ns=step_ns, took_ns=took_ns)):
        (finding,) = analyse(request).findings
        assert finding.kind == fanout.DUPLICATES


def test_time_that_fetching_the_rows_takes_is_no_pause() -> None:
    queries = each(QUIET, 6, step_ns=60 * MS)
    fetches = [number for query in queries for number in (query[START_NS], 58 * MS, 1000)]
    (finding,) = analyse(kept(queries, same=True, fetches=fetches)).findings
    assert finding.kind == fanout.DUPLICATES


def test_different_writes_that_are_refused_are_a_loop_and_were_not_tried_again() -> None:
    queries = each("INSERT INTO t VALUES (?)", 9, error="sqlite3.IntegrityError")
    assert analyse(kept(queries)).verdict == fanout.WRITE_LOOP
    (finding,) = analyse(kept(queries, same=True)).findings
    assert finding.kind == fanout.RETRIES


def test_runs_that_failed_until_one_did_not_are_retries() -> None:
    failed = each("INSERT INTO t VALUES (?)", 5, error="sqlite3.OperationalError")
    (finding,) = analyse(kept([*failed, query("INSERT INTO t VALUES (?)", 10**6, rows=1)])).findings
    assert finding.kind == fanout.RETRIES
    assert "5 of them failed" in finding.text


@pytest.mark.parametrize(
    ("transactions", "text", "mend"),
    [
        ([7] * 6, "in one transaction", "one executemany"),
        ([1, 2, 3, 4, 5, 6], "in 6 transactions", "each commit waits for the disk"),
        ([0] * 6, "one by one", "one executemany"),
    ],
)
def test_a_loop_of_writes_tells_its_transactions(transactions: list[int], text: str, mend: str) -> None:
    queries = [query(INSERT, at + 1, rows=1, transaction=number) for at, number in enumerate(transactions)]
    (finding,) = analyse(kept(queries)).findings
    assert finding.kind == fanout.WRITE_LOOP
    assert text in finding.text
    assert mend in finding.mend


def test_executemany_is_bulk_and_a_script_is_nothing() -> None:
    queries = [
        query("INSERT INTO t VALUES (?)", 1, flags=MANY, rows=50),
        *each("CREATE TABLE t (a)", 9, since=9, flags=SCRIPT),
    ]
    found = analyse(kept(queries))
    assert [finding.kind for finding in found.findings] == [fanout.BULK]
    assert "50 rows, by executemany" in found.findings[0].text
    assert found.verdict == fanout.OK


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM t ORDER BY a LIMIT 50 OFFSET ?",
        "SELECT * FROM t WHERE id > ? ORDER BY id LIMIT 50",
        "SELECT * FROM t WHERE owner = ? AND id > ? ORDER BY id LIMIT 50",
        "SELECT * FROM t WHERE owner = ? ORDER BY a LIMIT ? OFFSET ?",
        f"SELECT * FROM t WHERE id IN ({', '.join('?' * 50)})",
    ],
)
def test_pages_and_chunks_are_paging(sql: str) -> None:
    (finding,) = analyse(kept(each(sql, 9))).findings
    assert finding.kind == fanout.PAGING


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM comments WHERE post = ? ORDER BY id DESC LIMIT 3",
        "SELECT * FROM comments WHERE post = ? ORDER BY id LIMIT ? OFFSET ?",
        "SELECT * FROM comments WHERE id > ? ORDER BY id LIMIT 1",
        "SELECT * FROM comments WHERE post IN (?)",
    ],
)
def test_the_first_rows_for_each_row_are_no_pages(sql: str) -> None:
    found = analyse(kept([POSTS, *each(sql, 9, since=10)]))
    assert found.verdict == fanout.N_PLUS_ONE


@pytest.mark.parametrize(
    ("rows", "at", "verdict"),
    [
        (9, VIEW, fanout.N_PLUS_ONE),
        (9, code("load_settings"), fanout.OK),
        (4, VIEW, fanout.OK),
        (-1, VIEW, fanout.OK),
    ],
)
def test_the_newest_of_each_row_are_no_pages_where_there_were_as_many_rows(
    rows: int, at: CodeType, verdict: str
) -> None:
    newest = "SELECT * FROM posts WHERE category = ? AND published <= ? ORDER BY published DESC LIMIT 5"
    user = query("SELECT * FROM users WHERE id = ?", 5, rows=1)
    queries = [query("SELECT * FROM categories", 0, rows=rows, at=at), user, *each(newest, 9, since=10)]
    assert analyse(kept(queries)).verdict == verdict
    steps = [step for step in steps_of(groups_of(kept(queries))) if step.runs > 1]
    assert bool(steps) is (verdict != fanout.OK)


@pytest.mark.parametrize(
    ("flags", "verdict"),
    [([0] * 9, fanout.OK), ([FROM_FIRST] * 9, fanout.N_PLUS_ONE), ([FROM_FIRST, *[FURTHER] * 8], fanout.OK)],
)
def test_whose_offset_never_changes_is_no_paging(flags: list[int], verdict: str) -> None:
    asked = "SELECT * FROM tags WHERE name = ? LIMIT ? OFFSET ?"
    queries = [query(asked, 1 + at * 2000, flags=flag) for at, flag in enumerate(flags)]
    assert analyse(kept(queries)).verdict == verdict


def test_a_query_of_another_function_feeds_it_by_as_many_rows_alone() -> None:
    elsewhere = code("elsewhere")
    each_one = each("SELECT value FROM settings WHERE name = ?", 6, since=100)
    for rows, is_told in ((40, False), (6, True)):
        before = query("SELECT id FROM languages", 1, rows=rows, at=elsewhere)
        feeder = analyse(kept([before, *each_one])).findings[0].feeder
        assert (feeder is not None) is is_told


def test_of_what_asks_no_table_no_join_is_advised() -> None:
    (finding,) = analyse(kept(each("SELECT LOWER(?)", 8))).findings
    assert finding.mend == "work it out in Python, or in the query whose rows it is for"


def test_a_function_that_calls_itself_is_told_of_with_recursive() -> None:
    of_tree = "SELECT id FROM t WHERE parent = ?"
    below = each(of_tree, 9, since=10, caller=VIEW)
    assert "WITH RECURSIVE" in analyse(kept([query(of_tree, 1), *below])).findings[0].mend
    other = query("SELECT id FROM u", 1)  # of a function for this and that, which calls itself for the parts
    told = analyse(kept([other, *below])).findings[0].mend
    assert told == "a JOIN of t in the query of u, or one query with parent IN (…)"


def test_a_count_for_each_row_is_told_of_group_by() -> None:
    queries = [POSTS, *each("SELECT COUNT(*) FROM likes WHERE post = ?", 9, since=9)]
    assert analyse(kept(queries)).findings[0].mend == "one query with GROUP BY post"


def test_many_different_statements_are_a_fixed_batch() -> None:
    queries = [query(f"SELECT {at} FROM t{at}", at + 1) for at in range(8)]
    (finding,) = analyse(kept(queries)).findings
    assert (finding.kind, finding.is_warning) == (fanout.BATCH, False)


def test_the_worst_comes_first_and_among_equals_the_costliest() -> None:
    queries = [
        *each("INSERT INTO t VALUES (?)", 9, took_ns=MS),
        *each("SELECT a FROM t WHERE b = ?", 6, since=10**5),
        *each("SELECT a FROM u WHERE b = ?", 6, since=10**6, took_ns=MS),
    ]
    found = analyse(kept(queries))
    assert [(each.kind, each.group and each.group.statement.table) for each in found.findings] == [
        ("n_plus_one", "u"),
        ("n_plus_one", "t"),
        ("write_loop", "t"),
    ]


def test_names_of_all_verdicts_and_remarks() -> None:
    assert [fanout.name_of(kind) for kind in (*fanout.VERDICTS, *fanout.REMARKS)] == [
        *("N+1", "duplicates", "loop of writes", "full scan", "lock wait", "many commits", "no finding"),
        *("retries", "polling", "paging", "in chunks", "executemany", "fixed batch"),
    ]


WAITED: dict[str, Any] = {"duration_ns": 40 * MS, "writes": Writes(20 * MS)}


def test_a_request_that_lost_much_of_its_time_to_a_lock_says_who_held_it() -> None:
    request = kept([POSTS], duration_ns=40 * MS, writes=Writes(20 * MS, (20 * MS, "POST /orders")))
    (found,) = fanout.analyse(request).findings
    assert (found.kind, found.is_warning) == (fanout.LOCK_WAIT, True)
    assert found.text == "20.0 ms of 40.0 ms went by waiting for the database's write lock, which POST /orders held"
    assert fanout.summary(request).verdict == fanout.LOCK_WAIT
    (unknown,) = fanout.analyse(kept([POSTS], **WAITED)).findings
    assert unknown.text.endswith("the database's write lock")


@pytest.mark.parametrize(
    "values", [{"writes": Writes(9 * MS)}, {"duration_ns": 100 * MS}, {"transfer": 100 * MS}, {"writes": None}]
)
def test_a_short_wait_is_not_worth_a_word(values: dict[str, Any]) -> None:
    assert fanout.analyse(kept([POSTS], **(WAITED | values))).findings == ()


def test_many_commits_that_take_much_of_a_request_are_told() -> None:
    request = kept(
        [POSTS, *each(INSERT, 2), *each(UPDATE, 3)],
        duration_ns=40 * MS,
        writes=Writes(0, None, 5, 30 * MS),
    )
    (found,) = fanout.analyse(request).findings
    assert (found.kind, found.is_warning) == (fanout.COMMITS, True)
    assert found.text == "5 commits took 30.0 ms of 40.0 ms"
    assert found.mend == "one transaction for what belongs together: each commit waits for the disk"
    assert fanout.summary(request).verdict == fanout.COMMITS


@pytest.mark.parametrize(
    ("commits", "took_ms", "whole_ms"), [(4, 30, 40), (5, 9, 10), (5, 30, 121)], ids=["few", "quick", "of a long one"]
)
def test_few_commits_or_quick_ones_are_not_worth_a_word(commits: int, took_ms: int, whole_ms: int) -> None:
    writes = Writes(0, None, commits, took_ms * MS)
    request = kept([POSTS, *each(INSERT, 4)], duration_ns=whole_ms * MS, writes=writes)
    assert [found for found in fanout.analyse(request).findings if found.is_warning] == []


@pytest.mark.parametrize(
    "alike", [{"sql": "INSERT INTO t VALUES (?), (?)"}, {"sql": INSERT, "flags": MANY}], ids=["VALUES", "executemany"]
)
def test_many_rows_a_commit_are_no_finding(alike: dict[str, Any]) -> None:
    many = [query(start_ns=1000 * at, rows=60, transaction=at, **alike) for at in range(1, 7)]
    request = kept(many, duration_ns=40 * MS, writes=Writes(0, None, 6, 30 * MS))
    assert not [found for found in fanout.analyse(request).findings if found.is_warning]


def test_commits_to_many_databases_can_be_no_one_transaction() -> None:
    writes = Writes()
    for at in range(8):
        writes.add_commit(at, 4 * MS, has_failed=False, database=at)
    assert fanout.analyse(kept([POSTS, *each(INSERT, 4)], duration_ns=40 * MS, writes=writes)).verdict == fanout.OK
    for at in range(4):
        writes.add_commit(at, 5 * MS, has_failed=False, database=3)
    (found,) = fanout.analyse(kept([POSTS, *each(INSERT, 4)], duration_ns=60 * MS, writes=writes)).findings
    assert found.text == "5 commits took 24.0 ms of 60.0 ms"


def test_a_commit_that_is_tried_again_is_not_many() -> None:
    writes = Writes()
    for at in range(7):
        writes.add_commit(at, 4 * MS, has_failed=at < 6)
    assert fanout.analyse(kept([POSTS, *each(INSERT, 1)], duration_ns=40 * MS, writes=writes)).verdict == fanout.OK


@pytest.mark.parametrize(
    "other",
    [each("INSERT INTO u VALUES (?)", 1, rows=2, flags=MANY, transaction=99), each(UPDATE, 6, transaction=99)],
    ids=["executemany", "loop in one transaction"],
)
def test_many_commits_are_told_beside_what_is_said_of_few_of_them(other: list[Query]) -> None:
    request = kept([*each(INSERT, 4), *other], duration_ns=40 * MS, writes=Writes(0, None, 25, 30 * MS))
    assert fanout.COMMITS in {found.kind for found in fanout.analyse(request).findings}


def test_a_loop_of_writes_tells_what_its_commits_took_and_nothing_else_does() -> None:
    loop = [query(INSERT, 1000 * at, transaction=at) for at in range(1, 7)]
    (found,) = fanout.analyse(kept(loop, duration_ns=40 * MS, writes=Writes(0, None, 6, 30 * MS))).findings
    assert found.kind == fanout.WRITE_LOOP
    assert found.text.endswith(" in 6 transactions; the request's commits took 30.0 ms")


def test_a_full_scan_comes_behind_what_repeats_and_before_remarks() -> None:
    request = kept([POSTS, *each(AUTHOR, 9, since=10)])
    analysis = fanout.analyse(request)
    scan = fanout.full_scan(analysis.groups[0], "posts(day)")
    assert [finding.kind for finding in analysis.with_scans([scan]).findings] == [fanout.N_PLUS_ONE, fanout.FULL_SCAN]
    assert scan.text.endswith("ms, and read all of posts each time")
    assert scan.mend == "an index on posts(day)"
    assert analysis.with_scans([]) is analysis


def test_what_there_was_no_room_for_is_no_statement_of_its_own() -> None:
    rest, known = Sums("", source.NO_SITE), Sums(POSTS[0], POSTS[7:])
    rest.runs, known.runs = 2000, 3
    request = kept([], query_count=2003, sums=[rest, known])
    assert fanout.summary(request) == fanout.Summary(1, fanout.OK, 3)
