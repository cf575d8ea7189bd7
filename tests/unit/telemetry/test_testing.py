"""Query budgets in tests."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from flask import Flask

from telemetry.query import Query
from telemetry.requests import current_request
from telemetry.testing import QueryBudgetError, assert_constant_queries, assert_max_queries, record_queries

pytest_plugins = ["pytester"]


def ask(number: int, offset: int = 0) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        for key in range(number):
            connection.execute("SELECT ? + 1", (key + offset,)).fetchall()


def test_what_is_made_inside_is_recorded_and_nothing_else() -> None:
    ask(1)
    with record_queries() as queries:
        ask(2)
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript("SELECT 1; SELECT 2")
            with pytest.raises(sqlite3.Error):
                connection.execute("SELEC 1")
    ask(1)
    assert queries.count == 4
    assert queries.sql == ["SELECT ? + 1", "SELECT ? + 1", "SELECT 1; SELECT 2", "SELEC 1"]
    assert queries.fingerprints["SELECT ? + ?"] == 2
    queries.clear()
    assert queries.count == 0


def test_queries_of_a_thread_and_of_a_request_are_recorded(instrumented: Callable[..., Flask]) -> None:
    app = Flask("shop")
    app.add_url_rule("/", "index", lambda: str(ask(3)))
    client = instrumented(app).test_client()
    with record_queries() as queries:
        client.get("/")
        thread = threading.Thread(target=ask, args=(2,))
        thread.start()
        thread.join()
    assert queries.count == 5


def test_a_budget_that_is_kept_says_nothing() -> None:
    with assert_max_queries(3) as queries:
        ask(3)
    assert queries.count == 3


def test_a_budget_that_is_exceeded_tells_statements_lines_and_the_verdict() -> None:
    with pytest.raises(QueryBudgetError) as failed, assert_max_queries(5):
        ask(6)
    first, statement, verdict = str(failed.value).splitlines()
    assert first == "6 queries, at most 5 allowed:"
    assert statement.startswith("     6 × SELECT ? + ?  ")
    assert "test_testing.py:" in statement
    assert verdict.startswith("  N+1: SELECT ran 6 times at ")


def test_the_report_has_the_verdict_of_the_admin_pages() -> None:
    with record_queries() as queries, closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (a)")
        for _ in range(6):
            connection.execute("SELECT a FROM t WHERE a = ?", (1,))
        assert "duplicates: SELECT t ran 6 times" in queries.report()
        queries.clear()
        for at in range(6):
            connection.execute("SELECT a FROM t WHERE a = ?", (at,))
        assert "N+1: SELECT t ran 6 times" in queries.report()


def test_an_error_inside_is_not_covered_up() -> None:
    def fails() -> None:
        with assert_max_queries(0):
            ask(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()


def test_queries_that_grow_with_the_data_fail_with_the_numbers() -> None:
    rows: list[int] = []
    with pytest.raises(
        QueryBudgetError, match=r"the queries grow with the data, 1 → 6 → 26 for \(1, 5, 20\) more rows:"
    ):
        assert_constant_queries(lambda more: rows.extend(range(more)), lambda: ask(len(rows)))
    assert_constant_queries(lambda more: rows.extend(range(more)), lambda: ask(2))


@pytest.mark.parametrize(("call", "says"), [((-1,), "most must be 0 or more, got -1")])
def test_a_wrong_budget_is_told(call: tuple[int], says: str) -> None:
    with pytest.raises(ValueError, match=says), assert_max_queries(*call):
        pass
    with pytest.raises(ValueError, match="steps must be at least two numbers"):
        assert_constant_queries(lambda _: None, lambda: None, steps=(1,))


def test_the_plugin_has_a_fixture_and_a_marker(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sqlite3
        import pytest

        @pytest.fixture
        def connection():
            made = sqlite3.connect(":memory:")
            yield made
            made.close()

        def test_fixture(connection, queries):
            connection.execute("SELECT 1")
            assert queries.count == 1

        @pytest.mark.max_queries(2)
        def test_kept(connection):
            connection.execute("SELECT 1")

        @pytest.mark.max_queries(1)
        def test_exceeded(connection):
            connection.execute("SELECT 1")
            connection.execute("SELECT 2")

        @pytest.mark.max_queries("few")
        def test_wrong(connection):
            pass

        @pytest.fixture(scope="session")
        def shared():
            made = sqlite3.connect(":memory:")
            yield made
            made.close()

        def test_that_has_no_budget(shared):
            shared.execute("SELECT 1")

        @pytest.mark.max_queries(0)
        def test_exceeded_by_a_connection_of_another_test(shared):
            shared.execute("SELECT 1")

        @pytest.fixture
        def seeded(connection):
            connection.execute("SELECT 1")

        def test_fixtures_before(seeded, queries):
            assert queries.count == 0

        def test_fixtures_behind(queries, seeded):
            assert queries.count == 0
        """
    )
    options = ("-p", "telemetry.testing", "-p", "no:telemetry", "-p", "no:randomly", "--strict-markers")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=5, failed=3)
    result.stdout.fnmatch_lines_random(
        [
            "*2 queries, at most 1 allowed:*",
            "*1 query, at most 0 allowed:*",
            "*max_queries must be given one number*",
        ]
    )


def test_where_the_hooks_of_pytest_are_too_old_its_tests_run_without_the_plugin() -> None:
    program = (
        "import pytest\n"
        "def older(*, hookwrapper=False): return lambda hook: hook\n"
        "pytest.hookimpl = older\n"
        "import telemetry.testing as plugin\n"
        "assert not [name for name in vars(plugin) if name.startswith('pytest_')]\n"
        "assert plugin.assert_max_queries\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_query_is_told_although_another_thread_adds_one_at_the_same_moment(
    instrumented: Callable[..., Flask],
) -> None:
    app = Flask("threads")

    @app.get("/")
    def view() -> str:
        record = current_request()
        assert record is not None
        add = record.add
        assert add is not None

        def add_abreast(query: Query) -> None:
            add(query)
            add(("SELECT 'of another thread'", *query[1:]))

        with closing(sqlite3.connect(":memory:")) as connection:
            record.add = add_abreast
            connection.execute("SELECT 'of this one'")
        return "done"

    client = instrumented(app).test_client()
    with record_queries() as queries:
        assert client.get("/").status_code == 200
    assert queries.sql == ["SELECT 'of this one'"]
