"""A real browser in front of a real server: the command in a process of its own, with sample clips."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from service.samples import Sample, make_clip

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30
MACHINE = socket.gethostname().lower()
"""What the server is called in its network; without TLS, browsers trust that less than a loopback address."""
CLIPS = (
    Sample("First light.mp4", 320, 180, 6, 110, 330, 24),
    Sample("holiday/100% sun & Łódź.mp4", 320, 180, 4, 30, 262, 24),
    Sample("holiday/slow_tide.webm", 320, 180, 5, 210, 440, 24),
)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for sample in CLIPS:
        make_clip(folder / sample.path, sample)
    return folder


class RunningServer:
    """The server of one folder. `restart` ends its process and starts another on the same data, with `variables` set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self._start()

    def _start(self, **variables: str) -> None:
        is_first = not (self.folder / "var").exists()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LVS_", "OTEL_"))}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "500", "PYTHONUTF8": "1"}
        environment |= variables
        command = [sys.executable, "-c", "from local_video_server import main; main()", "serve", "--port", "0"]
        self._process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self._lines: list[str] = []
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._wait_for("Library ").split()[-1].rstrip("/")
        if is_first:
            self._wait_for("library: ")
        self._wait_for_port()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._grown:
                self._lines.append(line)
                self._grown.notify_all()

    def _wait_for(self, text: str) -> str:
        """Return the first line with `text`."""
        with self._grown:
            found = self._grown.wait_for(lambda: [line for line in self._lines if text in line], PATIENCE_S)
            assert found, "".join(self._lines)
            return str(found[0])

    def _wait_for_port(self) -> None:
        address = urlsplit(self.url)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection((address.hostname, address.port or 80), PATIENCE_S).close()
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "".join(self._lines)
            else:
                return

    def restart(self, **variables: str) -> None:
        self.stop()
        self._start(**variables)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE_S)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def server(tmp_path: Path, clips: Path) -> Iterator[RunningServer]:
    shutil.copytree(clips, tmp_path / "videos")
    running = RunningServer(tmp_path)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or the one that Playwright has installed."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"]
        options.append(f"--host-resolver-rules=MAP {MACHINE} 127.0.0.1")
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


class Watched:
    """What went wrong on a page, and which hosts it asked."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.hosts: set[str | None] = set()

    def attach(self, page: Page) -> None:
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))

    def _note(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.complaints.append(text)


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def browse(chromium: Browser, watched: Watched) -> Iterator[Callable[..., Page]]:
    """Open pages of a server: `browse(url, **context_options)`. No error on the console and no other host is allowed."""
    contexts = contextlib.ExitStack()

    def make(url: str, **options: Any) -> Page:
        context = chromium.new_context(base_url=url, **options)
        contexts.callback(context.close)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        watched.attach(page)
        return page

    yield make
    contexts.close()
    assert watched.complaints == []
    assert watched.hosts <= {"127.0.0.1", MACHINE}


@pytest.fixture
def open_page(server: RunningServer, browse: Callable[..., Page]) -> Callable[..., Page]:
    """Open pages of the video server: `open_page(**context_options)`. They are closed before the server is."""
    return functools.partial(browse, server.url)
