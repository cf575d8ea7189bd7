"""The overview as HTML: everything that the JSON has, in a page that no URL and no name can break."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from flask import Flask, abort
from flask.testing import FlaskClient

from telemetry import PerformanceMetrics, TelemetrySettings, figures
from telemetry.admin import drawing, pages
from tests.unit.telemetry.queries import ask

PAGE = "/admin/performance"
LIVE = "/admin/performance/live"
EVIL = "<script>alert(1)</script>"
Instrumented = Callable[..., Flask]


def busy_shop() -> Flask:
    """An app with queries, errors, cache lookups and ratings."""
    app = Flask("shop")

    app.add_url_rule("/queries/<int:number>", "queries", ask)
    app.add_url_rule("/fail", "fail", lambda: abort(503))
    app.add_url_rule("/api/ratings/<media_hash>", "rate", lambda media_hash: media_hash, methods=["POST"])
    return app


@pytest.mark.parametrize("path", [PAGE, LIVE])
def test_before_the_first_request_there_are_dashes_and_what_to_do(path: str, client: FlaskClient, read) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    page = read(answer.text)
    values = [card.text for card in page.all("div", class_="card")]
    assert sum("–" in value for value in values) >= len(values) - 1
    for wrong in ("None", "nan", "NaN", "inf"):
        assert wrong not in page.text.split()
    assert not page.all("table")
    assert page.by_id("command").text == "curl http://localhost/"


def test_before_the_first_request_it_names_a_page_that_the_app_has(instrumented: Instrumented, read) -> None:
    app = Flask(__name__)
    app.add_url_rule("/items/<int:number>", "item", lambda number: "x")
    app.add_url_rule("/items", "items", lambda: "x")
    client = instrumented(app).test_client()
    for path in (PAGE, "/admin/performance/requests"):
        assert read(client.get(path).text).by_id("command").text == "curl http://localhost/items"


def test_where_the_app_has_no_page_that_can_be_named_no_command_is(instrumented: Instrumented, read) -> None:
    app = Flask(__name__)
    app.add_url_rule("/items/<int:number>", "item", lambda number: "x")
    client = instrumented(app).test_client()
    for path in (PAGE, "/admin/performance/requests"):
        page = read(client.get(path).text)
        assert "To see one, open a page of the app." in page.text
        assert not page.all("code", id="command")


def test_the_page_that_one_is_on_is_told_among_the_links(client: FlaskClient, read) -> None:
    for path, label in ((PAGE, "Routes"), ("/admin/performance/requests", "Requests")):
        links = read(client.get(path).text).all("a", **{"aria-current": "page"})
        assert [link.text for link in links] == [label]


def test_the_page_has_every_figure_of_the_json(metrics: PerformanceMetrics, instrumented: Instrumented, read) -> None:
    client = instrumented(busy_shop()).test_client()
    for path in ("/queries/0", "/queries/25", "/fail"):
        client.get(path)
    client.post("/api/ratings/abc")
    for _ in range(3):
        metrics.record_cache_hit()
    metrics.record_cache_miss()

    page = read(client.get(PAGE).text)
    json = client.get("/admin/performance/json").json

    def card(key: str) -> str:
        found = page.by_id(f"card-{key}")
        return f"{found.text} {found['title']}"

    for number, unit in (("total_queries", "queries"), ("count", "requests")):
        assert f"{json['database'][number]} {unit}" in card("queries")
    assert figures.digits(json["database"]["avg_per_request"]) in card("queries")
    assert f"max {json['database']['max_per_request']}" in card("queries")
    assert figures.milliseconds(json["ratings_post"]["p95_latency_ms"]) in card("ratings")
    assert figures.milliseconds(json["ratings_post"]["avg_latency_ms"]) in card("ratings")
    assert f"n {json['ratings_post']['request_count']}" in card("ratings")
    assert "75.0 %" in card("cache")
    assert "3 of 4" in card("cache")
    assert re.search(r"\bup \d s\b", card("resources"))
    assert card("resources").count(" %") == 2

    assert len(json["endpoints"]) == 3
    for route, stats in json["endpoints"].items():
        (row,) = page.all("tr", **{"data-route": route})
        cells = [cell.text for cell in row.children if not isinstance(cell, str)]
        assert route.replace(" ", "") in cells[0].replace(" ", "")
        assert stats["endpoint"] in cells[0]
        for key in ("p50_ms", "p95_ms", "p99_ms", "avg_ms", "min_ms", "max_ms"):
            assert figures.digits(stats[key]) in cells
        failed = "■ poor 1" if stats["error_count"] else "0"
        assert cells[7:9] == [str(stats["request_count"]), failed]
        (time,) = row.all("time")
        assert time["datetime"] == stats["last_updated"]


def test_a_column_of_milliseconds_holds_nothing_else(metrics: PerformanceMetrics, client: FlaskClient, read) -> None:
    metrics.record_endpoint_latency("GET /slow", 2.171)
    for path in (PAGE, "/admin/performance/report"):
        (row,) = [row for row in read(client.get(path).text).all("tr") if row.all("span", title="GET /slow")]
        texts = [cell.text for cell in row.all("td")]
        assert texts[:2] == ["2,171", "■ poor 2,171"]


def test_whole_numbers_have_their_thousands_apart(shop: Flask, instrumented: Instrumented, read) -> None:
    metrics = PerformanceMetrics(TelemetrySettings(window=1500))
    client = instrumented(shop, metrics=metrics).test_client()
    for _ in range(1200):
        metrics.record_endpoint_latency("GET /", 0.01, is_error=True)
    for path in (PAGE, "/admin/performance/report"):
        page = read(client.get(path).text)
        (row,) = [row for row in page.all("tr") if row.all("span", title="GET /")]
        assert [cell.text for cell in row.all("td") if "1,200" in cell.text] == ["1,200", "■ poor 1,200"]
        assert not re.search(r"\b1[25]00\b", page.text)


def test_every_percentile_carries_its_n(client: FlaskClient, read) -> None:
    for _ in range(3):
        client.get("/")
    (row,) = read(client.get(PAGE).text).all("tr", **{"data-route": "GET /"})
    titles = [cell.attributes.get("title", "") for cell in row.all("td")]
    assert all(title.startswith("n = 3") for title in titles[:4])


def test_each_status_is_a_word_and_a_shape_with_its_rule(
    metrics: PerformanceMetrics, client: FlaskClient, read
) -> None:
    for route, duration_s in (("GET /good", 0.01), ("GET /warning", 0.1), ("GET /poor", 0.3)):
        metrics.record_endpoint_latency(route, duration_s)
    page = read(client.get(PAGE).text)
    for word, shape in (("good", "●"), ("warning", "▲"), ("poor", "■")):
        (row,) = page.all("tr", **{"data-route": f"GET /{word}"})
        (mark,) = row.all("span", class_="shape")[:1]
        assert mark.text == f"{shape} {word}"
        assert "under 50.0 ms is good" in mark["title"]


def test_the_status_of_a_route_is_that_of_all_that_needs_a_look(
    metrics: PerformanceMetrics, instrumented: Instrumented, read
) -> None:
    client = instrumented(busy_shop()).test_client()
    for path in ("/fail", "/queries/25", "/queries/1"):
        client.get(path)
    for is_error in (True, *[False] * 99):
        metrics.record_endpoint_latency("GET /seldom", 0.001, is_error)
    page = read(client.get(PAGE).text)
    report = read(client.get("/admin/performance/report").text)
    for route, mark in (
        ("GET /fail", "■ poor"),
        ("GET /seldom", "▲ warning"),
        ("GET /queries/<number>", "▲ warning"),
    ):
        (row,) = page.all("tr", **{"data-route": route})
        (in_report,) = [row for row in report.all("tr") if row.all("span", title=route)]
        assert row.all("span", class_="shape")[0].text == in_report.all("span", class_="shape")[0].text == mark
    (row,) = page.all("tr", **{"data-route": "GET /fail"})
    assert row.all("span", class_="shape")[0]["title"].startswith(
        "poor: 1 error in 1 request (errors: a route with one is"
    )


def test_what_needs_a_look_leads_to_a_request_that_shows_it(instrumented: Instrumented, read) -> None:
    client = instrumented(busy_shop()).test_client()
    client.get("/fail")
    failed = client.get("/fail").headers["traceparent"][3:].rpartition("-")[0]
    (fact,) = read(client.get(PAGE).text).by_id("needs-a-look").all("span", class_="facts")
    (link,) = fact.all("a")
    assert (link.text, link["href"]) == ("2 errors in 2 requests", f"{PAGE}/requests/{failed}")


def test_what_needs_a_look_leads_to_its_row(metrics: PerformanceMetrics, client: FlaskClient, read) -> None:
    metrics.record_endpoint_latency("GET /slow", 0.3)
    metrics.record_cache_miss(100)
    page = read(client.get(PAGE).text)
    slow, cache = page.by_id("needs-a-look").all("a")
    anchor = slow["href"].partition("#")[2]
    assert page.by_id(anchor)["data-route"] == "GET /slow"
    assert page.by_id(cache["href"].partition("#")[2])["class"] == "card"


def test_no_more_than_a_few_notes_stand_there_and_the_rest_is_counted(
    metrics: PerformanceMetrics, client: FlaskClient, read
) -> None:
    for number in range(11):
        metrics.record_endpoint_latency(f"GET /{number}", 0.3)
    panel = read(client.get(PAGE).text).by_id("needs-a-look")
    assert len(panel.all("li")) == 8
    assert "and 3 more" in panel.text


def test_a_calm_app_is_told_so(client: FlaskClient, metrics: PerformanceMetrics, read) -> None:
    metrics.record_endpoint_latency("GET /", 0.001)
    assert "nothing stands out" in read(client.get(PAGE).text).by_id("needs-a-look").text


@pytest.mark.parametrize(
    "query",
    [
        "sort=nope&order=up&range=9y&all=2",
        "sort=&order=&range=&q=&route=&all=",
        "sort=__class__&range=__len__",
        "range[]=1&range=1h;range=5m",
        "order=%F0%9F%98%80&sort=%00",
        "limit=0&sort_by=nope",
        "%",
        "&&&==",
        "all=1&all=1",
    ],
)
@pytest.mark.parametrize("path", [PAGE, LIVE])
def test_a_url_that_makes_no_sense_shows_the_default_view(path: str, query: str, client: FlaskClient, read) -> None:
    client.get("/")
    answer = client.get(path, environ_overrides={"QUERY_STRING": query})
    assert answer.status_code == 200
    page = read(answer.text)
    assert [head["class"] for head in page.all("th", **{"aria-sort": "descending"})] == ["p95_ms"]
    assert [link["id"] for link in page.all("a", **{"aria-current": "true"})] == ["range-15m"]
    assert len(page.all("tr", **{"data-route": "GET /"})) == 1


@pytest.mark.parametrize(
    "query",
    [
        {"q": "\0\ufffd\u202e"},
        {"q": "x" * 5000},
        {"q": EVIL},
        {"route": EVIL},
        {"route": '"><img src=x onerror=alert(1)>'},
        {"route": "x" * 5000},
        {"route": "GET /none"},
        {"q": "%s %d {} {{ 1234567 * 1000 }} {% raw %}"},
    ],
)
def test_whatever_a_url_carries_is_shown_as_text(query: dict[str, str], client: FlaskClient, read) -> None:
    client.get("/")
    answer = client.get(PAGE, query_string=query)
    assert answer.status_code == 200
    page = read(answer.text)
    assert EVIL not in answer.text
    assert "1234567000" not in answer.text
    assert not page.all("img")
    scripts = page.all("script")
    assert all(script["src"].startswith("/admin/performance/static/") and not script.children for script in scripts)


def test_names_of_routes_titles_and_links_are_escaped(
    metrics: PerformanceMetrics, shop: Flask, instrumented: Instrumented, read
) -> None:
    client = instrumented(shop, title=EVIL, admin_links={EVIL: "index"}).test_client()
    metrics.record_endpoint_latency(f"GET /{EVIL}", 0.3)
    answer = client.get(PAGE, query_string={"route": f"GET /{EVIL}"})
    page = read(answer.text)
    assert EVIL not in answer.text
    assert page.all("h1")[0].text == EVIL
    assert EVIL in [link.text for link in page.all("a", href="/")]
    assert page.all("tr", **{"data-route": f"GET /{EVIL}"})


def test_the_page_is_headed_by_the_service_name_and_links_to_pages_that_exist(
    shop: Flask, instrumented: Instrumented, read
) -> None:
    @shop.url_defaults
    def refuse(endpoint: str, _: dict[str, object]) -> None:
        if endpoint == "ping":
            raise AttributeError("lang_code")  # as of `g`, which nothing has set for an admin page

    links = {"Home": "index", "Gone": "none", "Item": "item", "Refused": "ping"}
    instrumented(shop, service_name="The Shop", admin_links=links)
    page = read(shop.test_client().get(PAGE).text)
    assert page.all("h1")[0].text == "The Shop"
    assert page.all("title")[0].text == "Performance · The Shop"
    (nav,) = page.all("nav", **{"aria-label": "Pages"})
    assert [(link.text, link["href"]) for link in nav.all("a")] == [
        ("Home", "/"),
        ("Routes", "/admin/performance"),
        ("Requests", "/admin/performance/requests"),
        ("JSON", "/admin/performance/json"),
        ("Report", "/admin/performance/report"),
    ]


def test_links_of_the_table_keep_the_rest_of_the_view(client: FlaskClient, read) -> None:
    client.get("/")
    page = read(client.get(f"{PAGE}?q=get&range=1h&sort=route").text)
    links = [page.by_id(name)["href"] for name in ("sort-route", "sort-max_ms", "range-5m")]
    assert [parse_qs(link.removeprefix("?")) for link in links] == [
        {"q": ["get"], "range": ["1h"], "sort": ["route"], "order": ["desc"]},
        {"q": ["get"], "range": ["1h"], "sort": ["max_ms"], "order": ["desc"]},
        {"q": ["get"], "range": ["5m"], "sort": ["route"], "order": ["asc"]},
    ]
    fields = {field["name"]: field["value"] for field in page.by_id("filter-form").all("input")}
    assert fields == {"q": "get", "sort": "route", "order": "asc", "range": "1h", "route": "", "all": "", "notes": ""}


def test_the_filter_keeps_the_chosen_route_without_javascript_too(client: FlaskClient, read) -> None:
    client.get("/")
    page = read(client.get(f"{PAGE}?route=GET+/&all=1").text)
    fields = {field["name"]: field["value"] for field in page.by_id("filter-form").all("input")}
    assert (fields["route"], fields["all"]) == ("GET /", "1")


def test_a_filter_that_finds_nothing_offers_the_way_back(client: FlaskClient, read) -> None:
    client.get("/")
    routes = read(client.get(f"{PAGE}?q=nothing+such").text).by_id("routes")
    assert "No route matches nothing such" in routes.text
    assert "routes 0 of 1" in routes.text
    assert [link["href"] for link in routes.all("a")] == ["?"]


def test_many_routes_are_cut_and_all_can_be_shown(metrics: PerformanceMetrics, client: FlaskClient, read) -> None:
    for number in range(203):
        metrics.record_endpoint_latency(f"GET /{number}", 0.01)
    page = read(client.get(PAGE).text)
    assert len(page.all("tr", tabindex="-1")) == 200
    assert "3 more routes" in page.by_id("routes").text
    assert len(read(client.get(f"{PAGE}?all=1").text).all("tr", tabindex="-1")) == 203


def test_the_chart_drawn_by_the_server_shows_the_chosen_requests(client: FlaskClient, read) -> None:
    for path in ("/", "/item/1", "/item/2"):
        client.get(path)

    def dots(query: str) -> int:
        (path,) = read(client.get(f"{PAGE}?{query}").text).all("path", class_="dots")
        return path["d"].count("M")

    assert dots("") == 3
    assert dots("route=GET+%2Fitem%2F%3Cnumber%3E") == 2
    assert dots("route=GET+%2Fnone") == 0


def test_the_live_part_is_the_inside_of_the_page_without_the_drawing(client: FlaskClient, read) -> None:
    client.get("/")
    live = read(client.get(LIVE).text)
    assert not live.all("html") + live.all("script") + live.all("svg", class_="drawn")
    main = read(client.get(PAGE).text).by_id("live")
    assert main["data-live"] == LIVE
    ids = {node["id"] for node in main.elements() if "id" in node.attributes}
    assert {node["id"] for node in live.elements() if "id" in node.attributes} == ids - {"live"}


def test_ids_are_unique(metrics: PerformanceMetrics, client: FlaskClient, read) -> None:
    for number in range(30):
        metrics.record_endpoint_latency(f"GET /{number}", 0.3)
    ids = [node["id"] for node in read(client.get(PAGE).text).elements() if "id" in node.attributes]
    assert len(ids) == len(set(ids))


def test_without_the_browser_libraries_the_page_reads_and_asks_for_none(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, read
) -> None:
    monkeypatch.setattr(pages, "LIBRARIES", ("not-installed.js",))
    page = read(client.get(PAGE).text)
    sources = [script["src"] for script in page.all("script")] + [link["href"] for link in page.all("link")]
    assert sources
    assert not [source for source in sources if "vendor" in source]
    assert not [meta for meta in page.all("meta") if "http-equiv" in meta.attributes], "what one types would be lost"


def test_everything_the_page_asks_for_is_there_and_of_this_app(client: FlaskClient, read) -> None:
    page = read(client.get(PAGE).text)
    sources = [script["src"] for script in page.all("script")] + [link["href"] for link in page.all("link")]
    for source in sources:
        with client.get(source) as answer:
            assert answer.status_code == 200, source


def test_static_files_are_checked_for_change_each_time_and_not_sent_again(client: FlaskClient) -> None:
    with client.get("/admin/performance/static/admin.css") as first:
        assert first.headers["Cache-Control"] == "no-cache"
        etag = first.headers["ETag"]
    with client.get("/admin/performance/static/admin.css", headers={"If-None-Match": etag}) as again:
        assert again.status_code == 304


@pytest.mark.parametrize("name", ["../pages.py", "..%2Fpages.py", "%2e%2e/guard.py", "none.css", ""])
def test_nothing_but_the_static_files_can_be_fetched(name: str, client: FlaskClient) -> None:
    assert (Path(pages.__file__).parent / "static" / "admin.css").is_file()
    with client.get(f"/admin/performance/static/{name}") as answer:
        assert answer.status_code == 404


def test_the_thresholds_are_those_of_the_settings(shop: Flask, instrumented: Instrumented, read) -> None:
    instrumented(shop, settings=TelemetrySettings(good_below_ms=7, poor_above_ms=70, fan_out_warning=3))
    page = read(shop.test_client().get(PAGE).text)
    assert (page.by_id("chart")["data-good-ms"], page.by_id("chart")["data-poor-ms"]) == ("7.0", "70.0")
    assert "7.00 ms" in page.by_id("legend").text


def test_the_drawing_of_the_script_has_the_limits_of_that_of_the_server(client: FlaskClient, read) -> None:
    box = read(client.get(PAGE).text).by_id("chart")
    assert (float(box["data-least-ms"]), float(box["data-gap-s"])) == (drawing.LEAST_MS, drawing.GAP_S)


def test_the_command_to_copy_names_the_host_that_was_asked(shop: Flask, instrumented: Instrumented, read) -> None:
    instrumented(shop)
    page = read(shop.test_client().get(PAGE, base_url="http://127.0.0.1:8000/below").text)
    assert page.by_id("command").text == "curl http://127.0.0.1:8000/below/"
    page = read(shop.test_client().get(PAGE, base_url="http://127.0.0.1:8000/my app;ls").text)
    assert page.by_id("command").text == "curl http://127.0.0.1:8000/my%20app%3Bls/"


def test_where_opentelemetry_is_switched_off_the_page_says_so(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No request has been measured yet" in client.get(PAGE).text
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    page = client.get(PAGE).text
    assert "the variable <code>OTEL_SDK_DISABLED</code> switches OpenTelemetry off" in page
    assert "No request has been measured yet" not in page
