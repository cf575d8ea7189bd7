from __future__ import annotations

import pytest

ELSEWHERE = {"REMOTE_ADDR": "192.168.0.9"}


def test_the_cache_tells_entries_bounds_and_hits(client, server, add_video):
    add_video(server.database, "a.mp4")
    client.get("/")
    client.get("/")
    status = client.get("/admin/cache/status").json
    assert status["caches"]["library"] == {"entries": 1, "max_entries": 4096}
    assert status["hits"] == status["misses"] == 3
    assert status["hit_rate"] == 50.0


def test_a_refresh_drops_the_caches_of_every_worker_and_asks_for_a_look(make_app, add_video, query):
    one, two = make_app(), make_app()
    server = one.extensions["local_video_server"]
    add_video(server.database, "a.mp4")
    two.test_client().get("/")
    before = query(server.database, "SELECT value FROM changes ORDER BY kind")
    answer = one.test_client().post("/admin/cache/refresh").json
    assert answer["success"] is True
    assert all(
        now[0] == was[0] + 1
        for now, was in zip(query(server.database, "SELECT value FROM changes ORDER BY kind"), before, strict=True)
    )
    assert (server.settings.data / "rescan.request").exists()


def test_the_library_page_lists_what_is_left_out_and_why(client, server):
    (server.videos / "broken <b>.mp4").write_bytes(b"no video")
    (server.videos / "two\nlines.mp4").write_bytes(b"no video")
    (server.videos / "out.mp4").symlink_to(server.videos.parent)
    server.indexer.scan()
    page = client.get("/admin/library")
    assert page.status_code == 200
    assert "broken &lt;b&gt;.mp4" in page.text
    assert "not readable as a video" in page.text
    assert "two\\nlines.mp4" in page.text
    assert "portable address" in page.text
    assert page.text.count(">8 B<") == 2, "the sizes of both files"
    assert "a link that leads to no file in the folder" in page.text


def test_an_empty_library_page_says_so(client):
    assert "There is no file in the folder" in client.get("/admin/library").text


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/admin/cache/status"), ("POST", "/admin/cache/refresh"), ("GET", "/admin/library")]
)
def test_admin_pages_are_closed_to_other_machines_and_behind_a_proxy(client, method, path):
    assert client.open(path, method=method, environ_overrides=ELSEWHERE).status_code == 401
    assert client.open(path, method=method, headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 401


def test_the_figures_see_the_cache_and_leave_the_admin_pages_out(make_app, add_video):
    app = make_app()
    add_video(app.extensions["local_video_server"].database, "a.mp4")
    client = app.test_client()
    for path in ("/", "/", "/ping", "/admin/library", "/admin/cache/status"):
        assert client.get(path).status_code == 200
    figures = client.get("/admin/performance/json").json
    assert list(figures["endpoints"]) == ["GET /"]
    assert figures["cache_hit_rate"] == 50.0
    assert figures["database"]["max_per_request"] == 5


@pytest.mark.parametrize("path", ["/watch/" + "x" * 5000, "/video/" + "x" * 5000, "/api/ratings/" + "y" * 33])
def test_what_can_not_be_in_the_library_takes_no_room_in_the_cache(client, path):
    def entries():
        return client.get("/admin/cache/status").json["caches"]["library"]["entries"]

    before = entries()
    assert client.get(path).status_code == 404
    assert entries() == before
