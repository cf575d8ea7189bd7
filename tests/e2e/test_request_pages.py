"""The pages of the kept requests in a real browser, with a real N+1."""

from __future__ import annotations

import functools
import re
import sqlite3
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask
from opentelemetry.sdk.trace import TracerProvider
from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from telemetry import PerformanceMetrics, TelemetrySettings, instrument, uninstrument
from tests.serving import serving


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[str]:
    """The address of an app whose listing asks for the tags of each video by itself."""
    path = tmp_path / "shelf.sqlite3"
    with closing(sqlite3.connect(path)) as made:
        made.executescript("CREATE TABLE videos (id INTEGER PRIMARY KEY); CREATE TABLE tags (video_id, name)")
        made.executemany("INSERT INTO videos VALUES (?)", [(number,) for number in range(50)])
        made.commit()
    app = Flask("shelf")

    @app.get("/tag/<tag>")
    def tagged(tag: str) -> str:
        with closing(sqlite3.connect(path)) as connection:
            for (video,) in connection.execute("SELECT id FROM videos").fetchall():
                connection.execute("SELECT name FROM tags WHERE video_id = ?", (video,)).fetchall()
        return tag

    instrument(
        app, metrics=PerformanceMetrics(TelemetrySettings()), tracer_provider=TracerProvider(shutdown_on_exit=False)
    )
    server = make_server("127.0.0.1", 0, app, threaded=True)
    server.RequestHandlerClass.log_request = lambda *_: None  # type: ignore[method-assign]
    with serving(server):
        url = f"http://127.0.0.1:{server.server_port}"
        urllib.request.urlopen(f"{url}/tag/sea").read()
        yield url
    uninstrument(app)


@pytest.fixture
def open_shelf(shelf: str, browse: Callable[..., Page]) -> Callable[..., Page]:
    """Open pages of the app. They are closed before its server is."""
    return functools.partial(browse, shelf)


def test_from_the_overview_to_the_line_and_back_by_keys(open_shelf: Callable[..., Page]) -> None:
    page = open_shelf()
    page.goto("/admin/performance")
    page.locator("#needs-a-look .facts a").click()
    expect(page.locator("li.warning")).to_contain_text("N+1: SELECT tags ran 50 times at")
    expect(page.locator("li.warning")).to_contain_text("test_request_pages.py:")
    page.wait_for_load_state()
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile(r"/admin/performance$"))
    expect(page.locator("#needs-a-look .facts a")).to_be_focused()
    page.keyboard.press("g")
    page.keyboard.press("q")
    expect(page).to_have_url(re.compile(r"/admin/performance/requests$"))
    page.wait_for_load_state()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/admin/performance/requests/[0-9a-f]{32}-[0-9a-f]{16}$"))
    page.wait_for_load_state()
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page).to_have_url(re.compile(r"/admin/performance$"))
    page.wait_for_load_state()
    page.keyboard.press("g")
    page.keyboard.press("s")
    expect(page.locator("#card-resources")).to_be_focused()
    page.keyboard.press("g")
    page.keyboard.press("q")
    expect(page).to_have_url(re.compile(r"/admin/performance/requests$"))
    page.wait_for_load_state()
    page.keyboard.press("g")
    page.keyboard.press("s")
    expect(page).to_have_url(re.compile(r"/admin/performance#card-resources$"))


def test_escape_leads_back_to_where_the_request_was_opened(open_shelf: Callable[..., Page], shelf: str) -> None:
    for number in range(40):
        urllib.request.urlopen(f"{shelf}/tag/{number}").read()
    page = open_shelf(viewport={"width": 1400, "height": 600})
    page.goto("/admin/performance/requests")
    page.locator("#sort-started_at").click()
    expect(page).to_have_url(re.compile(r"order=asc"))
    expect(page.locator("#requests th.started_at")).to_have_attribute("aria-sort", "ascending")
    entries = page.evaluate("history.length")
    row = page.locator("#requests tbody tr").nth(30)
    row.scroll_into_view_if_needed()
    scrolled = page.evaluate("scrollY")
    assert scrolled > 0
    row.locator("td").first.click()
    expect(page.locator("#still")).to_be_visible()
    page.wait_for_load_state()
    page.keyboard.press("Escape")
    expect(row).to_be_focused()
    expect(page).to_have_url(re.compile(r"order=asc"))
    assert page.evaluate("[scrollY, history.length]") == [scrolled, entries + 1]
    page.keyboard.press("j")
    expect(page.locator("#requests tbody tr").nth(31)).to_be_focused()
    page.go_back()
    expect(page).to_have_url(re.compile(r"/requests$"))


def test_escape_leads_to_the_list_where_the_request_was_opened_from_nowhere(open_shelf: Callable[..., Page]) -> None:
    page = open_shelf()
    page.goto("/admin/performance/requests?verdict=any")
    with page.context.expect_page() as opened:
        page.locator("#requests tbody tr a").first.click(modifiers=["ControlOrMeta"])
    request = opened.value
    request.wait_for_load_state()
    request.keyboard.press("Escape")
    expect(request).to_have_url(re.compile(r"/admin/performance/requests\?verdict=any$"))
    assert request.evaluate("history.length") == 1


