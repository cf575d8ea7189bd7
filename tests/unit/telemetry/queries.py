"""Requests as they are kept, made from lists of queries."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

from telemetry.query import Query
from telemetry.recent import KeptRequest, KeptRule

MS = 1_000_000


def code(name: str = "view", file: str = "/srv/app/views.py") -> CodeType:
    """Return a code object of the app, as one of its functions has."""
    namespace: dict[str, Any] = {}
    exec(compile(f"\n\ndef {name}():\n    return 1\n", file, "exec"), namespace)
    return namespace[name].__code__


VIEW = code()


def library(file: str) -> Callable[..., Any]:
    """Return a function of an installed package, which calls what it is given."""
    namespace: dict[str, Any] = {}
    exec(compile("\ndef run(call):\n    return call()\n", f"/opt/site-packages/{file}", "exec"), namespace)
    run: Callable[..., Any] = namespace["run"]
    return run


def ask(number: int) -> str:
    """Make so many queries, as a view does."""
    connection = sqlite3.connect(":memory:")
    for _ in range(number):
        connection.execute("SELECT 1")
    connection.close()
    return "done"


def query(
    sql: str,
    start_ns: int,
    *,
    took_ns: int = 1000,
    error: str | None = None,
    flags: int = 0,
    rows: int = -1,
    transaction: int = 0,
    at: CodeType | None = VIEW,
    position: int = 0,
    caller: CodeType | None = None,
) -> Query:
    """Return a query as a request records it."""
    return (sql, start_ns, took_ns, error, flags, rows, transaction, at, position, caller, 0)


def each(sql: str, times: int, *, since: int = 0, step_ns: int = 2000, **options: Any) -> list[Query]:
    """Return `times` runs of a statement, one after the other."""
    return [query(sql, since + 1 + at * step_ns, **options) for at in range(times)]


def kept(
    queries: Sequence[Query], *, same: bool = False, route: str = "/", number: int = 1, **values: Any
) -> KeptRequest:
    """Return a request with these queries; with `same`, equal statements had equal parameters."""
    ordinals: dict[str, int] = {}
    repeats = {each[1]: ordinals.setdefault(each[0], len(ordinals)) for each in queries} if same else None
    made = KeptRequest(
        method="GET",
        rule=KeptRule(route, endpoint="view"),
        path=route,
        status=200,
        error_type=None,
        start_ns=0,
        start_unix_ns=number,
        duration_ns=MS,
        transfer=None,
        trace_id=number,
        span_id=number,
        query_count=len(queries),
        writes=None,
        queries=queries,
        repeats=repeats,
        sums=None,
        fetches=(),
        estimated_bytes=500 + 280 * len(queries),
    )
    return made._replace(**values)
