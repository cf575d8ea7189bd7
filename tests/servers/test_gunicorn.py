"""Any app under a real gunicorn, which starts workers anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
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
    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> bytes:
        """Return what is answered; a worker that ends just now may have had the connection."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_S) as answer:
                    return bytes(answer.read())
            except (URLError, ConnectionError):
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def snapshot(self) -> Any:
        return json.loads(self.get("/admin/performance/json"))

    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def wait_for_other_workers(self, than: set[int]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while than & self.workers() or not self.workers():
            assert time.monotonic() < deadline
            time.sleep(0.05)


Start = Callable[..., Gunicorn]


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
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield Gunicorn(process, _port(process.pid))
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _port(pid: int) -> int:
    """Return the port that a process listens on, once it does."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for each in psutil.Process(pid).net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN:
                return int(each.laddr.port)
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def temporary() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as made:  # whose path is short, which `tmp_path` is not
        yield made


@pytest.mark.parametrize("arguments", [("--workers", "2"), ("--workers", "1", "--worker-class", "gthread")])
def test_no_figure_is_lost_where_workers_are_started_anew_after_some_requests(
    arguments: tuple[str, ...], tmp_path: Path, temporary: str
) -> None:
    with _started(tmp_path, temporary, "--max-requests", "15", *arguments) as server:
        first = server.workers()
        for _ in range(100):
            server.get("/items")
        server.wait_for_other_workers(first)
        snapshot = server.snapshot()
    assert snapshot["endpoints"]["GET /items"]["request_count"] == 100
    assert (snapshot["database"]["count"], snapshot["database"]["total_queries"]) == (100, 300)


def test_figures_outlive_a_reload_and_not_a_new_start(tmp_path: Path, temporary: str) -> None:
    with _started(tmp_path, temporary, "--workers", "2") as server:
        for _ in range(10):
            server.get("/items")
        before = server.workers()
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_other_workers(before)
        assert server.snapshot()["endpoints"]["GET /items"]["request_count"] == 10
    with _started(tmp_path, temporary) as server:
        assert server.snapshot()["endpoints"] == {}
        (of_user,) = Path(temporary).glob("telemetry-*")
        assert [each.name.split("-")[1] for each in of_user.iterdir()] == [str(server.process.pid)]
