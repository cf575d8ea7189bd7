"""Several processes that serve one app: whichever is asked shows what all have measured."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

SERVER = """
import os, sqlite3, sys, time
from flask import Flask, g
from werkzeug.serving import make_server
from telemetry import get_metrics, instrument

app = Flask("shop")

@app.get("/items/<int:number>")
def items(number):
    with sqlite3.connect(":memory:") as connection:
        for each in range(number):
            connection.execute("SELECT ?", (each,)).fetchall()
    connection.close()
    get_metrics().record_cache_hit()
    return "items"

@app.get("/slow")
def slow():
    time.sleep(0.05)
    get_metrics().record_cache_miss()
    return "slow"

@app.get("/fails")
def fails():
    raise ValueError

@app.before_request
def open_database():
    g.database = sqlite3.connect(":memory:")

@app.teardown_request
def close_database(_):
    g.database.close()

@app.url_value_preprocessor
def pull_language(endpoint, values):
    g.language = "en"

@app.url_defaults
def add_language(endpoint, values):
    assert g.language == "en"  # which a request outside of the app's routing would not have

if os.environ.get("SERVER_SOFTWARE"):
    sys.modules["gunicorn.arbiter"] = sys
instrument(app, authorize=lambda: True)
if os.environ.get("FORKS"):
    time.sleep(2)
    for _ in range(5):
        app.test_client().get("/items/2")
servers = [make_server("127.0.0.1", 0, app, threaded=True) for _ in range(1 + int(os.environ.get("FORKS", 0)))]
print(*(each.port for each in servers), flush=True)
for each in servers[1:]:
    if not os.fork():
        each.serve_forever()
servers[0].serve_forever()
"""


@dataclass
class Worker:
    process: subprocess.Popen[str]
    port: int
    children: list[Worker] = field(default_factory=list)
    """Those that were forked from it."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def json(self, path: str) -> Any:
        status, text = self.get(path)
        assert status == 200, text
        return json.loads(text)


@contextmanager
def _worker(folder: str, **variables: str) -> Iterator[Worker]:
    environment = {**os.environ, **({"LVS_TELEMETRY_WORKERS_DIR": folder} if folder else {}), **variables}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port, *of_children = map(int, process.stdout.readline().split())
        yield Worker(process, port, [Worker(process, each) for each in of_children])
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children():
                child.kill()
        process.kill()
        process.communicate()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:  # whose path is short, which `tmp_path` is not
        yield Path(made) / "meet"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Worker]]:
    with ExitStack() as stack:
        yield lambda **variables: stack.enter_context(_worker(str(folder), **variables))


@pytest.fixture
def workers(start: Callable[..., Worker]) -> list[Worker]:
    return [start() for _ in range(3)]


