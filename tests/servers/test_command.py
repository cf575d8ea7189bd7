from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest

from telemetry.meeting_place import Server
from tests.servers.conftest import PATIENCE_S, ROOT


def ratings(server, media_hash):
    return json.loads(server.request(f"/api/ratings/{media_hash}")[2])


def hash_of(server, path):
    text = server.request("/watch/" + path)[2].decode()
    return text.split('action="/ratings/')[1][:32]


def test_the_library_is_served_and_follows_the_folder(start, folder, clips):
    server = start("serve", "--port", "0")
    server.wait_until("/", lambda page: b"2 videos" in page)
    status, headers, body = server.request("/video/red%201%25.mp4", headers={"Range": "bytes=0-99"})
    assert (status, body) == (206, (clips / "red 1%.mp4").read_bytes()[:100])
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    (folder / "videos" / "deep").mkdir()
    shutil.copy(clips / "blue.webm", folder / "videos" / "deep" / "Größe & 50%.webm")
    server.wait_until("/", lambda page: b"3 videos" in page)
    (folder / "videos" / "blue.webm").unlink()
    server.wait_until("/", lambda page: b"2 videos" in page)
    status, _, body = server.request("/video/deep/Gr%C3%B6%C3%9Fe%20&%2050%25.webm")
    assert (status, body) == (200, (clips / "blue.webm").read_bytes())
    status, headers, body = server.request("/video/red%201%25.mp4", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, str((clips / "red 1%.mp4").stat().st_size), b"")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_a_rating_outlives_it(start, how):
    server = start("serve", "--port", "0")
    server.wait_until("/", lambda page: b"2 videos" in page)
    media_hash = hash_of(server, "red%201%25.mp4")
    assert server.request(f"/api/ratings/{media_hash}", "POST", {"value": 5})[0] == 201
    assert server.stop(how) == 0
    assert server.output.endswith("Stopped.\n")
    assert "Traceback" not in server.output
    again = start("serve", "--port", "0")
    assert ratings(again, media_hash) == {"average": 5.0, "count": 1, "user": None}


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX's")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_come_one_upon_another_end_it(start, how):
    server = start("serve", "--port", "0")
    server.wait_until("/", lambda page: b"2 videos" in page)
    for _ in range(50):  # `timeout make run` sends two: one to the group, and one that make passes on
        os.killpg(server.process.pid, how)
    assert server.process.wait(20) == 0
    server.stop()
    assert server.output.endswith("Stopped.\n")
    assert "Traceback" not in server.output


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX's")
@pytest.mark.parametrize("is_up", [True, False])
def test_a_ctrl_c_which_all_processes_get_ends_it_without_a_traceback(start, is_up):
    server = start("serve", "--port", "0", "--workers", "2")
    if is_up:
        server.wait_for_output("library: ")
    else:
        until = time.monotonic() + PATIENCE_S
        while not server.workers():
            assert time.monotonic() < until, server.output
            time.sleep(0.01)
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.process.wait(20) in {0, 130}
    server.stop()
    assert "Traceback" not in server.output


@pytest.mark.skipif(os.name != "posix", reason="SIGHUP is POSIX's")
def test_it_ends_with_its_terminal(folder):
    import pty

    server, terminal = pty.fork()
    if server == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which is ignored where the tests run under `nohup`
        os.chdir(folder)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "500"}
        code = "from local_video_server import main; main()"
        os.execve(sys.executable, [sys.executable, "-c", code, "serve", "--port", "0"], environment)
    said = b""
    while b"library: " not in said:
        said += os.read(terminal, 10_000)
    processes = [psutil.Process(server), *psutil.Process(server).children(recursive=True)]
    os.close(terminal)
    alive = psutil.wait_procs(processes, 20)[1]
    for process in alive:
        process.kill()
    assert alive == []


def test_that_a_worker_has_died_is_a_line_of_the_log_like_any_other(start):
    server = start("serve", "--port", "0", "--log-format", "json")
    server.request("/ping")
    server.worker().kill()
    server.wait_for_output("Unexpected exit from worker-1")
    (line,) = [line for line in server.output.splitlines() if "Unexpected exit" in line]
    assert json.loads(line)["level"] == "ERROR"
    assert server.request("/ping")[0] == 200


