from __future__ import annotations

import functools
import re
import time
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.e2e.colours import contrast
from tests.e2e.conftest import MACHINE, PATIENCE_S

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
WATCH = "/watch/holiday/100%25%20sun%20%26%20%C5%81%C3%B3d%C5%BA.mp4"
SEEK = """async (video, second) => {
  const arrived = new Promise((resolve) => video.addEventListener("seeked", resolve, { once: true }));
  video.currentTime = second;
  await arrived;
  return video.currentTime;
}"""

CHANGES = """(node) => {
  window.changes = 0;
  const count = (records) => { window.changes += records.length; };
  new MutationObserver(count).observe(node, { attributes: true, characterData: true, childList: true, subtree: true });
}"""

HTML = {"Content-Type": "text/html"}
NO_ANSWER = "Not saved. The server does not answer. Try again when it runs."
REFUSALS = [
    ((429, {"Retry-After": "12"}), "Not saved. Too many changes in a short time. Try again in 12 s."),
    ((429, HTML), "Not saved. Too many changes in a short time. Try again in a moment."),
    ((503, {"Retry-After": "2"}), "Not saved. The server is busy. Try again in 2 s."),
    ((500, {}), "Not saved. The server failed. Its log says why."),
    ((507, {}), "Not saved. The server can't write to its disk, which may be full."),
    ((502, HTML), NO_ANSWER),
    ((404, {}), "Not saved. This video is gone."),
    ((403, {}), "Not saved. The server refuses this. Reload the page and try again."),
    ((200, HTML), "The answer is not the server's own. Reload the page to see what is saved."),
]
"""What answers a write, status and headers, and what the page says of it."""


def refuse(answer, route) -> None:
    status, headers = answer
    body = "<html>somebody else's words</html>" if headers is HTML else '{"error": "words for a log"}'
    route.fulfill(status=status, headers=headers, body=body)


def no_sideways_scroll(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_grid_shows_every_clip_with_its_thumbnail(open_page):
    page = open_page()
    page.goto("/")
    cards = page.locator(".card")
    expect(cards).to_have_count(3)
    for index in range(3):
        image = cards.nth(index).locator("img")
        image.scroll_into_view_if_needed()
        page.wait_for_function("(image) => image.complete && image.naturalWidth > 0", arg=image.element_handle())
        box = image.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(16 / 9, rel=0.02)
    assert cards.locator(".duration").all_inner_texts() != []


@pytest.mark.parametrize("name", ["First light", "100% sun & Łódź", "slow tide"])
def test_a_clip_plays_and_seeks(open_page, name):
    page = open_page()
    page.goto("/")
    page.get_by_role("link", name=name).click()
    page.wait_for_url("**/watch/**")
    video = page.locator("video").element_handle()
    page.wait_for_function("(video) => video.readyState >= 2", arg=video)
    video.evaluate("(video) => video.play()")
    page.wait_for_function("(video) => video.currentTime > 0.3", arg=video)
    assert video.evaluate(SEEK, 3.0) == pytest.approx(3.0, abs=0.2)
    video.evaluate("(video) => video.play()")
    page.wait_for_function("(video) => video.currentTime > 3.2", arg=video)
    expect(page.locator("[data-player-error]")).to_be_hidden()


def test_a_rating_sticks_after_a_restart(open_page, server):
    page = open_page()
    page.goto(WATCH)
    with page.expect_response("**/api/ratings/*") as answer:
        page.locator("label[for=rate-4]").click()
    assert answer.value.status == 201
    page.get_by_text("4.0 from 1 rating").wait_for()
    server.restart()
    page.goto(server.url + WATCH)
    expect(page.locator("#rate-4")).to_be_checked()
    expect(page.get_by_text("4.0 from 1 rating")).to_be_visible()


def test_a_rating_that_is_not_saved_says_why_and_what_to_do(open_page, watched):
    page = open_page()
    page.goto(WATCH)
    page.route("**/api/ratings/*", lambda route: route.abort())
    page.locator("label[for=rate-4]").click()
    expect(page.locator("[data-average]")).to_have_text(NO_ANSWER)
    for answer, says in REFUSALS:
        page.unroute("**/api/ratings/*")
        page.route("**/api/ratings/*", functools.partial(refuse, answer))
        page.locator("label[for=rate-4]").click()
        expect(page.locator("[data-average]")).to_have_text(says)
        expect(page.locator("#rate-4")).not_to_be_checked()
    watched.complaints.clear()


@pytest.mark.parametrize("script", [True, False])
def test_a_browser_in_the_network_may_rate_and_tag(server, browse, script):
    page = browse(server.url.replace("127.0.0.1", MACHINE), java_script_enabled=script)
    page.goto(WATCH)
    assert page.evaluate("isSecureContext") is False
    page.get_by_placeholder("Add a tag").fill("from afar")
    page.get_by_placeholder("Add a tag").press("Enter")
    expect(page.get_by_role("link", name="#from afar")).to_be_visible()
    page.locator("label[for=rate-4]").click()
    if not script:
        page.get_by_role("button", name="Rate").click()
    expect(page.get_by_text("4.0 from 1 rating")).to_be_visible()


def test_a_token_that_is_refused_does_not_stay_in_the_address(server, browse, watched):
    server.restart(LVS_HOST="0.0.0.0")
    page = browse(f"http://127.0.0.1:{urlsplit(server.url).port}")
    page.goto("/admin/library?from=mail")
    page.get_by_label("Admin token").fill("nearly-right")
    page.get_by_role("button", name="Open").click()
    expect(page).to_have_url(re.compile(r"/admin/library\?from=mail$"))
    expect(page.get_by_text("That is not the admin token.")).to_be_visible()
    watched.complaints.clear()  # two answers of 401


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (404, "This video is gone."),
        (503, "Try again in a moment."),
        (418, "The server answers 418."),
        (206, "can't play"),
    ],
)
def test_the_player_says_why_it_shows_nothing(open_page, watched, status, says):
    page = open_page()
    page.route("**/video/**", lambda route: route.fulfill(status=status, body="no video", content_type="video/mp4"))
    page.goto(WATCH)
    expect(page.locator("[data-player-error]")).to_contain_text(says)
    watched.complaints.clear()


