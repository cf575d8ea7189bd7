from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.routes.main import Pager


def titles(page) -> list[str]:
    return re.findall(r'<span class="name"><bdi>(.*?)</bdi></span>', page.text)


@pytest.fixture
def shelf(server, add_video):
    return [
        add_video(server.database, f"clip {n}.mp4", title=f"Clip {n}", added_at=n, tags=["even"] if n % 2 == 0 else [])
        for n in range(5)
    ]


def test_ping_says_ok(client):
    response = client.get("/ping")
    assert (response.status_code, response.json) == (200, {"status": "ok"})


def test_an_empty_library_says_what_to_do_and_looks_again(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "No videos yet" in page.text
    assert '<noscript><meta http-equiv="refresh" content="4"></noscript>' in page.text
    assert page.text.count('http-equiv="refresh"') == 1, "with JavaScript, what one types would be lost"
    assert "refresh" not in client.get("/search").text


def test_an_empty_library_names_its_folder_in_full_as_the_status_page_does(make_app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = make_app(videos=Path("v")).test_client()
    folder = f"<code>{(tmp_path / 'v').resolve()}</code>"
    assert folder in re.sub("</?bdi>", "", client.get("/").text)
    assert folder in re.sub("</?bdi>", "", client.get("/admin/library").text)


def test_a_folder_that_is_away_is_told_on_the_status_page(make_app, tmp_path):
    app = make_app(videos=tmp_path / "disk")
    (tmp_path / "disk").mkdir(exist_ok=True)
    assert "can't be read" not in app.test_client().get("/admin/library").text
    (tmp_path / "disk").rmdir()
    page = app.test_client().get("/admin/library").text
    assert "The folder can't be read: no such file or directory." in page
    assert "Every file in the folder" not in page


def test_the_library_lists_the_newest_first(client, shelf):
    page = client.get("/")
    assert titles(page) == ["Clip 4", "Clip 3", "Clip 2", "Clip 1", "Clip 0"]
    assert "refresh" not in page.text
    assert "/tag/even" in page.text


def test_the_order_is_in_the_address(client, shelf):
    assert titles(client.get("/?sort=title")) == [f"Clip {n}" for n in range(5)]


def test_pages_lead_to_each_other_and_keep_the_order(make_app, add_video):
    app = make_app(page_size=2)
    for number in range(5):
        add_video(app.extensions["local_video_server"].database, f"{number}.mp4")
    page = app.test_client().get("/?sort=title&page=2")
    assert titles(page) == ["2", "3"]
    assert 'href="/?page=1&amp;sort=title"' in page.text
    assert 'href="/?page=3&amp;sort=title"' in page.text


@pytest.mark.parametrize(
    ("number", "pages", "offered"),
    [
        (1, 2, [1, 2]),
        (2, 3, [1, 2, 3]),
        (4, 5, [1, 2, 3, 4, 5]),
        (1, 20, [1, 2, 3, 4, None, 20]),
        (4, 20, [1, 2, 3, 4, 5, None, 20]),
        (10, 20, [1, None, 9, 10, 11, None, 20]),
        (20, 20, [1, None, 17, 18, 19, 20]),
    ],
)
def test_the_first_the_last_and_the_pages_around_are_offered(number, pages, offered):
    assert list(Pager(number, pages).offered) == offered


def test_many_pages_link_to_the_first_and_the_last_and_keep_the_query(make_app, add_video):
    app = make_app(page_size=1)
    for number in range(20):
        add_video(app.extensions["local_video_server"].database, f"clip {number}.mp4")
    text = app.test_client().get("/search?q=clip&page=10").text
    pager = text[text.index('<nav class="pager" aria-label="Pages">') :]
    links = re.findall(r'<li><a class="button" href="/search\?page=(\d+)&amp;q=clip" aria-label="Page \1"', pager)
    assert links == ["1", "9", "10", "11", "20"]
    assert re.findall(r'aria-label="Page (\d+)" aria-current="page"', pager) == ["10"]


@pytest.mark.parametrize("page", ["0", "-1", "x", "1.5", "", "99999999999999999999", "٣", "1e3", "%00"])
def test_a_page_that_is_no_number_is_a_friendly_400(client, page):
    response = client.get(f"/?page={page}")
    assert response.status_code == 400
    assert "page must be a whole number from 1 to 1000000" in response.text


def test_a_page_past_the_last_is_404(client, shelf):
    assert client.get("/?page=2").status_code == 404
    assert client.get("/?page=1000000").status_code == 404


def test_an_unknown_order_is_a_friendly_400(client):
    response = client.get("/?sort=random")
    assert response.status_code == 400
    assert "sort must be one of new, title, rating" in response.text


def test_a_tag_lists_its_videos_in_any_spelling(client, shelf):
    assert titles(client.get("/tag/EVEN?sort=title")) == ["Clip 0", "Clip 2", "Clip 4"]
    assert "No video has this tag" in client.get("/tag/other").text
    assert client.get("/tag/%00").status_code == 400


def test_a_search_shows_what_it_finds_and_what_was_asked(client, shelf):
    page = client.get("/search?q=clip+3")
    assert titles(page) == ["Clip 3"]
    assert 'value="clip 3"' in page.text
    assert titles(client.get("/search?q=even")) == ["Clip 0", "Clip 2", "Clip 4"]
    assert "Nothing found" in client.get("/search?q=zzz").text
    assert "What are you looking for?" in client.get("/search").text


def test_a_search_that_is_no_text_is_400(client):
    assert client.get("/search?q=%00").status_code == 400
    assert client.get("/search?q=" + "x" * 500).status_code == 400
    assert client.get("/search?q=%FF").status_code in {200, 400}


def test_the_page_of_a_video_has_player_rating_tags_and_others(client, server, add_video):
    add_video(server.database, "a/50% & more #1?.mp4", tags=["sea"])
    add_video(server.database, "a/other.mp4", tags=["sea"])
    page = client.get("/watch/a/50%25%20%26%20more%20%231%3F.mp4")
    assert page.status_code == 200
    assert 'src="/video/a/50%25%20&amp;%20more%20%231%3F.mp4"' in page.text
    assert page.text.count('type="radio"') == 5
    assert "#sea" in page.text
    assert titles(page) == ["other"]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/", "evil⟦U+202E⟧gpj.exe"),
        ("/search?q=evil%E2%80%AEgpj", "“<bdi>evil⟦U+202E⟧gpj</bdi>”"),
        ("/watch/in/evil%E2%80%AEgpj.exe.mp4", "<title>evil⟦U+202E⟧gpj.exe · "),
        ("/watch/other.mp4", '<span class="name"><bdi>evil⟦U+202E⟧gpj.exe</bdi></span>'),
    ],
)
def test_what_would_reorder_a_name_is_shown_and_links_keep_it(client, server, add_video, path, shown):
    add_video(server.database, "in/evil\u202egpj.exe.mp4")
    add_video(server.database, "other.mp4")
    text = client.get(path).text
    assert shown in text
    assert "\u202e" not in re.sub(r'value="[^"]*"', "", text), "a form sends the real name"
    if path == "/":
        assert 'href="/watch/in/evil%E2%80%AEgpj.exe.mp4"' in text


