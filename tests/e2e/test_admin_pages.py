"""The overview in a real browser: alive, quick by keyboard, the same from its URL, and quiet when the server is gone."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from telemetry import PerformanceMetrics
from telemetry.admin import pages
from tests.e2e.colours import contrast
from tools import vendor

OVERVIEW = "/admin/performance"
LIVE = "**/admin/performance/live*"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
LONG = f"GET /{'a-long-name/' * 13}its-end"
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"

expect.set_options(timeout=30_000)
needs_libraries = pytest.mark.skipif(
    not vendor.is_complete(), reason="run python tools/vendor.py: no browser libraries"
)


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.0"  # one request a connection, so that no thread outlives the page

    def log(self, *_: object) -> None:
        pass


class Shop:
    """An instrumented app of a few routes, served from this process."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.open = True
        self._port = 0
        self.start()

    def start(self) -> None:
        """Serve; after `stop` on the same port."""
        self._server: BaseWSGIServer = make_server(
            "127.0.0.1", self._port, self.app, threaded=True, request_handler=_Handler
        )
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def visit(self, *paths: str) -> None:
        for path in paths:
            with urlopen(self.url + path) as answer:
                answer.read()


@pytest.fixture
def shop(instrumented: Callable[..., Flask]) -> Iterator[Shop]:
    app = Flask("shop")
    app.add_url_rule("/", "index", lambda: "hello")
    app.add_url_rule("/item/<int:number>", "item", lambda number: f"item {number}")
    app.add_url_rule("/a/rather/long/name/<of>/a/route/that/must/be/cut", "long", lambda of: of)
    running = Shop(app)
    instrumented(app, title="Shop", authorize=lambda: running.open)
    yield running
    running.stop()


@pytest.fixture
def overview(shop: Shop, browse: Callable[..., Page]) -> Callable[..., Page]:
    """Open the overview: `overview(query, **context_options)`. Its pages are closed before the shop is."""

    def make(query: str = "", **options: object) -> Page:
        page = browse(shop.url, **options)
        page.goto(OVERVIEW + query)
        return page

    return make