def test_what_the_player_says_is_announced_once(open_page, watched):
    page = open_page()
    page.route("**/video/**", lambda route: route.fulfill(status=503, body="no video", content_type="video/mp4"))
    page.goto(WATCH)
    alert = page.get_by_role("alert")
    expect(alert).to_have_text("The server sends as many videos as it can. Try again in a moment.")
    alert.evaluate(CHANGES)
    page.locator("video").evaluate(
        "async (video) => { video.dispatchEvent(new Event('error')); await fetch(video.src); }"
    )
    assert page.evaluate("window.changes") == 0
    watched.complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_stars_that_are_not_given_can_be_seen(open_page, scheme):
    page = open_page(color_scheme=scheme)
    page.goto(WATCH)
    colour = page.locator("label[for=rate-1]").evaluate("node => getComputedStyle(node).color")
    assert contrast(colour, page.evaluate("getComputedStyle(document.body).backgroundColor")) >= 4.5


def test_a_rating_can_be_read_where_the_system_sets_all_colours(open_page):
    page = open_page(forced_colors="active")
    page.goto(WATCH)
    with page.expect_response("**/api/ratings/*"):
        page.locator("label[for=rate-3]").click()
    page.mouse.move(0, 0)
    stars = [page.locator(f"label[for=rate-{value}]").screenshot() for value in range(1, 6)]
    assert stars[0] == stars[1] == stars[2]
    assert stars[3] == stars[4] != stars[0]


def test_on_paper_it_is_black_on_white_and_a_star_that_is_not_given_is_hollow(open_page):
    page = open_page(color_scheme="dark")
    page.goto(WATCH)
    page.emulate_media(media="print")
    colours = page.evaluate("(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))")
    assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    glyph = page.locator("label[for=rate-1] [aria-hidden]").evaluate(
        "node => getComputedStyle(node, '::before').content"
    )
    assert glyph == '"☆"'
    expect(page.locator(".search")).to_be_hidden()


def test_a_rating_can_be_given_with_the_keys(open_page):
    page = open_page()
    page.goto(WATCH)
    page.locator("#rate-1").focus()
    with page.expect_response(lambda answer: answer.request.post_data_json == {"value": 3}) as answer:
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
    assert answer.value.json()["user"] == {"value": 3}


def test_rating_and_tags_work_without_javascript(open_page):
    page = open_page(java_script_enabled=False)
    page.goto(WATCH)
    page.locator("label[for=rate-5]").click()
    page.get_by_role("button", name="Rate").click()
    expect(page.get_by_text("5.0 from 1 rating")).to_be_visible()
    page.get_by_label("New tag").fill("Sunny Days")
    page.get_by_role("button", name="Add").click()
    page.get_by_role("link", name="#sunny days").click()
    page.wait_for_url("**/tag/**")
    expect(page.locator(".card")).to_have_count(1)