def test_escape_leads_back_however_many_plans_were_opened(open_shelf: Callable[..., Page]) -> None:
    page = open_shelf()
    page.goto("/admin/performance")
    page.locator("#needs-a-look .facts a").click()
    for number in (1, 0):
        page.wait_for_load_state()  # until the script is there, a plan is a page like others
        page.locator(f"#g-{number}").get_by_role("link", name="plan").click()
        expect(page).to_have_url(re.compile(rf"[?&]plan={number}#g-{number}$"))
        expect(page.locator(f"#g-{number} .plan")).to_be_in_viewport()
    page.wait_for_load_state()
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile(r"/admin/performance$"))
    expect(page.locator("#needs-a-look .facts a")).to_be_focused()


def test_escape_does_not_leave_the_admin_pages_where_the_address_of_an_opened_request_is_typed(
    open_shelf: Callable[..., Page],
) -> None:
    page = open_shelf()
    page.goto("/admin/performance")
    page.locator("#needs-a-look .facts a").click()
    page.wait_for_url(re.compile(r"/admin/performance/requests/[0-9a-f]{32}-[0-9a-f]{16}$"))
    request = page.url
    page.goto("about:blank")
    page.goto(request)
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile(r"/admin/performance/requests$"))


def test_escape_leads_back_to_the_chart_whose_dot_was_opened(open_shelf: Callable[..., Page]) -> None:
    page = open_shelf()
    page.goto("/admin/performance?sort=route")
    expect(page.locator("#chart")).to_have_attribute("data-points", "1")
    over = page.locator("#chart .u-over").bounding_box()
    assert over is not None
    for step in range(0, int(over["height"]), 8):
        for right in range(4, int(over["width"]), 16):
            page.mouse.move(over["x"] + over["width"] - right, over["y"] + step)
            if page.locator("#chart.over-dot").count():
                break
        else:
            continue
        break
    page.mouse.down()
    page.mouse.up()
    expect(page.locator("#still")).to_be_visible()
    page.wait_for_load_state()
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile(r"/admin/performance\?sort=route$"))


def test_the_requests_of_the_chart_are_walked_and_opened_by_key(open_shelf: Callable[..., Page], shelf: str) -> None:
    for number in range(3):
        urllib.request.urlopen(f"{shelf}/tag/{number}").read()
    page = open_shelf()
    page.goto("/admin/performance")
    expect(page.locator("#chart")).to_have_attribute("data-points", "4")
    slider = page.get_by_role("slider", name="Requests in the chart")
    slider.focus()
    seen = []
    for key in ("ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowRight", "Home", "End"):
        slider.press(key)
        said = page.locator("#under-cursor").inner_text()
        expect(slider).to_have_attribute("aria-valuetext", page.locator("#under-cursor").text_content() or "")
        seen.append(re.sub(r".*trace (\w+)….*", r"\1", said))
    assert "GET /tag/<tag>" in said
    newest, before, again, still, oldest, last = seen
    assert newest == again == still == last
    assert len({newest, before, oldest}) == 3
    slider.press("Enter")
    expect(page.locator("#still")).to_be_visible()
    assert f"/requests/{last}" in page.url


def test_a_click_on_a_row_is_one_on_its_link(open_shelf: Callable[..., Page]) -> None:
    page = open_shelf()
    page.goto("/admin/performance/requests")
    cell = page.locator("#requests tbody tr td").first
    with page.context.expect_page() as opened:
        cell.click(modifiers=["ControlOrMeta"])
    expect(opened.value).to_have_url(re.compile(r"/admin/performance/requests/[0-9a-f]{32}-[0-9a-f]{16}$"))
    expect(page).to_have_url(re.compile(r"/admin/performance/requests$"))
    cell.click()
    expect(page).to_have_url(re.compile(r"/admin/performance/requests/[0-9a-f]{32}-[0-9a-f]{16}$"))


def test_a_button_that_has_copied_can_be_read_again(open_shelf: Callable[..., Page]) -> None:
    page = open_shelf(permissions=["clipboard-read", "clipboard-write"])
    page.goto("/admin/performance/requests")
    page.locator("#requests tbody tr a").first.click()
    page.wait_for_url(re.compile(r"/admin/performance/requests/[0-9a-f]{32}-[0-9a-f]{16}$"))
    said = page.locator(".trace button").evaluate(
        "button => new Promise((resolve) => { const said = []; const note = () => {"
        " said.push(button.textContent); if (said.length === 2) resolve(said); };"
        " new MutationObserver(note).observe(button, { childList: true }); button.click(); })"
    )
    assert said == ["Copied", "Copy"]


def test_the_waterfall_unfolds_and_a_plan_is_shown_on_demand(open_shelf: Callable[..., Page]) -> None:
    page = open_shelf()
    page.goto("/admin/performance/requests")
    page.locator("#requests tbody tr a").first.click()
    expect(page.locator(".waterfall .span.inner").first).to_be_hidden()
    page.locator(".waterfall summary").click()
    expect(page.locator(".waterfall .span.inner").first).to_be_visible()
    page.locator("#g-1").get_by_role("link", name="plan").click()
    expect(page.locator(".plan")).to_contain_text("reads all of tags, without an index; an index on tags(video_id)")


