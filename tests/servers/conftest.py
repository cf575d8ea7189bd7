"""The real command in a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from service.samples import Sample, make_clip

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, hue in (("red 1%.mp4", 10), ("blue.webm", 130)):
        make_clip(folder / name, Sample(name, 160, 90, 1.0, hue, 440, 12))
    return folder


class Running:
    """A server that was started by the command. `output` grows as it writes."""

    def __init__(self, folder: Path, *arguments: str, **more_environment: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LVS_", "OTEL_"))}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "500", "PYTHONUTF8": "1"}
        environment |= more_environment
        command = [sys.executable, "-c", "from local_video_server import main; main()", *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self.output = ""
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._grown:
                self.output += line
                self._grown.notify_all()

    def wait_for_output(self, text: str) -> None:
        with self._grown:
            assert self._grown.wait_for(lambda: text in self.output, PATIENCE_S), self.output

    @property
    def port(self) -> int:
        self.wait_for_output("Serving ")
        return int(re.search(r"Library +http://[^/]+:(\d+)/", self.output)[1])

    def worker(self) -> psutil.Process:
        """Return the process that answers requests."""
        return self.workers()[0]

    def workers(self) -> list[psutil.Process]:
        """Return the processes that answer requests."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # it has just ended
                if "resource_tracker" not in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def request(self, path: str, method: str = "GET", body: object = None, headers: dict[str, str] | None = None):
        """Return status, headers and body; waits for the server to come up."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
            try:
                connection.request(method, path, None if body is None else json.dumps(body), headers or {})
                answer = connection.getresponse()
                return answer.status, answer.headers, answer.read()
            except ConnectionRefusedError:
                assert self.process.poll() is None, self.output
                assert time.monotonic() < deadline, self.output
            finally:
                connection.close()

    def wait_until(self, path: str, holds) -> None:
        """Ask for `path` until `holds(body)`."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds(self.request(path)[2]):
            assert time.monotonic() < deadline, self.output

    def stop(self, how: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        self.process.stdout.close()
        return code


@pytest.fixture
def folder(tmp_path, clips) -> Path:
    shutil.copytree(clips, tmp_path / "videos")
    return tmp_path


@pytest.fixture
def start(folder):
    started = []

    def run(*arguments: str, **more_environment: str) -> Running:
        running = Running(folder, *arguments, **more_environment)
        started.append(running)
        return running

    yield run
    for running in started:
        running.stop()
