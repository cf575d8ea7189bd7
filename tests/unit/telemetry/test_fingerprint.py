"""What two runs of a statement have in common is one text, whatever differs between them."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import fingerprint
from telemetry.fingerprint import statement

LITERALS = st.one_of(
    st.integers(min_value=0).map(str),
    st.floats(allow_nan=False, allow_infinity=False, min_value=0).map(repr),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(
        lambda text: "'" + text.replace("'", "''") + "'"
    ),
    st.binary(max_size=8).map(lambda blob: f"x'{blob.hex()}'"),
    st.sampled_from(["?", "?1", ":name", "@name", "$name", "-1", "- 2.5", ".5", "-.5"]),
)
SPACE = st.text(" \t\n", min_size=1, max_size=3) | st.sampled_from([" /* why */ ", " -- why\n "])


@given(LITERALS, LITERALS)
def test_literals_and_parameters_do_not_matter(one: str, other: str) -> None:
    sql = "SELECT a FROM t WHERE b = {} AND c > {} ORDER BY d LIMIT 3"
    assert statement(sql.format(one, other)).text == "SELECT a FROM t WHERE b = ? AND c > ? ORDER BY d LIMIT ?"


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        (
            "insert into t values (1) on conflict do update set key = 2",
            "INSERT INTO t VALUES (…) ON CONFLICT DO UPDATE SET key = ?",
        ),
        ("select key from t where t.key = 1", "SELECT key FROM t WHERE t.key = ?"),
        ("create table t (a primary key)", "CREATE TABLE t(a PRIMARY KEY)"),
    ],
)
def test_words_are_keywords_by_where_they_stand(sql: str, text: str) -> None:
    assert statement(sql).text == text


@given(st.lists(LITERALS, max_size=30))
def test_lists_behind_in_are_one_whatever_their_length(values: list[str]) -> None:
    found = statement(f"SELECT a FROM t WHERE b IN ({', '.join(values)}) AND c = 1")
    assert found.text == "SELECT a FROM t WHERE b IN (…) AND c = ?"
    assert found.list_size == len(values)


@given(st.lists(st.tuples(LITERALS, LITERALS), min_size=1, max_size=20))
def test_rows_behind_values_are_one_whatever_their_number(rows: list[tuple[str, str]]) -> None:
    values = ", ".join(f"({one}, datetime({other}))" for one, other in rows)
    text = statement(f"INSERT INTO t (a, b) VALUES {values} ON CONFLICT (a) DO NOTHING").text
    assert text.startswith("INSERT INTO t(a, b) VALUES (…) ON CONFLICT")


@given(st.lists(SPACE, min_size=8, max_size=8), st.booleans())
def test_white_space_comments_and_the_case_of_keywords_do_not_matter(spaces: list[str], lower: bool) -> None:
    words = ["SELECT", "Name", "FROM", "Users", "WHERE", "Age", ">", "1", ""]
    if lower:
        words = [word.lower() if word in ("SELECT", "FROM", "WHERE") else word for word in words]
    sql = "".join(word + space for word, space in zip(words, [*spaces, ""], strict=True))
    assert statement(sql).text == "SELECT Name FROM Users WHERE Age > ?"


PARTS = st.sampled_from(
    [
        *(
            "SELECT",
            "INSERT INTO",
            "UPDATE",
            "SET",
            "FROM",
            "t1",
            "main.t2",
            "WHERE",
            "id",
            "=",
            "<",
            "AND",
            "IN",
            "VALUES",
        ),
        *(
            "ORDER BY",
            "DESC",
            "LIMIT",
            "limit\n",
            "LIMIT 20",
            "LIMIT 007",
            "LIMIT -1",
            "OFFSET",
            "COUNT(*)",
            "UNION",
            "RANDOM()",
        ),
        *("5", "-5", "- 5", "1.5", ".5", "5.", "1e5", "1e-5", "0x1F", "1_000", "7abc", "5..6", "t.5"),
        *(
            "''",
            "'a'",
            "'it''s'",
            "'a\"b'",
            "'x[1]'",
            "'-- 1'",
            "x'AB'",
            "N'n'",
            "'a'||'b'",
            "data->'$[0]'",
            "'\\'",
            "'open",
        ),
        *(
            '"n 5"',
            '"a""b 3"',
            "`q 1`",
            "[b 2]",
            '"open 5',
            "`open 5",
            "[open 5",
            "-- c 5\n",
            "/* 7 */",
            "é 1",
            "a٣",
            "٣",
        ),
        *(
            "?",
            "?1",
            ":id1",
            "@p2",
            "$3",
            ",",
            "(",
            ")",
            "(1, 2, 3)",
            "('a', 'b')",
            "(1, 'x'), (2, 'y')",
            ";",
            "BETWEEN 1 AND 2",
        ),
        *("LIKE '%5%'", "CAST(5 AS TEXT)"),
    ]
)


@given(st.lists(PARTS, min_size=1, max_size=12), st.sampled_from([" ", " ", "\n", ""]))
def test_the_form_of_a_statement_has_its_fingerprint(parts: list[str], space: str) -> None:
    sql = space.join(parts)
    read = fingerprint._of_form.__wrapped__
    assert read(fingerprint.form(sql)) == read(sql)


def test_statements_that_differ_in_literals_have_one_form() -> None:
    forms = {
        fingerprint.form(f"SELECT a, 'x{number}' FROM t1 WHERE \"b 1\" = {number} AND c < -{number}.5 LIMIT 10")
        for number in range(20)
    }
    assert forms == {"SELECT a, '' FROM t1 WHERE \"b 1\" = 0 AND c < -0 LIMIT 10"}


@given(st.text())
def test_any_text_has_a_fingerprint(text: str) -> None:
    statement(text)


@given(st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=6, max_size=30), st.integers(0, 60))
def test_what_is_inside_a_literal_is_never_told_even_where_the_statement_is_cut_off(secret: str, cut: int) -> None:
    secret = f"SECRET{secret}"
    sql = f"SELECT a FROM t WHERE b = 'x{secret}' AND c IN ('{secret}', '{secret}')"[: 29 + cut]
    assert "SECRET" not in statement(sql).text


def test_a_very_long_list_is_a_list() -> None:
    short, long = (f"SELECT a FROM t WHERE b IN ({', '.join(['?'] * number)})" for number in (2, 20_000))
    words = ", ".join(f"'word {number}'" for number in range(5000))
    assert statement(short).text == statement(long).text == statement(f"SELECT a FROM t WHERE b IN ({words})").text


@pytest.mark.parametrize(
    ("begin", "rest"),
    [
        ("INSERT INTO t VALUES (-1.5, 'name'), (", "-20.25, 'other name')"),
        ("INSERT INTO t VALUES (", "-20.25, 'name')"),
        ("SELECT a IN (-1,", " 2.5, -3)"),
    ],
)
@pytest.mark.parametrize("tail", ["", " …"])
def test_a_list_that_the_statement_is_cut_off_in_is_a_list(begin: str, rest: str, tail: str) -> None:
    texts = {statement(begin + rest[:cut] + tail).text for cut in range(len(rest))}
    assert texts == {statement(begin + rest).text}


@pytest.mark.parametrize("lists", ["NULL, 1, NULL", "+1, 2", "(1, 2), (3, 4)"])
def test_what_is_no_list_of_plain_values_is_one_too_where_it_is_cut_off(lists: str) -> None:
    texts = {statement(f"SELECT a FROM t WHERE b IN ({lists}, {lists}"[:cut]).text for cut in range(32, 45)}
    assert texts == {"SELECT a FROM t WHERE b IN (…)"}
    assert statement("SELECT a FROM t WHERE b IN (SELECT c").text == "SELECT a FROM t WHERE b IN (SELECT c"


@pytest.mark.parametrize(
    ("sql", "operation", "table"),
    [
        ("SELECT 1", "SELECT", ""),
        ("SELECT * FROM main.users", "SELECT", "users"),
        ('UPDATE "main" . "my users" SET a = 1', "UPDATE", "my users"),
        ("select * from [my table]", "SELECT", "my table"),
        ("SELECT * FROM (albums) WHERE id = 1", "SELECT", "albums"),
        ("SELECT * FROM ((main.a JOIN b))", "SELECT", "a"),
        ("SELECT * FROM (SELECT a FROM t)", "SELECT", "t"),
        ("SELECT * FROM (VALUES (1))", "SELECT", ""),
        ("SELECT * FROM (", "SELECT", ""),
        ("INSERT OR REPLACE INTO t VALUES (1)", "INSERT", "t"),
        ("REPLACE INTO t VALUES (1)", "REPLACE", "t"),
        ("UPDATE OR IGNORE t SET a = 1", "UPDATE", "t"),
        ('UPDATE "t" SET a = (SELECT max(a) FROM u)', "UPDATE", "t"),
        ("DELETE FROM t", "DELETE", "t"),
        ("WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x) SELECT n FROM x", "SELECT", "x"),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", "INSERT", "t"),
        ("PRAGMA table_info(t)", "PRAGMA", ""),
        ("SAVEPOINT s", "SAVEPOINT", ""),
        ("BEGIN IMMEDIATE", "BEGIN", ""),
        ("EXPLAIN QUERY PLAN SELECT 1", "EXPLAIN", ""),
        ("", "", ""),
    ],
)
def test_operation_and_table(sql: str, operation: str, table: str) -> None:
    found = statement(sql)
    assert (found.operation, found.table) == (operation, table)


def test_names_that_are_keywords_elsewhere_stay_as_they_are_written() -> None:
    sql = "select t.key, Format from settings t join Action on t.[name] = Show group by comment"
    assert statement(sql).text == "SELECT t.key, Format FROM settings t JOIN Action ON t.[name] = Show GROUP BY comment"
    assert statement("update or ignore settings set value = null").table == "settings"


def test_what_a_statement_compares_limits_and_counts() -> None:
    page = statement("SELECT * FROM t WHERE owner = ? AND t.id > ? ORDER BY t.id LIMIT 50")
    assert (page.equals, page.is_ranged, page.is_ordered_by_range, page.limit) == (("owner",), True, True, 50)
    assert statement("SELECT * FROM t LIMIT ? OFFSET ?").has_offset
    assert statement("SELECT * FROM t LIMIT 20, 10").has_offset
    assert not statement("SELECT * FROM t LIMIT 10").has_offset
    assert statement("SELECT COUNT(*) FROM t WHERE a = 1").is_counted
    assert not statement("SELECT COUNT(*), a FROM t").is_counted


@pytest.mark.parametrize(
    ("sql", "limit"),
    [
        ("SELECT a FROM t WHERE note = 'LIMIT 5'", None),
        ('SELECT "LIMIT 5" FROM t /* LIMIT 6 */ -- LIMIT 7', None),
        ("SELECT a FROM t WHERE note = 'LIMIT 5' LIMIT 10", 10),
        ("SELECT a FROM (SELECT a FROM t LIMIT 5) limit 10;", 10),
        ("SELECT a FROM t LIMIT 20, 10", None),
        ("SELECT a FROM t LIMIT ?", None),
        ("SELECT a FROM t LIMIT -1", None),
        ("SELECT a FROM t LIMIT 0x10", None),
        (f"SELECT a FROM t LIMIT {'9' * 5000}", None),
    ],
)
def test_a_limit_is_the_number_that_stands_behind_the_word(sql: str, limit: int | None) -> None:
    assert statement(sql).limit == limit


def test_the_order_of_the_rows_is_the_last_one_that_is_said() -> None:
    inner = "SELECT a, id FROM t WHERE id > ? ORDER BY {}"
    assert statement(f"SELECT a FROM ({inner.format('a')}) ORDER BY id").is_ordered_by_range
    assert not statement(f"SELECT a FROM ({inner.format('id')}) ORDER BY a").is_ordered_by_range


def test_a_fingerprint_is_what_sqlite_can_prepare_again() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (a, b)")
    text = statement("SELECT t.a, count(*) FROM t WHERE t.b = 'x' AND (a IS NOT NULL OR b LIKE 'y%') GROUP BY 1").text
    connection.execute(f"EXPLAIN {text}", ("x", "y", 1))
    connection.close()


def test_threads_that_look_at_once_get_the_same_fingerprints() -> None:
    statements = [f"SELECT c{number} FROM t{number} WHERE a = '{number}'" for number in range(1000)]
    with ThreadPoolExecutor(4) as pool:
        found = [known.text for known in pool.map(statement, statements)]
    assert found == [f"SELECT c{number} FROM t{number} WHERE a = ?" for number in range(1000)]