@pytest.mark.parametrize(("version", "status"), [("1.0", 401), ("1.1", 200)])
def test_the_protocol_of_reverse_proxies_gets_no_figures(start, version, status):
    server = start("serve", "--port", "0")
    server.wait_until("/", lambda page: b"videos" in page)
    asked = f"GET /admin/performance/json HTTP/{version}\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(asked.encode())
        answered = connection.recv(65536)
    assert int(answered.split()[1]) == status


def serve_by(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return what became of a server that Python `code` starts and that ends by itself."""
    return subprocess.run(
        [sys.executable, "-c", code, "serve", "--port", "0"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
def test_a_signal_before_granian_listens_to_them_ends_it_quietly(folder, how):
    starting = f"""
import os, signal
from local_video_server import main
from service import server
class Granian(server.Granian):
    def startup(self, *given):
        os.kill(os.getpid(), signal.{how})
        super().startup(*given)
if __name__ == "__main__":
    server.Granian = Granian
    main()
"""
    done = serve_by(starting, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("Stopped.\n")


@pytest.mark.parametrize(
    "variable",
    [
        "OTEL_PROPAGATORS",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_PYTHON_TRACER_PROVIDER",
        "OTEL_PYTHON_METER_PROVIDER",
    ],
)
def test_a_variable_that_opentelemetry_cannot_use_is_one_line_that_names_it(folder, variable):
    done = serve_by("from local_video_server import main; main()", folder, **{variable: "foo"})
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"local-video-server: {variable} .*foo.*\n", done.stderr)


def test_two_workers_agree_and_one_of_them_keeps_the_index(start):
    server = start("serve", "--port", "0", "--workers", "2")
    server.wait_until("/", lambda page: b"2 videos" in page)
    server.wait_for_output("2 files, 2 examined")  # it is said after it can be seen
    media_hash = hash_of(server, "red%201%25.mp4")
    for value in (1, 5, 3, 4, 2):
        cookie = {"Cookie": "lvs_user=" + "a" * 32}
        assert server.request(f"/api/ratings/{media_hash}", "POST", {"value": value}, cookie)[0] == 201
        assert all(ratings(server, media_hash)["average"] == value for _ in range(6))
    server.stop()
    assert server.output.count("2 files, 2 examined") == 1


def test_each_of_two_workers_shows_the_figures_of_both(start):
    server = start("serve", "--port", "0", "--workers", "2")
    server.wait_until("/", lambda page: b"2 videos" in page)
    # Both have answered: a busy machine may start one of them much later.
    server.wait_until("/api/admin/performance/workers", lambda body: len(json.loads(body)["workers"]) == 2)
    for _ in range(60):
        assert server.request("/search?q=red")[0] == 200
    asked = [json.loads(server.request("/admin/performance/json")[2]) for _ in range(10)]
    assert {each["endpoints"]["GET /search"]["request_count"] for each in asked} == {60}
    found = json.loads(server.request("/api/admin/performance/workers")[2])["workers"]
    assert [each["answers"] for each in found] == [True, True]
    assert {each["pid"] for each in found} < {child.pid for child in psutil.Process(server.process.pid).children()}
    requests = json.loads(server.request("/api/admin/performance/requests?route=GET%20/search")[2])["requests"]
    assert len(requests) == 50
    for each in requests:
        request_id = f"{each['trace_id']}-{each['span_id']}"
        assert server.request(f"/admin/performance/requests/{request_id}")[0] == 200


def test_workers_that_are_started_anew_hand_over_their_figures_and_nothing_outlives_the_server(start):
    server = start("serve", "--port", "0", "--workers", "2")
    server.wait_until("/", lambda page: b"2 videos" in page)
    for _ in range(20):
        assert server.request("/search?q=red")[0] == 200
    folder = Server("granian", server.process.pid).folder
    before = server.workers()
    server.process.send_signal(signal.SIGHUP)
    assert psutil.wait_procs(before, PATIENCE_S)[1] == [], server.output
    snapshot = json.loads(server.request("/admin/performance/json")[2])
    assert snapshot["endpoints"]["GET /search"]["request_count"] == 20
    assert folder.is_dir()
    server.stop()
    assert not folder.exists()


DYING_OVER_A_NAME = """
import signal, av
whole = av.open
def open(path, *given, **named):
    if "deadly" in path:
        signal.raise_signal(signal.SIGSEGV)
    return whole(path, *given, **named)
av.open = open
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("workers", [1, 2])
def test_files_that_crash_ffmpeg_cost_the_library_themselves_and_one_worker(start, folder, workers):
    for name in ("a deadly.mp4", "deadly.webm", "zz deadly.mkv"):
        (folder / "videos" / name).write_bytes(b"nobody reads this")
    (folder / "sitecustomize.py").write_text(DYING_OVER_A_NAME)
    paths = os.pathsep.join([str(folder), str(ROOT)])
    server = start("serve", "--port", "0", "--workers", str(workers), PYTHONPATH=paths)
    server.wait_for_output("a process ended while it was reading")
    server.wait_until("/admin/library", lambda page: page.count(b"Segmentation fault") == 3)
    (folder / "videos" / "the next deadly.mp4").write_bytes(b"nor this")
    server.wait_until("/admin/library", lambda page: page.count(b"Segmentation fault") == 4)
    assert b"2 videos" in server.request("/")[2]
    assert server.output.count("a process ended while it was reading") == 1
    assert server.stop() == 0


def test_paused_players_do_not_keep_the_pages_from_being_answered(start, folder):
    film = folder / "videos" / "blue.webm"
    with film.open("ab") as file:
        file.truncate(film.stat().st_size + 64 * 1024 * 1024)
    server = start("serve", "--port", "0", "--threads", "2")
    server.wait_until("/", lambda page: b"2 videos" in page)
    players = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(6)]
    try:
        for player in players:
            player.sendall(b"GET /video/blue.webm HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert player.recv(12) == b"HTTP/1.1 200"
        for _ in range(20):
            assert server.request("/ping")[0] == 200
    finally:
        for player in players:
            player.close()


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("--host", "everywhere"), 2, "local-video-server: --host must be an IP address of this machine"),
        (("--videos", "none"), 2, "local-video-server: --videos must be a folder that exists, got 'none'"),
        (("--threads", "many"), 2, "local-video-server: --threads must be a whole number from 1 to 256, got 'many'"),
    ],
)
def test_what_cannot_be_served_is_one_line(start, arguments, code, line):
    server = start("serve", *arguments)
    assert server.process.wait(30) == code
    server.stop()
    assert server.output.startswith(line)
    assert server.output.count("\n") == 1


