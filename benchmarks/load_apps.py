"""Apps that ask a database in other ways than the measured one does, each with the same route."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response
from opentelemetry import trace
from sqlalchemy import create_engine, text
from sqlalchemy.pool import StaticPool

_BY_ID = "SELECT title FROM videos WHERE id = ?"
View = Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class Load:
    """One way of asking."""

    view: Callable[[], View]
    """Returns the view, which makes as many queries as it is told."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """What its requests carry in the WSGI environment beside the usual."""
    more_spans: int = 0
    """Spans that the app makes itself in each request."""
    status: int = 200
    """What it answers."""

    def make(self) -> Flask:
        """Return the app."""
        app = Flask("load")
        app.logger.disabled = True  # of what fails, measuring is enough
        app.add_url_rule("/queries/<int:number>", "queries", self.view())
        return app


def _filled(path: str = ":memory:") -> sqlite3.Connection:
    opened = sqlite3.connect(path)
    opened.execute("CREATE TABLE videos (id INTEGER PRIMARY KEY, title TEXT)")
    opened.executemany("INSERT INTO videos VALUES (?, ?)", [(number, f"title {number}") for number in range(100)])
    opened.commit()
    return opened


def _one_connection() -> Callable[[], sqlite3.Connection]:
    of_thread = threading.local()

    def connection() -> sqlite3.Connection:
        if not hasattr(of_thread, "connection"):
            of_thread.connection = _filled()
        found: sqlite3.Connection = of_thread.connection
        return found

    return connection


def _plain() -> View:
    connection = _one_connection()

    def view(number: int) -> str:
        for key in range(number):
            connection().cursor().execute(_BY_ID, (key,)).fetchone()
        return "ok"

    return view


def _connection_for_each_request() -> View:
    folder = tempfile.TemporaryDirectory()
    _filled(f"{folder.name}/videos.db").close()

    def view(number: int) -> str:
        opened = sqlite3.connect(f"{folder.name}/videos.db")
        opened.row_factory = sqlite3.Row
        for key in range(number):
            opened.cursor().execute(_BY_ID, (key,)).fetchall()
        opened.close()
        return "ok"

    return view


def _values_in_statements() -> View:
    connection, keys = _one_connection(), itertools.count()

    def view(number: int) -> str:
        for _ in range(number):
            connection().cursor().execute(f"SELECT title FROM videos WHERE id = {next(keys)}").fetchone()
        return "ok"

    return view


def _transactions() -> View:
    connection = _one_connection()

    def view(number: int) -> str:
        for key in range(number):
            connection().cursor().execute("UPDATE videos SET title = ? WHERE id = ?", ("new", key))
            connection().commit()
        return "ok"

    return view


def _sqlalchemy() -> View:
    engines: list[Any] = []

    def view(number: int) -> str:
        if not engines:
            engines.append(create_engine("sqlite://", poolclass=StaticPool, creator=_filled))
        with engines[0].connect() as connection:
            for key in range(number):
                connection.execute(text("SELECT title FROM videos WHERE id = :id"), {"id": key}).fetchone()
        return "ok"

    return view


def _streamed() -> View:
    connection = _one_connection()

    def view(number: int) -> Response:
        def lines() -> Iterator[str]:
            for key in range(number):
                yield str(connection().cursor().execute(_BY_ID, (key,)).fetchone())
            yield "ok"

        return Response(lines())

    return view


def _attributes() -> View:
    plain = _plain()

    def view(number: int) -> Any:
        trace.get_current_span().set_attribute("app.user.id", number)
        return plain(number)

    return view


def _own_span() -> View:
    plain, tracer = _plain(), trace.get_tracer("load")

    def view(number: int) -> Any:
        with tracer.start_as_current_span("work"):
            return plain(number)

    return view


def _failing_queries() -> View:
    connection = _one_connection()

    def view(number: int) -> str:
        for _ in range(number):
            with contextlib.suppress(sqlite3.OperationalError):
                connection().cursor().execute("SELECT missing FROM videos")
        return "ok"

    return view


def _failing() -> View:
    plain = _plain()

    def view(number: int) -> str:
        plain(number)
        raise ValueError(number)

    return view


_FROM_A_BROWSER = {
    "REMOTE_ADDR": "127.0.0.1",
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "HTTP_ACCEPT": "text/html,application/xhtml+xml",
    "HTTP_TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}

LOADS = {
    "the app of the table above": Load(_plain),
    "a connection for each request, rows fetched at once": Load(_connection_for_each_request),
    "values written into the statements": Load(_values_in_statements),
    "each query a transaction": Load(_transactions),
    "SQLAlchemy": Load(_sqlalchemy),
    "a streamed body": Load(_streamed),
    "a browser on this machine, with a traceparent": Load(_plain, _FROM_A_BROWSER),
    "an attribute set on the current span": Load(_attributes),
    "queries in a span of the app's own": Load(_own_span, more_spans=1),
    "queries that fail": Load(_failing_queries),
    "requests that fail": Load(_failing, status=500),
}
