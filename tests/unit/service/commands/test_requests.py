"""`requests` and `request`, run in this process against a real server."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing, suppress

import pytest
from flask import Flask
from opentelemetry.sdk.trace import TracerProvider

from service import client as fetch
from service import openapi
from telemetry import PerformanceMetrics, TelemetrySettings, instrument, uninstrument
from tests.unit.service.commands.test_commands import nobody, run, serve

__all__ = ["run", "serve"]


@pytest.fixture
def shelf(tmp_path, serve):
    """An app with an N+1 that has been asked once, its address, and the trace id of that request."""
    path = tmp_path / "shelf.sqlite3"
    with closing(sqlite3.connect(path)) as made:
        made.executescript("CREATE TABLE tags (video_id, name)")
    app = Flask("shelf")

    @app.get("/tag/<tag>")
    def tagged(tag):
        with closing(sqlite3.connect(path)) as connection:
            for video in range(12):
                connection.execute("SELECT name FROM tags WHERE video_id = ?", (video,)).fetchall()
        return tag

    @app.get("/calm/<int:status>")
    def calm(status):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("SELECT name FROM tags").fetchall()
        return "", status

    metrics = PerformanceMetrics(TelemetrySettings())
    instrument(app, metrics=metrics, tracer_provider=TracerProvider(shutdown_on_exit=False))
    url = serve(app)
    with urllib.request.urlopen(f"{url}/tag/sea") as answer:
        trace_id = answer.headers["traceparent"].split("-")[1]
    yield url, trace_id
    uninstrument(app)


def test_the_requests_of_a_running_server_are_listed_with_their_verdict(run, shelf):
    url, trace_id = shelf
    result = run("requests", "--url", url)
    assert result.exit_code == 0, result.output
    first, second, _ = result.stdout.splitlines()
    assert first.startswith("▲ GET /tag/<tag>  200  ")
    assert second == f"  {trace_id}  12 queries, 12 alike: N+1"


def test_a_request_is_marked_as_the_pages_mark_it_and_tells_no_time_in_a_database_that_it_did_not_ask(run, serve):
    app = Flask("slow")
    app.add_url_rule("/", "index", lambda: "slow")
    settings = TelemetrySettings(good_below_ms=0.001, poor_above_ms=0.002)
    instrument(
        app,
        settings=settings,
        metrics=PerformanceMetrics(settings),
        tracer_provider=TracerProvider(shutdown_on_exit=False),
    )
    url = serve(app)
    with urllib.request.urlopen(url) as answer:
        trace_id = answer.headers["traceparent"].split("-")[1]
    listed = run("requests", "--url", url).stdout
    assert re.match(r"■ GET /  200  \S+ ms\n", listed)
    assert run("request", trace_id, "--url", url).stdout.splitlines()[2] == "no query"
    uninstrument(app)


def test_a_choice_that_nothing_matches_says_so(run, shelf):
    url, _ = shelf
    assert run("requests", "--url", url, "--errors").stdout == "No request matches.\n"
    assert run("requests", "--url", url, "--verdict", "n_plus_one", "--json").exit_code == 0


def test_one_request_is_shown_with_line_statement_and_mend(run, shelf):
    url, trace_id = shelf
    result = run("request", trace_id, "--url", url)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "GET /tag/<tag> 200" in text
    assert "12 queries" in text
    assert "▲ N+1: SELECT tags ran 12 times at" in text
    assert "Mend: a JOIN, or one query with video_id IN (…)." in text
    assert "SELECT name FROM tags WHERE video_id = ?" in text
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_what_an_app_writes_into_its_statements_does_not_steer_the_terminal(run, serve):
    app = Flask("rude")

    @app.get("/rude")
    def rude():
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("SELECT '\x1b]0;title\x07\x1b[2J'\n,  1")
        return ""

    instrument(
        app, metrics=PerformanceMetrics(TelemetrySettings()), tracer_provider=TracerProvider(shutdown_on_exit=False)
    )
    try:
        url = serve(app)
        with urllib.request.urlopen(f"{url}/rude") as answer:
            trace_id = answer.headers["traceparent"].split("-")[1]
        result = run("request", trace_id, "--url", url, color=True)
    finally:
        uninstrument(app)
    assert "SELECT '�]0;title��[2J' , 1" in result.stdout
    assert "\x1b]" not in result.stdout
    assert "\x1b[2J" not in result.stdout


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (200, "● no statement ran 5 times or more from one line"),
        (503, "  no statement ran 5 times or more from one line"),
    ],
)
def test_a_request_without_a_finding_says_what_was_looked_for(status, said, run, shelf):
    url, _ = shelf
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(f"{url}/calm/{status}").close()
    listed = json.loads(run("requests", "--url", url, "--json").stdout)["requests"]
    lines = run("request", listed[0]["trace_id"], "--url", url).stdout.splitlines()
    assert said in lines
    assert lines[2].endswith("■ 503") == (status == 503)


def test_a_request_that_nothing_answered_has_no_status(run, serve):
    app = Flask("open")
    app.config["PROPAGATE_EXCEPTIONS"] = True

    @app.get("/raises")
    def raises():
        raise RuntimeError

    instrument(
        app, metrics=PerformanceMetrics(TelemetrySettings()), tracer_provider=TracerProvider(shutdown_on_exit=False)
    )
    try:
        url = serve(app)
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"{url}/raises").close()
        listed = run("requests", "--url", url).stdout.splitlines()
        shown = run("request", listed[1].split()[0], "--url", url).stdout
    finally:
        uninstrument(app)
    assert listed[0].startswith("■ GET /raises  no status  ")
    assert shown.startswith("GET /raises  no status  ")


def test_one_request_for_machines(run, shelf):
    url, trace_id = shelf
    body = json.loads(run("request", trace_id, "--url", url, "--json").stdout)
    assert (body["trace_id"], body["query_count"], body["verdict"]) == (trace_id, 12, "n_plus_one")
    assert body.keys() == set(openapi.DOCUMENT["components"]["schemas"]["RequestDetail"]["required"])


@pytest.mark.parametrize(
    ("trace_id", "code", "says"),
    [
        (
            "abc",
            2,
            "TRACE_ID must be 32 hexadecimal digits, and may be followed by - and the 16 of a span id, got 'abc'",
        ),
        ("0" * 32, 1, "no request with the id"),
    ],
)
def test_a_request_that_is_not_there_is_one_line(trace_id, code, says, run, shelf):
    result = run("request", trace_id, "--url", shelf[0])
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("requests",), ("request", "0" * 32)])
@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize(
    ("body", "says"),
    [("{}", "of a server that this program knows"), ('{"requests": NaN}', "it does not answer with its requests")],
)
def test_an_answer_that_is_no_requests_is_one_line(command, options, body, says, run, serve):
    app = Flask("other")
    app.add_url_rule("/<path:path>", view_func=lambda path: body)
    result = run(*command, "--url", serve(app), *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def drip(connection):
    """Answer with the head of a large body, of which a byte comes now and then."""
    with connection, suppress(OSError):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            connection.sendall(b" ")
            time.sleep(0.01)


def test_an_answer_that_does_not_end_is_given_up(run, monkeypatch):
    monkeypatch.setattr(fetch, "_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as slow:
        thread = threading.Thread(target=lambda: drip(slow.accept()[0]))
        thread.start()
        result = run("requests", "--url", f"http://127.0.0.1:{slow.getsockname()[1]}")
        thread.join()
    assert result.exit_code == 1
    assert "timed out" in result.stderr


@pytest.mark.parametrize("command", [("requests",), ("request", "0" * 32)])
def test_a_dead_server_is_one_line(command, run):
    result = run(*command, "--url", nobody())
    assert result.exit_code == 1
    assert "no server answers at" in result.stderr
    assert result.stderr.count("\n") == 1
