"""What `doctor` says of exporters: those that are chosen, and those of a server that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.doctor.exporting import check_chosen, check_running
from tests.serving import serving

WELL: dict[str, Any] = {
    "name": "otlp",
    "signal": "traces",
    "target": "http://127.0.0.1:4318/v1/traces",
    "failing": False,
    "queued": 3,
    "sent": 1200,
    "dropped": 0,
    "last_success": "2026-01-02T03:04:05Z",
    "last_error": None,
}


class Running(ThreadingHTTPServer):
    """A server that tells of these exporters, to whom it likes."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rows = rows
        self.token = ""
        """What it asks for."""
        self.is_ours = True
        self.tokens: list[str | None] = []


class _Handler(BaseHTTPRequestHandler):
    server: Running

    def do_GET(self) -> None:
        given = self.headers["Authorization"]
        self.server.tokens.append(given)
        is_ping = self.path == "/ping"
        answer = {"status": "ok" if self.server.is_ours else "well"} if is_ping else {"exporters": self.server.rows}
        body = json.dumps(answer).encode()
        self.send_response(401 if self.server.token and given != f"Bearer {self.server.token}" and not is_ping else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def running() -> Iterator[Running]:
    with serving(Running()) as server:
        yield server


def test_names_that_are_known_are_told() -> None:
    found = list(check_chosen({"OTEL_TRACES_EXPORTER": "jsonfile,console"}))
    assert [(each.level, each.text) for each in found] == [("ok", "spans go to: jsonfile, console.")]
    assert list(check_chosen({})) == []


def test_a_name_that_is_not_known_is_a_problem() -> None:
    (found,) = check_chosen({"OTEL_TRACES_EXPORTER": "zipkin"})
    assert found.level == "problem"
    assert "got 'zipkin'; it comes with: pip install 'opentelemetry-exporter-zipkin'" in found.text


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, "ok", "1,200 sent, 3 queued, 0 dropped"),
        ({"dropped": 7}, "note", "works, but has lost data: 1,200 sent, 3 queued, 7 dropped"),
        ({"failing": True, "last_error": "Connection refused"}, "problem", "fails: Connection refused"),
        ({"failing": True, "last_success": None}, "problem", "last success never"),
    ],
)
def test_a_running_servers_exporters_are_told(
    running: Running, tmp_path: Path, changes: dict[str, Any], level: str, words: str
) -> None:
    running.rows = (WELL | changes,)
    (tmp_path / "admin-token").write_text("secret\n")
    (found,) = check_running("0.0.0.0", running.server_port, tmp_path)
    assert found.level == level
    assert words in found.text
    assert running.tokens == [None]


@pytest.mark.parametrize(("is_ours", "token"), [(True, "Bearer secret"), (False, None)])
def test_the_admin_token_is_shown_to_a_video_server_that_asks_for_it_alone(
    running: Running, tmp_path: Path, is_ours: bool, token: str | None
) -> None:
    running.rows, running.token, running.is_ours = (WELL,), "secret", is_ours
    (tmp_path / "admin-token").write_text("secret\n")
    assert len(list(check_running("0.0.0.0", running.server_port, tmp_path))) == is_ours
    assert running.tokens[-1] == token


def test_where_none_runs_nothing_is_said(running: Running, tmp_path: Path) -> None:
    running.rows = ()
    assert list(check_running("127.0.0.1", running.server_port, tmp_path)) == []
    assert list(check_running("127.0.0.1", 1, tmp_path)) == []
