"""Apps that are not ours: each is a program of its own, started in a process of its own, and changed by one line alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LVS_"))}


def run(folder: Path, program: str, **environment: str) -> dict[str, Any]:
    """Run `program` in `folder` and return the JSON it prints last."""
    (folder / "main.py").write_text(textwrap.dedent(program), "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "main.py"],
        cwd=folder,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(json.loads(done.stdout.splitlines()[-1]))


SHOP = """
    import contextlib, json, sqlite3
    from flask import Blueprint, Flask, current_app, g, jsonify

    class Database(sqlite3.Connection):
        def one(self, sql, *parameters):
            return self.execute(sql, parameters).fetchone()

    shop = Blueprint("shop", __name__, url_prefix="/shop")

    def database():
        if "database" not in g:
            g.database = sqlite3.connect(current_app.config["DATABASE"], factory=Database)
            g.database.row_factory = sqlite3.Row
        return g.database

    @shop.get("/items")
    def items():
        rows = database().execute("SELECT id FROM items").fetchall()
        return jsonify([dict(database().one("SELECT * FROM items WHERE id = ?", row["id"])) for row in rows])

    @shop.post("/items")
    def add():
        with database() as connection:
            connection.executemany("INSERT INTO items (name) VALUES (?)", [("a",), ("b",)])
        return "", 201

    def create_app():
        app = Flask(__name__)
        app.config["DATABASE"] = "shop.db"
        app.register_blueprint(shop)

        @app.teardown_appcontext
        def close(_):
            if "database" in g:
                g.database.close()

        with contextlib.closing(sqlite3.connect("shop.db")) as connection:
            connection.executescript("CREATE TABLE items (id INTEGER PRIMARY KEY, name); INSERT INTO items (name) VALUES ('x')")
        return app
"""


def test_a_factory_app_with_blueprints_and_its_own_connection_class(tmp_path: Path) -> None:
    figures = run(
        tmp_path,
        SHOP
        + """
    from telemetry import instrument
    app = instrument(create_app())
    client = app.test_client()
    client.post("/shop/items")
    assert client.get("/shop/items").json == [{"id": 1, "name": "x"}, {"id": 2, "name": "a"}, {"id": 3, "name": "b"}]
    print(client.get("/admin/performance.json").text.replace("\\n", ""))
    """,
    )
    assert figures["database"] == {"total_queries": 5, "avg_per_request": 2.5, "max_per_request": 4, "count": 2}
    assert {route: stats["endpoint"] for route, stats in figures["endpoints"].items()} == {
        "GET /shop/items": "shop.items",
        "POST /shop/items": "shop.add",
    }


def test_providers_that_the_app_has_set_are_used_and_ours_is_added(tmp_path: Path) -> None:
    seen = run(
        tmp_path,
        """
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
    meters, tracers = MeterProvider([reader]), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    metrics.set_meter_provider(meters)
    trace.set_tracer_provider(tracers)
    """
        + SHOP
        + """
    from telemetry import get_metrics, instrument, uninstrument
    app = instrument(create_app())
    client = app.test_client()
    client.get("/shop/items")
    client.get("/shop/items")
    get_metrics().record_cache_hit()
    def points(name):
        return [
            point
            for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics
            for metric in scope.metrics if metric.name == name
            for point in metric.data.data_points
        ]
    answer = {
        "same providers": metrics.get_meter_provider() is meters and trace.get_tracer_provider() is tracers,
        "spans": sorted(span.name for span in exporter.get_finished_spans()),
        "requests": sum(point.count for point in points("http.server.request.duration")),
        "lookups": [point.value for point in points("telemetry.cache.lookups")],
        "shown": client.get("/admin/performance/json").json["endpoints"]["GET /shop/items"]["request_count"],
    }
    uninstrument(app)
    client.get("/shop/items")
    answer["after"] = sum(point.count for point in points("http.server.request.duration"))
    answer["kept"] = get_metrics().cache_hits
    print(json.dumps(answer))
    """,
    )
    assert seen == {
        "same providers": True,
        "spans": ["GET /shop/items", "GET /shop/items", *["SELECT items"] * 4],
        "requests": 2,
        "lookups": [1],
        "shown": 2,
        "after": 2,
        "kept": 1,
    }


def test_sqlalchemy_style_use_of_dbapi2_and_a_pool_over_threads(tmp_path: Path) -> None:
    figures = run(
        tmp_path,
        """
    import queue, threading
    from sqlite3 import dbapi2
    from flask import Flask
    from telemetry import instrument
    app = instrument(Flask(__name__))
    pool = queue.Queue()
    for _ in range(2):
        pool.put(dbapi2.connect("file::memory:", check_same_thread=False, uri=True))
    @app.get("/<int:n>")
    def view(n):
        connection = pool.get()
        for _ in range(n):
            connection.cursor().execute("SELECT 1").fetchone()
        pool.put(connection)
        return "ok"
    threads = [threading.Thread(target=lambda n=n: app.test_client().get(f"/{n}")) for n in range(10)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    while not pool.empty(): pool.get().close()
    print(app.test_client().get("/admin/performance/json").text.replace("\\n", ""))
    """,
    )
    assert figures["database"] == {"total_queries": 45, "avg_per_request": 4.5, "max_per_request": 9, "count": 10}


def test_an_app_whose_own_modules_are_called_config_service_and_tests(tmp_path: Path) -> None:
    for name in ("config", "service", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "config" / "values.py").write_text("NAME = 'theirs'")
    (tmp_path / "service" / "__init__.py").write_text("from config.values import NAME")
    (tmp_path / "tests" / "helper.py").write_text("import service\nNAME = service.NAME")
    found = run(
        tmp_path,
        """
    import json, sys
    from flask import Flask
    from telemetry import instrument
    app = instrument(Flask(__name__))
    ours = [name for name in sys.modules if name.partition(".")[0] in ("config", "service", "tests", "local_video_server")]
    import service, tests.helper
    print(json.dumps({"ours": ours, "service": service.NAME, "tests": tests.helper.NAME}))
    """,
        PYTHONPATH=str(tmp_path),
    )
    assert found == {"ours": [], "service": "theirs", "tests": "theirs"}


def test_telemetry_alone_needs_nothing_of_the_servers(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        """
    import json, sys
    for extra in ("av", "granian", "cachetools", "limits", "watchfiles", "rich"):
        sys.modules[extra] = None
    from flask import Flask
    from telemetry import instrument
    client = instrument(Flask(__name__)).test_client()
    print(json.dumps({"status": client.get("/admin/performance").status_code}))
    """,
    )
    assert found == {"status": 200}
