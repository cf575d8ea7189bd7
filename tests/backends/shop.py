"""The app that is looked at from the backends: `python -m tests.backends.shop` prints its port and serves until SIGTERM."""

from __future__ import annotations

import signal
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from flask import Flask, Response, abort, jsonify
from werkzeug.serving import WSGIRequestHandler, make_server

from telemetry import get_metrics, instrument

ITEMS = 12


class Handler(WSGIRequestHandler):
    """HTTP/1.1, so that the admin pages know a client of this machine from a proxy; and no log."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: object) -> None:
        pass


def create_app(database: Path) -> Flask:
    """Return an app with routes that behave well, fail, stream, and query in a loop."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute("CREATE TABLE tag (item INTEGER, word TEXT)")
        connection.executemany("INSERT INTO item (name) VALUES (?)", [(f"item {n}",) for n in range(ITEMS)])
        connection.commit()
    app = Flask("shop")

    @app.get("/items")
    def items() -> Response:
        with closing(sqlite3.connect(database)) as connection:
            return jsonify(connection.execute("SELECT name FROM item").fetchall())

    @app.get("/items/<int:item>")
    def item(item: int) -> Response:
        lookup = get_metrics().record_cache_hit if item % 3 else get_metrics().record_cache_miss
        lookup()
        with closing(sqlite3.connect(database)) as connection:
            found = connection.execute("SELECT name FROM item WHERE id = ?", (item,)).fetchone()
        return jsonify(found) if found else abort(404)

    @app.get("/tagged")
    def tagged() -> Response:
        with closing(sqlite3.connect(database)) as connection:
            rows = connection.execute("SELECT id, name FROM item").fetchall()
            return jsonify(
                [connection.execute("SELECT word FROM tag WHERE item = ?", (row[0],)).fetchall() for row in rows]
            )

    @app.get("/fails")
    def fails() -> Response:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("SELECT no_such_column FROM item")
        raise AssertionError

    @app.get("/stream")
    def stream() -> Response:
        def lines() -> Iterator[str]:
            with closing(sqlite3.connect(database)) as connection:
                for number in range(3):
                    yield (
                        str(connection.execute("SELECT name FROM item WHERE id = ?", (number + 1,)).fetchone()[0])
                        + "\n"
                    )

        return Response(lines(), mimetype="text/plain")

    return app


def main() -> None:
    """Serve on a free port of loopback, until SIGTERM."""
    with tempfile.TemporaryDirectory() as folder:
        app = instrument(create_app(Path(folder) / "shop.sqlite3"))
        server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
        server.daemon_threads = True
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        print(server.server_port, flush=True)
        server.serve_forever()
        server.server_close()


if __name__ == "__main__":
    sys.exit(main())
