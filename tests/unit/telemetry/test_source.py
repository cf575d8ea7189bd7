"""The line of the app that a query comes from, however the call gets there."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import sqlite3
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, render_template, render_template_string
from jinja2 import Template

from telemetry import PerformanceMetrics, TelemetrySettings, source
from telemetry.recent import KeptRequest
from tests.conftest import Instrument
from tests.unit.telemetry.queries import library

Kept = Callable[[Callable[[], Any]], KeptRequest]


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """A connection that is seen: it is opened while an app is instrumented."""
    with contextlib.closing(sqlite3.connect(":memory:", check_same_thread=False)) as made:
        made.execute("CREATE TABLE t (a)")
        yield made


def lines(kept: KeptRequest) -> list[tuple[str, int, str]]:
    found = [source.line_of(query[7], query[8]) for query in kept.queries]
    assert all(line is not None and line.file.endswith("test_source.py") for line in found)
    return [(line.file, line.line, line.function.rpartition(".")[2]) for line in found if line is not None]


def marked(function: Callable[..., Any], name: str) -> int:
    """Return the number of the line of `function` that ends in `# name`."""
    text, first = inspect.getsourcelines(function)
    return next(first + at for at, line in enumerate(text) if line.rstrip().endswith(f"# {name}"))


def test_the_line_of_a_call_is_the_line_of_its_view(kept_of: Kept, db: sqlite3.Connection) -> None:
    def view() -> None:
        db.execute("SELECT 1")  # first
        db.cursor().execute("SELECT 2")  # second
        db.executemany("INSERT INTO t VALUES (?)", [(1,)])  # third
        db.cursor().executemany("INSERT INTO t VALUES (?)", [(1,)])  # fourth
        db.executescript("SELECT 1")  # fifth
        db.cursor().executescript("SELECT 1")  # sixth
        db.execute("SELECT 1").execute("SELECT 2")  # seventh

    names = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "seventh"]
    assert [line[1] for line in lines(kept_of(view))] == [marked(view, name) for name in names]


def test_a_call_over_several_lines_is_told_by_one_of_them(kept_of: Kept, db: sqlite3.Connection) -> None:
    def view() -> None:
        db.execute(  # begins
            "SELECT ?, ?",
            (
                1,
                2,
            ),
        )

    assert lines(kept_of(view))[0][1] == marked(view, "begins")


def rows(db: sqlite3.Connection, number: int) -> Iterator[Any]:
    for key in range(number):
        yield db.execute("SELECT ?", (key,)).fetchone()  # in the generator


def test_a_generator_has_its_own_line_and_who_asks_it_is_the_caller(kept_of: Kept, db: sqlite3.Connection) -> None:
    def view() -> None:
        list(rows(db, 3))  # asks

    kept = kept_of(view)
    assert [line[1:] for line in lines(kept)] == [(marked(rows, "in the generator"), "rows")] * 3
    caller = source.caller_of(kept.queries[0][7:])
    assert caller is not None
    assert caller.line == marked(view, "asks")


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def around(*args: Any) -> Any:
        return function(*args)  # around

    return around


@decorated
def one(db: sqlite3.Connection, key: int) -> Any:
    return db.execute("SELECT ?", (key,)).fetchone()  # one


def test_a_decorated_function_has_its_own_line(kept_of: Kept, db: sqlite3.Connection) -> None:
    kept = kept_of(lambda: one(db, 1))
    assert [line[1:] for line in lines(kept)] == [(marked(inspect.unwrap(one), "one"), "one")]
    caller = source.caller_of(kept.queries[0][7:])
    assert caller is not None
    assert caller.line == marked(decorated, "around")


def test_comprehensions_lambdas_and_what_c_code_calls_have_the_line_that_is_written(
    kept_of: Kept, db: sqlite3.Connection
) -> None:
    def view() -> None:
        [db.execute("SELECT ?", (key,)) for key in range(2)]  # list
        sum(db.execute("SELECT ?", (key,)).fetchone()[0] for key in range(2))  # generator
        list(map(lambda key: db.execute("SELECT ?", (key,)), range(2)))  # noqa: C417  # lambda
        list(map(db.execute, ["SELECT 1", "SELECT 2"]))  # map
        sorted([2, 1], key=lambda key: db.execute("SELECT ?", (key,)).fetchone())  # sorted

    names = ["list", "list", "generator", "generator", "lambda", "lambda", "map", "map", "sorted", "sorted"]
    assert [line[1] for line in lines(kept_of(view))] == [marked(view, name) for name in names]


def test_a_connection_class_of_the_app_is_the_line_and_who_calls_it_the_caller(kept_of: Kept) -> None:
    class Database(sqlite3.Connection):
        def one(self, sql: str, *parameters: Any) -> Any:
            return self.execute(sql, parameters).fetchone()  # inside

    def view() -> None:
        with contextlib.closing(sqlite3.connect(":memory:", factory=Database)) as db:
            db.one("SELECT ?", 1)  # outside

    kept = kept_of(view)
    assert lines(kept)[0][1:] == (marked(Database.one, "inside"), "one")
    assert (source.caller_of(kept.queries[0][7:]) or pytest.fail("no caller")).line == marked(view, "outside")


def test_who_called_the_line_is_of_the_app_also_where_a_library_calls_it(kept_of: Kept, db: sqlite3.Connection) -> None:
    orm, events = library("orm.py"), library("events.py")

    def hook() -> None:
        orm(functools.partial(db.execute, "SELECT 1"))  # hook

    def view() -> None:
        events(hook)  # first
        events(functools.partial(orm, hook))  # second

    kept = kept_of(view)
    assert [line[1] for line in lines(kept)] == [marked(hook, "hook")] * 2
    callers = [source.caller_of(query[7:]) for query in kept.queries]
    assert [caller and caller.line for caller in callers] == [marked(view, "first"), marked(view, "second")]


def test_a_view_that_flask_calls_has_no_caller(
    site: Flask, db: sqlite3.Connection, metrics: PerformanceMetrics
) -> None:
    site.add_url_rule("/asks", "asks", lambda: str(library("orm.py")(functools.partial(db.execute, "SELECT 1"))))
    assert site.test_client().get("/asks").status_code == 200
    assert source.caller_of(metrics.recent.all()[0].queries[0][7:]) is None


TEMPLATE = """<ul>
{%- for key in keys %}
  <li>{{ db.execute("SELECT ?", (key,)).fetchone()[0] }}</li>
{%- endfor %}
</ul>
{{ ask(7) }}
"""


@pytest.fixture
def site(instrumented: Instrument, tmp_path: Path) -> Iterator[Flask]:
    """An app whose templates ask the database."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "page.html").write_text(TEMPLATE, "utf-8")
    (tmp_path / "templates" / "around.html").write_text("\n{% for _ in 'ab' %}\n{% include 'page.html' %}{% endfor %}")
    app = Flask("site", root_path=str(tmp_path), template_folder="templates")
    instrumented(app)
    seen = sqlite3.connect(":memory:", check_same_thread=False)

    def ask(key: int) -> Any:
        return seen.execute("SELECT ?", (key,)).fetchone()[0]  # ask

    values: dict[str, Any] = {"db": seen, "keys": [1, 2], "ask": ask}
    app.add_url_rule("/page", "page", lambda: render_template("page.html", **values))
    app.add_url_rule("/around", "around", lambda: render_template("around.html", **values))
    app.add_url_rule("/text", "text", lambda: render_template_string("\n{{ db.execute('SELECT 1') }}", **values))
    yield app
    seen.close()