def test_files_that_are_left_out_are_shown_so_as_well(client, server):
    (server.videos / "left\u202eout.\u202etxt").touch()
    server.indexer.scan()
    page = client.get("/admin/library").text
    assert "<bdi>left⟦U+202E⟧out.⟦U+202E⟧txt</bdi>" in page
    assert "\u202e" not in page


def test_names_stand_by_themselves_among_other_text(client, server, add_video):
    add_video(server.database, "סרטים/חופשה.mp4", tags=["ים"])
    page = client.get("/watch/סרטים/חופשה.mp4").text
    assert "<h1><bdi>חופשה</bdi></h1>" in page
    assert "<code><bdi>סרטים</bdi>/<bdi>חופשה.mp4</bdi></code>" in page
    assert "<bdi>#ים</bdi>" in page
    assert "<bdi>#ים</bdi>" in client.get("/").text
    assert "<h1><bdi>#ים</bdi></h1>" in client.get("/tag/ים").text
    assert "“<bdi>ים</bdi>”" in client.get("/search?q=ים").text


@pytest.mark.parametrize(
    "path",
    [
        "none.mp4",
        "../secret.mp4",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/x",
        "%00",
        "%ff.mp4",
        "C:%5cx.mp4",
        "%252e%252e%252fx",
        "a" * 5000,
    ],
)
@pytest.mark.parametrize("route", ["watch", "video"])
def test_a_path_that_the_index_does_not_know_is_404(client, route, path):
    assert client.get(f"/{route}/{path}").status_code == 404


@pytest.mark.parametrize("number", [5, 500])
@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/", 5), ("/?sort=rating", 5), ("/tag/sea", 4), ("/search?q=clip", 4), ("/watch/clip 0.mp4", 5)],
)
def test_the_number_of_queries_of_a_page_does_not_depend_on_the_number_of_videos(
    make_app, add_video, number, path, allowed
):
    app = make_app(page_size=200)
    database = app.extensions["local_video_server"].database
    for index in range(number):
        add_video(database, f"clip {index}.mp4", media_hash=f"{index:032x}", tags=["sea", f"tag {index}"])
    statements = []
    connection = database.borrow()
    connection.set_trace_callback(statements.append)
    database.give_back(connection)
    assert app.test_client().get(path).status_code == 200
    assert len(statements) == allowed
    statements.clear()
    assert app.test_client().get(path).status_code == 200
    assert len(statements) <= allowed
    connection.set_trace_callback(None)


def test_a_warm_page_asks_the_database_once(client, server, shelf):
    client.get("/")
    statements = []
    connection = server.database.borrow()
    connection.set_trace_callback(statements.append)
    server.database.give_back(connection)
    client.get("/")
    connection.set_trace_callback(None)
    assert statements == ["SELECT kind, value FROM changes"]


def test_no_page_holds_an_inline_script_or_style(client, shelf):
    for path in ("/", "/search?q=clip", "/watch/clip 1.mp4", "/nothing", "/admin/library"):
        text = client.get(path).text
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", text), path
        assert not re.search(r'(?:src|href)="(?:https?:)?//', text), path
