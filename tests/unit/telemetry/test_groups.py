"""Groups of queries hold every run, whether the request is kept query by query or as sums."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from telemetry.fanout import analyse
from telemetry.groups import numbers_of
from telemetry.recent import summed
from tests.unit.telemetry.queries import kept, query


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["SELECT a FROM t WHERE b = ?", "SELECT 2 FROM u", "UPDATE t SET a = 1"]), st.booleans()
        )
    )
)
def test_no_run_is_lost_in_groups_nor_in_sums(runs: list[tuple[str, bool]]) -> None:
    queries = [query(sql, at + 1, took_ns=at, error="Oops" if bad else None) for at, (sql, bad) in enumerate(runs)]
    one_by_one = kept(queries)
    in_sums = one_by_one._replace(sums=summed(queries, {}, {}))
    for request in (one_by_one, in_sums):
        groups = analyse(request).groups
        assert [groups[at].sql for at in numbers_of(request, groups) if at is not None] == [sql for sql, _ in runs]
        assert sum(group.runs for group in groups) == len(queries)
        assert sum(group.duration_ns for group in groups) == sum(query[2] for query in queries) == request.db_time_ns
        assert sum(group.errors for group in groups) == sum(bad for _, bad in runs)
    told = [[(each.kind, each.text) for each in analyse(request).findings] for request in (one_by_one, in_sums)]
    assert told[0] == told[1]
