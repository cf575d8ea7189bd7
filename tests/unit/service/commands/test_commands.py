"""`report`, `loadtest` and `doctor`, run in this process against real servers."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from contextlib import ExitStack

import pytest
from click.testing import CliRunner
from opentelemetry.sdk.trace import TracerProvider
from werkzeug.serving import make_server

from config import Settings
from service import cli, create_app
from service.commands import output
from telemetry import PerformanceMetrics, TelemetrySettings, instrument, uninstrument
from tests.serving import serving

ANSI = re.compile(r"\x1b\[")


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("LVS_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **options: CliRunner().invoke(cli.main, [str(part) for part in arguments], **options)


@pytest.fixture
def serve():
    """Serves WSGI apps on sockets and returns their addresses."""
    running = ExitStack()

    def start(app):
        server = make_server("127.0.0.1", 0, app, threaded=True)
        server.RequestHandlerClass.protocol_version = "HTTP/1.1"  # HTTP/1.0 is what proxies speak, and gets no figures
        server.RequestHandlerClass.log_request = lambda *_: None
        running.enter_context(serving(server))
        return f"http://127.0.0.1:{server.server_port}"

    with running:
        yield start


@pytest.fixture
def library(tmp_path, serve):
    """A video server, its app and address."""
    (tmp_path / "videos").mkdir()
    metrics = PerformanceMetrics(TelemetrySettings())
    app = create_app(
        Settings(videos=tmp_path / "videos", data=tmp_path / "var" / "data"),
        metrics=metrics,
        tracer_provider=TracerProvider(shutdown_on_exit=False),
        background=False,
    )
    yield app, metrics, serve(app)
    app.extensions["local_video_server"].close()


def nobody():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# -- report -------------------------------------------------------------------------------------------------------------


def test_the_report_on_a_running_server(run, library):
    _, metrics, url = library
    for _ in range(30):
        metrics.record_endpoint_latency("GET /watch/<filename>", 0.310)
    metrics.record_endpoint_latency("POST /rate", 0.001, is_error=True)
    result = run("report", "--url", url)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.startswith(f"Performance of {url}, ")
    text = " ".join(result.stdout.split())
    assert "GET /watch/<filename>: poor. Its p95 is 310 ms" in text
    assert "POST /rate: poor. 1 error in 1 request (100 %)." in text
    assert "tags: 0 of 4,096 entries (0 % full)." in text
    assert not ANSI.search(result.stdout)


@pytest.mark.parametrize("columns", [40, 80])
def test_the_report_fits_the_terminal_and_needs_no_colours(columns, run, library, monkeypatch):
    _, metrics, url = library
    metrics.record_endpoint_latency("GET /watch/<filename>", 0.310)
    monkeypatch.setenv("COLUMNS", str(columns))
    colourless = run("report", "--url", url, color=True, env={"NO_COLOR": "1"})
    assert not ANSI.search(colourless.stdout)
    assert max(map(len, colourless.stdout.splitlines())) <= columns
    coloured = run("report", "--url", url, color=True)
    assert ANSI.search(coloured.stdout)
    assert "■ GET /watch/<filename>" in colourless.stdout


def test_the_report_for_machines(run, library):
    _, metrics, url = library
    metrics.record_endpoint_latency("GET /x", 0.5)
    body = json.loads(run("report", "--url", url, "--json").stdout)
    assert body["url"] == url
    assert body["findings"]["slow"][0]["subject"] == "GET /x"
    assert body["facts"]["snapshot"]["endpoints"]["GET /x"]["request_count"] == 1
    assert set(body["facts"]["caches"]) == {"library", "ratings", "tags"}


def test_without_a_url_it_is_the_server_of_the_settings(run, library):
    url = library[2]
    result = run("report", env={"LVS_PORT": url.rpartition(":")[2]})
    assert result.stdout.startswith(f"Performance of {url}, ")


def test_the_address_of_the_start_line_will_do(run, library):
    url = library[2]
    for path in ("/", "/admin/performance", "/admin/performance?token=" + "x" * 43):
        assert run("report", "--url", url + path).stdout.startswith(f"Performance of {url}, ")


def test_off_loopback_it_finds_the_token_in_the_data_folder(run, tmp_path, serve):
    (tmp_path / "videos").mkdir()
    app = create_app(
        Settings(host="0.0.0.0", videos=tmp_path / "videos", data=tmp_path / "var" / "data"),
        metrics=PerformanceMetrics(),
        tracer_provider=TracerProvider(shutdown_on_exit=False),
        background=False,
    )
    url = serve(app)
    environment = {"LVS_HOST": "0.0.0.0", "LVS_PORT": url.rpartition(":")[2]}
    assert run("report", env=environment).stdout.startswith(f"Performance of {url}, ")
    refused = run("report", "--url", url)
    assert (refused.exit_code, refused.stdout) == (1, "")
    told = "give --url the address with ?token=… that it printed at its start"
    said = f"local-video-server: {url} does not show its figures here (status 401): "
    assert refused.stderr == f"{said}it wants its admin token, {told}\n"
    wrong = run("report", "--url", f"{url}/?token=wrong")
    assert wrong.stderr == f"{said}the token is not its admin token, {told}\n"
    assert "it wants its admin token, give --url" in run("requests", "--url", url).stderr
    (tmp_path / "var" / "data" / "admin-token").unlink()
    assert run("report", env=environment).exit_code == 1
    app.extensions["local_video_server"].close()


def test_an_app_that_only_has_the_endpoints_of_the_spec_is_read_as_well(run, serve):
    from flask import Flask

    metrics = PerformanceMetrics()
    metrics.record_endpoint_latency("GET /old", 0.5)
    app = Flask("old")
    app.add_url_rule("/admin/performance/json", view_func=metrics.snapshot)
    assert "GET /old: poor." in run("report", "--url", serve(app)).stdout


def test_an_instrumented_app_that_is_no_video_server_is_read_as_well(run, serve):
    from flask import Flask, request

    metrics = PerformanceMetrics()
    app = instrument(Flask("foreign"), metrics=metrics, tracer_provider=TracerProvider(shutdown_on_exit=False))
    asked = []
    app.before_request(lambda: asked.append(request.path))
    result = run("report", "--url", serve(app))
    uninstrument(app)
    assert "No cache lookup yet" in result.stdout
    assert asked == ["/api/admin/performance/report"], "anything else would be a request of the app, in its figures"


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        ("no", 404, "has no performance figures (status 404): is it the server that was meant?"),
        ("no", 500, "does not answer with its figures (status 500)"),
        ("no", 200, "does not answer with its figures (status 200)"),
        ("{}", 200, "is not the figures of a server that this program knows"),
        ('{"snapshot": NaN}', 200, "does not answer with its figures (status 200)"),
        ('{"snapshot": {"endpoints": {"GET /": 7}}}', 200, "is not the figures of a server that this program knows"),
    ],
)
def test_an_answer_that_is_no_figures_is_one_line(body, status, complaint, run, serve):
    from flask import Flask

    app = Flask("other")
    app.add_url_rule("/<path:path>", view_func=lambda path: (body, status))
    result = run("report", "--url", serve(app))
    assert result.exit_code == 1
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_dead_server_is_one_line(run):
    url = nobody()
    result = run("report", "--url", url)
    assert result.exit_code == 1
    assert result.stderr == (
        f"local-video-server: no server answers at {url}: connection refused; 'local-video-server serve' starts one, "
        "--url asks another\n"
    )


def test_what_speaks_no_http_is_one_line(run):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def greet():
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        result = run("report", "--url", f"http://127.0.0.1:{other.getsockname()[1]}")
        thread.join()
    assert result.exit_code == 1
    assert "is no web server" in result.stderr


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "ftp://localhost", "http://localhost:x", "http://localhost:0", "http://größe", "http://a\nb"],
)
def test_a_url_that_is_none_is_one_line_and_2(url, run):
    result = run("report", "--url", url)
    assert result.exit_code == 2
    assert result.stderr == (
        f"local-video-server: --url must be the address of a server, such as http://127.0.0.1:5000, got {url!r}\n"
    )


# -- loadtest -----------------------------------------------------------------------------------------------------------


def test_a_load_test_of_a_running_server(run, library):
    _, metrics, url = library
    result = run("loadtest", url + "/", "--requests", 40, "--concurrency", 4)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"40 requests to {url}/, 4 at a time, in ")
    for line in (
        "  p50 ",
        "  p95 ",
        "  p99 ",
        "  fastest ",
        "  slowest ",
        "  answers  40 × 200",
        "  errors   0 of 40 (0 %)",
    ):
        assert line in result.stdout
    assert metrics.snapshot()["endpoints"]["GET /"]["request_count"] == 40


def test_errors_make_the_exit_code_1(run, library):
    result = run("loadtest", library[2] + "/nowhere", "--requests", 10)
    assert result.exit_code == 1
    assert "  answers  10 × 404" in result.stdout
    assert "  errors   10 of 10 (100 %)" in result.stdout


def test_a_load_test_for_machines(run, library):
    body = json.loads(run("loadtest", library[2] + "/", "--requests", 5, "--json").stdout)
    assert (body["made"], body["errors"], body["statuses"], body["stopped"]) == (5, 0, {"200": 5}, None)
    assert 0 < body["min_ms"] <= body["p50_ms"] <= body["p95_ms"] <= body["p99_ms"] <= body["max_ms"]


def test_requests_that_fail_are_named(run):
    with socket.socket() as rude:
        rude.bind(("127.0.0.1", 0))
        rude.listen()
        rude.settimeout(5)

        def hang_up():
            for _ in range(4):  # the first is the one that asks whether anybody is there
                rude.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"http://127.0.0.1:{rude.getsockname()[1]}"
        result = run("loadtest", url, "--requests", 3, "--concurrency", 1)
        thread.join()
    assert result.exit_code == 1
    assert "  failed   " in result.stdout
    assert "  errors   3 of 3 (100 %)" in result.stdout
    assert "p50" not in result.stdout


def test_a_load_test_of_a_dead_server_is_one_line(run):
    url = nobody()
    result = run("loadtest", url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"local-video-server: no server answers at {url}: connection refused\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "URL must be an address such as http://127.0.0.1:5000/, got ''"),
        (("http://127.0.0.1", "--requests", "many"), "--requests must be a whole number from 1 to 1000000, got 'many'"),
        (("http://127.0.0.1", "--requests", "0"), "--requests must be a whole number from 1 to 1000000, got 0"),
        (("http://127.0.0.1", "--concurrency", "-1"), "--concurrency must be a whole number from 1 to 256, got '-1'"),
        (("http://127.0.0.1", "--timeout", "x"), "--timeout must be a number of seconds over 0 to 3600, got 'x'"),
        (
            ("http://192.0.2.1/",),
            "URL must be of this machine unless remote hosts are allowed, got '192.0.2.1'; --allow-remote allows them",
        ),
    ],
)
def test_a_wrong_parameter_of_a_load_test_is_one_line_and_2(arguments, line, run):
    result = run("loadtest", *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"local-video-server: {line}\n")


# -- doctor -------------------------------------------------------------------------------------------------------------


def test_where_nothing_is_wrong_the_doctor_says_what_is_set_up(run, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x")
    result = run("doctor", "--port", 0)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("\nNothing is wrong.\n")
    subjects = re.findall(r"^● ([a-z ]+):", result.stdout, re.MULTILINE)
    assert subjects == [
        *("videos folder", "data folder", "database", "port"),
        *("telemetry", "exporter", "double counting", "clock"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_what_is_wrong_comes_with_how_to_mend_it(run, tmp_path):
    result = run("doctor", "--port", 0, env={"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": nobody()})
    assert result.exit_code == 1
    text = " ".join(result.stdout.split())
    assert "■ videos folder: 'videos' does not exist. → Make it, or name another folder with --videos" in text
    assert "does not answer: connection refused. → Start the collector" in text
    assert text.endswith("2 things are wrong.")
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if str(tmp_path) not in line)


def test_the_doctor_for_machines(run):
    result = run("doctor", "--port", 0, "--json")
    body = json.loads(result.stdout)
    assert (result.exit_code, body["problems"]) == (1, 1)
    assert body["findings"][0]["level"] == "problem"
    assert body["findings"][0]["subject"] == "videos folder"


def test_a_wrong_setting_is_one_line_and_2_here_too(run):
    result = run("doctor", "--port", "many")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "local-video-server: --port must be a whole number from 0 to 65535, got 'many'\n"


# -- output -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_what_an_encoding_lacks_is_written_with_what_it_has(encoding):
    assert output.encodable("■ poor → 2 × ▲ ● x…", encoding).encode(encoding)
    assert output.encodable("■ GET /日本", encoding) == "X GET /??"
    assert output.encodable("■ GET /日本", "utf-8") == "■ GET /日本"
