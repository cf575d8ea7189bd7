"""The load test, against a real server on a socket."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from telemetry.loadtest import LoadResult, LoadTestError, Plan, UnreachableError, run, status_words
from telemetry.monitor import load_test_simulation
from tests.serving import serving

CERTIFICATES = Path(__file__).parents[2] / "integration" / "telemetry" / "certificates"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[str]
    lock = threading.Lock()

    def do_GET(self) -> None:
        with self.lock:
            self.server.seen.append(self.path)  # type: ignore[attr-defined]
            number = len(self.server.seen)  # type: ignore[attr-defined]
        if self.path == "/drop" and number % 2:
            self.close_connection = True
            return
        if self.path == "/end" and number >= 5:
            self.server.socket.close()
            self.close_connection = True
        status = 500 if self.path == "/fail" and number % 2 else 200
        if self.path == "/moved":
            status = 302
        self.send_response(status)
        body = b"" if self.path in ("/slow", "/drip") else b"answer"
        self.send_header("Content-Length", str(len(body)) if body else "1000")
        if self.path == "/short":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        if self.path == "/slow":
            self.server.ended.wait(5)  # type: ignore[attr-defined]
        given = 0
        with suppress(OSError):
            while self.path == "/drip" and not self.server.ended.wait(0.01):  # type: ignore[attr-defined]
                self.wfile.write(b"x")
                given += 1
        self.server.given_all |= given >= 1000  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def target() -> Iterator[tuple[str, Any]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.given_all = False  # type: ignore[attr-defined]
    server.seen, server.ended = [], threading.Event()  # type: ignore[attr-defined]
    server.daemon_threads = False
    with serving(server):
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", server
        finally:
            server.ended.set()  # type: ignore[attr-defined]


def test_every_request_is_made_and_measured() -> None:
    told: list[int] = []
    with target() as (url, server):
        result = run(Plan(f"{url}/page?q=1", 50, 5), told.append)
    assert server.seen == ["/page?q=1"] * 50
    assert (result.made, result.errors, result.ok) == (50, 0, True)
    assert result.statuses == {200: 50}
    assert len(result.durations_s) == 50
    assert 0 < result.percentile_ms(50) <= result.percentile_ms(95) <= result.percentile_ms(99)
    assert result.requests_per_second == pytest.approx(50 / result.seconds)
    assert told[-1] == 50


def test_an_answer_that_says_error_is_one() -> None:
    with target() as (url, _):
        result = run(Plan(f"{url}/fail", 10, 1))
    assert result.statuses == {200: 5, 500: 5}
    assert (result.errors, result.ok) == (5, False)


@pytest.mark.parametrize("path", ["/moved", "/short"])
def test_redirects_are_answers_and_a_connection_may_be_closed_after_each(path: str) -> None:
    with target() as (url, server):
        result = run(Plan(url + path, 6, 2))
    assert (result.made, result.errors) == (6, 0)
    assert set(server.seen) == {path}


def test_a_dropped_connection_is_a_failure_and_the_next_request_goes_on() -> None:
    with target() as (url, _):
        result = run(Plan(f"{url}/drop", 10, 1))
    assert result.statuses == {200: 5}
    assert result.failures == {"remote end closed connection without response": 5}
    assert result.errors == 5


@pytest.mark.parametrize("path", ["/slow", "/drip"])
def test_an_answer_that_does_not_end_times_out(path: str) -> None:
    with target() as (url, server):
        result = run(Plan(f"{url}{path}", 1, 1, timeout_s=0.2))
        assert not server.given_all
    assert result.failures == {"timed out": 1}
    assert result.requests_per_second == 0


def test_a_server_that_goes_away_ends_the_test() -> None:
    with target() as (url, _):
        result = run(Plan(f"{url}/end", 100_000, 2))
    assert result.stopped == "the server takes no connections any more"
    assert result.made < 200
    assert not result.ok


def test_an_interrupt_ends_it_with_what_there_is() -> None:
    def interrupt(made: int) -> None:
        if made and not interrupted:
            interrupted.append(made)
            raise KeyboardInterrupt

    interrupted: list[int] = []
    with target() as (url, _):
        result = run(Plan(url, 1_000_000, 2, timeout_s=5), interrupt)
    assert result.stopped == "it was interrupted"
    assert 0 < result.made < 1_000_000


def test_what_is_under_way_at_an_interrupt_is_neither_answered_nor_failed() -> None:
    with target() as (url, server):

        def interrupt(_: int) -> None:
            if len(server.seen) == 2 and not interrupted:
                interrupted.append(True)
                raise KeyboardInterrupt

        interrupted: list[bool] = []
        result = run(Plan(f"{url}/drip", 100, 2, timeout_s=5), interrupt)
    assert (result.made, result.failures, result.stopped) == (0, {}, "it was interrupted")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_dead_server_is_one_line() -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    with pytest.raises(UnreachableError, match=f"^no server answers at {url}: connection refused$"):
        run(Plan(url))


def test_a_host_that_is_not_there_is_one_line() -> None:
    with pytest.raises(UnreachableError, match=r"^the host 'nowhere.invalid' can't be found: "):
        run(Plan("http://nowhere.invalid/"))


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "0.0.0.0"])
def test_another_machine_is_refused_unless_it_is_allowed(host: str) -> None:
    with pytest.raises(LoadTestError, match="url must be of this machine unless remote hosts are allowed"):
        run(Plan(f"http://{host}/"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3"])
def test_every_name_of_this_machine_is_fine(host: str) -> None:
    with pytest.raises(UnreachableError):
        run(Plan(f"http://{host}:{free_port()}/"))


def own_addresses() -> list[str]:
    """The addresses of this machine's interfaces beside loopback."""
    found = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    return [address for address in found if not address.startswith("127.")]


