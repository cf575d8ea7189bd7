"""What is kept of requests is the newest and the worst, within its bound, with figures that stay exact."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import threading
import tracemalloc
from collections.abc import Callable
from types import CodeType
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from telemetry import TelemetrySettings, fanout
from telemetry.groups import numbers_of
from telemetry.performance import PerformanceMetrics
from telemetry.recent import MAX_KEPT_QUERIES, KeptRequest, RecentRequests, summed
from telemetry.sums import MAX_SUMS
from telemetry.writes import MOST_COMMITS, Writes
from tests.conftest import Instrument
from tests.unit.telemetry.queries import each, kept

Kept = Callable[[Callable[[], Any]], KeptRequest]


def add(recent: RecentRequests, request: KeptRequest, route: str = "/") -> None:
    recent.add(tuple(request), recent.of_route("GET", route))


def numbers(recent: RecentRequests) -> list[int]:
    return [request.trace_id for request in recent.all()]


def test_the_newest_are_kept_and_the_newest_comes_first() -> None:
    recent = RecentRequests(newest=3, worst=0)
    for number in range(1, 8):
        add(recent, kept([], number=number))
    assert numbers(recent) == [7, 6, 5]


def test_of_each_route_the_slowest_those_with_most_queries_and_the_failing_are_kept() -> None:
    recent = RecentRequests(newest=1, worst=2)
    for number in range(1, 11):
        add(recent, kept([], number=number, duration_ns=1000 - number), "/slow")
        add(recent, kept([], number=100 + number, query_count=number, duration_ns=1), "/queries")
        add(recent, kept([], number=200 + number, error_type="500" if number in (3, 5, 7) else None), "/failing")
    found = set(numbers(recent))
    assert {1, 2} <= found
    assert {109, 110} <= found
    assert {205, 207} <= found
    assert 203 not in found


def test_a_request_that_is_kept_for_several_reasons_is_told_once() -> None:
    recent = RecentRequests()
    add(recent, kept([], query_count=9, error_type="500"))
    assert numbers(recent) == [1]


def test_clear_forgets_all() -> None:
    recent = RecentRequests()
    add(recent, kept(each("SELECT 1", 9)))
    recent.clear()
    assert recent.all() == []
    assert recent.estimated_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 5), st.booleans()), max_size=60), st.integers(1, 20))
def test_the_bound_holds_whatever_comes(requests: list[tuple[int, int, bool]], newest: int) -> None:
    recent = RecentRequests(newest=newest, worst=3, max_bytes=65_536)
    for number, (length, queries, failed) in enumerate(requests):
        made = kept(each("SELECT 1" + "1" * length, queries), number=number, duration_ns=length)
        made = made._replace(
            estimated_bytes=made.estimated_bytes + length * queries, error_type="500" if failed else None
        )
        add(recent, made, f"/{number % 3}")
        assert recent.estimated_bytes <= 65_536
        assert number in numbers(recent), "the newest request is always kept"


def test_ordinary_requests_of_many_routes_push_out_none_of_the_worst() -> None:
    recent = RecentRequests(newest=1, worst=5, max_bytes=65_536)
    add(recent, kept([], number=1, duration_ns=10**9), "/0")
    add(recent, kept([], number=2, query_count=500, duration_ns=1), "/1")
    add(recent, kept([], number=3, error_type="500", duration_ns=1), "/2")
    for number in range(10, 2000):
        made = kept([], number=number, duration_ns=number, query_count=number % 7)
        add(recent, made._replace(estimated_bytes=500), f"/{number % 10}")
    assert {1, 2, 3} <= set(numbers(recent))
    assert recent.estimated_bytes <= 65_536


def test_large_requests_that_fail_push_out_no_others_for_good() -> None:
    recent = RecentRequests(newest=1, worst=5, max_bytes=65_536)
    for number in range(2000):
        made = kept([], number=number, duration_ns=1000 + number % 97, query_count=number % 7)
        add(recent, made._replace(estimated_bytes=250), f"/{number % 10}")
        if number == 500:
            for failing in range(5):
                large = kept([], number=5000 + failing, error_type="500", duration_ns=1)
                add(recent, large._replace(estimated_bytes=8000), f"/{failing}")
    of_routes = {kept.request_id: kept for kept in recent.all()}
    assert all(len(worst.slowest) >= 2 for worst in recent._routes.values())
    assert len(of_routes) > 40


def test_small_requests_after_large_ones_stay_within_the_bound() -> None:
    recent = RecentRequests(newest=200, worst=0, max_bytes=2**20)
    for number in range(1000):
        add(recent, kept([], number=number, estimated_bytes=2**17 if number % 100 < 5 else 2**20 // 402))
        assert recent.estimated_bytes <= 2**20


def test_without_newest_requests_the_worst_are_kept() -> None:
    recent = RecentRequests(newest=0, worst=1)
    add(recent, kept([], number=1))
    assert [each.trace_id for each in recent.all()] == [1]


def test_a_large_request_is_shortened_and_its_figures_stay_exact() -> None:
    queries = [
        (f"SELECT {at} FROM t{at} WHERE a = '{'x' * 5000}'", at + 1, 7, *one[3:])
        for at, one in enumerate(each("", MAX_KEPT_QUERIES))
    ]
    writes = Writes()
    for at in range(MOST_COMMITS):
        writes.add_commit(at, 3, has_failed=False)
    request = kept(queries, writes=writes)
    for room in (16_384, 262_144):
        short = KeptRequest._make(request.shortened(room))
        assert short.estimated_bytes <= room
        assert (short.query_count, short.db_time_ns) == (len(queries), 7 * len(queries) + 3 * MOST_COMMITS)
        assert (short.commit_count, short.commit_ns) == (MOST_COMMITS, 3 * MOST_COMMITS)
        groups = fanout.analyse(short).groups
        assert sum(group.runs for group in groups) == len(queries)
        assert None not in numbers_of(short, groups)
        assert all(len(query[0]) < 2100 for query in short.queries)


def test_sums_of_equal_runs_say_how_many_differed() -> None:
    (same,) = summed(each("SELECT 1", 9), {one[1]: 0 for one in each("SELECT 1", 9)}, {})
    (different,) = summed(each("SELECT 1", 9), {}, {})
    assert (same.runs, same.distinct) == (9, 1)
    assert (different.runs, different.distinct) == (9, 9)


def deep_bytes(root: object) -> int:
    """Return what is reachable from `root`, without code, modules and classes, which are there anyway."""
    from gc import get_referents

    seen: set[int] = set()
    total, todo = 0, [root]
    while todo:
        found = todo.pop()
        if id(found) in seen or isinstance(found, CodeType | type) or callable(found):
            continue
        seen.add(id(found))
        total += sys.getsizeof(found)
        if not type(found).__module__.startswith("werkzeug"):
            todo.extend(get_referents(found))
    return total


def one_statement(db: sqlite3.Connection, number: int) -> None:
    for key in range(number):
        db.execute("SELECT a FROM t WHERE a = ?", (key,))


def as_many_literals(db: sqlite3.Connection, number: int) -> None:
    for key in range(number):
        db.execute(f"SELECT a FROM t WHERE a = {key}")


def long_literals(db: sqlite3.Connection, number: int) -> None:
    for key in range(number):
        db.execute(f"SELECT a FROM t WHERE a = '{key:03000}'")


def fetched_later(db: sqlite3.Connection, number: int) -> None:
    for cursor in [db.execute("SELECT a FROM t WHERE a = ?", (key,)) for key in range(number)]:
        cursor.fetchall()


def own_transactions(db: sqlite3.Connection, number: int) -> None:
    for key in range(number):
        db.execute(f"INSERT INTO t VALUES ({key})")
        db.commit()


@pytest.mark.parametrize(
    ("work", "number", "verdict"),
    [
        (one_statement, 100_000, "n_plus_one"),
        (as_many_literals, 100_000, "n_plus_one"),
        (long_literals, 20_000, "n_plus_one"),
        (own_transactions, 20_000, "write_loop"),
        (fetched_later, 20_000, "n_plus_one"),
        (fetched_later, MAX_KEPT_QUERIES - 1, "n_plus_one"),
        (long_literals, MAX_KEPT_QUERIES, "n_plus_one"),
    ],
)
def test_very_many_queries_are_counted_exactly_and_kept_within_the_bound(
    work: Callable[[sqlite3.Connection, int], None],
    number: int,
    verdict: str,
    kept_of: Kept,
    metrics: PerformanceMetrics,
) -> None:
    metrics.recent._share, before = 2**19, metrics.recent._share

    def view() -> None:
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level="DEFERRED")) as db:
            db.execute("CREATE TABLE t (a)")
            work(db, number)

    request = kept_of(view)
    metrics.recent._share = before
    assert request.query_count == number + 1
    found = fanout.analyse(request)
    assert sum(group.runs for group in found.groups) == number + 1
    assert found.verdict == verdict
    assert request.estimated_bytes <= 2**19 // 4
    assert deep_bytes(request) <= 1.5 * request.estimated_bytes
    assert len(request.sums or ()) <= 3 * MAX_SUMS + 1
    assert not any(each._seen for each in request.sums or ()), "hashes end with the request"
    if work is own_transactions:
        assert f"in {number:,} transactions" in found.findings[0].text


@pytest.mark.parametrize("number", [700, 1200, 3000])
def test_what_repeats_is_told_however_many_different_statements_precede_it(number: int, kept_of: Kept) -> None:
    def view() -> None:
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            db.execute("CREATE TABLE t (a)")
            for key in range(number):
                db.execute(f"SELECT a AS x{key} FROM t")
            one_statement(db, 400)

    request = kept_of(view)
    found = fanout.analyse(request)
    assert (found.verdict, found.summary.repeated) == ("n_plus_one", 400)
    assert sum(group.runs for group in found.groups) == request.query_count == number + 401
    assert len(request.sums or ()) <= 3 * MAX_SUMS + 1


class Place:
    """A parameter whose hash is that of its address."""

    def __conform__(self, _: Any) -> int:
        return 1


def test_what_cannot_be_compared_stays_different_in_sums(kept_of: Kept) -> None:
    def view() -> None:
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            for key in range(600):
                db.execute(f"SELECT {key} WHERE 1 = ?", (Place(),))

    found = fanout.analyse(kept_of(view))
    assert ([group.distinct for group in found.groups], found.verdict) == ([600], "n_plus_one")


def letters(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


@pytest.mark.parametrize("held", [400, 560, 2000])
def test_what_is_fetched_late_counts_for_its_statement(held: int, kept_of: Kept) -> None:
    def view() -> None:
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            for key in range(held):
                db.execute(f"SELECT 1 WHERE 1 = {key}").fetchall()
            late = db.execute("SELECT 1 WHERE 1 = ?", (1,))
            cursors = [db.execute(f"SELECT 1 AS {letters(key)}") for key in range(held)]
            one_statement_of(db, 2000)
            late.fetchall()
            cursors.clear()

    request = kept_of(view)
    found = fanout.analyse(request)
    assert sum(group.runs for group in found.groups) == request.query_count == 2 * held + 2001
    assert all(group.runs for group in found.groups)
    assert sum(group.rows or 0 for group in found.groups if "WHERE" in group.sql) == 2


def one_statement_of(db: sqlite3.Connection, number: int) -> None:
    cursor = db.cursor()
    for _ in range(number):
        cursor.execute("SELECT 2")


def test_what_is_kept_takes_about_what_is_estimated(instrumented: Instrument, metrics: PerformanceMetrics) -> None:
    """A bound of 1 MB holds by the count of the allocator too, over requests of all sizes."""
    app = Flask("sizes")

    @app.get("/<int:number>")
    def view(number: int) -> str:
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            for key in range(number):
                db.execute(f"SELECT {key}")
                db.execute("SELECT ?", (key,))
        return ""

    made = PerformanceMetrics(TelemetrySettings(recent_bytes=2**20))
    instrumented(app, metrics=made, settings=made.settings)
    client = app.test_client()
    client.get("/3")
    made.recent.clear()
    sizes = [1, 5, 20, 60, 5, 200, 1, 700, 3, 1500]
    for size in sizes:
        client.get(f"/{size}")
    made.recent.clear()
    tracemalloc.start()
    try:
        for size in sizes * 4:
            client.get(f"/{size}")
        estimated, before = made.recent.estimated_bytes, tracemalloc.get_traced_memory()[0]
        count = len(made.recent.all())
        made.recent.clear()
        freed = before - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert count >= 10
    assert estimated <= 2**20
    assert freed <= 1.5 * estimated


def test_a_long_path_counts_and_is_cut_where_there_is_no_room(
    instrumented: Instrument, metrics: PerformanceMetrics
) -> None:
    app = Flask("paths")
    app.add_url_rule("/<path:path>", "view", lambda path: "")
    made = PerformanceMetrics(TelemetrySettings(recent_bytes=2**20))
    client = instrumented(app, metrics=made, settings=made.settings).test_client()
    client.get("/" + "x" * 60_000)
    (kept,) = made.recent.all()
    assert 60_000 < kept.estimated_bytes < 61_000 or len(kept.path) == 2000
    for number in range(60):
        client.get(f"/{number}" + "x" * 60_000)
    assert sum(len(each.path) for each in made.recent.all()) <= made.recent.estimated_bytes <= 2**20


def test_without_room_for_the_worst_everything_can_be_forgotten() -> None:
    recent = RecentRequests(newest=3, worst=0)
    add(recent, kept([], error_type="500"))
    recent.clear()
    assert recent.all() == []


def test_what_is_kept_can_be_read_while_routes_are_added() -> None:
    recent, interval_s = RecentRequests(), sys.getswitchinterval()
    stop = threading.Event()

    def add_routes() -> None:
        for number in range(20_000):
            if stop.is_set():
                break
            recent.of_route("GET", f"/{number}")

    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=add_routes)
    thread.start()
    try:
        while thread.is_alive():
            assert recent.all() == []
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval_s)