def test_a_tag_is_added_and_removed_while_the_video_plays_on(open_page):
    page = open_page()
    page.goto(WATCH)
    page.evaluate("window.isSamePage = true")
    video = page.locator("video").element_handle()
    video.evaluate("(video) => { video.loop = true; return video.play(); }")
    field, said = page.get_by_label("New tag"), page.locator("[data-tags-said]")
    field.fill("Sea")
    field.press("Enter")
    expect(page.get_by_role("link", name="#sea")).to_be_visible()
    expect(said).to_have_text("Tag sea added.")
    expect(field).to_be_focused()
    expect(field).to_have_value("")
    page.get_by_role("button", name="Remove the tag sea").click()
    expect(page.get_by_role("link", name="#sea")).to_have_count(0)
    expect(said).to_have_text("Tag sea removed.")
    expect(field).to_be_focused()
    assert page.evaluate("window.isSamePage")
    assert not video.evaluate("(video) => video.paused")
    page.reload()
    expect(page.locator(".tagging .tag")).to_have_count(0)


def test_tags_that_were_added_lead_to_their_pages_and_are_where_a_reload_shows_them(open_page):
    page = open_page()
    page.goto(WATCH)
    for tag in ("sea", "100% sun & #1?", "air"):
        page.get_by_label("New tag").fill(tag)
        page.get_by_role("button", name="Add").click()
        page.get_by_role("link", name=f"#{tag}").wait_for()
    added = page.locator(".tagging .tag").all_inner_texts()
    page.reload()
    assert page.locator(".tagging .tag").all_inner_texts() == added
    assert [text.split("×")[0].strip() for text in added] == ["#100% sun & #1?", "#air", "#sea"]
    page.get_by_role("link", name="#100% sun & #1?").click()
    page.wait_for_url("**/tag/**")
    expect(page.locator(".card")).to_have_count(1)


def test_a_folder_stands_before_its_file_whatever_script_they_are_in(open_page, server):
    folder = server.folder / "videos" / "סרטים"
    folder.mkdir()
    (server.folder / "videos" / "First light.mp4").rename(folder / "חופשה בים.mp4")
    page = open_page()
    deadline = time.monotonic() + PATIENCE_S
    card = page.get_by_role("link", name="חופשה בים")
    while not card.count():
        assert time.monotonic() < deadline
        page.goto("/")
    card.click()
    page.wait_for_url("**/watch/**")
    folder_part, file_part = (part.bounding_box() for part in page.locator(".path bdi").all())
    assert folder_part["x"] + folder_part["width"] < file_part["x"]


def test_tags_are_removed_as_fast_as_one_clicks_and_those_that_went_elsewhere_are_gone(open_page, watched):
    page = open_page()
    page.goto(WATCH)
    address = page.locator("[data-tags]").get_attribute("data-tags")
    for tag in ("one", "two", "three"):
        page.request.post(address, data={"tag": tag})
    page.reload()
    page.request.delete(f"{address}/one")
    page.locator(".tagging .tag button").evaluate_all("(buttons) => { for (const button of buttons) button.click(); }")
    expect(page.locator(".tagging .tag")).to_have_count(0)
    expect(page.locator("[data-tags-said]")).to_have_text("Tag two removed.")
    assert page.request.get(address).json() == {"tags": []}
    watched.complaints.clear()  # the browser's own, of the 404


def test_a_tag_that_is_not_saved_says_why_and_stays_in_the_field(open_page, watched):
    page = open_page()
    page.goto(WATCH)
    field, said = page.get_by_label("New tag"), page.locator("[data-tags-said]")
    field.fill("sea")
    field.press("Enter")
    page.get_by_role("link", name="#sea").wait_for()
    page.route("**/api/tags/**", lambda route: route.abort())
    page.get_by_role("button", name="Remove the tag sea").click()
    expect(said).to_have_text(NO_ANSWER)
    expect(page.get_by_role("link", name="#sea")).to_be_visible()
    page.unroute("**/api/tags/**")
    page.route("**/api/tags/**", functools.partial(refuse, (429, {"Retry-After": "12"})))
    field.fill("sun")
    field.press("Enter")
    expect(said).to_have_text("Not saved. Too many changes in a short time. Try again in 12 s.")
    expect(said).to_be_in_viewport(ratio=1)
    expect(field).to_have_value("sun")
    page.unroute("**/api/tags/**")
    field.fill(".")
    field.press("Enter")
    expect(said).to_have_text(
        "Not saved. The tag must be 1 to 40 printable characters without / or \\, other than dots."
    )
    field.fill("sea")
    field.press("Enter")
    expect(said).to_have_text("The video has this tag already.")
    watched.complaints.clear()


def test_the_field_for_a_tag_says_what_a_tag_can_not_be(open_page):
    page = open_page()
    page.goto(WATCH)
    field = page.get_by_label("New tag")
    for value in ("sea/side", "sea\\side", "  ", "#"):
        field.fill(value)
        assert not field.evaluate("(field) => field.checkValidity()"), value
    field.fill("sea/side")
    field.press("Enter")
    field.fill("# sea & side")
    field.press("Enter")
    expect(page.get_by_role("link", name="#sea & side")).to_be_visible()


