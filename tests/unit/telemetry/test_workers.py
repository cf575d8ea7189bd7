"""How workers of one server meet."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest
from flask import Flask

from telemetry import PerformanceMetrics, SettingsError, TelemetrySettings, joint_figures, uninstrument, workers
from telemetry.admin.joint_reader import JointReader
from telemetry.admin.requests_facts import Reader
from telemetry.apps import Telemetry
from telemetry.document import ENDED_PID
from telemetry.meeting_place import MOST_FOLDER_BYTES
from telemetry.workers import Workers, pid_of


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:  # whose path is short, which `tmp_path` is not
        yield Path(made) / "meet"


@pytest.fixture
def shop() -> str:
    """Return a name that no other test has: apps of one name are told apart by their order."""
    return secrets.token_hex(4)


SIBLING = """
import sys, time
from telemetry.admin.requests_facts import Reader
from telemetry.admin.joint_reader import JointReader
from telemetry.apps import Telemetry
from telemetry.workers import Workers

def answer(question):
    time.sleep(float(sys.argv[3]))
    return b"x" * 3_000_000 if question == b"much" else b"you said " + question

workers = Workers(sys.argv[2], sys.argv[1], answer)
workers.join()
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def start(folder: Path, shop: str) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started = []

    def one(takes_s: float = 0) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SIBLING, str(folder), shop, str(takes_s)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield one
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def sibling(start: Callable[..., subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    return start()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Have a child stand still."""
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)


def joined(shop: str, folder: Path | str = "", answer: Callable[[bytes], bytes] = lambda question: question) -> Workers:
    made = Workers(shop, str(folder), answer)
    made.join()
    return made


def test_another_process_answers_what_it_is_asked(folder: Path, sibling: subprocess.Popen[bytes], shop: str) -> None:
    ours = joined(shop, folder)
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
    ours = joined("blog", folder)
    assert (ours.has_others(), ours.ask(b"?")) == (False, {})
    ours.leave()


@pytest.mark.usefixtures("sibling")
def test_apps_of_one_name_in_a_process_are_told_apart_by_their_order(folder: Path, shop: str) -> None:
    first, second = (joined(shop, folder) for _ in range(2))
    assert len(first.ask(b"?")) == 1
    assert second.ask(b"?") == {}
    first.leave()
    del first
    assert joined(shop, folder).ask(b"?") == {}  # the third, whatever has become of the first
    second.leave()


def test_one_that_is_dropped_leaves_as_well(folder: Path, shop: str) -> None:
    before = set(threading.enumerate())
    Workers(shop, str(folder), lambda _: b"").join()
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
    assert not folder.exists()


def test_what_has_been_killed_is_not_waited_for_and_swept_away(
    folder: Path, sibling: subprocess.Popen[bytes], shop: str
) -> None:
    ours = joined(shop, folder)
    sibling.kill()
    sibling.wait()
    assert len(list(folder.iterdir())) == 2
    assert ours.is_one_of_several()
    assert ours.ask(b"?") == {}
    assert len(list(folder.iterdir())) == 1
    assert (ours.has_others(), ours.is_one_of_several()) == (False, True)
    ours.leave()
    assert not folder.exists()


def test_one_that_is_silent_is_told_once_and_waited_for_briefly_from_then_on(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, shop: str
) -> None:
    monkeypatch.setattr(workers, "PATIENCE_S", 0.5)
    monkeypatch.setattr(workers, "SHORT_PATIENCE_S", 0.05)
    ours = joined(shop, folder)
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


def test_one_that_stands_still_silences_nobody_else(
    folder: Path, start: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, shop: str
) -> None:
    monkeypatch.setattr(workers, "PATIENCE_S", 1.0)
    siblings = [start() for _ in range(4)]
    ours = joined(shop, folder)
    assert None not in ours.ask(b"much").values()  # more than goes into the buffer of a connection
    for stopped in (siblings[0], siblings[3]):
        stop(stopped)
        silent = {pid_of(name) for name, answered in ours.ask(b"much").items() if answered is None}
        assert silent == {stopped.pid}
        os.kill(stopped.pid, signal.SIGCONT)
        for _ in range(100):
            if None not in ours.ask(b"?").values():
                break
    ours.leave()


def test_one_that_was_silent_gets_its_time_again(
    folder: Path, start: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, shop: str
) -> None:
    for name, seconds in (("PATIENCE_S", 1.0), ("SHORT_PATIENCE_S", 0.05), ("SILENCE_S", 0.5)):
        monkeypatch.setattr(workers, name, seconds)
    slow = start(takes_s=0.3)
    ours = joined(shop, folder)
    stop(slow)
    assert list(ours.ask(b"?").values()) == [None]
    os.kill(slow.pid, signal.SIGCONT)
    deadline = time.monotonic() + 10
    while list(ours.ask(b"?").values()) == [None]:
        assert time.monotonic() < deadline
    ours.leave()


def test_many_may_ask_at_once(folder: Path, sibling: subprocess.Popen[bytes], shop: str) -> None:
    ours = joined(shop, folder)
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda _: list(ours.ask(b"?").values()), range(400)))
    assert answers == [[b"you said ?"]] * 400
    ours.leave()


def test_one_that_ends_while_it_is_asked_is_not_called_silent(
    folder: Path, start: Callable[..., subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture, shop: str
) -> None:
    ending = start(takes_s=30)
    ours = joined(shop, folder)
    threading.Timer(0.3, ending.kill).start()
    assert ours.ask(b"?") == {}
    assert caplog.records == []
    assert len(list(folder.iterdir())) == 1
    ours.leave()


def test_leaving_ends_a_joining_that_is_under_way(folder: Path, monkeypatch: pytest.MonkeyPatch, shop: str) -> None:
    listen = workers._listen

    def and_leave(*arguments: Any) -> object:
        listening = listen(*arguments)
        ours.leave()
        return listening

    monkeypatch.setattr(workers, "_listen", and_leave)
    ours = Workers(shop, str(folder), lambda _: b"")
    ours.join()
    assert (ours.is_one_of_several(), folder.exists()) == (False, False)
    assert ours.ask(b"?") == {}


def test_threads_that_join_and_leave_at_once_leave_nothing_behind(folder: Path, shop: str) -> None:
    before = set(threading.enumerate())
    ours = Workers(shop, str(folder), lambda _: b"")
    with ThreadPoolExecutor(8) as pool:
        for number in range(400):
            pool.submit(ours.leave if number % 3 == 0 else ours.join)
    ours.leave()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
    assert not folder.exists()


def test_a_process_that_is_forked_meanwhile_does_not_hold_an_answer_up(folder: Path, shop: str) -> None:
    heirs = []

    def answer(question: bytes) -> bytes:
        heirs.append(os.fork())
        if not heirs[-1]:
            time.sleep(5)
            os._exit(0)
        return question

    ours = joined(shop, folder, answer)
    (own,) = folder.iterdir()
    started = time.monotonic()
    assert ours.ask_one(own.name, b"?", 3) == b"?"
    assert time.monotonic() - started < 2
    for heir in heirs:
        os.kill(heir, signal.SIGKILL)
        os.waitpid(heir, 0)
    ours.leave()


def test_one_that_has_no_descriptors_for_a_while_answers_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, shop: str
) -> None:
    accept, failures = socket.socket.accept, iter([OSError(24, "too many open files")] * 3)

    def without_descriptors(listening: socket.socket) -> object:
        for failure in failures:
            raise failure
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", without_descriptors)
    ours = joined(shop, folder)
    (own,) = folder.iterdir()
    assert ours.ask_one(own.name, b"?", 5) == b"?"
    ours.leave()


def test_one_that_has_no_descriptors_to_ask_with_takes_nobody_for_ended(
    folder: Path, sibling: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, shop: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(24, "too many open files")

    ours = joined(shop, folder)
    with monkeypatch.context() as patched:
        patched.setattr(workers.socket, "socket", fail)
        assert list(ours.ask(b"?").values()) == [None]
        assert all(map(workers._is_alive, folder.iterdir()))
    assert [pid_of(name) for name in ours.ask(b"?")] == [sibling.pid]
    ours.leave()


def test_where_no_thread_can_be_had_nobody_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, shop: str
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ours = Workers(shop, str(folder), lambda question: question)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        ours.join()
    assert (ours.ask(b"?"), folder.exists()) == ({}, False)
    assert "can't start new thread" in caplog.text
    ours.leave()


def test_a_folder_that_goes_while_one_joins_is_made_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, shop: str
) -> None:
    make_private, times = workers.make_private, iter(range(2))

    def and_remove(made: Path) -> None:
        make_private(made)
        for _ in times:
            made.rmdir()
            break

    monkeypatch.setattr(workers, "make_private", and_remove)
    ours = joined(shop, folder)
    assert len(list(folder.iterdir())) == 1
    ours.leave()


def test_a_thread_that_waits_for_another_one_to_join_is_not_held_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch, shop: str
) -> None:
    start, asked = threading.Thread.start, []

    def and_ask(thread: threading.Thread) -> None:
        if thread.name == "telemetry-worker":
            asked.append(ours.ask(b"?"))  # as a greenlet does that is switched to meanwhile
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", and_ask)
    ours = Workers(shop, str(folder), lambda _: b"")
    ours.join()
    assert asked == [{}]
    ours.leave()


def test_an_answer_that_fails_is_logged_once_and_the_next_one_given(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, shop: str
) -> None:
    def answer(question: bytes) -> bytes:
        if question == b"bad":
            raise ValueError
        return b"fine"

    ours = joined(shop, folder, answer)
    (own,) = folder.iterdir()
    assert [ours.ask_one(own.name, question, 5) for question in (b"bad", b"bad", b"good")] == [None, None, b"fine"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    ours.leave()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_child_joins_by_itself_and_leaves_its_parent_be(folder: Path, shop: str) -> None:
    ours = joined(shop, folder, lambda _: b"parent")
    (own,) = folder.iterdir()
    pid = os.fork()
    if not pid:
        try:
            ours.join()
            others = ours.ask(b"?")
            os._exit(0 if list(others.values()) == [b"parent"] and len(list(folder.iterdir())) == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert own.exists()
    assert ours.ask(b"?") == {}
    ours.leave()


def test_a_folder_that_others_can_write_to_is_not_used(
    folder: Path, caplog: pytest.LogCaptureFixture, shop: str
) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    ours = Workers(shop, str(folder), lambda _: b"")
    ours.join()
    ours.join()
    assert (ours.ask(b"?"), list(folder.iterdir())) == ({}, [])
    (record,) = caplog.records
    assert "must be a folder of this user's, to which nobody else can write" in record.getMessage()
    folder.rmdir()
    folder.symlink_to(folder.parent)
    again = Workers(shop, str(folder), lambda _: b"")
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
    instrumented: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, folder: Path, shop: str
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folder))
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)
    client = instrumented(Flask("shop")).test_client()
    client.get("/")
    assert client.get("/admin/performance/json").status_code == 200
    assert not folder.exists()


def test_an_admin_page_registers_nothing_that_stays(
    metrics: PerformanceMetrics, folder: Path, monkeypatch: pytest.MonkeyPatch, shop: str
) -> None:
    ours = joined(shop, folder)
    own = Reader(Telemetry(metrics, TelemetrySettings()))

    def register(**_: object) -> None:
        raise AssertionError("what is registered for forked children stays for good")

    with monkeypatch.context() as patched:
        patched.setattr(os, "register_at_fork", register)
        assert JointReader(own, ours).all() == []
    ours.leave()


def test_an_app_joins_with_its_first_request_and_leaves_when_it_is_uninstrumented(
    instrumented: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, folder: Path, shop: str
) -> None:
    monkeypatch.setenv("LVS_TELEMETRY_WORKERS_DIR", str(folder))
    app = instrumented(Flask("shop"), settings=TelemetrySettings.load())
    assert not folder.exists()
    app.test_client().get("/")
    (socket_file,) = folder.iterdir()
    uninstrument(app)
    assert not folder.exists()
    app.test_client().get("/")
    assert not folder.exists()
    instrumented(app, settings=TelemetrySettings.load()).test_client().get("/")
    (again,) = folder.iterdir()
    assert again.name.partition("-")[0] == socket_file.name.partition("-")[0]  # it is still the app that it was


def test_apps_whose_figures_are_the_same_meet_the_others_together(
    instrumented: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("LVS_TELEMETRY_WORKERS_DIR", str(folder))
    front = instrumented(Flask("front"), settings=TelemetrySettings.load())
    instrumented(Flask("api"), settings=TelemetrySettings.load())
    instrumented(
        Flask("apart"), settings=TelemetrySettings.load(), metrics=PerformanceMetrics(TelemetrySettings.load())
    )
    front.test_client().get("/")
    assert len(list(folder.iterdir())) == 2


def test_a_worker_that_has_handed_over_and_answers_yet_counts_once(metrics: PerformanceMetrics) -> None:
    """As does one that is silent, of which what was handed over is all there is to tell."""
    metrics.record_cache_hit(5)
    asked = []

    class Siblings:
        def ask(self, question: bytes) -> dict[str, bytes | None]:
            asked.append(question)
            told = msgspec.msgpack.encode(joint_figures.tell(metrics))
            return {"shop-1-0-a.sock": told, "shop-2-0-b.sock": told, "shop-3-0-c.sock": None}

        def handed_over(self) -> list[bytes]:
            assert asked  # who ends while it is asked is in what is read after that
            return [joint_figures.left(metrics, name) for name in ("shop-1-0-a.sock", "shop-3-0-c.sock")]

    reader = JointReader(Reader(Telemetry(metrics, metrics.settings)), Siblings())  # type: ignore[arg-type]
    assert [each.hits for each in reader.told] == [5] * 4
    assert [each.pid for each in reader.told].count(ENDED_PID) == 2
    assert reader.silent() == []


@pytest.fixture
def under_gunicorn(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Be a worker of gunicorn, with `folder` for temporary files."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folder))
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/23.0.0")
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", ModuleType("gunicorn.arbiter"))


@pytest.mark.usefixtures("under_gunicorn")
def test_workers_of_gunicorn_and_uwsgi_meet_by_their_server(
    monkeypatch: pytest.MonkeyPatch, folder: Path, shop: str
) -> None:
    ours = Workers(shop, "", lambda _: b"")
    ours.join()
    (of_user,) = folder.iterdir()
    (meeting_place,) = of_user.iterdir()
    assert meeting_place.name.startswith(f"gunicorn-{os.getppid()}-")
    assert (of_user.stat().st_mode & 0o777, meeting_place.stat().st_mode & 0o777) == (0o700, 0o700)
    ours.leave()
    monkeypatch.delenv("SERVER_SOFTWARE")
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(masterpid=os.getpid))  # type: ignore[arg-type]
    master = Workers(shop, "", lambda _: b"")
    assert not master.join()
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(masterpid=lambda: 0))  # type: ignore[arg-type]
    alone = Workers(shop, "", lambda _: b"")
    alone.join()
    assert list(of_user.iterdir()) == []
    alone.leave()
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(masterpid=lambda: 4711))  # type: ignore[arg-type]
    ours.join()
    (meeting_place,) = of_user.iterdir()
    assert meeting_place.name.startswith("uwsgi-4711-")
    ours.leave()


@pytest.mark.usefixtures("under_gunicorn")
def test_what_killed_workers_of_an_ended_server_have_left_is_swept_away(folder: Path, shop: str) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    ours = Workers(shop, "", lambda _: b"")
    ours.join()
    (of_user,) = folder.iterdir()
    (alive,) = of_user.iterdir()
    host = alive.name.rpartition("-")[2]
    (of_user / f"my-backup-{host}").mkdir()
    left, elsewhere = (of_user / f"gunicorn-{ended.pid}-{of}" for of in (host, "00000000"))
    for each in (left, elsewhere):
        each.mkdir()
        (each / "0-1-2.sock").touch()
    ours.leave()
    ours.join()
    assert (left.exists(), elsewhere.exists(), alive.exists()) == (False, True, True)
    ours.leave()


def test_an_app_that_is_uninstrumented_while_its_first_request_begins_counts_again_when_it_is_instrumented(
    instrumented: Callable[..., Flask], metrics: PerformanceMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def join(_: Workers) -> bool:
        uninstrument(app)
        return True

    app = Flask("shop")
    app.add_url_rule("/", view_func=lambda: "shop")
    with monkeypatch.context() as patched:
        patched.setattr(Workers, "join", join)
        instrumented(app)
        inner = app.wsgi_app
        app.wsgi_app = lambda environ, start: inner(environ, start)  # type: ignore[method-assign]  # ours stays inside
        app.test_client().get("/")
    assert metrics.route_stats() == []
    client = instrumented(app).test_client()
    for _ in range(5):
        client.get("/")
    assert [each["request_count"] for each in metrics.route_stats()] == [5]
