"""Real servers on loopback, each on ports of its own, ended by whoever started them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 60
_Value = TypeVar("_Value")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(look: Callable[[], _Value], *, wanted: Callable[[_Value], bool] = bool, within_s: float = 60) -> _Value:
    """Return what `look` returns as soon as it is as `wanted`, or what it was at last; the caller asserts."""
    until = time.monotonic() + within_s
    while True:
        try:
            found = look()
            if wanted(found) or time.monotonic() >= until:
                return found
        except (OSError, ValueError):
            if time.monotonic() >= until:
                raise
        time.sleep(0.2)


def get(port: int, path: str, **query: str) -> Any:
    """Return the JSON at a path."""
    return json.loads(fetch(port, path, **query)[1])


def fetch(port: int, path: str, headers: dict[str, str] | None = None, **query: str) -> tuple[int, bytes]:
    """Return status and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", f"{path}?{urlencode(query)}" if query else path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextlib.contextmanager
def running(
    *command: str | Path, log: Path, ready: int | None = None, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a server until the end of the block; if `ready` is a port, begin when it answers."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LVS_"))}
    with log.open("w") as stderr:
        process = subprocess.Popen(
            list(map(str, command)), env=clean | environment, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT
        )
        try:
            if ready is not None:
                _wait_for(process, ready, log)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _wait_for(process: subprocess.Popen[str], port: int, log: Path) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text("utf-8")[-3000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing answers on port {port}: {log.read_text('utf-8')[-3000:]}")


@contextlib.contextmanager
def shop(folder: Path, **environment: str) -> Iterator[int]:
    """Run the app with these variables, and give its port."""
    log = folder / "shop.log"
    with running(sys.executable, "-m", "tests.backends.shop", log=log, **environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text("utf-8")
        yield int(line)
    assert process.returncode == 0, log.read_text("utf-8")