@pytest.fixture
def emptied(server):
    """The server after its videos were taken out of the folder; a function puts them back."""
    videos, away = server.folder / "videos", server.folder / "away"
    away.mkdir()

    def move(source, target) -> None:
        for path in source.iterdir():
            path.rename(target / path.name)

    move(videos, away)
    return functools.partial(move, away, videos)


def open_empty(open_page):
    page = open_page()
    deadline = time.monotonic() + PATIENCE_S
    while not page.get_by_text("No videos yet").count():
        assert time.monotonic() < deadline
        page.goto("/")
    return page


def test_an_empty_library_shows_videos_that_come_and_loads_no_page_before(open_page, emptied):
    page = open_empty(open_page)
    page.evaluate("window.isSamePage = true")
    with page.expect_response(lambda answer: answer.request.resource_type == "fetch"):
        pass
    assert page.evaluate("window.isSamePage")
    emptied()
    page.locator(".card").first.wait_for()


def test_an_empty_library_takes_nothing_from_who_types_when_videos_come(open_page, emptied):
    page = open_empty(open_page)
    search = page.get_by_role("searchbox")
    search.press_sequentially("ti")
    emptied()
    expect(page.get_by_role("status")).to_have_text("There are videos now. Show them", timeout=PATIENCE_S * 1000)
    search.press_sequentially("de")
    expect(search).to_have_value("tide")
    expect(search).to_be_focused()
    page.get_by_role("link", name="Show them").click()
    page.locator(".card").first.wait_for()


def test_the_slash_key_goes_to_the_search(open_page):
    page = open_page()
    page.goto("/")
    page.keyboard.press("/")
    page.keyboard.type("TIDE slow")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=*")
    expect(page.locator(".card .name")).to_have_text(["slow tide"])


def test_the_theme_follows_the_system_and_a_choice_is_remembered(open_page):
    page = open_page(color_scheme="dark")
    page.goto("/")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(20, 22, 26)"
    page.get_by_role("button", name="Change between light and dark").click()
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.goto(WATCH)
    assert page.evaluate(background) == "rgb(255, 255, 255)"


@pytest.mark.parametrize(
    "path", ["/", WATCH, "/search?q=holiday", "/search?q=" + "x" * 150, "/tag/none", "/admin/library"]
)
def test_nothing_scrolls_sideways_on_a_phone(open_page, path):
    page = open_page(**PHONE)
    page.goto(path)
    page.wait_for_load_state()
    assert no_sideways_scroll(page)


def test_the_numbers_of_many_pages_lead_there_and_fit_a_phone(server, browse):
    for number in range(40):
        (server.folder / "videos" / f"copy {number}.mp4").hardlink_to(server.folder / "videos" / "First light.mp4")
    server.restart(LVS_PAGE_SIZE="2")
    page = browse(server.url, viewport={"width": 360, "height": 740})
    deadline = time.monotonic() + PATIENCE_S
    last = page.get_by_role("navigation", name="Pages").get_by_role("link", name="Page 22")
    while not last.count():
        assert time.monotonic() < deadline
        page.goto("/?sort=title")
    last.click()
    page.get_by_role("link", name="Page 21").click()
    page.get_by_role("link", name="Page 1", exact=True).click()
    page.wait_for_url("**/?page=1&sort=title")
    assert page.locator("[aria-current=page]").inner_text() == "1"
    page.goto("/?page=11&sort=title")
    assert no_sideways_scroll(page)
    assert len({link.bounding_box()["y"] for link in page.locator(".pager li a").all()}) == 1


def test_a_short_name_of_a_file_that_is_left_out_stays_on_one_line_on_a_phone(open_page, server):
    path = server.folder / "videos" / "audio only.mp4"
    path.write_bytes(b"no video")
    page = open_page(**PHONE)
    name = page.locator("code", has_text=path.name)
    deadline = time.monotonic() + PATIENCE_S
    while not name.count():
        assert time.monotonic() < deadline
        page.goto("/admin/library")
    assert name.evaluate("(name) => name.getClientRects().length") == 1


def test_a_long_tag_scrolls_nothing_sideways_on_a_phone(open_page):
    page = open_page(**PHONE)
    page.goto(WATCH)
    page.get_by_label("New tag").fill("W" * 40)
    page.get_by_role("button", name="Add").click()
    page.locator(".tagging .tag").wait_for()
    assert no_sideways_scroll(page)
    page.goto("/")
    page.locator(".tags .tag").wait_for()
    assert no_sideways_scroll(page)
