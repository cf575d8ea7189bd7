"""Any app under a real gunicorn, which starts workers anew."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

PATIENCE_S = 30
APP = """
import sqlite3
from flask import Flask
from telemetry import instrument

app = Flask("shop")

@app.get("/items")
def items():
    with sqlite3.connect(":memory:") as connection:
        for number in range(3):
            connection.execute("SELECT ?", (number,)).fetchall()
    connection.close()
    return "items"

instrument(app, authorize=lambda: True)
"""


class Gunicorn:
    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def get(self, path: str) -> bytes:
        with urlopen(self.url + path, timeout=PATIENCE_S) as answer:
            return bytes(answer.read())

    def snapshot(self) -> Any:
        return json.loads(self.get("/admin/performance/json"))

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()


@contextmanager
def _started(folder: Path, temporary: str, *arguments: str) -> Iterator[Gunicorn]:
    (folder / "shop.py").write_text(APP)
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--bind",
        "127.0.0.1:0",
        "--chdir",
        str(folder),
        *arguments,
        "shop:app",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LVS_", "OTEL_"))}
    environment |= {"TMPDIR": temporary, "LVS_TELEMETRY_WINDOW": "1000"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        listening = next(filter(None, (re.search(r"Listening at: (\S+)", line) for line in process.stderr)))
        yield Gunicorn(process, listening[1])
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def temporary() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as made:  # whose path is short, which `tmp_path` is not
        yield made


@pytest.mark.parametrize("arguments", [("--workers", "2"), ("--workers", "1", "--worker-class", "gthread")])
def test_no_figure_is_lost_where_workers_are_started_anew_after_some_requests(
    arguments: tuple[str, ...], tmp_path: Path, temporary: str
) -> None:
    with _started(tmp_path, temporary, "--max-requests", "15", *arguments) as server:
        for _ in range(100):
            server.get("/items")
        slices = json.loads(server.get("/api/admin/performance/timeline"))["slices"]
        snapshot = server.snapshot()
    assert (sum(slices["count"]), len(set(slices["worker"])) >= 100 // 15) == (100, True)
    assert snapshot["endpoints"]["GET /items"]["request_count"] == 100
    assert (snapshot["database"]["count"], snapshot["database"]["total_queries"]) == (100, 300)


def test_figures_outlive_a_reload_and_not_a_new_start(tmp_path: Path, temporary: str) -> None:
    with _started(tmp_path, temporary, "--workers", "2") as server:
        for _ in range(10):
            server.get("/items")
        before = server.workers()
        server.process.send_signal(signal.SIGHUP)
        assert psutil.wait_procs(before, PATIENCE_S)[1] == []
        assert server.snapshot()["endpoints"]["GET /items"]["request_count"] == 10
    with _started(tmp_path, temporary) as server:
        assert server.snapshot()["endpoints"] == {}
        (of_user,) = Path(temporary).glob("telemetry-*")
        assert [each.name.split("-")[1] for each in of_user.iterdir()] == [str(server.process.pid)]
