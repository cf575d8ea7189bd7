from __future__ import annotations

import time

import pytest
from flask import Flask, request
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BusyError, TooManyWritesError
from service.security import (
    HEADERS,
    MAX_BODY_BYTES,
    BodyReader,
    WriteLimiter,
    confined,
    is_known_host,
    is_servable,
    own_names,
)

OUTSIDE = [
    "", ".", "..", "../secret.mp4", "a/../../secret.mp4", "/etc/passwd", "//etc/passwd", "a//b.mp4", "..\\secret.mp4",
    "C:/secret.mp4", "c:secret.mp4", "a\0.mp4", ".hidden.mp4", "a/.hidden/b.mp4", "a/", "\ud800.mp4", "\ufffd.mp4",
    "two\nlines.mp4", "tab\t.mp4", "del\x7f.mp4", "csi\x9b.mp4",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos" / "in").mkdir(parents=True)
    (tmp_path / "videos" / "in" / "100% süß.mp4").write_bytes(b"x")
    (tmp_path / "secret.mp4").write_bytes(b"s")
    return tmp_path / "videos"


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_is_not_plainly_inside_names_no_video(folder, path):
    assert not is_servable(path)
    assert confined(folder, path) is None


def test_a_plain_path_names_its_file_whatever_letters_it_has(folder):
    assert confined(folder, "in/100% süß.mp4") == (folder / "in" / "100% süß.mp4").resolve()


@pytest.mark.parametrize("path", ["in", "nothing.mp4", "in/100% süß.mp4/x", "x" * 5000])
def test_a_path_that_is_no_file_names_none(folder, path):
    assert confined(folder, path) is None


def test_a_symlink_that_leads_out_names_no_video_and_one_that_stays_does(folder):
    (folder / "out.mp4").symlink_to(folder.parent / "secret.mp4")
    (folder / "up").symlink_to(folder.parent)
    (folder / "stays.mp4").symlink_to(folder / "in" / "100% süß.mp4")
    assert confined(folder, "out.mp4") is None
    assert confined(folder, "up/secret.mp4") is None
    assert confined(folder, "stays.mp4") is not None


PARTS = ["..", ".", "", "in", "a.mp4", "secret.mp4", "C:", "..\\secret.mp4"]


@given(st.lists(st.sampled_from(PARTS), max_size=6).map("/".join))
def test_no_mix_of_dots_and_slashes_leads_out(tmp_path_factory, path):
    outside = tmp_path_factory.getbasetemp() / "mixed"
    folder = outside / "videos"
    (folder / "in").mkdir(parents=True, exist_ok=True)
    for file in (outside / "secret.mp4", folder / "a.mp4", folder / "in" / "a.mp4"):
        file.touch()
    found = confined(folder, path)
    assert found is None or found.is_relative_to(folder.resolve())
    assert (found is not None) == (path in {"a.mp4", "in/a.mp4"})


KNOWN = ("nas.lan", ".example.org")


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:80", "127.0.0.1:5000", "[::1]", "[::1]:5000", "192.168.0.2:5000", "0.0.0.0", "[fe80::1]",
     "nas.lan", "NAS.lan:5000", "a.example.org", "example.org"],
)  # fmt: skip
def test_addresses_loopback_names_and_trusted_names_are_known(host):
    assert is_known_host(host, KNOWN)


@pytest.mark.parametrize(
    "host",
    ["", "example.com", "localhost.example.com", "127.0.0.1.example.com", "localhost:x", "localhost:99999", "a@localhost",
     "localhost/x", "::1", "[::1", "[::1]evil",
     "[::1]evil:80", "nas.lan.evil.example", "evilexample.org", "nas.lan:80:80", "nas lan", "nas.lan#"],
)  # fmt: skip
def test_other_hosts_are_not(host):
    assert not is_known_host(host, KNOWN)


def test_this_machine_is_known_by_its_own_name(client):
    for name in own_names():
        assert client.get("/ping", headers={"Host": f"{name}:5000"}).status_code == 200


def test_a_name_can_be_made_known(make_app):
    client = make_app(trusted_hosts="videos.lan").test_client()
    assert client.get("/ping", headers={"Host": "videos.lan"}).status_code == 200


