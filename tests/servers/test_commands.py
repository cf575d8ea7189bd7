"""The commands that look at a server, as processes of their own against one that runs."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers.conftest import PATIENCE_S, ROOT


def look(folder, *arguments, stdout=subprocess.PIPE, **environment):
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("LVS_", "OTEL_"))}
    variables |= {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "PYTHONUTF8": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", "from local_video_server import main; main()", *map(str, arguments)],
        cwd=folder,
        env=variables,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
    )


def test_a_load_test_shows_in_the_report_and_the_report_in_the_json(start, folder):
    server = start("serve", "--port", "0")
    server.wait_until("/", lambda page: b"2 videos" in page)
    url = f"http://127.0.0.1:{server.port}"
    test = look(folder, "loadtest", f"{url}/search?q=red", "--requests", "120", "--concurrency", "6")
    assert test.returncode == 0, test.stderr
    assert "answers  120 × 200" in test.stdout
    assert "Traceback" not in test.stderr
    report = look(folder, "report", "--url", url, "--json")
    assert report.returncode == 0, report.stderr
    snapshot = json.loads(report.stdout)["facts"]["snapshot"]
    assert snapshot["endpoints"]["GET /search"]["request_count"] == 100
    assert snapshot["endpoints"] == json.loads(server.request("/admin/performance/json")[2])["endpoints"]
    failing = look(folder, "loadtest", f"{url}/watch/none.mp4", "--requests", "10")
    assert failing.returncode == 1
    assert "10 of 10 (100 %)" in failing.stdout


def test_a_server_that_is_stopped_in_the_middle_ends_the_load_test(start, folder):
    server = start("serve", "--port", "0")
    server.wait_until("/", lambda page: b"2 videos" in page)
    url = f"http://127.0.0.1:{server.port}/ping"
    test = subprocess.Popen(
        [sys.executable, "-c", "from local_video_server import main; main()", "loadtest", url, "--requests", "1000000"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    server.wait_until("/admin/performance/json", lambda _: True)
    server.stop()
    out, err = test.communicate(timeout=PATIENCE_S)
    assert test.returncode == 1
    assert "the server takes no connections any more" in out or "no server answers" in err
    assert "Traceback" not in out + err


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_gets_a_progress_bar(start, folder):
    import pty

    server = start("serve", "--port", "0")
    server.wait_until("/", lambda page: b"2 videos" in page)
    ours, theirs = pty.openpty()
    command = ["loadtest", f"http://127.0.0.1:{server.port}/", "--requests", "100", "--concurrency", "2"]
    test = subprocess.Popen(
        [sys.executable, "-c", "from local_video_server import main; main()", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "80"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 0.1)[0]:
            if test.poll() is not None:
                break
            continue
        try:
            part = os.read(ours, 65536)
        except OSError:  # its end, on Linux
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert test.wait(PATIENCE_S) == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert " of 100 requests" in plain
    assert "100 %" in plain or re.search(r"\d+ %", plain)
    assert "answers  100 × 200" in plain


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", [("config",), ("doctor", "--json"), ("--help",)])
def test_a_command_whose_output_has_no_room_ends_with_one_line(arguments, folder):
    with Path("/dev/full").open("w") as full:
        ended = look(folder, *arguments, stdout=full)
    assert ended.stderr == "local-video-server: can't write what there is to say: No space left on device\n"
    assert ended.returncode == 1


def test_the_doctor_sees_the_server_that_runs_and_what_is_wrong_beside_it(start, folder):
    server = start("serve", "--port", "0")
    server.wait_until("/", lambda page: b"2 videos" in page)
    fine = look(folder, "doctor", "--port", server.port)
    assert fine.returncode == 0, fine.stdout
    assert f"▲ port: a video server is running at http://127.0.0.1:{server.port} already." in fine.stdout
    assert "is sound, schema" in fine.stdout
    server.stop()
    database = folder / "var" / "data" / "library.sqlite3"
    database.write_bytes(b"rubbish" * 1000)
    for clip in (folder / "videos").iterdir():
        clip.unlink()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        ill = look(folder, "doctor", "--port", port, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert ill.returncode == 1
    text = " ".join(ill.stdout.split())
    for complaint in (
        "'videos' has no video in it.",
        "is corrupt: it is no SQLite database.",
        f"127.0.0.1 port {port} can't be listened on: it is taken by another program.",
        "http://127.0.0.1:9/v1/traces does not answer: connection refused.",
        "5 things are wrong.",
    ):
        assert complaint in text
    assert "Traceback" not in ill.stdout + ill.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="the command is another one there")
def test_the_doctor_under_opentelemetry_instrument_sees_that_all_is_counted_twice(folder):
    program = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("LVS_", "OTEL_"))}
    done = subprocess.run(
        [
            *(sys.executable, "-c", program, "--traces_exporter", "none", "--metrics_exporter", "none", sys.executable),
            *("-c", "from local_video_server import main; main()", "doctor", "--port", "0", "--json"),
        ],
        cwd=folder,
        env={**variables, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["double counting"]["level"] == "problem", done.stderr
    assert "flask and sqlite3" in found["double counting"]["text"]
