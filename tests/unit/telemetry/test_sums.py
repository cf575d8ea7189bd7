"""The sums of a request's queries, against the queries themselves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from telemetry.query import DURATION_NS, ERROR_TYPE, FLAGS, ROWS, START_NS, TRANSACTION, Query
from telemetry.source import NO_SITE
from telemetry.sums import Sums
from tests.unit.telemetry.queries import query

queries = st.lists(
    st.builds(
        query,
        st.just("SELECT 1"),
        st.integers(1, 10**6),
        took_ns=st.integers(0, 10**6),
        error=st.none() | st.just("ValueError"),
        flags=st.integers(0, 31),
        rows=st.integers(-1, 100),
        transaction=st.integers(0, 20),
    ),
    min_size=1,
    max_size=20,
)


def sums(alike: list[Query]) -> Sums:
    made = Sums("SELECT 1", NO_SITE)
    for each in alike:
        made.add(each, None)
    return made


def assert_they_are_of(made: Sums, every: list[Query]) -> None:
    known_rows = [each[ROWS] for each in every if each[ROWS] >= 0]
    flags = 0
    for each in every:
        flags |= each[FLAGS]
    assert made.runs == len(every)
    assert made.duration_ns == sum(each[DURATION_NS] for each in every)
    assert made.longest_ns == max(each[DURATION_NS] for each in every)
    assert made.last_ns == max(each[START_NS] + each[DURATION_NS] for each in every)
    assert made.errors == sum(each[ERROR_TYPE] is not None for each in every)
    assert made.rows == (sum(known_rows) if known_rows else -1)
    assert made.transactions == {each[TRANSACTION] for each in every} - {0}
    assert (made.flags, made.more_transactions) == (flags, 0)


@given(queries)
def test_they_say_of_all_queries_what_these_say(alike: list[Query]) -> None:
    made = sums(alike)
    assert made.first_ns == alike[0][START_NS]
    assert_they_are_of(made, alike)


@given(queries, queries)
def test_what_is_taken_over_counts_like_what_was_added(first: list[Query], second: list[Query]) -> None:
    made, other = sums(first), sums(second)
    made.absorb(other)
    assert made.first_ns == min(first[0][START_NS], second[0][START_NS])
    assert_they_are_of(made, first + second)


def test_transactions_beyond_those_that_are_kept_are_counted() -> None:
    made, other = Sums("", NO_SITE), Sums("", NO_SITE)
    for at in range(1, 31):
        made.add(query("", at, transaction=at), None)
        other.add(query("", at, transaction=100 + at), None)
    for each in (made, other):
        each.settle()
        assert len(each.transactions) + each.more_transactions == 30
    made.absorb(other)
    assert len(made.transactions) + made.more_transactions == 60


def test_fetching_counts_for_its_query() -> None:
    made = sums([query("SELECT 1", 1, took_ns=10)])
    made.fetched(90, 7)
    made.fetched(5, 3)
    assert (made.runs, made.duration_ns, made.longest_ns, made.rows) == (1, 105, 90, 10)
