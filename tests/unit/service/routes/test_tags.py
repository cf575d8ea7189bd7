from __future__ import annotations

import pytest


@pytest.fixture
def media_hash(server, add_video):
    return add_video(server.database, "in/a.mp4")


def test_tags_are_added_listed_and_removed(client, media_hash):
    assert client.get(f"/api/tags/{media_hash}").json == {"tags": []}
    added = client.post(f"/api/tags/{media_hash}", json={"tag": "#Summer  Sun"})
    assert (added.status_code, added.json) == (201, {"tags": ["summer sun"]})
    client.post(f"/api/tags/{media_hash}", json={"tag": "100%"})
    assert client.get(f"/api/tags/{media_hash}").json == {"tags": ["100%", "summer sun"]}
    assert client.delete(f"/api/tags/{media_hash}/Summer%20SUN").json == {"tags": ["100%"]}
    assert client.delete(f"/api/tags/{media_hash}/100%25").json == {"tags": []}


def test_a_tag_that_is_not_there_cannot_be_removed(client, media_hash):
    assert client.delete(f"/api/tags/{media_hash}/nothing").status_code == 404


@pytest.mark.parametrize("body", [{"tag": ""}, {"tag": 5}, {}, [], {"tag": "a/b"}, {"tag": "x" * 100}])
def test_a_bad_tag_is_400(client, media_hash, body):
    assert client.post(f"/api/tags/{media_hash}", json=body).status_code == 400


def test_an_unknown_video_is_404(client):
    assert client.get("/api/tags/none").status_code == 404
    assert client.post("/api/tags/none", json={"tag": "a"}).status_code == 404
    assert client.delete("/api/tags/none/a").status_code == 404


def test_a_new_tag_shows_on_every_page_at_once(client, media_hash):
    for path in ("/", "/watch/in/a.mp4"):
        assert "#fresh" not in client.get(path).text
    client.post(f"/api/tags/{media_hash}", json={"tag": "fresh"})
    for path in ("/", "/watch/in/a.mp4"):
        assert "#fresh" in client.get(path).text


def test_forms_add_and_remove_a_tag_and_go_back_to_the_video(client, media_hash):
    for action, tags in (("add", ["sea"]), ("add", ["sea"]), ("remove", []), ("remove", [])):
        response = client.post(f"/tags/{media_hash}", data={"action": action, "tag": "Sea", "path": "in/a.mp4"})
        assert (response.status_code, response.headers["Location"]) == (303, "/watch/in/a.mp4")
        assert client.get(f"/api/tags/{media_hash}").json == {"tags": tags}
    assert client.post(f"/tags/{media_hash}", data={"tag": "sea"}).status_code == 400


def test_a_form_that_is_refused_leads_back_to_its_video(client, media_hash):
    sent = {"action": "add", "tag": "a/b", "path": "in/a b.mp4"}
    page = client.post(f"/tags/{media_hash}", data=sent)
    assert page.status_code == 400
    assert 'href="/watch/in/a%20b.mp4"' in page.text
    large = client.post(f"/tags/{media_hash}", data={**sent, "tag": "x" * 100_000})
    assert (large.status_code, "Back to the video" in large.text) == (413, False)
    assert "Back to the video" not in client.get("/watch/nothing.mp4").text


def test_tag_writes_have_the_same_limit(make_app, add_video):
    app = make_app(write_limit="1/minute")
    media_hash = add_video(app.extensions["local_video_server"].database, "a.mp4")
    client = app.test_client()
    assert client.post(f"/api/tags/{media_hash}", json={"tag": "a"}).status_code == 201
    assert client.post(f"/api/tags/{media_hash}", json={"tag": "b"}).status_code == 429
    assert client.delete(f"/api/tags/{media_hash}/a").status_code == 429
