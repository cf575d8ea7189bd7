"""Who may see the admin pages of the video server."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import threading
from urllib.parse import quote

import pytest
from flask import abort
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from config import Settings
from service import create_app
from service.admin import COOKIE, FILE, TokenError, TokenParameter, load_token, url_with_token
from service.lock import FileLock
from telemetry import PerformanceMetrics, TelemetrySettings

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
ELSEWHERE = {"REMOTE_ADDR": "192.168.0.9"}
WRONG = "x" * 43


@pytest.fixture
def app(make_app):
    """A server that listens on all addresses."""
    return make_app(host="0.0.0.0")


@pytest.fixture
def token(app):
    return load_token(app.extensions["local_video_server"].settings.data)


def left_in(folder):
    return {path.name for path in folder.iterdir()}


def as_on_fat(status):
    """Return a status whose file everybody may read."""
    return os.stat_result((status.st_mode | 0o055, *status[1:]))


def admin_paths(app):
    """Every path of the URL map under the admin prefixes."""
    return sorted(
        {rule.rule.replace("<path:filename>", "admin.css") for rule in app.url_map.iter_rules() if "admin" in rule.rule}
    )


# -- the token -------------------------------------------------------------------------------------------------------


def test_the_token_is_made_once_and_is_for_its_owner_alone(tmp_path):
    token = load_token(tmp_path / "data")
    assert len(token) >= 43
    assert load_token(tmp_path / "data") == token
    assert left_in(tmp_path / "data") == {FILE, f"{FILE}.lock"}
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "data" / FILE).stat().st_mode) == 0o600


def refuse_locks(_):
    raise OSError(errno.ENOTSUP, "Operation not supported")


@pytest.mark.parametrize("has_locks", [True, False])
def test_processes_that_start_together_agree_on_a_token(tmp_path, monkeypatch, has_locks):
    if not has_locks:
        monkeypatch.setattr("service.lock._lock", refuse_locks)
    found, barrier = set(), threading.Barrier(8)

    def start():
        barrier.wait()
        found.add(load_token(tmp_path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1
    assert left_in(tmp_path) == {FILE, f"{FILE}.lock"}


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_file_system_without_hard_links_and_modes_keeps_a_token_too(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    token = load_token(tmp_path)
    assert caplog.text == ""
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda *given, **options: as_on_fat(real(*given, **options)))
    assert load_token(tmp_path) == token
    assert "others on this machine may read the admin token" in caplog.text


def test_a_lock_that_is_never_let_go_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("service.admin._PATIENCE_S", 0.05)
    lock = FileLock(tmp_path / f"{FILE}.lock")
    assert lock.acquire()
    with pytest.raises(TokenError, match=r"another process holds admin-token\.lock"):
        load_token(tmp_path)
    lock.release()


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_token_that_others_may_read_is_closed_to_them(tmp_path):
    token = load_token(tmp_path)
    (tmp_path / FILE).chmod(0o644)
    assert load_token(tmp_path) == token
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 50])
def test_a_file_without_a_usable_token_is_told(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(TokenError, match=r"the admin token in .*admin-token"):
        load_token(tmp_path)


def test_a_folder_that_is_none_is_told(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(TokenError, match="can't be read or made"):
        load_token(tmp_path / "data")


# -- who is asked for it ---------------------------------------------------------------------------------------------


def test_on_loopback_this_machine_is_not_asked(make_app):
    client = make_app().test_client()
    assert client.get("/admin/performance").status_code == 200


@pytest.mark.parametrize(
    "how",
    [
        {"environ_overrides": ELSEWHERE},
        {"headers": {"Host": "192.168.0.2:5000"}},
        {"headers": {"X-Forwarded-For": "127.0.0.1"}},
        {"headers": {"Forwarded": "for=127.0.0.1"}},
        {"headers": {"X-Real-IP": "127.0.0.1"}},
    ],
)
def test_on_loopback_whoever_comes_another_way_is_asked(make_app, how):
    app = make_app()
    token = load_token(app.extensions["local_video_server"].settings.data)
    client = app.test_client()
    assert client.get("/admin/performance/json", **how).status_code == 401
    headers = {**how.get("headers", {}), "Authorization": f"Bearer {token}"}
    assert client.get("/admin/performance/json", **{**how, "headers": headers}).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"])
def test_off_loopback_every_admin_path_is_closed_without_the_token(app, method):
    client = app.test_client()
    paths = admin_paths(app)
    assert {"/admin/performance", "/admin/performance/json", "/api/admin/performance/routes", "/admin/library"} <= set(
        paths
    )
    forms = [
        *paths,
        *(path + "/" for path in paths),
        *(path.replace("/admin", "/admin/") for path in paths),
        *(path.replace("admin", "%61dmin") for path in paths),
        *(path.replace("admin", "ADMIN") for path in paths),
        *(
            "/admin",
            "/admin/",
            "/admin/no/such/page",
            "/api/admin",
            "/api/admin/nothing",
            "/admin/./library",
            "/admin/%2e/library",
        ),
    ]
    for path in forms:
        answer = client.open(path, method=method)
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer realm=admin"


def test_the_library_itself_is_open(app):
    client = app.test_client()
    assert [client.get(path, environ_overrides=ELSEWHERE).status_code for path in ("/", "/ping")] == [200, 200]


def test_a_program_gets_a_reason_it_can_read(app):
    answer = app.test_client().get("/admin/performance/json")
    assert answer.is_json
    assert "admin token" in answer.json["error"]
    page = app.test_client().get("/admin/performance", headers={"Accept": "text/html"})
    assert page.mimetype == "text/html"
    assert "Traceback" not in page.text


def test_a_browser_gets_a_field_for_the_token_that_opens_the_same_page(app, token):
    client = app.test_client()
    for query in ("?a=1&a=2", "?a=1&token=wrong&a=2"):
        answer = client.get(f"/admin/library{query}", headers=BROWSER, environ_overrides=ELSEWHERE)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer realm=admin"
        assert "<h1>This page asks for the admin token</h1>" in answer.text
        assert f"the file {FILE} in its data folder" in answer.text
        assert '<form class="token" action="/admin/library">' in answer.text
        assert re.findall(r'<input type="hidden" name="(.*?)" value="(.*?)">', answer.text) == [("a", "1"), ("a", "2")]
        assert re.search(r'<input type="password" name="token" [^>]*autocomplete="off"', answer.text)
        assert "wrong" not in answer.text
    sent = {"a": ["1", "2"], "token": token}
    opened = client.get("/admin/library", query_string=sent, headers=BROWSER, environ_overrides=ELSEWHERE)
    assert (opened.status_code, opened.headers["Location"]) == (303, "/admin/library?a=1&a=2")


def test_a_token_that_is_not_needed_any_more_leaves_the_address_all_the_same(app, token, make_app):
    client = app.test_client()
    client.get(url_with_token("", token), headers=BROWSER)
    for offered in (token, "old"):
        answer = client.get(f"/admin/performance?token={offered}&q=a", headers=BROWSER)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/admin/performance?q=a")
    here = make_app().test_client().get("/admin/performance?token=old", headers=BROWSER)
    assert (here.status_code, here.headers["Location"], "Set-Cookie" in here.headers) == (
        303,
        "/admin/performance",
        False,
    )


def test_a_token_may_be_pasted_with_white_space_around_it(app, token):
    answer = app.test_client().get("/admin/performance", query_string={"token": f" {token}\n"}, headers=BROWSER)
    assert answer.status_code == 303


def test_an_authorize_of_ones_own_asks_for_no_token(make_app):
    answer = make_app(authorize=lambda: abort(401)).test_client().get("/admin/library", headers=BROWSER)
    assert answer.status_code == 401
    assert 'name="token"' not in answer.text


def test_the_link_to_the_figures_is_for_those_who_may_see_them(app, token, make_app):
    link = 'href="/admin/performance"'
    client = app.test_client()
    for path in ("/", "/search", "/nothing"):
        assert link not in client.get(path).text
    client.get(url_with_token("", token), headers=BROWSER)
    assert link in client.get("/").text
    local = make_app().test_client()
    here, elsewhere = (local.get("/", environ_overrides=where).text for where in ({}, ELSEWHERE))
    assert (link in here, "/admin/library" in here) == (True, True)
    assert "/admin/" not in elsewhere
    assert link not in make_app(authorize=lambda: True).test_client().get("/").text


# -- with it ---------------------------------------------------------------------------------------------------------


def test_the_address_with_the_token_is_exchanged_for_a_cookie(app, token):
    client = app.test_client()
    address = url_with_token("", token)
    answer = client.get(address + "&range=5m", headers=BROWSER, environ_overrides=ELSEWHERE)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/admin/performance?range=5m")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert token not in cookie
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    for path in ("/admin/performance", "/admin/performance/json", "/admin/library", "/admin/cache/status"):
        assert client.get(path, environ_overrides=ELSEWHERE).status_code == 200


def test_the_cookie_is_for_encrypted_connections_where_there_is_one(app, token):
    answer = app.test_client().get(url_with_token("", token), headers=BROWSER, base_url="https://localhost")
    assert "Secure" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize("where", ["parameter", "bearer"])
def test_a_program_sends_the_token_with_each_request(app, token, where):
    client = app.test_client(use_cookies=False)
    query = {"token": token} if where == "parameter" else None
    headers = {"Authorization": f"Bearer {token}"} if where == "bearer" else None
    for path in ("/admin/performance/json", "/api/admin/performance/routes", "/admin/cache/status"):
        assert client.get(path, query_string=query, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "offer",
    [
        {"query_string": {"token": WRONG}},
        {"query_string": {"token": ""}},
        {"query_string": {"token": "\ud800".encode("utf-8", "surrogatepass")}},
        {"headers": {"Authorization": f"Bearer {WRONG}"}},
        {"headers": {"Authorization": "Basic YWRtaW46YWRtaW4="}},
        {"headers": {"Authorization": "Bearer"}},
        {"headers": {"Authorization": "\xff"}},
        {"headers": {"Cookie": f"{COOKIE}={WRONG}"}},
        {"headers": {"Cookie": f"{COOKIE}=\xff"}},
    ],
)
def test_what_is_not_the_token_is_refused(app, offer):
    assert app.test_client(use_cookies=False).get("/admin/performance/json", **offer).status_code == 401


def test_the_token_is_no_cookie_and_the_cookie_no_token(app, token):
    client = app.test_client()
    client.get(url_with_token("", token), headers=BROWSER)
    cookie = client.get_cookie(COOKIE).value
    stranger = app.test_client(use_cookies=False)
    assert stranger.get("/admin/performance/json", headers={"Cookie": f"{COOKIE}={token}"}).status_code == 401
    assert stranger.get("/admin/performance/json", query_string={"token": cookie}).status_code == 401


def test_a_new_token_ends_the_old_cookies(make_app, tmp_path):
    first = make_app(host="0.0.0.0")
    client = first.test_client()
    client.get(url_with_token("", load_token(tmp_path / "data")), headers=BROWSER)
    old = client.get_cookie(COOKIE).value
    (tmp_path / "data" / FILE).unlink()
    second = make_app(host="0.0.0.0").test_client(use_cookies=False)
    assert second.get("/admin/performance/json", headers={"Cookie": f"{COOKIE}={old}"}).status_code == 401


def test_guessing_is_slowed_for_the_one_who_guesses(app, token):
    client = app.test_client(use_cookies=False)

    def guess(offered, peer):
        headers = {"Authorization": f"Bearer {offered}"}
        return client.get("/admin/performance/json", headers=headers, environ_overrides={"REMOTE_ADDR": peer})

    codes = [guess(f"{number}{WRONG}", "192.168.0.66").status_code for number in range(12)]
    assert codes == [401] * 10 + [429] * 2
    slowed = guess(token, "192.168.0.66")
    assert (slowed.status_code, slowed.headers["Retry-After"]) == (429, "60")
    assert guess(token, "192.168.0.9").status_code == 200
    assert client.get("/admin/performance/json", environ_overrides={"REMOTE_ADDR": "192.168.0.66"}).status_code == 401


def test_a_write_from_another_site_is_refused_even_with_the_cookie(app, token):
    client = app.test_client()
    client.get(url_with_token("", token), headers=BROWSER)
    assert client.post("/admin/cache/refresh", headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/admin/cache/refresh").status_code == 200


def test_a_page_with_a_stale_cookie_is_slowed_and_does_not_shut_out_the_right_token(app, token):
    client = app.test_client(use_cookies=False)
    stale = {"Cookie": f"{COOKIE}={WRONG}"}
    codes = [client.get("/admin/performance/json", headers=stale).status_code for _ in range(12)]
    assert codes == [401] * 10 + [429] * 2
    assert client.get("/admin/performance/json", headers={"Authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize("query", ["a=1&token={}&b=2", "%74oken={}&a=1&b=2", "a=1&b=2&token={}&token=x"])
def test_the_token_is_taken_out_of_the_address_before_anything_else_sees_it(query):
    seen = {}

    def rest(environ, _):
        seen.update(environ)
        return []

    query = query.format(quote(WRONG + "/+"))
    TokenParameter(rest)({"QUERY_STRING": query, "RAW_URI": f"/x?{query}"}, None)
    assert seen.pop("local_video_server.admin_token") == WRONG + "/+"
    assert seen == {"QUERY_STRING": "a=1&b=2", "RAW_URI": "/x?a=1&b=2"}


@pytest.mark.parametrize("instrumentation", ["own", "stock"])
def test_the_token_is_in_no_log_no_span_and_no_figure(tmp_path, caplog, instrumentation, monkeypatch):
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")
    caplog.set_level(logging.DEBUG)
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    (tmp_path / "videos").mkdir()
    app = create_app(
        Settings(videos=tmp_path / "videos", data=tmp_path / "data", host="0.0.0.0"),
        metrics=PerformanceMetrics(),
        telemetry_settings=TelemetrySettings(excluded_routes=(), instrumentation=instrumentation),
        tracer_provider=provider,
        background=False,
    )
    token = load_token(tmp_path / "data")
    client = app.test_client()
    for path in ("/admin/performance", "/admin/library", "/", "/admin/nothing", "/admin/performance/json"):
        client.get(path, query_string={"token": token})
    figures = client.get("/admin/performance/json").text + client.get("/admin/performance").text
    app.extensions["local_video_server"].close()
    spans = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "GET /" in spans
    assert token not in caplog.text + spans + figures