def test_the_list_refreshes_itself_and_its_filter_is_in_the_address(
    open_shelf: Callable[..., Page], shelf: str
) -> None:
    page = open_shelf()
    page.goto("/admin/performance/requests?verdict=n_plus_one")
    expect(page.locator("#requests tbody tr")).to_have_count(1)
    urllib.request.urlopen(f"{shelf}/tag/sky").read()
    expect(page.locator("#requests tbody tr")).to_have_count(2)
    page.locator("#verdict-ok").click()
    expect(page).to_have_url(re.compile(r"verdict=ok"))
    expect(page.locator("#requests")).to_contain_text("No request matches")


def test_no_row_moves_away_under_the_pointer_and_newer_ones_are_told(
    open_shelf: Callable[..., Page], shelf: str
) -> None:
    page = open_shelf()
    page.goto("/admin/performance/requests")
    first = page.locator("#requests tbody tr").first
    first.locator("td").last.hover()
    pointed_at = first.get_attribute("id")
    urllib.request.urlopen(f"{shelf}/tag/sky").read()
    newer = page.get_by_role("button", name="1 newer: show")
    expect(newer).to_be_visible()
    expect(page.locator("#pulse-word")).to_have_text("held · you are at the list")
    assert first.get_attribute("id") == pointed_at
    newer.click()
    expect(page.locator("#requests tbody tr")).to_have_count(2)
    expect(newer).to_be_hidden()


def test_nothing_moves_below_who_has_scrolled_down_the_list(open_shelf: Callable[..., Page], shelf: str) -> None:
    for number in range(40):
        urllib.request.urlopen(f"{shelf}/tag/{number}").read()
    page = open_shelf(viewport={"width": 1400, "height": 600}, has_touch=True, is_mobile=True)
    page.goto("/admin/performance/requests")
    page.evaluate("scrollTo(0, 900)")
    expect(page.locator("#pulse-word")).to_have_text("held · you are down the list")
    for number in range(3):
        urllib.request.urlopen(f"{shelf}/tag/later-{number}").read()
    newer = page.get_by_role("button", name="3 newer: show")
    expect(newer).to_be_visible()
    assert page.evaluate("scrollY") == 900
    page.evaluate("scrollTo(0, 0)")
    expect(page.locator("#requests tbody tr").first).to_contain_text("/tag/later-2")
    expect(newer).to_be_hidden()


@pytest.mark.parametrize("width", [640, 672, 720])
def test_the_scale_of_the_waterfall_can_be_read_at_any_width(open_shelf: Callable[..., Page], width: int) -> None:
    page = open_shelf(viewport={"width": width, "height": 800})
    page.goto("/admin/performance/requests")
    page.locator("#requests tbody tr a").first.click()
    cut = "ticks => ticks.filter(tick => getComputedStyle(tick).overflow !== 'visible' && tick.scrollWidth > tick.clientWidth)"
    assert page.locator(".ticks li").evaluate_all(cut) == []


def test_on_paper_a_request_is_without_what_can_be_pressed(open_shelf: Callable[..., Page]) -> None:
    page = open_shelf()
    page.goto("/admin/performance/requests")
    page.locator("#requests tbody tr a").first.click()
    expect(page.locator("#still")).to_be_visible()
    page.emulate_media(media="print")
    for pressed in page.locator("#still a, #still button").all():
        expect(pressed).to_be_hidden()


def test_a_request_leads_to_its_route_and_back_to_the_list(open_shelf: Callable[..., Page]) -> None:
    page = open_shelf()
    page.goto("/admin/performance/requests?verdict=n_plus_one")
    page.locator("#requests tbody tr a").first.click()
    expect(page).to_have_title(re.compile(r"^GET /tag/<tag> · [\d.]+ m?s, 51 queries · shelf$"))
    page.get_by_role("link", name="requests", exact=False).nth(1).click()
    expect(page).to_have_url(re.compile(r"requests\?verdict=n_plus_one$"))
    page.locator("#requests tbody tr a").first.click()
    page.get_by_role("link", name="its figures").click()
    expect(page.locator("#latency-title")).to_contain_text("GET /tag/<tag>")


def test_a_request_saved_as_a_file_opens_offline(
    open_shelf: Callable[..., Page], chromium: Browser, tmp_path: Path
) -> None:
    page = open_shelf()
    page.goto("/admin/performance/requests")
    page.locator("#requests tbody tr a").first.click()
    with page.expect_download() as saved:
        page.get_by_role("link", name="save as a file").click()
    path = tmp_path / "request.html"
    saved.value.save_as(path)
    context = chromium.new_context(offline=True)
    opened = context.new_page()
    opened.goto(path.as_uri())
    expect(opened.locator("li.warning")).to_contain_text("N+1: SELECT tags ran 50 times at")
    colour = opened.locator("li.warning .shape").evaluate("node => getComputedStyle(node).color")
    assert colour != "rgb(0, 0, 0)"
    context.close()
