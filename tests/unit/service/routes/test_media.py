from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def shelf(server, clips):
    shutil.copytree(clips, server.videos, dirs_exist_ok=True)
    (server.videos / "notes.txt").write_text("no video")
    server.indexer.scan()
    return server.videos


def test_a_video_comes_byte_for_byte_with_its_type(client, shelf):
    for name, mime in (("red.mp4", "video/mp4"), ("blue.webm", "video/webm"), ("green.mkv", "video/x-matroska")):
        response = client.get(f"/video/{name}")
        assert (response.status_code, response.mimetype) == (200, mime)
        assert response.data == (shelf / name).read_bytes()


def test_how_long_a_video_is_being_sent_is_told_apart_from_its_request(client, server, shelf):
    def told():
        (request,) = client.get("/api/admin/performance/requests?route=GET /video/<filename>").json["requests"]
        return request

    response = client.get("/video/red.mp4", buffered=False)
    sending = told()
    chunks = response.iter_encoded()
    next(chunks)
    assert (sending["transfer_ms"], sending["status"]) == (None, 200)
    response.close()
    sent = told()
    assert sent["transfer_ms"] > sent["duration_ms"] == sending["duration_ms"]
    assert sent["db_share_percent"] == sending["db_share_percent"]
    client.get("/video/red.mp4", headers={"Range": "bytes=999999999-"})
    client.head("/video/red.mp4")
    others = client.get("/api/admin/performance/requests").json["requests"]
    assert [each["transfer_ms"] for each in others if each["path"] == "/video/red.mp4"] == [
        None,
        None,
        sent["transfer_ms"],
    ]


def test_a_player_may_jump(client, shelf):
    response = client.get("/video/red.mp4", headers={"Range": "bytes=100-199"})
    assert (response.status_code, response.data) == (206, (shelf / "red.mp4").read_bytes()[100:200])


def test_only_what_the_index_knows_is_served(client, shelf):
    shutil.copy(shelf / "red.mp4", shelf / "new.mp4")
    assert client.get("/video/new.mp4").status_code == 404
    assert client.get("/video/notes.txt").status_code == 404


def test_a_file_that_has_gone_or_has_become_a_way_out_is_404(client, shelf, tmp_path):
    (shelf / "red.mp4").unlink()
    assert client.get("/video/red.mp4").status_code == 404
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (shelf / "red.mp4").symlink_to(tmp_path / "secret.mp4")
    assert client.get("/video/red.mp4").status_code == 404


def test_when_all_slots_are_taken_a_transfer_is_refused_and_pages_still_come(make_app, clips):
    app = make_app(videos=clips, streams=1)
    app.extensions["local_video_server"].indexer.scan()
    client = app.test_client()
    slow = client.get("/video/red.mp4", buffered=False)
    refused = client.get("/video/blue.webm")
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "2"
    assert client.get("/watch/red.mp4").status_code == 200
    slow.close()
    assert client.get("/video/blue.webm").status_code == 200


def test_a_thumbnail_is_kept_by_the_browser_and_checked_by_its_tag(client, server, shelf):
    with server.database.connection() as connection:
        media_hash = connection.execute("SELECT media_hash FROM files WHERE path = 'red.mp4'").fetchone()[0]
    response = client.get(f"/thumb/{media_hash}.jpg")
    assert (response.status_code, response.mimetype) == (200, "image/jpeg")
    assert "max-age=86400" in response.headers["Cache-Control"]
    again = client.get(f"/thumb/{media_hash}.jpg", headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_a_drawing_stands_in_for_a_thumbnail_that_is_not_there_and_is_not_kept(client, server, add_video):
    media_hash = add_video(server.database, "a.mp4")
    response = client.get(f"/thumb/{media_hash}.jpg")
    assert (response.status_code, response.mimetype) == (200, "image/svg+xml")
    assert response.headers["Cache-Control"] == "no-store"
    assert "ETag" not in response.headers


@pytest.mark.parametrize("name", ["f" * 32, "x", "..%2f..%2flibrary", "F" * 32, "0" * 33])
def test_an_unknown_thumbnail_is_404(client, name):
    assert client.get(f"/thumb/{name}.jpg").status_code == 404
