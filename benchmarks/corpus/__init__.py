"""Request shapes whose verdict is known: what an app does in one request, and what is to be found in it.

Each is a view on a small blog. Those with a `source` are written after what a real app, its issue or its documentation tells;
the code is our own.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from telemetry.recent import KeptRequest

Finds = frozenset[tuple[str, str]]
"""Kinds of `telemetry.fanout`, each with the table that it is about; empty where it is about the whole request."""

POSTS: Final = 12
_SCHEMA: Final = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE posts (id INTEGER PRIMARY KEY, author_id INTEGER, title TEXT, created INTEGER);
CREATE TABLE comments (id INTEGER PRIMARY KEY, post_id INTEGER, author_id INTEGER, body TEXT);
CREATE TABLE tags (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE post_tags (post_id INTEGER, tag_id INTEGER);
CREATE TABLE categories (id INTEGER PRIMARY KEY, parent_id INTEGER, name TEXT);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT);
CREATE TABLE events (id INTEGER PRIMARY KEY, name TEXT);
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """A way to ask the database in one request."""

    name: str
    run: Callable[[Any], Any]
    """The view; it gets the request's connection."""
    finds: Finds
    source: str
    """Where it is known from; empty where it is made up."""
    at: int = 5
    """The setting `repeats_warning`."""


SHAPES: Final[list[Shape]] = []


def shape(*finds: tuple[str, str], source: str = "") -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Add a view to the corpus, with what is to be found in it."""

    def add(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        SHAPES.append(Shape(run.__name__, run, frozenset(finds), source))
        return run

    return add


def all_shapes() -> list[Shape]:
    """Return the corpus."""
    from benchmarks.corpus import orms, reads, writes  # noqa: F401  # they add their shapes

    return sorted(SHAPES, key=lambda each: each.name)


def fill(file: Path) -> None:
    """Make the blog's database."""
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.executescript(_SCHEMA)
        many = range(1, POSTS + 1)
        db.executemany("INSERT INTO users VALUES (?, ?)", [(key, f"user {key}") for key in many])
        db.executemany("INSERT INTO posts VALUES (?, ?, ?, ?)", [(key, key, f"post {key}", 1000 + key) for key in many])
        db.executemany(
            "INSERT INTO comments VALUES (?, ?, ?, 'fine')",
            [(key * 100 + at, key, at + 1) for key in many for at in range(6)],
        )
        db.executemany("INSERT INTO tags VALUES (?, ?)", [(key, f"tag {key}") for key in many])
        db.executemany("INSERT INTO post_tags VALUES (?, ?)", [(key, key % 5 + at) for key in many for at in (1, 2, 3)])
        db.executemany("INSERT INTO categories VALUES (?, ?, ?)", [(key, key // 2 or None, f"c{key}") for key in many])
        db.executemany("INSERT INTO settings VALUES (?, ?)", [(f"setting {key}", "on") for key in many])
        db.executemany("INSERT INTO jobs (state) VALUES (?)", [("queued",)] * 8)
        db.commit()


def requests(shapes: Iterable[Shape]) -> Iterator[tuple[Shape, KeptRequest]]:
    """Ask for each shape once, of an instrumented app on a database of its own, and return what was kept of it."""
    from flask import Flask, g
    from opentelemetry.sdk.trace import TracerProvider

    from telemetry import PerformanceMetrics, instrument, uninstrument

    with tempfile.TemporaryDirectory() as folder:
        full, used = Path(folder, "full.db"), Path(folder, "used.db")
        fill(full)
        metrics = PerformanceMetrics()
        app = Flask("corpus", root_path=str(Path(__file__).parent))
        app.config["DATABASE"] = str(used)
        by_name = {each.name: each for each in shapes}

        @app.get("/<name>")
        def view(name: str) -> Any:
            with contextlib.closing(sqlite3.connect(used, check_same_thread=False)) as g.db:
                answer = by_name[name].run(g.db)
            return answer if isinstance(answer, app.response_class) else "done"

        instrument(app, metrics=metrics, tracer_provider=TracerProvider(shutdown_on_exit=False))
        try:
            for name, each in by_name.items():
                shutil.copy(full, used)
                response = app.test_client().get(f"/{name}")
                assert response.status_code == 200, f"{name} answered {response.status}"
                response.get_data()
                yield each, metrics.recent.all()[0]
        finally:
            uninstrument(app)