def _counts(snapshot: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {route: (each["request_count"], each["error_count"]) for route, each in snapshot["endpoints"].items()}


def test_each_shows_the_figures_of_all(workers: list[Worker]) -> None:
    chosen = random.Random(7)
    for number in range(60):
        chosen.choice(workers).get(f"/items/{number % 3}")
    for worker in workers:
        for path in ("/fails", "/slow", "/unknown"):
            worker.get(path)
    for worker in workers:
        snapshot = worker.json("/admin/performance/json")
        assert _counts(snapshot) == {"GET /items/<number>": (60, 0), "GET /slow": (3, 0), "GET /fails": (3, 3)}
        assert snapshot["database"] == {
            "total_queries": 60,
            "avg_per_request": 0.909,
            "max_per_request": 2,
            "count": 66,
        }
        assert snapshot["cache"] == {"hits": 60, "misses": 3, "hit_rate_percent": 95.238}
        assert set(snapshot) == {
            "cache_hit_rate", "uptime_seconds", "database", "ratings_post", "endpoints", "cache", "resources",
        }  # fmt: skip
        routes = worker.json("/api/admin/performance/routes?sort_by=request_count")["routes"]
        assert [each["route"] for each in routes] == ["GET /items/<number>", "GET /fails", "GET /slow"]
        assert {each["pid"] for each in worker.json("/api/admin/performance/workers")["workers"]} == {
            each.pid for each in workers
        }
        fan_out = {each["route"]: each for each in worker.json("/api/admin/performance/fanout")["routes"]}
        assert (fan_out["GET /items/<number>"]["requests"], fan_out["GET /items/<number>"]["queries_max"]) == (60, 2)
        report = worker.json("/api/admin/performance/report")
        assert report["queries"]["GET /items/<number>"]["avg"] == 1.0
        timeline = worker.json("/api/admin/performance/timeline")
        assert len(timeline["time"]) == 66
        assert set(timeline["slices"]["worker"]) == {each.pid for each in workers}
        assert sum(timeline["slices"]["count"]) == 66


def test_a_window_holds_the_last_requests_of_all_whoever_answered_them(start: Callable[..., Worker]) -> None:
    one, other = (start(LVS_TELEMETRY_WINDOW="10") for _ in range(2))
    for number in range(10):
        one.get(f"/items/{number}")
    for _ in range(4):
        other.get("/items/20")
    for worker in (one, other):
        snapshot = worker.json("/admin/performance/json")
        assert _counts(snapshot) == {"GET /items/<number>": (10, 0)}
        assert snapshot["database"] == {
            "total_queries": 4 + 5 + 6 + 7 + 8 + 9 + 4 * 20,
            "avg_per_request": 11.9,
            "max_per_request": 20,
            "count": 10,
        }


def test_a_request_is_shown_whichever_worker_is_asked_for_it(workers: list[Worker]) -> None:
    for number, worker in enumerate(workers):
        worker.get(f"/items/{6 + number}")
    listed = workers[0].json("/api/admin/performance/requests")
    assert (listed["kept"], [each["query_count"] for each in listed["requests"]]) == (3, [8, 7, 6])
    assert {each["verdict"] for each in listed["requests"]} == {"n_plus_one"}
    for worker in workers:
        assert worker.json("/api/admin/performance/requests") == listed
        for brief in listed["requests"]:
            request_id = f"{brief['trace_id']}-{brief['span_id']}"
            whole = worker.json(f"/api/admin/performance/requests/{request_id}")
            assert {key: whole[key] for key in brief} == brief
            assert (len(whole["queries"]), whole["groups"][0]["runs"]) == (brief["query_count"], brief["query_count"])
            spans = worker.json(f"/api/admin/performance/requests/{request_id}/otlp")["resourceSpans"]
            assert len(spans[0]["scopeSpans"][0]["spans"]) == 1 + brief["query_count"]
            plan = worker.json(f"/api/admin/performance/requests/{request_id}/plan")
            assert plan["error"].startswith("no database file is known")
            assert worker.json(f"/api/admin/performance/requests/{request_id}/plan?group=0") == plan
            assert worker.get(f"/api/admin/performance/requests/{request_id}/plan?group=7")[0] == 404
            again = worker.json(f"/api/admin/performance/requests/{request_id}/otlp?x=1")["resourceSpans"]
            assert len(again[0]["scopeSpans"][0]["spans"]) == 1 + brief["query_count"]
            for path, text in (
                ("", "SELECT ?"),
                ("?plan=0&sort=queries", "no database file is known"),
                ("/page", "SELECT ?"),
                ("/test", "assert_max_queries("),
            ):
                status, page = worker.get(f"/admin/performance/requests/{request_id}{path}")
                assert (status, text in page) == (200, True)
        status, page = worker.get("/admin/performance")
        assert status == 200
        assert all(f'id="worker-{each.pid}"' in page for each in workers)
        status, page = worker.get("/admin/performance/report")
        assert (status, "8 of 8 queries alike" in page) == (200, True)
        status, _ = worker.get(f"/api/admin/performance/requests/{'0' * 32}")
        assert status == 404


def test_the_spans_of_a_trace_are_those_of_all_workers(workers: list[Worker]) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    for worker in workers:
        request = subprocess.run(
            [sys.executable, "-c", ASK, str(worker.port), f"00-{trace_id}-b7ad6b7169203331-01"], check=False
        )
        assert request.returncode == 0
    for worker in workers:
        body = worker.json(f"/api/admin/performance/requests/{trace_id}/otlp")
        spans = [span for each in body["resourceSpans"] for scope in each["scopeSpans"] for span in scope["spans"]]
        assert len(spans) == 3 * 3
        assert {span["traceId"] for span in spans} == {trace_id}


ASK = """
import sys
from urllib.request import Request, urlopen
urlopen(Request(f"http://127.0.0.1:{sys.argv[1]}/items/2", headers={"traceparent": sys.argv[2]})).read()
"""


def test_prometheus_gets_the_series_of_all_each_with_its_worker(start: Callable[..., Worker]) -> None:
    workers = [start(LVS_TELEMETRY_EXPORTERS='["prometheus"]') for _ in range(2)]
    for number, worker in enumerate(workers):
        for _ in range(3 + number):
            worker.get("/items/1")
    for worker in workers:
        status, page = worker.get("/metrics")
        assert status == 200
        counted = {
            sample.labels["worker"]: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "http_server_request_duration_seconds_count"
        }
        assert counted == {str(workers[0].pid): 3, str(workers[1].pid): 4}
        (exporter,) = worker.json("/api/admin/performance/exporters")["exporters"]
        assert (exporter["name"], exporter["sent"] > 0) == ("prometheus", True)


def test_what_was_measured_before_a_fork_counts_once(folder: Path) -> None:
    with _worker(str(folder), FORKS="2") as server:
        children = server.children
        for worker in children:
            for _ in range(3):
                worker.get("/items/1")
        for worker in children:
            snapshot = worker.json("/admin/performance/json")
            assert _counts(snapshot) == {"GET /items/<number>": (5 + 6, 0)}  # the master has served some as well
            assert (snapshot["cache"]["hits"], snapshot["database"]["count"]) == (11, 11)
            assert snapshot["database"]["total_queries"] == 5 * 2 + 6
            assert worker.json("/api/admin/performance/requests")["kept"] == 11
            master, *forked = worker.json("/api/admin/performance/workers")["workers"]
            assert master["pid"] == server.pid
            # When a process was created is told to a second on some systems.
            assert all(each["uptime_seconds"] < master["uptime_seconds"] - 0.5 for each in forked)


def test_a_worker_that_is_killed_takes_its_figures_with_it_and_is_not_waited_for(workers: list[Worker]) -> None:
    for worker in workers:
        worker.get("/items/1")
    workers[0].process.kill()
    workers[0].process.wait()
    started = time.monotonic()
    assert _counts(workers[1].json("/admin/performance/json")) == {"GET /items/<number>": (2, 0)}
    assert time.monotonic() - started < 2
    told = workers[2].json("/api/admin/performance/workers")["workers"]
    assert [(each["pid"], each["answers"]) for each in told] == [
        (pid, True) for pid in sorted((workers[1].pid, workers[2].pid))
    ]


def test_a_worker_that_stands_still_is_named_and_the_figures_of_the_others_shown(workers: list[Worker]) -> None:
    for worker in workers:
        worker.get("/items/6")
    stopped, *others = workers
    *_, its_own = stopped.json("/api/admin/performance/requests")["requests"]  # which was the first
    request_id = f"{its_own['trace_id']}-{its_own['span_id']}"
    os.kill(stopped.pid, signal.SIGSTOP)
    os.waitpid(stopped.pid, os.WUNTRACED)
    try:
        for worker in others:
            assert _counts(worker.json("/admin/performance/json")) == {"GET /items/<number>": (2, 0)}
        told = {each["pid"]: each["answers"] for each in others[0].json("/api/admin/performance/workers")["workers"]}
        assert told == {stopped.pid: False, others[0].pid: True, others[1].pid: True}
        assert others[0].json("/api/admin/performance/report")["silent_workers"] == [stopped.pid]
        _, page = others[0].get("/admin/performance")
        assert f"{stopped.pid} did not answer" in page
        status, page = others[0].get(f"/admin/performance/requests/{request_id}")
        assert (status, "A worker of the server does not answer" in page) == (503, True)
        assert others[0].get(f"/api/admin/performance/requests/{request_id}")[0] == 503
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    deadline = time.monotonic() + 10
    while _counts(others[0].json("/admin/performance/json")) != {"GET /items/<number>": (3, 0)}:
        assert time.monotonic() < deadline


def _end(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGINT)
    worker.process.wait(10)


@pytest.fixture
def start_under_gunicorn() -> Iterator[Callable[..., Worker]]:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        environment = {"SERVER_SOFTWARE": "gunicorn/23.0.0", "TMPDIR": temporary}
        yield lambda: stack.enter_context(_worker("", **environment))


def test_workers_that_end_hand_over_their_figures(start_under_gunicorn: Callable[..., Worker]) -> None:
    first = start_under_gunicorn()
    for number in range(10):
        first.get(f"/items/{number}")
    first.get("/fails")
    _end(first)
    second, third = start_under_gunicorn(), start_under_gunicorn()
    second.get("/items/20")
    _end(second)
    third.get("/slow")
    fourth = start_under_gunicorn()
    fourth.get("/slow")
    for worker in (third, fourth):
        snapshot = worker.json("/admin/performance/json")
        assert _counts(snapshot) == {"GET /items/<number>": (11, 0), "GET /fails": (1, 1), "GET /slow": (2, 0)}
        assert snapshot["database"] == {
            "total_queries": 65,
            "avg_per_request": 4.643,
            "max_per_request": 20,
            "count": 14,
        }
        assert (snapshot["cache"]["hits"], snapshot["cache"]["misses"]) == (11, 2)
        assert {each["pid"] for each in worker.json("/api/admin/performance/workers")["workers"]} == {
            third.pid, fourth.pid,
        }  # fmt: skip
        fan_out = {each["route"]: each for each in worker.json("/api/admin/performance/fanout")["routes"]}
        assert (fan_out["GET /items/<number>"]["requests"], fan_out["GET /items/<number>"]["queries_max"]) == (11, 20)
        timeline = worker.json("/api/admin/performance/timeline")
        assert (len(timeline["time"]), sum(timeline["slices"]["count"])) == (14, 14)
        assert set(timeline["slices"]["worker"]) == {each.pid for each in (first, second, third, fourth)}
        assert worker.get("/admin/performance")[0] == 200


def test_a_worker_that_is_killed_hands_nothing_over_and_spoils_nothing(
    start_under_gunicorn: Callable[..., Worker],
) -> None:
    ended, killed, living = (start_under_gunicorn() for _ in range(3))
    for worker in (ended, killed, living):
        worker.get("/items/1")
    _end(ended)
    killed.process.kill()
    killed.process.wait()
    assert _counts(living.json("/admin/performance/json")) == {"GET /items/<number>": (2, 0)}


def test_a_worker_that_ends_leaves_nothing_behind(start: Callable[..., Worker], folder: Path) -> None:
    one, other = start(), start()
    assert not folder.exists()  # before the first request
    for worker in (one, other):
        worker.get("/items/1")
    assert len(list(folder.glob("*.sock"))) == 2
    _end(one)
    assert len(list(folder.glob("*.sock"))) == 1
    _end(other)
    assert not folder.exists()