def test_a_request_under_another_name_is_refused(client):
    assert client.get("/ping", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/ping", headers={"Host": "127.0.0.1:5000"}).status_code == 200


@pytest.mark.parametrize("host", ["a..b", ".a", "a" * 64, "localhost..", "a" * 5000])
@pytest.mark.parametrize("path", ["/", "/ping", "/admin/performance", "/watch/a.mp4"])
def test_a_host_that_can_be_no_name_is_refused_like_others(client, host, path):
    response = client.get(path, headers={"Host": host})
    assert response.status_code == 400
    assert "Host must be localhost" in response.text


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": "http://localhost"}, True),
        ({"Origin": "http://localhost:5001"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "none", "Origin": "http://evil.example"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://localhost"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, False),
    ],
)
def test_a_write_comes_from_this_site_or_from_no_browser(client, headers, allowed):
    status = client.post("/rate", json={"filename": "none.mp4", "rating": 3}, headers=headers).status_code
    assert status == (404 if allowed else 403)


def test_reading_is_open_to_links_from_elsewhere(client):
    assert client.get("/ping", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/ping", "/nothing", "/static/style.css", "/api/ratings/x"])
def test_every_answer_carries_the_headers(client, path):
    response = client.get(path)
    assert {name: response.headers[name] for name in HEADERS} == HEADERS


def test_headers_that_a_page_has_set_itself_stay(make_app):
    app = make_app()
    app.add_url_rule("/own", view_func=lambda: ("own", {"Content-Security-Policy": "default-src 'none'"}))
    assert app.test_client().get("/own").headers["Content-Security-Policy"] == "default-src 'none'"


def test_the_policy_allows_no_inline_script_or_style():
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert "script-src 'self'" in HEADERS["Content-Security-Policy"]


def test_a_body_over_the_limit_is_refused(client):
    response = client.post("/rate", data=b" " * (MAX_BODY_BYTES + 1))
    assert response.status_code == 413
    assert response.is_json


class Coming:
    """A body; while it is being received, `meanwhile` happens."""

    def __init__(self, meanwhile):
        self._meanwhile = meanwhile

    def read(self, *_):
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is None:
            return b""
        meanwhile()
        return b"x"


def test_a_client_that_sends_slowly_takes_no_more_than_its_share_of_the_bodies():
    app, reader, refused = Flask("app"), BodyReader(), []

    def send(*clients):
        """Begin a body of the first client; while it comes, that of the next."""
        if not clients:
            return
        environ = {"REMOTE_ADDR": clients[0], "wsgi.input": Coming(lambda: send(*clients[1:])), "CONTENT_LENGTH": "1"}
        with app.test_request_context("/", method="POST", environ_overrides=environ):
            try:
                reader.read()
            except BusyError:
                refused.append(clients[0])

    send(*"aaaa")
    send(*"aaaabbbb")
    assert refused == []
    send(*"aaaaa")
    assert refused == ["a"]
    send(*"aaaabbbbc")
    assert refused == ["a", "c"]
    send(*"aaaabbbb")
    assert refused == ["a", "c"], "who is done, or was refused, has given its place back"


def test_the_limit_counts_each_client_for_itself_and_says_when_to_come_back():
    limiter = WriteLimiter("2/minute", clock=lambda: began_s + 20)
    began_s = time.time()
    limiter.check("a")
    limiter.check("a")
    limiter.check("b")
    with pytest.raises(TooManyWritesError) as caught:
        limiter.check("a")
    assert 35 <= caught.value.retry_after_s <= 41, "a minute after the first, of which 20 s have passed"


FORWARDED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Host": "videos.lan", "X-Forwarded-Proto": "https"}


def seen_by(app, **overrides):
    """Return what a view sees of a request that claims to come from elsewhere."""
    app.add_url_rule("/seen", view_func=lambda: {"client": request.remote_addr, "url": request.host_url})
    return app.test_client().get("/seen", headers=FORWARDED, environ_overrides=overrides).json


@pytest.mark.parametrize("peer", ["10.9.9.9", "::ffff:10.9.9.9"])
def test_forwarded_headers_of_a_named_proxy_count(make_app, peer):
    app = make_app(trusted_hosts="videos.lan", trusted_proxies="10.0.0.0/8")
    assert seen_by(app, REMOTE_ADDR=peer) == {"client": "203.0.113.7", "url": "https://videos.lan/"}


@pytest.mark.parametrize("peer", ["192.168.0.9", "::ffff:192.168.0.9", "::1", "", "no address"])
def test_forwarded_headers_of_anybody_else_do_not(make_app, peer):
    app = make_app(trusted_hosts="videos.lan", trusted_proxies="10.0.0.0/8")
    assert seen_by(app, REMOTE_ADDR=peer) == {"client": peer, "url": "http://localhost/"}


def test_the_write_limit_is_of_the_client_behind_the_proxy_and_cannot_be_dodged_with_a_header(make_app):
    client = make_app(write_limit="1/minute", trusted_proxies="10.0.0.1").test_client()

    def write(peer, forwarded_for):
        answer = client.post(
            "/rate",
            json={"filename": "none.mp4", "rating": 3},
            headers={"X-Forwarded-For": forwarded_for},
            environ_overrides={"REMOTE_ADDR": peer},
        )
        return answer.status_code

    assert [write("10.0.0.1", "203.0.113.1"), write("10.0.0.1", "203.0.113.2")] == [404, 404]
    assert write("10.0.0.1", "203.0.113.2") == 429
    assert [write("192.168.0.9", "203.0.113.3"), write("192.168.0.9", "203.0.113.4")] == [404, 429]
