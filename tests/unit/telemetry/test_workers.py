"""How workers of one server meet."""

from __future__ import annotations

import gc
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask

from telemetry import SettingsError, TelemetrySettings, uninstrument, workers
from telemetry.workers import MOST_FOLDER_BYTES, Workers, pid_of


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:  # whose path is short, which `tmp_path` is not
        yield Path(made) / "meet"


SIBLING = """
import sys, time
from telemetry.workers import Workers
workers = Workers("shop", sys.argv[1], lambda question: b"you said " + question)
workers.join()
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def sibling(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SIBLING, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_another_process_answers_what_it_is_asked(folder: Path, sibling: subprocess.Popen[bytes]) -> None:
    ours = Workers("shop", str(folder), lambda _: b"")
    assert ours.has_others()
    answers = ours.ask(b"what?" * 100_000)
    assert [(pid_of(name), answer) for name, answer in answers.items()] == [
        (sibling.pid, b"you said " + b"what?" * 100_000)
    ]
    (name,) = answers
    assert ours.ask_one(name, b"and?", 5) == b"you said and?"
    ours.leave()
    assert ours.ask_one(name, b"and?", 5) is None


@pytest.mark.usefixtures("sibling")
def test_apps_of_other_names_are_no_siblings(folder: Path) -> None:
    ours = Workers("blog", str(folder), lambda _: b"")
    assert (ours.has_others(), ours.ask(b"?")) == (False, {})
    ours.leave()


@pytest.mark.usefixtures("sibling")
def test_apps_of_one_name_in_a_process_are_told_apart_by_their_order(folder: Path) -> None:
    first, second = (Workers("shop", str(folder), lambda _: b"") for _ in range(2))
    second.join()
    assert len(first.ask(b"?")) == 1
    assert second.ask(b"?") == {}
    first.leave()
    second.leave()


def test_one_that_is_dropped_leaves_as_well(folder: Path) -> None:
    before = set(threading.enumerate())
    Workers("shop", str(folder), lambda _: b"").join()
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
    assert not folder.exists()


def test_what_has_been_killed_is_not_waited_for_and_swept_away(folder: Path, sibling: subprocess.Popen[bytes]) -> None:
    ours = Workers("shop", str(folder), lambda _: b"")
    ours.join()
    sibling.kill()
    sibling.wait()
    assert len(list(folder.iterdir())) == 2
    assert ours.ask(b"?") == {}
    assert len(list(folder.iterdir())) == 1
    ours.leave()
    assert not folder.exists()


def test_one_that_is_silent_is_told_once_and_waited_for_briefly_from_then_on(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PATIENCE_S", 0.5)
    monkeypatch.setattr(workers, "SHORT_PATIENCE_S", 0.05)
    ours = Workers("shop", str(folder), lambda _: b"")
    ours.join()
    (own,) = folder.iterdir()
    tag = own.name.partition("-")[0]
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / f"{tag}-12345-0.sock"))
        silent.listen()
        waited = []
        for _ in range(2):
            started = time.monotonic()
            assert ours.ask(b"?") == {f"{tag}-12345-0.sock": None}
            waited.append(time.monotonic() - started)
    assert waited[0] >= 0.5 > waited[1]
    assert [record.getMessage() for record in caplog.records] == [
        "worker 12345 does not answer: the admin pages lack what it has measured"
    ]
    ours.leave()


def test_an_answer_that_fails_is_logged_once_and_the_next_one_given(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(question: bytes) -> bytes:
        if question == b"bad":
            raise ValueError
        return b"fine"

    ours = Workers("shop", str(folder), answer)
    ours.join()
    (own,) = folder.iterdir()
    assert [ours.ask_one(own.name, question, 5) for question in (b"bad", b"bad", b"good")] == [None, None, b"fine"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    ours.leave()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_child_joins_by_itself_and_leaves_its_parent_be(folder: Path) -> None:
    ours = Workers("shop", str(folder), lambda _: b"parent")
    ours.join()
    (own,) = folder.iterdir()
    pid = os.fork()
    if not pid:
        try:
            others = ours.ask(b"?")
            os._exit(0 if list(others.values()) == [b"parent"] and len(list(folder.iterdir())) == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert own.exists()
    assert ours.ask(b"?") == {}
    ours.leave()


def test_a_folder_that_others_can_write_to_is_not_used(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    ours = Workers("shop", str(folder), lambda _: b"")
    ours.join()
    ours.join()
    assert (ours.ask(b"?"), list(folder.iterdir())) == ({}, [])
    (record,) = caplog.records
    assert "must be a folder of this user's, to which nobody else can write" in record.getMessage()
    folder.rmdir()
    folder.symlink_to(folder.parent)
    again = Workers("shop", str(folder), lambda _: b"")
    again.join()
    assert not again.has_others()
    assert list(folder.parent.iterdir()) == [folder]
    for each in (ours, again):
        each.leave()


def test_a_folder_whose_path_is_too_long_for_a_socket_is_refused() -> None:
    folder = "/" + "x" * MOST_FOLDER_BYTES
    with pytest.raises(
        SettingsError, match=rf"^workers_dir must be a folder whose whole path has {MOST_FOLDER_BYTES} bytes"
    ):
        TelemetrySettings(workers_dir=folder)


def test_an_app_that_is_not_of_a_server_with_workers_meets_nobody(
    instrumented: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folder))
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)
    client = instrumented(Flask("shop")).test_client()
    client.get("/")
    assert client.get("/admin/performance/json").status_code == 200
    assert not folder.exists()


def test_an_app_joins_with_its_first_request_and_leaves_when_it_is_uninstrumented(
    instrumented: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("LVS_TELEMETRY_WORKERS_DIR", str(folder))
    app = instrumented(Flask("shop"), settings=TelemetrySettings.load())
    assert not folder.exists()
    app.test_client().get("/")
    assert len(list(folder.iterdir())) == 1
    uninstrument(app)
    assert not folder.exists()
    app.test_client().get("/")
    assert not folder.exists()


def test_workers_of_gunicorn_and_uwsgi_meet_by_their_server(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folder))
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/23.0.0")
    ours = Workers("shop", "", lambda _: b"")
    ours.join()
    (of_user,) = folder.iterdir()
    (meeting_place,) = of_user.iterdir()
    assert meeting_place.name.startswith(f"gunicorn-{os.getppid()}-")
    assert (of_user.stat().st_mode & 0o777, meeting_place.stat().st_mode & 0o777) == (0o700, 0o700)
    ours.leave()
    monkeypatch.delenv("SERVER_SOFTWARE")
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(masterpid=lambda: 0))  # type: ignore[arg-type]
    alone = Workers("shop", "", lambda _: b"")
    alone.join()
    assert list(of_user.iterdir()) == []
    alone.leave()
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(masterpid=lambda: 4711))  # type: ignore[arg-type]
    ours.join()
    (meeting_place,) = of_user.iterdir()
    assert meeting_place.name.startswith("uwsgi-4711-")
    ours.leave()


def test_what_killed_workers_of_an_ended_server_have_left_is_swept_away(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folder))
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/23.0.0")
    ours = Workers("shop", "", lambda _: b"")
    ours.join()
    (of_user,) = folder.iterdir()
    (alive,) = of_user.iterdir()
    host = alive.name.rpartition("-")[2]
    left, elsewhere = (of_user / f"gunicorn-{ended.pid}-{of}" for of in (host, "00000000"))
    for each in (left, elsewhere):
        each.mkdir()
        (each / "0-1-2.sock").touch()
    ours.leave()
    ours.join()
    assert (left.exists(), elsewhere.exists(), alive.exists()) == (False, True, True)
    ours.leave()
