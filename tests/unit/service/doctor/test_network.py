"""What the doctor says of the port and of the exporter's endpoint, on real sockets."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from service.doctor import network
from service.doctor.network import check_exporter, check_port
from tests.serving import serving

CERTIFICATES = Path(__file__).parents[3] / "integration" / "telemetry" / "certificates"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, self.server.ping)

    def do_POST(self):
        self.server.seen.append((self.path, self.headers["Authorization"], self.headers["Content-Length"]))
        self.answer(self.server.status, b"")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", self.server.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def answering(status=200, ping=b"{}", kind="application/x-protobuf"):
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.status, server.ping, server.kind, server.seen = status, ping, kind, []
    with serving(server):
        yield server


@contextmanager
def listening(answer=None):
    """A socket that somebody listens on; it greets whoever comes with `answer`."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        thread = threading.Thread(target=greet, args=(taken, answer))
        thread.start()
        try:
            yield taken.getsockname()[1]
        finally:
            taken.shutdown(socket.SHUT_RDWR)
            thread.join()


def greet(taken, answer):
    while True:
        try:
            connection, _ = taken.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(1)
            if answer:
                connection.recv(1000)
                connection.sendall(answer)


def only(findings):
    (finding,) = findings
    return finding


# -- port ---------------------------------------------------------------------------------------------------------------


def test_a_free_port_is_free():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert only(check_port("127.0.0.1", port)).text == f"on 127.0.0.1, port {port} is free."
    assert only(check_port("127.0.0.1", 0)).text.startswith("on 127.0.0.1, a free port is taken, such as ")


def test_a_port_of_another_program_is_taken():
    with listening() as port:
        found = only(check_port("127.0.0.1", port))
    assert found.level == "problem"
    assert found.text == f"127.0.0.1 port {port} can't be listened on: it is taken by another program."
    assert "--port" in found.remedy


@pytest.mark.parametrize("ping", [b"pong", b"[]", b'{"status": "closed"}'])
def test_another_web_server_is_another_program(ping):
    with answering(ping=ping) as server:
        assert only(check_port("127.0.0.1", server.server_address[1])).level == "problem"


def test_a_video_server_that_runs_is_no_problem():
    with answering(ping=json.dumps({"status": "ok"}).encode()) as server:
        port = server.server_address[1]
        found = only(check_port("127.0.0.1", port))
        assert (found.level, found.text) == ("note", f"a video server is running at http://127.0.0.1:{port} already.")


def test_an_address_of_another_machine_can_not_be_listened_on():
    found = only(check_port("192.0.2.1", 5000))
    assert found.level == "problem"
    assert found.text.startswith("192.0.2.1 port 5000 can't be listened on: ")
    assert "taken by another program" not in found.text


def test_a_port_that_only_root_may_take(monkeypatch):
    real = socket.socket.bind

    def refuse(self, address):
        if address[1] == 80:
            raise PermissionError(13, "Permission denied")
        return real(self, address)

    monkeypatch.setattr("service.server.socket.socket", type("Refusing", (socket.socket,), {"bind": refuse}))
    found = only(check_port("127.0.0.1", 80))
    assert found.text == "127.0.0.1 port 80 can't be listened on: permission denied."
    assert "from 1024 on" in found.remedy


# -- exporter -----------------------------------------------------------------------------------------------------------


def test_without_an_endpoint_nothing_leaves_the_machine():
    found = only(check_exporter({}))
    assert (found.level, found.text) == (
        "ok",
        "OTEL_EXPORTER_OTLP_ENDPOINT is not set here: a server started like this sends nothing.",
    )


def test_an_exporter_whose_name_begins_like_another_is_not_that_one():
    assert list(check_exporter({"OTEL_TRACES_EXPORTER": "otlp_json_file"})) == list(
        check_exporter({"OTEL_TRACES_EXPORTER": "jsonfile"})
    )


@pytest.mark.parametrize(
    "variable", ["OTEL_TRACES_EXPORTER=jaeger", "OTEL_METRICS_EXPORTER=otlp", 'LVS_TELEMETRY_EXPORTERS=["otlp"]']
)
def test_an_exporter_that_is_named_without_an_address_is_looked_for_at_the_usual_one(variable, monkeypatch):
    with answering() as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        monkeypatch.setattr("service.doctor.network._DEFAULT_ADDRESS", url)
        found = only(check_exporter(dict([variable.split("=", 1)])))
    assert (found.level, found.text) == ("ok", f"{url} takes what is sent.")


def test_where_opentelemetry_is_switched_off_that_is_told_first():
    found = only(check_exporter({"OTEL_SDK_DISABLED": "true"}))
    assert (found.level, found.text) == ("note", "OTEL_SDK_DISABLED is true: nothing is measured or sent.")