def figures_asked_for(page: Page) -> list[str]:
    """The addresses of figures that the page asks for from now on; the list grows."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/static/" not in request.url else None)
    return asked


def rows(page: Page) -> list[str | None]:
    return [row.get_attribute("data-route") for row in page.locator("#routes tbody tr").all()]


def expect_rows(page: Page, *routes: str) -> None:
    expect(page.locator("#routes tbody tr")).to_have_count(len(routes))
    for number, route in enumerate(routes):
        expect(page.locator("#routes tbody tr").nth(number)).to_have_attribute("data-route", route)


def expect_sorted(page: Page, column: str, order: str) -> None:
    expect(page.locator(f"thead th.{column}")).to_have_attribute("aria-sort", order)
    expect(page.locator("th[aria-sort]")).to_have_count(1)


def record(metrics: PerformanceMetrics, *routes: tuple[str, float, int]) -> None:
    for route, duration_s, requests in routes:
        for _ in range(requests):
            metrics.record_endpoint_latency(route, duration_s)


@pytest.fixture
def three(metrics: PerformanceMetrics) -> None:
    """Three routes: /slow by p95, /many by requests, /alpha by name."""
    record(metrics, ("GET /slow", 0.3, 1), ("GET /many", 0.02, 5), ("GET /alpha", 0.01, 2))


@needs_libraries
def test_it_refreshes_by_itself_and_shows_a_new_request(overview, shop):
    page = overview()
    expect(page.get_by_text("No request has been measured yet.")).to_be_visible()
    page.evaluate("window.sameDocument = true")
    shop.visit("/item/5")
    expect_rows(page, "GET /item/<number>")
    expect(page.locator("#chart")).to_have_attribute("data-points", "1")
    expect(page.locator("#pulse-word")).to_have_text(re.compile(r"^live · \d s ago$"))
    shop.visit("/item/6", "/item/7")
    expect(page.locator("#routes tbody td").nth(6)).to_have_text("3")
    assert page.evaluate("window.sameDocument")


@needs_libraries
def test_the_pause_key_stops_the_refresh_and_starts_it_again(overview, shop):
    page = overview()
    page.clock.install()
    page.goto(OVERVIEW)
    expect(page.locator("#pulse")).to_have_attribute("data-pulse", "live")
    page.keyboard.press("p")
    expect(page.locator("#pulse-word")).to_have_text(re.compile("^paused · "))
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    asked = figures_asked_for(page)
    shop.visit("/")
    page.clock.run_for(60_000)
    assert asked == []
    assert rows(page) == []
    page.keyboard.press("p")
    expect_rows(page, "GET /")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


@needs_libraries
def test_who_is_led_to_another_page_is_told_to_sign_in_again(overview, shop):
    shop.visit("/")
    page = overview()
    page.route(LIVE, lambda route: route.fulfill(status=302, headers={"Location": "/"}))
    expect(page.locator("#announcer")).to_have_text("the server answers with another page: sign in again")
    assert rows(page) == ["GET /"]


@needs_libraries
def test_without_a_secure_context_a_command_is_copied_and_the_page_goes_on(overview, shop):
    page = overview()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("String(getSelection())") == ""
    shop.visit("/")
    expect_rows(page, "GET /")


@needs_libraries
def test_a_pause_lasts_while_other_pages_are_read(overview, shop):
    page = overview()
    page.keyboard.press("p")
    page.locator("#to-requests").click()
    expect(page.locator("#pulse-word")).to_have_text(re.compile("^paused · "))
    page.go_back()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    asked = figures_asked_for(page)
    shop.visit("/")
    page.keyboard.press("p")
    expect_rows(page, "GET /")
    assert len(asked) > 0


@needs_libraries
def test_what_is_selected_stays_so_until_it_is_copied(overview, shop):
    shop.visit("/")
    page = overview()
    page.locator("#routes tbody code").select_text()
    expect(page.locator("#pulse-word")).to_have_text("held · text is selected")
    shop.visit("/item/5")
    assert page.evaluate("String(getSelection())") == "GET /"
    page.evaluate("getSelection().removeAllRanges()")
    expect(page.locator("#routes tbody tr")).to_have_count(2)


@needs_libraries
def test_a_row_that_has_the_focus_and_changes_its_place_scrolls_nothing(overview, metrics):
    record(metrics, *[(f"GET /{number:02}", 0.01 * number, 1) for number in range(1, 40)])
    page = overview()
    row = page.locator('#routes tbody tr[data-route="GET /20"]')
    row.focus()
    page.evaluate("scrollTo(0, 0)")
    record(metrics, ("GET /20", 2.0, 1))
    expect(page.locator("#routes tbody tr").first).to_have_attribute("data-route", "GET /20")
    assert page.evaluate("scrollY") == 0
    assert page.evaluate("document.activeElement.dataset.route") == "GET /20"


@needs_libraries
def test_a_hidden_page_asks_for_nothing_and_goes_on_when_it_is_seen(overview, shop):
    page = overview()
    page.clock.install()
    page.goto(OVERVIEW)
    seen = "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
    seen += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(seen, True)
    asked = figures_asked_for(page)
    shop.visit("/")
    page.clock.run_for(60_000)
    assert asked == []
    page.evaluate(seen, False)
    expect_rows(page, "GET /")


@needs_libraries
@pytest.mark.usefixtures("three")
def test_the_slash_key_filters_and_the_url_keeps_it(overview):
    page = overview()
    page.keyboard.press("/")
    expect(page.locator("#filter")).to_be_focused()
    page.keyboard.type("al get")
    expect_rows(page, "GET /alpha")
    page.wait_for_url("**?q=al+get")
    with page.expect_response(LIVE):
        pass
    expect(page.locator("#filter")).to_be_focused()
    expect(page.locator("#filter")).to_have_value("al get")
    page.keyboard.press("Escape")
    expect(page.locator("#filter")).not_to_be_focused()
    expect(page.locator("#filter")).to_have_value("al get")
    page.reload()
    expect_rows(page, "GET /alpha")
    expect(page.locator("#filter")).to_have_value("al get")


@needs_libraries
@pytest.mark.usefixtures("three")
def test_a_click_sorts_and_back_and_reload_lead_to_the_same_view(overview):
    page = overview()
    expect_rows(page, "GET /slow", "GET /many", "GET /alpha")
    page.locator("#sort-request_count").click()
    expect_sorted(page, "request_count", "descending")
    expect_rows(page, "GET /many", "GET /alpha", "GET /slow")
    page.locator("#sort-request_count").click()
    expect_sorted(page, "request_count", "ascending")
    expect_rows(page, "GET /slow", "GET /alpha", "GET /many")
    page.reload()
    expect_rows(page, "GET /slow", "GET /alpha", "GET /many")
    page.go_back()
    expect_sorted(page, "request_count", "descending")
    page.go_back()
    expect_sorted(page, "p95_ms", "descending")
    expect_rows(page, "GET /slow", "GET /many", "GET /alpha")
    page.go_forward()
    expect_sorted(page, "request_count", "descending")


@needs_libraries
@pytest.mark.usefixtures("three")
def test_a_key_sorts_and_the_focus_stays_where_it_was(overview):
    page = overview()
    page.locator("#sort-route").focus()
    page.keyboard.press("Enter")
    expect_sorted(page, "route", "ascending")
    expect_rows(page, "GET /alpha", "GET /many", "GET /slow")
    page.wait_for_url("**?*sort=route*")
    expect(page.locator("#sort-route")).to_be_focused()
    with page.expect_response(LIVE):
        pass
    expect(page.locator("#sort-route")).to_be_focused()


@needs_libraries
@pytest.mark.usefixtures("three")
def test_rows_are_walked_and_opened_by_key(overview):
    page = overview()
    body = page.locator("#routes tbody tr")
    page.keyboard.press("j")
    expect(body.nth(0)).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(body.nth(2)).to_be_focused()
    page.keyboard.press("k")
    expect(body.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**?route=GET+%2Fmany")
    expect(body.nth(1)).to_have_attribute("aria-current", "true")
    expect(page.locator("#latency-title")).to_contain_text("GET /many")
    expect(page.locator("#chart")).to_have_attribute("data-points", "5")
    page.keyboard.press("Escape")
    expect(page.locator("#chart")).to_have_attribute("data-points", "8")
    assert page.url.endswith(OVERVIEW)


@needs_libraries
@pytest.mark.usefixtures("three")
def test_a_click_on_a_row_opens_it_unless_its_text_is_being_selected(overview):
    page = overview()
    cell = page.locator("#routes tr[data-route='GET /many'] td").nth(6)
    box = cell.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert page.evaluate("String(getSelection())") == "5"
    assert page.url.endswith(OVERVIEW)
    cell.click()
    page.wait_for_url("**?route=GET+%2Fmany")
    expect(page.locator("#latency-title")).to_contain_text("GET /many")


@needs_libraries
@pytest.mark.usefixtures("three")
def test_what_needs_a_look_leads_to_its_row(overview):
    page = overview()
    page.locator("#needs-a-look a").click()
    expect(page.locator("#routes tr[data-route='GET /slow']")).to_be_focused()
    expect(page.locator("#latency")).to_have_attribute("data-route", "GET /slow")


@needs_libraries
@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_a_route_chosen_below_the_fold_brings_the_chart_into_sight_and_a_refresh_does_not(overview, metrics, motion):
    record(metrics, *[(f"GET /{number:02}", 0.01, 1) for number in range(60)])
    page = overview("?sort=route", viewport={"width": 1400, "height": 700}, reduced_motion=motion)
    page.locator("#routes tbody tr").nth(55).scroll_into_view_if_needed()
    expect(page.locator("#latency")).not_to_be_in_viewport()
    with page.expect_response(LIVE):
        pass
    expect(page.locator("#latency")).not_to_be_in_viewport()
    page.locator("#routes tbody tr a").nth(55).click()
    expect(page.locator("#latency-title")).to_contain_text("GET /55")
    expect(page.locator("#latency")).to_be_in_viewport(ratio=1)
    with page.expect_response(LIVE):  # and a smooth scroll has ended
        pass
    scrolled = page.evaluate("scrollY")
    with page.expect_response(LIVE):
        pass
    assert page.evaluate("scrollY") == scrolled


@needs_libraries
def test_a_chosen_route_leads_to_its_requests_and_escape_to_those_of_all(overview, shop):
    shop.visit("/", "/item/5", "/item/6")
    page = overview("?route=GET+/item/<number>")
    page.locator("#to-its-requests").click()
    expect(page.locator("#requests tbody tr")).to_have_count(2)
    with page.expect_response(re.compile("/requests/live")):
        pass
    expect(page.locator("#requests tbody tr")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.locator("#requests tbody tr")).to_have_count(3)
    assert page.url.endswith(f"{OVERVIEW}/requests")


@needs_libraries
def test_a_range_is_chosen_and_kept_in_the_url(overview, shop):
    shop.visit("/")
    page = overview()
    page.locator("#range-5m").click()
    expect(page.locator("#range-5m")).to_have_attribute("aria-current", "true")
    page.wait_for_url("**?range=5m")
    expect(page.locator("#chart canvas")).to_be_visible()


@needs_libraries
@pytest.mark.usefixtures("three")
def test_percentiles_are_told_where_the_cursor_is_and_nothing_moves(overview):
    page = overview()
    expect(page.locator("#chart")).to_have_attribute("data-slices", "1")
    table = page.locator("#routes").bounding_box()
    over = page.locator("#chart .u-over").bounding_box()
    for right in range(1, int(over["width"]), 3):  # on a slow machine it is some seconds old
        page.mouse.move(over["x"] + over["width"] - right, over["y"] + over["height"] / 2)
        if page.locator("#under-cursor").text_content():
            break
    expect(page.locator("#under-cursor")).to_have_text(re.compile(r"UTC  p50 20\.0 ms  p95 202 ms  p99 280 ms  n 8$"))
    assert page.locator("#routes").bounding_box() == table


def test_help_opens_and_closes_by_key(overview):
    page = overview()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()


def test_the_theme_follows_the_system_and_a_choice_is_remembered(overview):
    page = overview(color_scheme="dark")
    dark = page.evaluate(BACKGROUND)
    page.get_by_role("button", name="Light or dark").click()
    light = page.evaluate(BACKGROUND)
    assert light != dark
    page.reload()
    assert page.evaluate(BACKGROUND) == light
    page.get_by_role("button", name="Light or dark").click()
    page.reload()
    assert page.evaluate(BACKGROUND) == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_placeholder_of_the_filter_can_be_read(overview, scheme):
    page = overview(color_scheme=scheme)
    field = page.locator("#filter")
    colour = field.evaluate("node => getComputedStyle(node, '::placeholder').color")
    assert contrast(colour, field.evaluate("node => getComputedStyle(node).backgroundColor")) >= 4.5


@pytest.mark.usefixtures("three")
def test_it_reads_filters_and_sorts_with_javascript_off(overview):
    page = overview(java_script_enabled=False)
    expect_rows(page, "GET /slow", "GET /many", "GET /alpha")
    expect(page.locator("#chart svg path.dots")).to_have_attribute("d", re.compile(r"^(M[\d.]+ [\d.]+h0){8}$"))
    expect(page.locator("#chart svg path.percentile.p95")).to_have_attribute(
        "d", re.compile(r"^M[\d.]+ [\d.]+H[\d.]+$")
    )
    expect(page.locator("#tools")).to_be_hidden()
    page.locator("#sort-route").click()
    expect_rows(page, "GET /alpha", "GET /many", "GET /slow")
    page.locator("#filter").fill("slow")
    page.get_by_role("button", name="Filter").click()
    expect_rows(page, "GET /slow")
    expect_sorted(page, "route", "ascending")


def test_without_the_libraries_the_page_loads_itself_anew(overview, shop, monkeypatch):
    monkeypatch.setattr(pages, "LIBRARIES", ("not-installed.js",))
    page = overview()
    page.clock.install()
    page.goto(OVERVIEW)
    shop.visit("/")
    with page.expect_navigation():
        page.clock.run_for(pages.RELOAD_S * 1000)
    expect_rows(page, "GET /")
    expect(page.locator("#chart svg.drawn")).to_be_visible()


@needs_libraries
def test_a_server_that_is_gone_gets_a_quiet_word_and_is_resumed(overview, shop, watched):
    shop.visit("/")
    page = overview()
    page.clock.install()
    page.clock.pause_at(datetime.now() + timedelta(minutes=1))
    page.goto(OVERVIEW)
    expect(page.locator("#pulse")).to_have_attribute("data-pulse", "live")
    shop.stop()
    try:
        for wait_s in (4, 8, 16):
            page.clock.fast_forward(60_000)
            expect(page.locator("#pulse-word")).to_have_text(
                re.compile(rf"^no answer from the server · figures of [\d:]{{8}} UTC · again in {wait_s} s$")
            )
        page.get_by_role("button", name="Try now").click()
        page.locator("#range-5m").click()
        expect(page.locator("#pulse-word")).to_have_text(re.compile(r"again in 16 s$"))  # who asks does not wait longer
        expect(page.locator("#announcer")).to_have_text("no answer from the server")
        assert rows(page) == ["GET /"]
    finally:
        shop.start()
    shop.visit("/item/5")
    page.get_by_role("button", name="Try now").press("Enter")
    expect(page.locator("#pulse")).to_have_attribute("data-pulse", "live")
    expect(page.get_by_role("button", name="Try now")).to_be_hidden()
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    expect(page.locator("#routes tbody tr")).to_have_count(2)
    shop.visit("/a/rather/long/name/1/a/route/that/must/be/cut")
    page.clock.resume()
    page.clock.fast_forward(60_000)
    expect(page.locator("#routes tbody tr")).to_have_count(3)
    assert all(re.search("net::ERR_|Failed to fetch", said) for said in watched.complaints)
    watched.complaints.clear()


@needs_libraries
def test_a_server_that_refuses_is_named_with_its_status_and_the_figures_stay(overview, shop, watched):
    shop.visit("/")
    page = overview()
    shop.open = False
    expect(page.locator("#pulse-word")).to_have_text(
        re.compile(r"^the server answers with 403: sign in again · figures of [\d:]{8} UTC$")
    )
    expect(page.locator("#announcer")).to_have_text("the server answers with 403: sign in again")
    assert rows(page) == ["GET /"]
    shop.open = True
    page.get_by_role("button", name="Reload").click()
    expect(page.locator("#pulse")).to_have_attribute("data-pulse", "live")
    assert all("403" in said for said in watched.complaints)
    watched.complaints.clear()


@pytest.mark.parametrize("query", ["", "?route=GET+%2F", "?q=nothing"])
@pytest.mark.parametrize("is_empty", [True, False])
def test_nothing_scrolls_sideways_on_a_phone(overview, shop, metrics, query, is_empty):
    if not is_empty:
        shop.visit("/", "/a/rather/long/name/x/a/route/that/must/be/cut")
        record(metrics, (LONG, 0.3, 1))
    page = overview(query, **PHONE)
    page.wait_for_load_state("networkidle")
    assert page.evaluate(FITS)


@pytest.mark.parametrize("width", [390, 1400])
def test_the_report_is_as_wide_as_its_window_whatever_a_route_is_called(shop, metrics, chromium, width):
    record(metrics, (LONG, 0.3, 1))
    with (
        urlopen(f"{shop.url}{OVERVIEW}/report") as report,
        chromium.new_context(viewport={"width": width, "height": 844}) as context,
    ):
        page = context.new_page()
        page.set_content(report.read().decode())
        expect(page.locator("tbody .middle")).to_have_attribute("title", LONG)
        assert page.evaluate(FITS)


def test_a_name_that_is_cut_is_copied_as_a_whole(overview, metrics):
    record(metrics, (LONG, 0.3, 1))
    page = overview()
    name = page.locator("#routes tbody .middle")
    assert name.locator(".head").evaluate("node => node.scrollWidth > node.clientWidth")
    assert name.evaluate("node => (getSelection().selectAllChildren(node), String(getSelection()))") == LONG


@pytest.mark.parametrize("width", [1000, 1400])
def test_the_heads_of_the_columns_stay_in_sight(overview, metrics, width):
    record(metrics, *[(f"GET /{number}", 0.01, 1) for number in range(60)])
    page = overview(viewport={"width": width, "height": 600})
    page.locator("#routes tbody tr").nth(50).scroll_into_view_if_needed()
    expect(page.locator("#sort-route")).to_be_in_viewport()


COVERED = """() => {
  const focused = document.activeElement;
  if (!focused.matches("a, button, input")) return "";
  const { left, top, width, height } = focused.getBoundingClientRect();
  const points = [0.1, 0.5, 0.9].map((part) => document.elementFromPoint(left + width * part, top + height / 2));
  return points.some((seen) => seen && (focused.contains(seen) || seen.contains(focused))) ? "" : focused.textContent;
}"""


@pytest.mark.parametrize("width", [390, 720, 1024])
def test_what_has_the_focus_is_not_covered_by_what_stays_in_sight(overview, metrics, width):
    record(metrics, *[(f"GET /{number}", 0.01, 1) for number in range(8)])
    page = overview(viewport={"width": width, "height": 450})
    page.locator("#pause").click()
    stops = page.locator("main :is(a, button, input):visible").count()
    covered = []
    for key in ("Tab", "Shift+Tab"):
        for _ in range(min(stops, 90)):
            page.keyboard.press(key)
            covered.append(page.evaluate(COVERED))
    assert set(covered) == {""}


@needs_libraries
def test_no_column_moves_when_figures_change(overview, metrics, monkeypatch):
    record(metrics, ("GET /", 0.01, 1))
    page = overview()
    places = "[...document.querySelectorAll('#routes thead th')].map(head => head.getBoundingClientRect().left)"
    before = page.evaluate(places)
    later = SimpleNamespace(time_ns=lambda: time.time_ns() + 59 * 60 * 10**9)
    monkeypatch.setattr(pages, "time", later)
    record(metrics, ("GET /", 86_400, 99))
    expect(page.locator("#routes tbody time")).to_have_text("59 min")
    assert page.evaluate(places) == before


@needs_libraries
@pytest.mark.parametrize("locale", ["en-US", "ar-EG"])
def test_the_clock_of_the_chart_is_that_of_the_tables(overview, shop, locale):
    shop.visit("/")
    hours = {time.gmtime(time.time() - 120).tm_hour, time.gmtime().tm_hour}
    page = overview(timezone_id="Asia/Tokyo", locale=locale)
    page.add_init_script(
        "const draw = CanvasRenderingContext2D.prototype.fillText; window.drawn = [];"
        "CanvasRenderingContext2D.prototype.fillText = function (text, ...at) {"
        " window.drawn.push(text); draw.call(this, text, ...at); };"
    )
    page.reload()
    expect(page.locator("#chart")).to_have_attribute("data-points", "1")
    clocks = [text for text in page.evaluate("drawn") if ":" in text]
    assert {int(text[:2]) for text in clocks} <= hours | {time.gmtime().tm_hour}
    assert clocks


def test_on_paper_it_is_black_on_white_without_what_can_be_pressed(overview, metrics):
    record(metrics, (LONG, 0.3, 1))
    page = overview(color_scheme="dark", viewport={"width": 700, "height": 900})
    page.emulate_media(media="print")
    assert page.evaluate(BACKGROUND) == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('thead th')).position") == "static"
    for left_out in ("#tools", "#filter", "nav >> nth=0"):
        expect(page.locator(left_out)).to_be_hidden()
    assert page.evaluate(FITS)
    page.evaluate("Date.now = () => 0")  # the time is the server's
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    said = datetime.strptime(page.locator("#pulse-word").inner_text(), "as of %Y-%m-%d %H:%M:%S UTC").replace(
        tzinfo=UTC
    )
    assert abs(datetime.now(UTC) - said) < timedelta(minutes=5)


@needs_libraries
def test_an_app_that_adds_to_every_address_keeps_filter_and_range(shop, browse):
    @shop.app.url_defaults
    def add_language(_: str, values: dict[str, object]) -> None:
        values.setdefault("lang", "de")

    shop.visit("/", "/item/5")
    page = browse(shop.url)
    page.goto(f"{OVERVIEW}?q=item")
    asked = figures_asked_for(page)
    expect_rows(page, "GET /item/<number>")
    page.get_by_role("link", name="1 h").click()
    expect(page.locator("#latency")).to_have_attribute("data-range", "1h")
    expect_rows(page, "GET /item/<number>")
    expect(page.locator("#chart")).to_have_attribute("data-points", "2")
    assert {"q=item", "range=1h", "lang=de"} <= {part for url in asked for part in urlsplit(url).query.split("&")}


def test_a_long_name_of_an_app_leaves_no_page_wider_than_a_phone(instrumented, browse):
    app = instrumented(Flask("long"), title="acme_video_platform.internal_tools.dashboard")
    running = Shop(app)
    try:
        page = browse(running.url, viewport={"width": 320, "height": 700})
        for address in (OVERVIEW, f"{OVERVIEW}/requests"):
            page.goto(address)
            assert page.evaluate(FITS)
        page.context.close()
    finally:
        running.stop()


def test_figures_of_minutes_keep_to_their_columns(overview, metrics):
    record(metrics, ("GET /slow", 166.653, 1), ("GET /slow", 181.334, 1))
    page = overview(viewport={"width": 1400, "height": 800})
    cells = page.locator("#routes tbody tr td").all()
    assert [cell.evaluate("cell => cell.scrollWidth <= cell.clientWidth") for cell in cells] == [True] * len(cells)


ENDS = """table => {
  const end = (node) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    return Math.round(range.getBoundingClientRect().right);
  };
  const [heads, cells] = ["thead tr", "tbody tr"].map((row) => [...table.querySelector(row).children].slice(1));
  return [heads.map((head) => end(head.firstElementChild)), cells.map(end)];
}"""


@pytest.mark.parametrize("width", [1024, 1400])
def test_heads_end_where_their_figures_do_and_sorting_moves_none(overview, shop, width):
    shop.visit("/", "/item/5")
    page = overview(viewport={"width": width, "height": 800}, java_script_enabled=False)
    seen = []
    for address in (f"{OVERVIEW}?sort=avg_ms", f"{OVERVIEW}?sort=request_count", f"{OVERVIEW}?sort=route"):
        page.goto(address)
        heads, figures = page.locator("table.routes").evaluate(ENDS)
        assert heads == figures
        seen.append(heads)
    assert seen[0] == seen[1] == seen[2]
    page.goto(f"{OVERVIEW}/requests?sort=duration_ms")
    heads, figures = page.locator("table.kept").evaluate(ENDS)
    assert heads == figures


@pytest.mark.parametrize(("width", "rows_of"), [(390, {6: 3, 7: 4}), (1024, {6: 2, 7: 2}), (1400, {6: 1, 7: 1})])
def test_the_cards_leave_no_hole(overview, metrics, width, rows_of):
    page = overview(viewport={"width": width, "height": 800})
    boxes = """() => [...document.querySelectorAll('.card')].map((card) => {
      const { top, right } = card.getBoundingClientRect();
      return [top, Math.round(right)];
    })"""
    for count, rows in rows_of.items():
        ends = dict(page.evaluate(boxes))
        assert page.locator(".card").count() == count
        assert len(ends) == rows
        assert len(set(ends.values())) == 1
        metrics.ratings_post_latencies.append(0.01)
        page.reload()


@pytest.mark.parametrize("route", [LONG, LONG.replace("GET", "OPTIONS")])
def test_on_a_phone_a_long_route_shows_its_method_and_its_end_and_can_be_tapped(overview, metrics, route):
    record(metrics, (route, 0.3, 1))
    page = overview(**PHONE)
    link = page.locator("#routes tbody th a")
    assert link.bounding_box()["height"] >= 24
    method = link.locator(".head").evaluate(
        """(head, length) => {
          const range = document.createRange();
          range.setStart(head.firstChild, 0);
          range.setEnd(head.firstChild, length);
          return head.getBoundingClientRect().right - range.getBoundingClientRect().right;
        }""",
        route.index(" "),
    )
    assert method > 7  # room for the dots
    name, tail = link.locator(".middle").bounding_box(), link.locator(".tail").bounding_box()
    assert tail["x"] + tail["width"] <= name["x"] + name["width"] + 0.5


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("path", [OVERVIEW, f"{OVERVIEW}/requests"])
def test_no_type_is_smaller_than_12_pixels(overview, shop, width, path):
    shop.visit("/")
    page = overview(viewport={"width": width, "height": 800})
    page.goto(path)
    sizes = page.evaluate(
        "[...document.querySelectorAll('body *')].filter((node) => node.innerText?.trim())"
        ".map((node) => parseFloat(getComputedStyle(node).fontSize))"
    )
    assert min(sizes) >= 12


@needs_libraries
@pytest.mark.usefixtures("three")
def test_the_chart_has_a_role_and_a_name_also_when_the_script_has_drawn_it(overview):
    page = overview()
    expect(page.locator("#chart canvas")).to_be_visible()
    expect(page.get_by_role("group", name="Latency over time: p50, p95 and p99")).to_have_id("chart")


@pytest.mark.usefixtures("three")
def test_without_javascript_the_chart_has_its_scales_beside_it_and_no_key_is_hinted_at(overview):
    page = overview(java_script_enabled=False)
    drawn = page.locator("#chart svg").bounding_box()
    for label in page.locator(".scale li").all():
        box = label.bounding_box()
        assert box["x"] + box["width"] <= drawn["x"]
    times = page.locator(".times")
    assert times.bounding_box()["y"] >= drawn["y"] + drawn["height"]
    expect(times).to_have_text(re.compile(r"^\d\d:\d\d:\d\d\d\d:\d\d:\d\d UTC$"))
    expect(page.locator("#filter")).to_have_attribute("placeholder", "filter")
    expect(page.locator("#filter-form kbd")).to_be_hidden()
    expect(overview().locator("#filter-form kbd")).to_be_visible()


def test_a_name_with_markup_in_it_runs_nothing(overview, metrics):
    route = "GET /<img src=x onerror=alert(1)>"
    record(metrics, (route, 0.3, 1))
    page = overview("?q=%3Cimg&route=%3Cscript%3Ealert(1)%3C/script%3E")
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    expect_rows(page, route)
    assert page.locator("main img").count() == 0


def test_the_overview_of_the_video_server_shows_the_requests_that_were_made(open_page):
    page = open_page()
    page.goto("/")
    page.goto("/search?q=tide")
    page.goto(OVERVIEW)
    expect(page.locator("tr[data-route='GET /']")).to_be_visible()
    expect(page.locator("tr[data-route='GET /search']")).to_be_visible()
    page.locator("h1 a").click()
    expect(page.locator("tr[data-route='GET /search'] td").nth(6)).to_have_text("1")
    pages_of = page.get_by_role("navigation", name="Pages")
    pages_of.get_by_role("link", name="Library status").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Library status")
    page.go_back()
    pages_of.get_by_role("link", name="Videos").click()
    expect(page.locator(".card")).to_have_count(3)
