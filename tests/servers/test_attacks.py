"""What others may try on a server that listens on the network: none gets in, none makes a 500, none keeps others out."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import time
from dataclasses import dataclass
from urllib.parse import quote

import pytest

SECRET = b"a secret beside the videos"
WRONG = "A" * 43


@dataclass(frozen=True)
class Attack:
    """What is sent, and the statuses that may answer it; 0 stands for a connection that is closed without an answer."""

    name: str
    request: bytes
    answers: tuple[int, ...]


def get(path: str, *headers: str, method: str = "GET", host: str = "127.0.0.1", body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def post(path: str, body: bytes, *headers: str) -> bytes:
    return get(path, "Content-Type: application/json", *headers, method="POST", body=body)


TRAVERSALS = [
    "../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "%2e%2e%2fsecret.txt", "..%5csecret.txt", "..\\secret.txt",
    "%252e%252e%252fsecret.txt", "....//secret.txt", "..%c0%afsecret.txt", "%c0%ae%c0%ae/secret.txt", "..%00/secret.txt",
    "red%201%25.mp4%00.txt", "/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd", "C:/secret.txt", "file:///etc/passwd", "out.mp4",
    "up/secret.txt", "./../secret.txt", "x/../../secret.txt", "%uff0e%uff0e/secret.txt", ".%0d./secret.txt", "..;/secret.txt",
]  # fmt: skip
RANGES = [
    "bytes=" + ",".join(f"{at}-" for at in range(2000)),
    "bytes=" + ",".join(["0-"] * 500),
    "bytes=99999999999999999999999999-",
    "bytes=-99999999999999999999",
    "bytes=5-2", "bytes=a-b", "bytes=--1", "lines=1-2", "bytes=0-0," * 50,
]  # fmt: skip
RATING = b'{"filename": "blue.webm", "rating": 1}'
HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil.example:80",
    "127.0.0.1@evil.example",
    "",
    "a b",
    "a..b",
    "a" * 64,
    "a" * 5000,
    "localhost..",
    "[::1]evil",
    "[127.0.0.1]",
    "127.1",
    "2130706433",
]
BODIES = [
    b"", b"{", b"null", b"[]", b"4", b"\xff\xfe", b"{\"value\": NaN}", b"{\"value\": 1e999}", b"{\"value\": true}", b"[" * 20000,
    b'{"value": "4"}', b'{"value": 4.5}', b'{"value": 99999999999999999999999999}', b'{"value": [4]}',
    b'{"value": 4' + b" " * 70000 + b"}",
]  # fmt: skip
REFUSED = (400, 401, 403, 404, 405, 413, 414, 415, 421, 431)
ATTACKS = [
    *(Attack(f"video {path}", get(f"/video/{path}"), (*REFUSED, 308)) for path in TRAVERSALS),
    *(Attack(f"watch {path}", get(f"/watch/{path}"), (*REFUSED, 308)) for path in TRAVERSALS[:12]),
    *(Attack(f"static {path}", get(f"/static/{path}"), (*REFUSED, 308)) for path in TRAVERSALS[:8]),
    *(
        Attack(f"admin static {path}", get(f"/admin/performance/static/{path}"), (*REFUSED, 308))
        for path in TRAVERSALS[:4]
    ),
    *(
        Attack(f"range {value[:20]}", get("/video/blue.webm", f"Range: {value}"), (200, 206, 416, *REFUSED))
        for value in RANGES
    ),
    *(Attack(f"host {host}", get("/", host=host), REFUSED) for host in HOSTS),
    *(Attack(f"admin host {host}", get("/admin/performance", host=host), REFUSED) for host in HOSTS[:3]),
    *(Attack(f"rating {body[:20]!r}", post("/api/ratings/{hash}", body), (400, 411, 413)) for body in BODIES),
    Attack("two hosts", get("/", "Host: evil.example"), REFUSED),
    Attack("no host", b"GET / HTTP/1.1\r\n\r\n", REFUSED),
    Attack("absolute form", get("http://evil.example/"), (*REFUSED, 200)),
    Attack(
        "origin of another site",
        post("/rate", b'{"filename": "blue.webm", "rating": 1}', "Origin: http://evil.example"),
        (403,),
    ),
    Attack("null origin", post("/rate", b'{"filename": "blue.webm", "rating": 1}', "Origin: null"), (403,)),
    Attack(
        "fetch metadata", post("/rate", b'{"filename": "blue.webm", "rating": 1}', "Sec-Fetch-Site: cross-site"), (403,)
    ),
    Attack("rebound name", post("/rate", b"{}", "Host: rebound.example"), REFUSED),
    Attack("token guessed", get(f"/admin/performance?token={WRONG}"), (401,)),
    Attack("token empty", get("/admin/performance/json?token="), (401,)),
    Attack("token twice", get(f"/admin/performance/json?token={WRONG}&token=x"), (401,)),
    Attack("bearer guessed", get("/admin/performance/json", f"Authorization: Bearer {WRONG}"), (401,)),
    Attack("bearer of bytes", get("/admin/performance/json", "Authorization: Bearer \xff\xfe"), (400, 401)),
    Attack("basic", get("/admin/performance/json", "Authorization: Basic YWRtaW46YWRtaW4="), (401,)),
    Attack("cookie guessed", get("/admin/performance/json", f"Cookie: lvs_admin={WRONG}"), (401,)),
    Attack(
        "proxy that says local",
        get("/admin/performance/json", "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1"),
        (401,),
    ),
    Attack("proxy that says host", get("/admin/performance/json", "X-Forwarded-Host: localhost"), (401,)),
    Attack(
        "origin of another site, typed in", post("/rate", RATING, "Sec-Fetch-Site: none", "Origin: http://evil"), (403,)
    ),
    Attack("origin of another port", post("/rate", RATING, "Origin: http://127.0.0.1:1"), (403,)),
    Attack(
        "a form's type for JSON", post("/rate", RATING, "Content-Type: text/plain", "Origin: http://evil"), (400, 403)
    ),
    Attack(
        "headers with underscores",
        get("/admin/performance/json", "X_Forwarded_For: ::1", "REMOTE_ADDR: ::1"),
        (401, 429),
    ),
    Attack("admin by wide letters", get("/%ef%bd%81dmin/performance/json"), REFUSED),
    Attack("admin by an encoded slash", get("/admin%2fperformance%2fjson"), (401, 404)),
    Attack("digest", get("/admin/performance/json", 'Authorization: Digest \x01"=,,,'), (400, 401, 429)),
    Attack("dates of no calendar", get("/video/blue.webm", "If-Modified-Since: Mon, 01 Jan 0000 00:00:00 GMT"), (200,)),
    Attack("endless etags", get("/video/blue.webm", "If-None-Match: " + '"a",' * 5000), (200, *REFUSED)),
    Attack("endless accept", get("/nothing", "Accept: " + "a/b;q=nan," * 5000), REFUSED),
    Attack("endless baggage", get("/", "baggage: " + "a=b," * 3000, "tracestate: " + "a=b," * 3000), (200,)),
    Attack("trace context of bytes", get("/", "traceparent: \xff\xfe", "baggage: \xff=%ff"), (200, 400)),
    Attack("a page of wide digits", get("/?page=%EF%BC%91"), (200, 400, 404)),
    Attack("a page of 5,000 digits", get("/?page=" + "9" * 5000), (400, 404)),
    Attack("words of the full-text search", get("/search?q=NEAR(a%20b)%20OR%20col:%22a*"), (200,)),
    Attack("deep JSON", post("/rate", b'{"a":' * 3000 + b"1" + b"}" * 3000), (400,)),
    Attack("a surrogate in JSON", post("/rate", b'{"filename": "\\ud800", "rating": 4}'), (400, 404)),
    Attack("override of the method", get("/admin/cache/refresh", "X-HTTP-Method-Override: POST"), (401,)),
    Attack(
        "original url",
        get("/", "X-Original-URL: /admin/performance/json", "X-Rewrite-URL: /admin/performance/json"),
        (200,),
    ),
    Attack("admin by dots", get("/x/../admin/performance/json"), (*REFUSED, 308)),
    Attack("admin by encoding", get("/%61dmin/performance/json"), (401,)),
    Attack("admin by slashes", get("//admin//performance//json"), (*REFUSED, 308)),
    Attack("admin by case", get("/ADMIN/performance/json"), (401,)),
    Attack("admin by semicolon", get("/admin;/performance/json"), REFUSED),
    Attack("header injection by path", get("/watch/%0d%0aSet-Cookie:%20a=b"), (*REFUSED, 308)),
    Attack("header injection by query", get("/search?q=%0d%0aSet-Cookie:%20a=b"), (200,)),
    Attack(
        "header injection by return path",
        post("/rate", b'{"filename": "x\\r\\nSet-Cookie: a=b", "rating": 4}'),
        (400, 404),
    ),
    Attack(
        "folded header",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: b\r\n c\r\nConnection: close\r\n\r\n",
        (200, *REFUSED),
    ),
    Attack("bad utf-8 in a path", get("/watch/%ff%fe.mp4"), REFUSED),
    Attack("bad utf-8 in a tag", get("/tag/%ff"), (200, *REFUSED)),
    Attack("bad utf-8 in a query", get("/search?q=%ff%fe"), (200, 400)),
    Attack("surrogates in a query", get("/search?q=%ed%a0%80"), (200, 400)),
    Attack("nul in a query", get("/search?q=%00"), (200, 400)),
    Attack("sql in a query", get("/search?q=" + quote("' OR 1=1; DROP TABLE videos --")), (200,)),
    Attack("wildcards in a query", get("/search?q=" + "%25_" * 200), (200, 400)),
    Attack("script in a query", get("/search?q=" + quote("<script>alert(1)</script>")), (200,)),
    Attack("long query", get("/search?q=" + "a" * 60_000), (200, *REFUSED)),
    Attack("many words", get("/search?q=" + "a+" * 5000), (200, *REFUSED)),
    Attack("page of a number", get("/?page=99999999999999999999"), (200, 400, 404)),
    Attack("page below", get("/?page=-1"), (400, 404)),
    Attack("limit of a number", get("/api/admin/performance/routes?limit=1e9"), (401,)),
    Attack("long path", get("/" + "a" * 30_000), REFUSED),
    Attack("long header", get("/", "X-Long: " + "a" * 200_000), (0, 200, *REFUSED)),
    Attack("many headers", get("/", *(f"X-{number}: a" for number in range(5000))), (0, 200, *REFUSED)),
    Attack("large body", post("/rate", b"x" * 1_000_000), (0, 413)),
    Attack(
        "length that lies",
        b"POST /rate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n{}",
        (0, 413),
    ),
    Attack("negative length", b"POST /rate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", (0, 400)),
    Attack("two lengths", post("/rate", b"{}", "Content-Length: 5"), (0, 400)),
    Attack(
        "smuggled request",
        post("/rate", b"0\r\n\r\nGET /admin/performance/json HTTP/1.1\r\n\r\n", "Transfer-Encoding: chunked"),
        (0, 400),
    ),
    Attack("unknown method", get("/", method="EVIL"), (405,)),
    Attack("trace", get("/", "X-Secret: 1", method="TRACE"), (405, 400)),
    Attack("connect", get("evil.example:80", method="CONNECT"), (0, *REFUSED)),
    Attack("not http", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (0, 400)),
    Attack("http/0.9", b"GET /admin/performance/json\r\n\r\n", (0, 400)),
    Attack("http/1.0", b"GET /admin/performance/json HTTP/1.0\r\n\r\n", (0, 400, 401)),
    Attack("upgrade", get("/", "Upgrade: websocket", "Connection: Upgrade"), (200, 400, 426)),
    Attack("form of another shape", get("/rate/form", method="POST", body=b"value=4"), REFUSED),
    Attack("tag of markup", post("/api/tags/{hash}", b'{"tag": "<img src=x onerror=alert(1)>"}'), (*REFUSED, 201)),
]


def answer(port: int, request: bytes) -> tuple[int, bytes]:
    """Send a request as it is, and return status and whole answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
        whole = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while chunk := connection.recv(65536):
                whole += chunk
                if len(whole) > 5_000_000:
                    break
    head = whole.split(b" ", 2)
    return (int(head[1]) if len(head) > 1 and head[1].isdigit() else 0), whole