def test_an_endpoint_that_takes_an_export_of_nothing_is_fine():
    with answering() as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url + "/",
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20abc",
        }
        found = list(check_exporter(environment))
    assert [(finding.level, finding.text) for finding in found] == [
        ("ok", f"{url}/v1/traces takes what is sent."),
        ("ok", f"{url}/v1/metrics takes what is sent."),
    ]
    assert server.seen == [("/v1/traces", "Bearer abc", "0"), ("/v1/metrics", "Bearer abc", "0")]


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "text/plain; version=0.0.4"])
def test_what_answers_but_is_no_receiver_is_a_problem(kind):
    with answering(kind=kind) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        found = only(check_exporter({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url}))
    assert (found.level, found.text) == ("problem", f"{url} answers, but is no OTLP receiver: it sends {kind}.")
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in found.remedy


def test_each_signal_has_its_own_headers():
    with answering() as server:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=common",
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "Authorization=own",
        }
        list(check_exporter(environment))
    assert [authorization for _, authorization, _ in server.seen] == ["common", "own"]


def test_an_endpoint_that_no_exporter_sends_to_is_not_asked():
    with answering() as server:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}"}
        assert list(check_exporter(endpoint | {"LVS_TELEMETRY_EXPORTERS": '["console"]'})) == []
        assert only(check_exporter(endpoint | {"OTEL_TRACES_EXPORTER": "none"})).text.endswith(
            "/v1/metrics takes what is sent."
        )
    assert [path for path, _, _ in server.seen] == ["/v1/metrics"]


def test_a_certificate_that_is_set_is_what_a_backend_is_trusted_by():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.status, server.kind, server.seen = 200, "application/x-protobuf", []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATES / "untrusted.pem", CERTIFICATES / "untrusted.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    endpoint = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"https://127.0.0.1:{server.server_address[1]}/v1/traces"}
    with serving(server):
        refused = only(check_exporter(endpoint))
        trusted = only(check_exporter(endpoint | {"OTEL_EXPORTER_OTLP_CERTIFICATE": f"{CERTIFICATES}/untrusted.pem"}))
    assert (refused.level, trusted.level) == ("problem", "ok")


def test_an_endpoint_of_its_own_is_asked_as_it_is():
    with answering() as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/custom"
        assert only(check_exporter({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url})).level == "ok"
    assert server.seen[0][0] == "/custom"


def test_an_endpoint_where_nobody_is_does_not_answer():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://name:secret@127.0.0.1:{probe.getsockname()[1]}"
        found = list(check_exporter({"OTEL_EXPORTER_OTLP_ENDPOINT": url}))
    assert [finding.level for finding in found] == ["problem", "problem"]
    assert found[0].text.endswith("/v1/traces does not answer: connection refused.")
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in found[0].remedy
    assert "requests are served as ever meanwhile, what can't be sent is tried again" in found[0].remedy
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("http://name:secret@127.0.0.1:{port}", "grpc"),
        ("name:secret@127.0.0.1:{port}", "grpc"),
        ("http://name:secret@127.0.0.1:x{port}", "grpc"),
        ("http://name:secret/@127.0.0.1:{port}", "http/protobuf"),
    ],
)
def test_no_password_is_told_of_an_endpoint_that_is_wrong(url, protocol):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = url.format(port=probe.getsockname()[1])
        environment = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        found = only(check_exporter(environment))
    assert found.level == "problem"
    assert "@127.0.0.1" in found.text
    assert "secret" not in str(found)


def test_an_endpoint_that_stays_silent_does_not_answer(monkeypatch):
    monkeypatch.setattr(network, "_TIMEOUT_S", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        found = only(check_exporter({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": url}))
    assert found.text.endswith("does not answer: timed out.")


def test_an_endpoint_of_another_protocol_does_not_speak_http():
    with listening(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00") as port:
        url = f"http://127.0.0.1:{port}/"
        found = only(check_exporter({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url}))
    assert found.level == "problem"
    assert "does not speak HTTP" in found.text
    assert "4318" in found.remedy


@pytest.mark.parametrize(("status", "remedy"), [(401, "HEADERS"), (403, "HEADERS"), (404, "4318"), (500, "4318")])
def test_an_endpoint_that_refuses_is_named_with_its_status(status, remedy):
    with answering(status) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        found = only(check_exporter({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url}))
    assert (found.level, found.text) == ("problem", f"{url} answers with status {status}.")
    assert remedy in found.remedy


@pytest.mark.parametrize("url", ["127.0.0.1:4318", "http://", "http://[", "http://localhost:x"])
def test_an_endpoint_that_is_no_address_is_shown(url):
    found = only(check_exporter({"OTEL_EXPORTER_OTLP_ENDPOINT": url}))
    assert found.level == "problem"
    assert found.text == f"OTEL_EXPORTER_OTLP_ENDPOINT must be an address such as http://127.0.0.1:4318, got {url!r}."


def test_a_switched_off_sdk_is_noted():
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "True"}
    assert only(check_exporter(environment)).level == "note"