def told(metrics: PerformanceMetrics) -> list[tuple[str, str]]:
    queries = metrics.recent.all()[0].queries
    return [(str(source.line_of(query[7], query[8])), str(source.caller_of(query[7:]))) for query in queries]


def test_a_query_in_a_template_has_the_templates_line_and_the_view_is_its_caller(
    site: Flask, metrics: PerformanceMetrics, tmp_path: Path
) -> None:
    assert site.test_client().get("/page").status_code == 200
    in_template, _, in_function = told(metrics)
    assert in_template[0] == "templates/page.html:3"
    assert re.fullmatch(r".*test_source\.py:\d+", in_template[1])
    assert "test_source.py" in in_function[0]
    assert in_function[1] == "None", "the line of a compiled template is no line of its text"


def test_an_included_template_and_a_template_of_a_text_have_their_own_lines(
    site: Flask, metrics: PerformanceMetrics, tmp_path: Path
) -> None:
    site.test_client().get("/around")
    assert [line for line, _ in told(metrics)].count("templates/page.html:3") == 4
    site.test_client().get("/text")
    assert [line for line, _ in told(metrics)] == ["<template>:2"]


def test_jinja_is_asked_once_for_each_place_in_a_template(site: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    inner = Template.get_corresponding_lineno
    monkeypatch.setattr(Template, "get_corresponding_lineno", lambda *given: (asked.append(given[1]), inner(*given))[1])
    client = site.test_client()
    for _ in range(3):
        assert client.get("/page").status_code == 200
    assert len(asked) == 1


def test_a_template_that_has_no_hash_has_its_lines(site: Flask, metrics: PerformanceMetrics) -> None:
    class Compared(Template):
        __hash__ = None  # type: ignore[assignment]

    site.jinja_env.template_class = Compared
    assert site.test_client().get("/page").status_code == 200
    assert told(metrics)[0][0] == "templates/page.html:3"


def test_where_no_code_of_the_app_is_at_work_the_nearest_other_line_stands_for_it() -> None:
    namespace: dict[str, Any] = {"find": source.find, "frame": sys._getframe}
    file = str(Path(sysconfig.get_path("stdlib")) / "somewhere.py")
    exec(compile("\ndef library():\n    return find(frame())\n", file, "exec"), namespace)
    found = source.find(None)
    assert found == source.NO_SITE
    site = namespace["library"]()
    assert (source.line_of(site[0], site[1]) or pytest.fail("no line")).function.startswith("test_")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["flask/app.py", "flask_admin/view.py", "flask_alchemy/query.py", "alchemy/orm.py"], "flask_admin/view.py:3"),
        (["flask/app.py", "flask/sessions.py", "cache.py"], "cache.py:3"),
        (["runner/job.py", "werkzeug/local.py", "dataset/table.py", "alchemy/orm.py"], "dataset/table.py:3"),
        (["alchemy/pool.py", "alchemy/orm.py"], "alchemy/orm.py:3"),
        (["granian/server.py", "telemetry/flask.py", "sessions/sql.py"], "sessions/sql.py:3"),
    ],
)
def test_where_libraries_alone_are_at_work_the_one_that_uses_the_orm_is_told(
    files: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_OURS", "/opt/site-packages/telemetry/")
    found: list[source.Site] = []
    inner: Callable[[], Any] = lambda: found.append(source.find(sys._getframe(1)))  # noqa: E731
    for file in reversed(files):
        inner = functools.partial(library(file), inner)
    thread = threading.Thread(target=inner)  # which no frame of a test is behind
    thread.start()
    thread.join()
    assert str(source.line_of(*found[0][:2])) == expected
    assert source.caller_of(found[0]) is None


@pytest.mark.parametrize("is_around", [False, True])
def test_who_serves_the_app_and_middleware_of_it_have_not_asked_what_a_library_asks(
    instrumented: Instrument, metrics: PerformanceMetrics, is_around: bool
) -> None:
    app = Flask("shop")
    inner = app.wsgi_app
    dbs: list[sqlite3.Connection] = []

    def middleware(environ: Any, start_response: Any) -> Any:
        dbs[0].execute("SELECT 'middleware'")  # middleware
        return inner(environ, start_response)

    if is_around:
        app.wsgi_app = middleware  # type: ignore[method-assign]
    instrumented(app)
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        dbs.append(db)
        db.row_factory = lambda _, row: row[0]  # so that a cursor is a body
        orm = functools.partial(library("orm.py"), functools.partial(db.execute, "SELECT 'library'"))
        app.add_url_rule("/", "view", functools.partial(library("admin.py"), orm))
        assert app.test_client().get("/").text == "library"
    found = [str(source.line_of(*query[7:9])) for query in metrics.recent.all()[0].queries]
    own = [f"test_source.py:{marked(middleware, 'middleware')}"] if is_around else []
    assert [line.rpartition("/")[2] for line in found] == [*own, "admin.py:3"]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (str(Path(sysconfig.get_path("purelib")) / "flask" / "app.py"), False),
        (str(Path(sysconfig.get_path("stdlib")) / "json" / "__init__.py"), False),
        ("/usr/lib/python3/dist-packages/flask/app.py", False),
        (str(Path(source.__file__)), False),
        ("/srv/app/views.py", True),
        ("<stdin>", True),
        ("<frozen importlib._bootstrap>", False),
        ("<string>", False),
    ],
)
def test_whose_code_a_file_is(file: str, expected: bool) -> None:
    assert source.is_app(file) is expected


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages, in which one has a package inside, and there is a module by itself; no app is known."""
    folder = tmp_path / "site-packages"
    for name in ("their_app/__init__.py", "their_app/web/__init__.py", "alone.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    monkeypatch.setattr(source, "_apps", set())
    source.short_name.cache_clear()
    yield folder
    source.short_name.cache_clear()
    source.KINDS.clear()


@pytest.mark.parametrize("root", ["their_app", "their_app/web"])
def test_an_app_that_is_installed_as_a_package_is_the_app_whichever_part_of_it_has_made_it(
    packages: Path, root: str
) -> None:
    views = str(packages / "their_app" / "views.py")
    assert not source.is_app(views)
    source.add_root(str(packages / root), "their_app.web.app")
    assert source.is_app(views)
    assert source.is_app(str(packages / "their_app" / "web" / "api.py"))
    assert source.short_name(views) == str(Path("their_app", "views.py"))
    assert not source.is_app(str(packages / "alone.py"))
    assert not source.is_app(str(packages / "their_app" / "lib" / "site-packages" / "flask" / "app.py"))


def test_packages_that_are_one_by_mistake_are_no_app(packages: Path) -> None:
    (packages / "__init__.py").touch()
    source.add_root(str(packages / "their_app"), "their_app")
    assert source.is_app(str(packages / "their_app" / "views.py"))
    assert not source.is_app(str(packages / "alone.py"))


def test_the_root_of_all_folders_may_be_a_package(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_is_package", lambda folder: True)
    source.add_root("/", "app")
    assert source.is_app("/app.py")


@pytest.mark.parametrize("module", ["alone", "__main__"])
def test_an_app_that_is_a_module_among_packages_is_that_module_alone(
    packages: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module == "__main__":
        monkeypatch.setattr(sys.modules["__main__"], "__file__", str(packages / "alone.py"), raising=False)
    source.add_root(str(packages), module)
    assert source.is_app(str(packages / "alone.py"))
    assert source.short_name(str(packages / "alone.py")) == "alone.py"
    assert not source.is_app(str(packages / "their_app" / "views.py"))


def test_source_lines_can_be_switched_off(instrumented: Instrument, metrics: PerformanceMetrics) -> None:
    app = Flask("off")

    @app.get("/")
    def view() -> str:
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            list(map(db.execute, ["SELECT 1"]))
        return ""

    instrumented(app, settings=TelemetrySettings(source_lines=False))
    app.test_client().get("/")
    (query,) = metrics.recent.all()[0].queries
    assert query[7:] == source.NO_SITE


def test_the_text_of_a_line() -> None:
    assert source.text_of(__file__, 1).startswith('"""The line of the app')
    assert source.text_of("/nowhere.py", 3) == ""


def test_a_comprehension_is_not_called_at_its_own_line(kept_of: Kept, db: sqlite3.Connection) -> None:
    def view() -> None:
        [db.execute("SELECT ?", (key,)) for key in range(2)]

    kept = kept_of(view)
    assert all(str(source.caller_of(query[7:])) != str(source.line_of(*query[7:9])) for query in kept.queries)
