"""Who may look at the admin pages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask, request
from flask.testing import FlaskClient
from werkzeug.middleware.proxy_fix import ProxyFix

from telemetry.admin import guard, require_admin

JSON = "/admin/performance/json"
LOCAL = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "127.0.0.1:8000", "SERVER_PROTOCOL": "HTTP/1.1"}
Instrumented = Callable[..., Flask]


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost", "LOCALHOST:80", "app.localhost:5000", "[::1]", "[::1]:8000"]
)
def test_this_machine_may_look(peer: str, host: str) -> None:
    assert guard.why_not_local(LOCAL | {"REMOTE_ADDR": peer, "HTTP_HOST": host}) is None


@pytest.mark.parametrize("peer", ["192.168.0.9", "8.8.8.8", "::2", "::ffff:10.0.0.1", "0.0.0.0", "localhost", "127.1"])
def test_another_peer_may_not(peer: str) -> None:
    assert guard.why_not_local(LOCAL | {"REMOTE_ADDR": peer}) == f"the request came from {peer}"


@pytest.mark.parametrize("environ", [{"REMOTE_ADDR": ""}, {"REMOTE_ADDR": None}])
def test_a_peer_that_the_server_does_not_know_may_not(environ: dict[str, Any]) -> None:
    assert guard.why_not_local(LOCAL | environ) == "the server doesn't know where the request came from"


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "192.168.0.2:8000",
        "localhost.example.com",
        "127.0.0.1.nip.io",
        "127.0.0.1@example.com",
        "notlocalhost",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0.0.0.0",
        "[::1].example.com",
        "[::2]",
        "::1",
        "localhost:999999",
        "localhost:80:80",
        "localhost/",
        "loc\u0430lhost",
        "localhost\n",
    ],
)
def test_another_host_may_not_so_that_rebinding_a_name_gains_nothing(host: str) -> None:
    assert guard.why_not_local(LOCAL | {"HTTP_HOST": host}) == f"the request was for the host {host}"


def test_no_host_at_all_may_not() -> None:
    environ = {name: value for name, value in LOCAL.items() if name != "HTTP_HOST"}
    assert guard.why_not_local(environ) == "the request names no host"


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-Anything-Else",
        "X-Forwarded",
        "X-Real-Ip",
        "X-Client-Ip",
        "Via",
        "Cf-Connecting-Ip",
        "True-Client-Ip",
        "Client-Ip",
        "Fastly-Client-Ip",
        "Forwarded-For",
        "X-Cluster-Client-Ip",
        "X-Original-Forwarded-For",
        "X-Original-Host",
        "X-Remote-Addr",
        "X-Remote-Ip",
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", ""])
def test_a_trace_of_a_proxy_may_not_whatever_it_says(header: str, value: str, client: FlaskClient) -> None:
    refused = client.get(JSON, headers={header: value})
    assert refused.status_code == 403
    assert refused.json["reason"] == f"the request came through a proxy: it has the header {header}"


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1", "HTTP/0.9", ""])
def test_the_old_protocol_of_reverse_proxies_may_not(protocol: str) -> None:
    environ = LOCAL | {"SERVER_PROTOCOL": protocol}
    assert guard.why_not_local(environ) == (
        f"the request came as {protocol or 'HTTP of no known version'}, as reverse proxies send it"
    )
    assert not guard.is_local(environ)


def test_of_a_server_that_calls_every_request_an_old_one_that_is_said(client: FlaskClient) -> None:
    refused = client.get(JSON, environ_overrides={"SERVER_PROTOCOL": "HTTP/1.0", "eventlet.input": object()})
    assert refused.status_code == 403
    assert refused.json["reason"].startswith("eventlet's server calls every request HTTP/1.0")
    assert refused.json["remedy"] == "Pass authorize= to telemetry.instrument(): a callable that says who may look."


def test_an_address_that_the_app_does_not_answer_to_is_no_remedy(instrumented: Instrumented) -> None:
    shop = Flask("shop", subdomain_matching=True)
    shop.config["SERVER_NAME"] = "shop.example:5000"
    instrumented(shop)
    refused = shop.test_client().get(JSON, base_url="http://shop.example:5000")
    assert refused.status_code == 403
    assert refused.json["remedy"].startswith("Pass authorize=")


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2", "HTTP/2.0", "HTTP/3"])
def test_the_protocols_of_browsers_may(protocol: str) -> None:
    assert guard.is_local(LOCAL | {"SERVER_PROTOCOL": protocol})


def test_proxy_fix_makes_nobody_local(shop: Flask, instrumented: Instrumented) -> None:
    instrumented(shop)
    shop.wsgi_app = ProxyFix(shop.wsgi_app, x_for=1, x_host=1)
    claims = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "localhost"}
    refused = shop.test_client().get(JSON, headers=claims, environ_overrides={"REMOTE_ADDR": "10.0.0.9"})
    assert refused.status_code == 403
    assert refused.json["reason"] == "the request came from 10.0.0.9"


def test_behind_a_proxy_that_takes_a_prefix_away_the_remedy_is_without_it(
    shop: Flask, instrumented: Instrumented
) -> None:
    instrumented(shop)
    shop.wsgi_app = ProxyFix(shop.wsgi_app, x_prefix=1)
    claims = {"X-Forwarded-For": "10.0.0.9", "X-Forwarded-Prefix": "/shop"}
    refused = shop.test_client().get(JSON, headers=claims)
    assert f"open http://127.0.0.1{JSON} directly" in refused.json["remedy"]
    below = shop.test_client().get(JSON, base_url="http://localhost/größe", headers=claims)
    assert f"open http://127.0.0.1/größe{JSON} directly" in below.json["remedy"]


def test_a_request_that_proxy_fix_has_rewritten_teaches_nothing_about_plain_ones(
    shop: Flask, instrumented: Instrumented, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_plain_names", set())
    instrumented(shop)
    shop.wsgi_app = ProxyFix(shop.wsgi_app, x_for=1)
    client = shop.test_client()
    client.get("/ping")
    assert "wsgi.input" not in guard._plain_names
    assert guard.is_local(client.get("/ping").request.environ | LOCAL)
    assert "werkzeug.proxy_fix.orig" not in guard._plain_names


def test_a_refusal_as_json_is_flat_and_says_what_to_do(client: FlaskClient) -> None:
    refused = client.get(JSON, environ_overrides={"REMOTE_ADDR": "10.0.0.9", "SERVER_PORT": "8000"})
    assert refused.status_code == 403
    assert refused.json == {
        "error": "These figures are open to the machine that serves them, and to nobody else unless the app says so.",
        "reason": "the request came from 10.0.0.9",
        "remedy": (
            f"On that machine, open http://127.0.0.1:8000{JSON} directly. "
            "To let others in, pass authorize= to telemetry.instrument(): a callable that says who may look."
        ),
    }
    assert refused.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(("port", "shown"), [("80", "127.0.0.1/"), ("", "127.0.0.1/"), ("٣", "127.0.0.1/")])
def test_the_remedy_names_a_port_only_where_it_is_needed(port: str, shown: str, client: FlaskClient) -> None:
    refused = client.get(JSON, environ_overrides={"REMOTE_ADDR": "10.0.0.9", "SERVER_PORT": port})
    assert f"http://{shown}" in refused.json["remedy"]


def test_a_refusal_as_a_page_says_what_happened_and_what_to_do(client: FlaskClient) -> None:
    refused = client.get("/admin/performance", headers={"Host": "example.com", "Accept": "text/html"})
    assert (refused.status_code, refused.mimetype) == (403, "text/html")
    assert "the request was for the host example.com" in refused.text
    assert "pass authorize= to telemetry.instrument()" in refused.text


def test_what_a_stranger_sends_is_escaped_on_the_page(client: FlaskClient) -> None:
    evil = "<script>alert(1)</script>"
    refused = client.get("/admin/performance", environ_overrides={"HTTP_HOST": evil, "REMOTE_ADDR": "127.0.0.1"})
    assert refused.status_code == 403
    assert evil not in refused.text
    assert "&lt;script&gt;alert(1)" in refused.text


@pytest.mark.parametrize(
    ("path", "method", "accept", "is_json"),
    [
        ("/admin/performance", "GET", "text/html,*/*;q=0.8", False),
        ("/admin/performance", "GET", "*/*", False),
        ("/admin/performance", "GET", "application/json", True),
        ("/admin/performance", "OPTIONS", "text/html", True),
        ("/admin/performance/json", "GET", "text/html", True),
        ("/admin/performance/json/", "GET", "text/html", True),
        ("/admin/performance.json", "GET", "*/*", True),
        ("/api/admin/performance/routes", "GET", "text/html", True),
    ],
)
def test_programs_are_refused_in_json_and_people_with_a_page(
    path: str, method: str, accept: str, is_json: bool, client: FlaskClient
) -> None:
    refused = client.open(
        path, method=method, headers={"Accept": accept}, environ_overrides={"REMOTE_ADDR": "10.0.0.9"}
    )
    assert refused.status_code == 403
    assert refused.is_json is is_json


def test_authorize_lets_in_whom_the_rule_for_this_machine_would_not(shop: Flask, instrumented: Instrumented) -> None:
    instrumented(shop, authorize=lambda: request.authorization and request.authorization.password == "sesame")
    client = shop.test_client()
    away = {"REMOTE_ADDR": "10.0.0.9", "HTTP_X_FORWARDED_FOR": "10.0.0.8", "HTTP_HOST": "example.com"}
    assert client.get(JSON, environ_overrides=away, auth=("me", "sesame")).status_code == 200
    refused = client.get(JSON, environ_overrides=away, auth=("me", "guess"))
    assert (refused.status_code, refused.json["reason"]) == (403, "the app's authorize= said no")


@pytest.mark.parametrize("answer", [False, None, 0, "", []])
def test_authorize_that_says_no_goes_for_this_machine_too(
    answer: object, shop: Flask, instrumented: Instrumented
) -> None:
    instrumented(shop, authorize=lambda: answer)
    assert shop.test_client().get(JSON).status_code == 403


def test_authorize_that_raises_keeps_the_pages_closed_and_is_logged(
    shop: Flask, instrumented: Instrumented, caplog: pytest.LogCaptureFixture
) -> None:
    def raises() -> bool:
        raise LookupError("no such user: sesame")

    instrumented(shop, authorize=raises)
    refused = shop.test_client().get(JSON)
    assert refused.status_code == 403
    assert "sesame" not in refused.text
    assert [record.exc_info[0] for record in caplog.records if record.levelno == logging.ERROR] == [LookupError]


def other_pages() -> Blueprint:
    """Admin pages that belong to the app, under the same guard."""
    blueprint = Blueprint("other", __name__)
    blueprint.before_request(require_admin)
    blueprint.add_url_rule("/admin/other", "other", lambda: "figures")
    return blueprint


def test_other_blueprints_can_stand_under_the_same_guard(shop: Flask, instrumented: Instrumented) -> None:
    shop.register_blueprint(other_pages())
    client = instrumented(shop).test_client()
    assert client.get("/admin/other").text == "figures"
    assert client.get("/admin/other", environ_overrides={"REMOTE_ADDR": "10.0.0.9"}).status_code == 403


def test_other_blueprints_follow_authorize(shop: Flask, instrumented: Instrumented) -> None:
    shop.register_blueprint(other_pages())
    client = instrumented(shop, authorize=lambda: "let-me-in" in request.args).test_client()
    assert client.get("/admin/other").status_code == 403
    assert client.get("/admin/other?let-me-in", headers={"Host": "example.com"}).status_code == 200


def test_an_app_that_is_not_instrumented_lets_nobody_in(shop: Flask) -> None:
    shop.register_blueprint(other_pages())
    refused = shop.test_client().get("/admin/other", headers={"Accept": "application/json"})
    assert refused.status_code == 403
    assert refused.json["remedy"] == "Call telemetry.instrument(app)."
