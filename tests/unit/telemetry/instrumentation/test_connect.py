"""`sqlite3.connect` is replaced wherever it stands, whoever has wrapped it, and is like the one it stands for."""

from __future__ import annotations

import contextlib
import functools
import logging
import pickle
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from sqlite3 import dbapi2
from types import ModuleType
from typing import Any, cast
from unittest import mock

import pytest
import wrapt
from flask import Flask
from opentelemetry.instrumentation.utils import unwrap

from telemetry import PerformanceMetrics, uninstrument
from telemetry.instrumentation.connect import original

Instrumented = Callable[..., Flask]
SQLITES_OWN = original()


def function() -> Callable[..., Any]:
    """Return what some put in place of `sqlite3.connect`."""

    @functools.wraps(SQLITES_OWN)
    def traced(*args: Any, **kwargs: Any) -> Any:
        return SQLITES_OWN(*args, **kwargs)

    return traced


def proxy() -> Callable[..., Any]:
    """Return what OpenTelemetry's instrumentation, ddtrace and Elastic APM put there: connections are not what they seem."""
    opens: Any = wrapt.FunctionWrapper(
        SQLITES_OWN, lambda connect, _, args, kwargs: wrapt.ObjectProxy(connect(*args, **kwargs))
    )
    return cast(Callable[..., Any], opens)


@contextlib.contextmanager
def tool(wrapper: Callable[[], Any]) -> Iterator[None]:
    with mock.patch.object(sqlite3, "connect", wrapper()), mock.patch.object(dbapi2, "connect", wrapper()):
        yield


@pytest.mark.parametrize("wrapper", [function, proxy])
def test_queries_are_seen_once_where_another_tool_was_first(
    wrapper: Callable[[], Any],
    metrics: PerformanceMetrics,
    instrumented: Instrumented,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, importer = Flask(__name__), ModuleType("importer")
    with tool(wrapper):
        importer.opens = sqlite3.connect  # type: ignore[attr-defined]  # `from sqlite3 import connect as opens`
        monkeypatch.setitem(sys.modules, "importer", importer)

        @app.get("/")
        def view() -> str:
            for connect in (sqlite3.connect, dbapi2.connect, importer.opens):
                opened = connect(":memory:")
                opened.cursor().execute("SELECT 1").fetchall()
                opened.close()
            return ""

        client = instrumented(app).test_client()
        client.get("/")
        another = instrumented(Flask("another"))
        client.get("/")
        assert [kept.query_count for kept in metrics.recent.all()] == [3, 3]
        uninstrument(another)
        uninstrument(app)
    assert "not seen" not in caplog.text


def test_what_others_have_put_there_stands_there_again(instrumented: Instrumented) -> None:
    with tool(function):
        wrappers = sqlite3.connect, dbapi2.connect
        app = instrumented(Flask(__name__))
        with contextlib.closing(sqlite3.connect(":memory:")) as opened:
            assert type(opened) is not sqlite3.Connection
        uninstrument(app)
        assert (sqlite3.connect, dbapi2.connect) == wrappers
        with contextlib.closing(sqlite3.connect(":memory:")) as opened:
            assert type(opened) is sqlite3.Connection


def test_what_does_not_say_that_it_wraps_sqlites_own_is_left_alone_and_told(
    instrumented: Instrumented, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), mock.patch("sqlite3.connect") as double:
        uninstrument(instrumented(Flask(__name__)))
        assert sqlite3.connect is double
        sqlite3.connect("x.db")
        double.assert_called_once_with("x.db")
    assert "sqlite3.connect is <MagicMock name='connect'" in caplog.text
    assert caplog.text.count("sqlite3.connect is <MagicMock name='connect'") == 1
    assert "queries of what it opens are not seen" in caplog.text


class Row(sqlite3.Connection):
    """A connection of a tool's own."""

    def rows(self) -> list[Any]:
        return self.execute("SELECT 1").fetchall()


def test_what_a_tool_asks_for_itself_it_gets(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    def chooses(database: str, timeout: float = 5.0) -> sqlite3.Connection:
        return SQLITES_OWN(database, timeout=timeout, factory=Row)

    app = Flask(__name__)
    own = SQLITES_OWN

    @functools.wraps(own)
    def in_a_closure(database: str) -> sqlite3.Connection:
        return own(database, factory=Row)

    for wrapper in (chooses, in_a_closure):
        with mock.patch.object(sqlite3, "connect", wrapper):
            instrumented(app)

            @app.get(f"/{wrapper.__name__}", endpoint=wrapper.__name__)
            def view() -> str:
                with contextlib.closing(sqlite3.connect(":memory:")) as opened:
                    assert isinstance(opened, Row)
                    return str(opened.rows())

            assert app.test_client().get(f"/{wrapper.__name__}").text == "[(1,)]"
            uninstrument(app)
            app = Flask(__name__)
    assert [kept.query_count for kept in metrics.recent.all()] == [1, 1]


def test_a_tool_that_is_taken_out_leaves_ours_and_then_sqlites_own(instrumented: Instrumented) -> None:
    with mock.patch.object(sqlite3, "connect", proxy()):
        app = instrumented(Flask(__name__))
        unwrap(sqlite3, "connect")
        with contextlib.closing(sqlite3.connect(":memory:")) as opened:
            assert type(opened) is not sqlite3.Connection
        uninstrument(app)
        assert sqlite3.connect is SQLITES_OWN


def test_it_is_no_method_of_a_class_that_has_it_and_can_be_pickled(instrumented: Instrumented, tmp_path: Path) -> None:
    instrumented(Flask(__name__))

    class Database:
        connect = sqlite3.connect

        def open(self) -> Any:
            return self.connect(":memory:")

    with contextlib.closing(Database().open()) as opened:
        assert opened.execute("SELECT 1").fetchone() == (1,)
    later = pickle.loads(pickle.dumps(functools.partial(sqlite3.connect, tmp_path / "x.db")))
    with contextlib.closing(later()) as opened:
        assert opened.execute("SELECT 1").fetchone() == (1,)
    assert sqlite3.connect.__name__ == "connect"
    assert sqlite3.connect.__doc__ == SQLITES_OWN.__doc__
