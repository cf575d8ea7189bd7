"""The admin pages inside other people's apps: closed to strangers on every rule, and the same whatever the app does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flask import Blueprint, Flask, Response, abort, g, redirect, request
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from telemetry import PerformanceMetrics, TelemetrySettings, instrument, uninstrument
from telemetry.admin import create_blueprint
from telemetry.apps import Telemetry

PAGE = "/admin/performance"
JSON = "/admin/performance/json"
ROUTES = "/api/admin/performance/routes"
STRANGER = {"REMOTE_ADDR": "192.168.0.9"}
PREFIXES = ("/admin/performance", "/api/admin/")
OURS = "default-src 'none'"
Instrumented = Callable[..., Flask]


def rules(app: Flask, request_id: str = "0" * 32) -> Iterator[tuple[str, str]]:
    """Every path under the prefixes of the admin pages with each of its methods, whoever registered it."""
    values = {"filename": "admin.css", "request_id": request_id}
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith(PREFIXES):
            with app.test_request_context():
                path = app.url_for(rule.endpoint, **{name: values[name] for name in rule.arguments})
            yield from ((path, method) for method in sorted(rule.methods or ()))


# -- who gets in -----------------------------------------------------------------------------------------------------


def test_every_rule_is_refused_to_a_stranger_by_every_method(client: FlaskClient) -> None:
    tried = list(rules(client.application))
    assert {path for path, _ in tried} >= {
        PAGE,
        JSON,
        "/admin/performance.json",
        "/admin/performance/live",
        "/admin/performance/static/admin.css",
        ROUTES,
        "/api/admin/performance/timeline",
    }
    for path, method in tried:
        refused = client.open(path, method=method, environ_overrides=STRANGER)
        assert (path, method, refused.status_code) == (path, method, 403)
        assert "shop" not in refused.text


def test_every_rule_is_refused_when_authorize_says_no(shop: Flask, instrumented: Instrumented) -> None:
    client = instrumented(shop, authorize=lambda: False).test_client()
    for path, method in rules(shop):
        assert (path, method, client.open(path, method=method).status_code) == (path, method, 403)


def test_every_rule_answers_this_machine_by_get_head_and_options_alone(client: FlaskClient) -> None:
    trace_id = client.get("/").headers["traceparent"].split("-")[1]
    for path, _ in set(rules(client.application, trace_id)):
        with client.get(path) as got, client.head(path) as head:
            assert (path, got.status_code, head.status_code) == (path, 200, 200)
            assert head.data == b""
            assert head.headers["Content-Type"] == got.headers["Content-Type"]
            assert head.headers["Content-Security-Policy"] == got.headers["Content-Security-Policy"]
        options = client.options(path)
        assert options.status_code == 200
        assert set(options.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
        for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE"):
            assert (path, method, client.open(path, method=method).status_code) == (path, method, 405)


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [
        ("/admin/performance/", PAGE),
        ("/admin/perform%61nce", PAGE),
        ("/%61dmin/performance", PAGE),
        ("/admin%2Fperformance", PAGE),
        ("/admin/performance/json/", JSON),
        ("/admin/performance/%6Ason", JSON),
        ("/admin/performance%2Ejson", JSON),
        ("/admin/performance/live/", "/admin/performance/live"),
        ("/api/admin/performance/routes/", ROUTES),
        ("/api/admin/performance/r%6Futes", ROUTES),
    ],
)
def test_other_spellings_of_a_path_lead_there_and_past_no_guard(spelled: str, plain: str, client: FlaskClient) -> None:
    answer = client.get(spelled)
    assert (answer.status_code, answer.mimetype) == (200, client.get(plain).mimetype)
    assert answer.headers["Content-Security-Policy"].startswith(OURS)
    assert client.get(spelled, environ_overrides=STRANGER).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "//admin/performance",
        "/admin//performance",
        "/admin/./performance",
        "/admin/x/../performance",
        "/ADMIN/performance",
        "/admin/performance;a=b",
        "/admin/performance%00",
        "/admin/performance/json%20",
        "/admin/performance%252Fjson",
    ],
)
def test_spellings_that_are_none_give_a_stranger_nothing(path: str, client: FlaskClient) -> None:
    client.get("/item/5")
    answer = client.get(path, environ_overrides=STRANGER)
    assert answer.status_code in {308, 403, 404}
    assert "item" not in answer.text


def test_an_unknown_path_below_is_the_apps_own_404(client: FlaskClient) -> None:
    assert client.get("/admin/performance/nothing").status_code == 404


# -- on and off ------------------------------------------------------------------------------------------------------


def test_uninstrument_closes_every_rule_and_instrument_opens_them_again(
    shop: Flask, instrumented: Instrumented, metrics: PerformanceMetrics
) -> None:
    client = instrumented(shop).test_client()
    client.get("/")
    uninstrument(shop)
    for path, _ in rules(shop):
        for environ in ({}, STRANGER):
            answer = client.get(path, environ_overrides=environ)
            assert (path, answer.status_code) == (path, 404)
            assert "Content-Security-Policy" not in answer.headers
    instrumented(shop)
    assert list(client.get(JSON).json["endpoints"]) == ["GET /"]


def test_the_admin_pages_count_no_request_of_their_own(client: FlaskClient, metrics: PerformanceMetrics) -> None:
    for path, method in rules(client.application):
        for environ in ({}, STRANGER):
            client.open(path, method=method, environ_overrides=environ).close()
    client.get(f"{ROUTES}?limit=0")
    client.get("/admin/performance/static/none.css")
    figures = client.get(JSON).json
    assert figures["endpoints"] == {}
    assert figures["database"]["count"] == 0
    assert metrics.route_windows() == []


def test_an_app_with_a_blueprint_of_that_name_goes_without_pages_and_is_told(
    shop: Flask, instrumented: Instrumented, caplog: pytest.LogCaptureFixture
) -> None:
    shop.register_blueprint(Blueprint("telemetry_admin", __name__))
    instrumented(shop)
    assert shop.test_client().get("/admin/performance").status_code == 404
    assert "gets no admin pages: it has a blueprint telemetry_admin of its own" in caplog.text


def test_a_setting_leaves_the_pages_out(shop: Flask, instrumented: Instrumented) -> None:
    instrumented(shop, settings=TelemetrySettings(admin=False))
    assert list(rules(shop)) == []
    assert shop.test_client().get(PAGE).status_code == 404


def test_frameworks_that_describe_all_blueprints_pass_over_it(client: FlaskClient) -> None:
    blueprint = client.application.blueprints["telemetry_admin"]
    assert blueprint.enable_openapi is False  # type: ignore[attr-defined]  # APIFlask asks each that has functions of its own


def test_the_blueprint_stands_alone_in_an_app_that_is_not_instrumented(shop: Flask) -> None:
    metrics = PerformanceMetrics()
    metrics.record_endpoint_latency("GET /elsewhere", 0.01)
    shop.register_blueprint(
        create_blueprint(Telemetry(metrics, metrics.settings), authorize=lambda: "yes" in request.args)
    )
    client = shop.test_client()
    assert client.get(JSON).status_code == 403
    assert list(client.get(f"{JSON}?yes", environ_overrides=STRANGER).json["endpoints"]) == ["GET /elsewhere"]


# -- where the app is mounted ----------------------------------------------------------------------------------------


def links(page) -> list[str]:
    found = [node for node in page.elements() if node.tag in {"a", "link", "script", "form"}]
    return [node.attributes.get(name, "") for node in found for name in ("href", "src", "action")]


@pytest.mark.parametrize("root", ["", "/below", "/two/levels"])
def test_links_follow_the_path_under_which_the_app_is_mounted(root: str, client: FlaskClient, read) -> None:
    answer = client.get(PAGE, base_url=f"http://localhost{root}")
    page = read(answer.text)
    assert page.by_id("live")["data-live"] == f"{root}/admin/performance/live"
    absolute = [link for link in links(page) if link and not link.startswith(("?", "#"))]
    assert len(absolute) > 3
    assert all(link.startswith(f"{root}/admin/performance") for link in absolute)


def test_an_app_mounted_inside_another_keeps_its_guard(shop: Flask, instrumented: Instrumented) -> None:
    instrumented(shop)
    outer = DispatcherMiddleware(Flask("outer"), {"/shop": shop})
    client = Client(outer)
    assert client.get(f"/shop{PAGE}", environ_overrides={"REMOTE_ADDR": "127.0.0.1"}).status_code == 200
    refused = client.get(f"/shop{JSON}", environ_overrides=STRANGER)
    assert (refused.status_code, refused.is_json) == (403, True)
    assert f"/shop{JSON}" in refused.json["remedy"]


def test_application_root_and_server_name_open_nothing(shop: Flask, instrumented: Instrumented) -> None:
    shop.config.update(APPLICATION_ROOT="/below", SERVER_NAME="shop.example")
    client = instrumented(shop).test_client()
    refused = client.get(JSON)
    assert (refused.status_code, refused.json["reason"]) == (403, "the request was for the host shop.example")
    assert client.get(JSON, base_url="http://localhost/below").status_code == 200


@pytest.mark.parametrize("base_url", ["http://localhost", "http://127.0.0.1:8000", "http://LocalHost:8000/below"])
def test_an_app_that_matches_hosts_has_the_pages_on_every_host_of_this_machine(
    base_url: str, instrumented: Instrumented, read
) -> None:
    app = Flask("shop", host_matching=True, static_host="static.example")
    app.add_url_rule("/", "index", lambda: "hello", host="shop.example")
    client = instrumented(app, admin_links={"Home": "index"}).test_client()
    answer = client.get(PAGE, base_url=base_url)
    assert answer.status_code == 200
    page = read(answer.text)
    root = "/below" if base_url.endswith("/below") else ""
    assert page.by_id("live")["data-live"] == f"{root}/admin/performance/live"
    assert page.all("nav")[0].all("a")[0]["href"] == f"http://shop.example{root}/"
    shouted = read(client.get(PAGE, base_url=base_url, headers={"Host": "LOCALHOST:8000"}).text)
    assert shouted.by_id("live")["data-live"] == f"{root}/admin/performance/live"
    for path in (JSON, ROUTES, "/admin/performance/static/admin.css"):
        with client.get(path, base_url=base_url) as found:
            assert (path, found.status_code) == (path, 200)
        assert client.get(path, base_url="http://shop.example").status_code == 403
        assert client.get(path, base_url=base_url, environ_overrides=STRANGER).status_code == 403


def test_url_defaults_of_the_app_break_no_link(shop: Flask, instrumented: Instrumented, read) -> None:
    @shop.url_defaults
    def language(_: str, values: dict[str, object]) -> None:
        values.setdefault("language", "pl")

    @shop.url_value_preprocessor
    def forget(_: str | None, values: dict[str, object] | None) -> None:
        g.language = (values or {}).pop("language", "en")

    client = instrumented(shop).test_client()
    page = read(client.get(PAGE).text)
    for script in page.all("script"):
        with client.get(script["src"]) as answer:
            assert answer.status_code == 200


# -- hooks and handlers of the app -----------------------------------------------------------------------------------


def with_own_policy(app: Flask) -> None:
    @app.after_request
    def policy(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = "default-src *"
        response.headers["Cache-Control"] = "public, max-age=3600"
        response.headers["Expires"] = "Thu, 01 Jan 2099 00:00:00 GMT"
        return response


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("path", [PAGE, JSON, f"{ROUTES}?limit=0"])
def test_the_apps_policy_is_its_own_and_ours_is_ours(
    path: str, when: str, shop: Flask, instrumented: Instrumented
) -> None:
    if when == "before":
        with_own_policy(shop)
    instrumented(shop)
    if when == "after":
        with_own_policy(shop)
    client = shop.test_client()
    ours, theirs = client.get(path).headers, client.get("/").headers
    assert [value[: len(OURS)] for value in ours.getlist("Content-Security-Policy")] == [OURS]
    assert (ours.getlist("Cache-Control"), "Expires" in ours) == (["no-store"], False)
    assert theirs["Content-Security-Policy"] == "default-src *"
    assert theirs["Cache-Control"] == "public, max-age=3600"


def with_cors(app: Flask) -> None:
    @app.after_request
    def share(response: Response) -> Response:
        response.headers["Access-Control-Allow-Origin"] = request.headers.get("Origin", "*")
        response.headers["access-control-allow-credentials"] = "true"
        return response


def granted(response: Response) -> list[str]:
    return [name for name, _ in response.headers if name.lower().startswith("access-control-")]


def test_what_the_app_grants_to_other_origins_does_not_hold_for_the_figures(
    shop: Flask, instrumented: Instrumented
) -> None:
    with_cors(shop)
    client = instrumented(shop).test_client()
    for path, method in rules(shop):
        with client.open(path, method=method, headers={"Origin": "https://example.com"}) as answer:
            assert granted(answer) == []
    assert len(granted(client.get("/"))) == 2


def test_neither_does_it_where_the_app_answers_with_a_response_of_its_own(
    shop: Flask, instrumented: Instrumented
) -> None:
    @shop.after_request
    def replace(response: Response) -> Response:
        made = Response(response.get_data(), response.status_code, mimetype=response.mimetype)
        made.headers["Access-Control-Allow-Origin"] = "*"
        return made

    client = instrumented(shop).test_client()
    with client.get(JSON, headers={"Origin": "https://example.com"}) as answer:
        assert granted(answer) == []
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json["endpoints"] == {}
    assert len(granted(client.get("/"))) == 1


def test_an_app_that_decides_who_may_look_decides_on_origins_too(shop: Flask, instrumented: Instrumented) -> None:
    with_cors(shop)
    client = instrumented(shop, authorize=lambda: True).test_client()
    assert len(granted(client.get(JSON))) == 2


def test_the_apps_error_handlers_don_t_touch_our_errors(shop: Flask, instrumented: Instrumented) -> None:
    for kind in (Exception, HTTPException, 400, 403):
        shop.register_error_handler(kind, lambda error: ("theirs", 418))
    client = instrumented(shop).test_client()
    wrong = client.get(f"{ROUTES}?limit=0")
    assert (wrong.status_code, wrong.json["parameter"]) == (400, "limit")
    assert client.get(JSON, environ_overrides=STRANGER).status_code == 403
    assert client.get(PAGE).status_code == 200


def test_the_apps_404_page_is_shown_once_it_is_not_instrumented(shop: Flask, instrumented: Instrumented) -> None:
    shop.register_error_handler(404, lambda error: ("their own page", 404))
    instrumented(shop)
    uninstrument(shop)
    assert shop.test_client().get(PAGE).text == "their own page"


def test_debug_and_testing_apps_answer_a_wrong_parameter_as_others_do(shop: Flask, instrumented: Instrumented) -> None:
    shop.config.update(TESTING=True, DEBUG=True, PROPAGATE_EXCEPTIONS=True, TRAP_BAD_REQUEST_ERRORS=True)
    assert instrumented(shop).test_client().get(f"{ROUTES}?limit=0").status_code == 400


def test_a_sign_in_that_redirects_goes_first_and_the_answer_holds_no_figure(
    shop: Flask, instrumented: Instrumented
) -> None:
    shop.before_request(lambda: None if request.path == "/item/5" else redirect("/sign-in"))
    client = instrumented(shop).test_client()
    client.get("/item/5")
    for environ in ({}, STRANGER):
        answer = client.get(JSON, environ_overrides=environ)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/sign-in")
        assert answer.headers["Cache-Control"] == "no-store"
        assert "item" not in answer.text


def test_a_before_request_that_refuses_goes_first(shop: Flask, instrumented: Instrumented) -> None:
    shop.before_request(lambda: abort(401))
    assert instrumented(shop).test_client().get(PAGE).status_code == 401


def test_a_before_request_that_raises_is_a_500_of_the_app_and_no_figure(
    shop: Flask, instrumented: Instrumented, metrics: PerformanceMetrics
) -> None:
    def breaks() -> None:
        raise RuntimeError("the database is gone")

    shop.before_request(breaks)
    client = instrumented(shop).test_client()
    answer = client.get(PAGE)
    assert answer.status_code == 500
    assert answer.headers["Cache-Control"] == "no-store"
    assert metrics.route_windows() == []


def test_a_blueprint_of_the_app_below_admin_keeps_its_own_headers(shop: Flask, instrumented: Instrumented) -> None:
    theirs = Blueprint("theirs", __name__, url_prefix="/admin/performance/extra")
    theirs.add_url_rule("/", "extra", lambda: "extra")
    shop.register_blueprint(theirs)
    answer = instrumented(shop).test_client().get("/admin/performance/extra/")
    assert answer.text == "extra"
    assert "Content-Security-Policy" not in answer.headers


def test_two_apps_have_pages_of_their_own(instrumented: Instrumented) -> None:
    one, two = Flask("one"), Flask("two")
    for app in (one, two):
        instrumented(app, metrics=PerformanceMetrics())
        app.add_url_rule(f"/{app.name}", "index", lambda: "hello")
        app.test_client().get(f"/{app.name}")
    assert list(one.test_client().get(JSON).json["endpoints"]) == ["GET /one"]
    assert list(two.test_client().get(JSON).json["endpoints"]) == ["GET /two"]


def test_an_app_instrumented_twice_has_its_pages_once(shop: Flask, instrumented: Instrumented) -> None:
    instrumented(shop)
    before = list(rules(shop))
    assert instrument(shop) is shop
    assert list(rules(shop)) == before