@pytest.fixture
def served(start, folder):
    """A server on all addresses with a write limit nobody meets, the hash of a video, and secrets beside the folder."""
    (folder / "secret.txt").write_bytes(SECRET)
    (folder / "videos" / "out.mp4").symlink_to(folder / "secret.txt")
    (folder / "videos" / "up").symlink_to(folder)
    server = start("serve", "--port", "0", "--host", "0.0.0.0", "--write-limit", "100000/minute")
    server.wait_until("/", lambda page: b"2 videos" in page)
    database = sqlite3.connect(folder / "var" / "data" / "library.sqlite3")
    server.media_hash = database.execute("SELECT media_hash FROM files WHERE path = 'blue.webm'").fetchone()[0]
    database.close()
    return server


def test_attacks_get_the_answer_that_they_are_due(served, folder):
    assert len(ATTACKS) >= 60
    token = (folder / "var" / "data" / "admin-token").read_text().strip()
    wrong = []
    for attack in ATTACKS:
        status, whole = answer(served.port, attack.request.replace(b"{hash}", served.media_hash.encode()))
        if status not in attack.answers:
            wrong.append((attack.name, status))
        for leaked in (
            SECRET,
            b"root:",
            b"Traceback",
            token.encode(),
            b"<script>alert",
            b"\nSet-Cookie: a=b",
            b'"endpoints"',
        ):
            assert leaked not in whole, (attack.name, leaked)
    assert wrong == []
    assert "Traceback" not in served.output
    assert "a=b,a=b" not in served.output, "a header that anybody may send fills the log"
    assert served.request("/ping")[0] == 200