def test_a_taken_port_is_one_line_and_1(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = start("serve", "--port", str(port))
        assert server.process.wait(30) == 1
    server.stop()
    assert server.output.startswith(f"local-video-server: can't listen on 127.0.0.1 port {port}: ")
    assert server.output.count("\n") == 1


def test_of_two_servers_that_start_at_once_on_a_port_one_says_why_it_does_not(start):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    servers = [start("serve", "--port", port) for _ in range(2)]
    deadline = time.monotonic() + 30
    while all(server.process.poll() is None for server in servers):
        assert time.monotonic() < deadline, [server.output for server in servers]
        time.sleep(0.05)
    ended, running = sorted(servers, key=lambda server: server.process.poll() is None)
    assert ended.stop() == 1
    assert ended.output.startswith("local-video-server: ")
    assert f"port {port}" in ended.output
    assert ended.output.count("\n") == 1
    assert running.request("/ping")[0] == 200


def test_a_server_for_the_network_prints_the_address_with_the_token_once_and_asks_for_it(start):
    server = start("serve", "--port", "0", "--host", "0.0.0.0")
    server.wait_for_output("?token=")
    address = next(line for line in server.output.splitlines() if "?token=" in line).split()[-1]
    parts = urlsplit(address)
    assert parts.port == server.port
    token = parse_qs(parts.query)["token"][0]
    assert server.output.count(token) == 1
    assert server.request("/admin/performance/json")[0] == 401
    assert server.request("/ping")[0] == 200
    assert server.request("/admin/performance/json", headers={"Authorization": f"Bearer {token}"})[0] == 200
    server.stop()
    assert server.output.count(token) == 1
    again = start("serve", "--port", "0", "--host", "0.0.0.0")
    again.wait_for_output(token)