@pytest.mark.skipif(not own_addresses(), reason="this machine is in no network")
def test_an_address_of_this_machine_in_its_network_is_fine() -> None:
    with pytest.raises(UnreachableError):
        run(Plan(f"http://{own_addresses()[0]}:{free_port()}/"))


def test_a_name_is_looked_up_once_also_where_its_certificate_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = CERTIFICATES / "untrusted.pem"  # of localhost
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, CERTIFICATES / "untrusted.key")
    lookup, looked_up = socket.getaddrinfo, []

    def look_up(host: str, *rest: Any, **options: Any) -> Any:
        if host != "127.0.0.1":
            looked_up.append(host)
            host = "127.0.0.1" if len(looked_up) == 1 else "127.0.0.2"  # where nobody listens
        return lookup(host, *rest, **options)

    monkeypatch.setattr("telemetry.loadtest.socket.getaddrinfo", look_up)
    with target() as (url, server):
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        url = url.replace("http://127.0.0.1", "https://localhost")
        (refused,) = run(Plan(url, 1)).failures
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        looked_up.clear()
        assert run(Plan(url, 3)).ok
        assert looked_up == ["localhost"]
        looked_up.clear()
        (other,) = run(Plan(url.replace("localhost", "example.org"), 1, allow_remote=True)).failures
    assert "self-signed certificate" in refused
    assert "hostname mismatch" in other


def test_with_the_word_remote_hosts_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with target() as (url, _):
        here = socket.getaddrinfo("127.0.0.1", int(url.rpartition(":")[2]), type=socket.SOCK_STREAM)
        there = socket.getaddrinfo("192.0.2.1", 80, type=socket.SOCK_STREAM)
        monkeypatch.setattr("telemetry.loadtest.socket.getaddrinfo", lambda *_, **__: [*here, *there])
        with pytest.raises(LoadTestError, match="url must be of this machine"):
            run(Plan("http://example.org/", 1))
        assert run(Plan("http://example.org/", 3, allow_remote=True)).ok


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"requests": 0}, "requests must be a whole number from 1 to 1000000, got 0"),
        ({"requests": 1_000_001}, "requests must be a whole number from 1 to 1000000, got 1000001"),
        ({"requests": True}, "requests must be a whole number from 1 to 1000000, got True"),
        ({"concurrency": 257}, "concurrency must be a whole number from 1 to 256, got 257"),
        ({"concurrency": "4"}, "concurrency must be a whole number from 1 to 256, got '4'"),
        ({"timeout_s": float("nan")}, "timeout must be a number of seconds over 0 to 3600, got nan"),
        ({"timeout_s": "soon"}, "timeout must be a number of seconds over 0 to 3600, got 'soon'"),
    ],
)
def test_a_wrong_parameter_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadTestError) as raised:
        Plan("http://127.0.0.1/", **wrong)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "url",
    ["", "localhost:5000", "ftp://localhost/", "http://", "http://[", "http://localhost:x/", "http://localhost:0/", "http://localhost:99999/",
     "http://a b/", "http://localhost/\r\nX: y", "http://user:secret@localhost/", "http://größe/"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(LoadTestError, match=r"^url must be an address such as http://127.0.0.1:5000/, got "):
        Plan(url)


def test_statuses_are_words() -> None:
    result = LoadResult()
    result.statuses.update({500: 2, 200: 1234})
    assert status_words(result.statuses) == "1,234 × 200, 2 × 500"


def test_the_simulation_of_the_spec_is_the_same_test() -> None:
    with target() as (url, server):
        result = load_test_simulation(url, 20, 2)
    assert result.ok
    assert len(server.seen) == 20