def test_clients_that_send_slowly_keep_nobody_out(served):
    slow = []
    try:
        for _ in range(60):
            slow.append(socket.create_connection(("127.0.0.1", served.port)))
            slow[-1].sendall(b"POST /rate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        for _ in range(60):
            slow.append(socket.create_connection(("127.0.0.1", served.port)))
            slow[-1].sendall(b"GET / HTTP/1.1\r\nHost: local")
        for _ in range(20):
            assert served.request("/ping")[0] == 200
        assert served.request("/rate", "POST", {"filename": "blue.webm", "rating": 4})[0] == 503
    finally:
        for connection in slow:
            connection.close()
    deadline = time.monotonic() + 20
    while served.request("/rate", "POST", {"filename": "blue.webm", "rating": 4})[0] != 200:
        assert time.monotonic() < deadline


def test_the_server_ends_within_five_seconds_although_somebody_watches(start, folder):
    film = folder / "videos" / "blue.webm"
    os.truncate(film, film.stat().st_size + 256 * 1024 * 1024)
    server = start("serve", "--port", "0")
    server.wait_until("/", lambda page: b"2 videos" in page)
    with socket.create_connection(("127.0.0.1", server.port)) as player:
        player.sendall(b"GET /video/blue.webm HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert player.recv(12) == b"HTTP/1.1 200"
        began = time.monotonic()
        code = server.stop()
        took_s = time.monotonic() - began
    assert code == 0
    assert took_s < 8, "five seconds, and what a busy machine adds"
    assert "Traceback" not in server.output


def test_a_worker_does_not_outlive_its_server(start):
    server = start("serve", "--port", "0")
    assert server.request("/ping")[0] == 200
    worker = server.worker()
    server.process.kill()
    worker.wait(20)
    server.stop()


def test_every_rating_that_was_acknowledged_survives_a_kill(start, folder):
    server = start("serve", "--port", "0", "--write-limit", "100000/minute")
    server.wait_until("/", lambda page: b"2 videos" in page)
    acknowledged = []
    for number in range(1000):
        if number == 600:
            for process in (server.worker(), server.process):
                process.kill()
        try:
            status, headers, _ = server.request("/rate", "POST", {"filename": "blue.webm", "rating": 1 + number % 5})
        except (OSError, AssertionError):
            break
        assert status == 200
        acknowledged.append((headers["Set-Cookie"].split("=")[1].split(";")[0], 1 + number % 5))
    server.stop()
    assert len(acknowledged) >= 500
    again = start("serve", "--port", "0")
    again.wait_until("/", lambda page: b"2 videos" in page)
    database = sqlite3.connect(folder / "var" / "data" / "library.sqlite3")
    kept = dict(database.execute("SELECT user_id, value FROM ratings"))
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert dict(acknowledged).items() <= kept.items()
    assert json.loads(again.request("/ping")[2])["status"] == "ok"
