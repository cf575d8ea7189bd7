from __future__ import annotations

import json

import pytest


@pytest.fixture
def media_hash(server, add_video):
    return add_video(server.database, "in/a.mp4")


def test_an_unrated_video_has_no_average_and_no_own_rating(client, media_hash):
    response = client.get(f"/api/ratings/{media_hash}")
    assert response.status_code == 200
    assert response.json == {"average": 0.0, "count": 0, "user": None}


def test_a_rating_is_answered_with_201_and_the_summary(client, media_hash):
    response = client.post(f"/api/ratings/{media_hash}", json={"value": 4})
    assert response.status_code == 201
    assert response.json == {"average": 4.0, "count": 1, "user": {"value": 4}}
    assert client.get(f"/api/ratings/{media_hash}").json == response.json


def test_a_second_rating_of_the_same_user_replaces_the_first(client, media_hash):
    client.post(f"/api/ratings/{media_hash}", json={"value": 1})
    assert client.post(f"/api/ratings/{media_hash}", json={"value": 5}).json == {
        "average": 5.0,
        "count": 1,
        "user": {"value": 5},
    }


def test_users_rate_for_themselves_and_the_average_is_over_all(app, media_hash):
    one, two = app.test_client(), app.test_client()
    one.post(f"/api/ratings/{media_hash}", json={"value": 2})
    assert two.get(f"/api/ratings/{media_hash}").json == {"average": 2.0, "count": 1, "user": None}
    assert two.post(f"/api/ratings/{media_hash}", json={"value": 5}).json == {
        "average": 3.5,
        "count": 2,
        "user": {"value": 5},
    }
    assert one.get(f"/api/ratings/{media_hash}").json == {"average": 3.5, "count": 2, "user": {"value": 2}}


def test_the_user_is_a_random_cookie_that_scripts_and_other_sites_do_not_get(client, media_hash):
    response = client.post(f"/api/ratings/{media_hash}", json={"value": 4})
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert len(client.get_cookie("lvs_user").value) == 32
    assert "Set-Cookie" not in client.get(f"/api/ratings/{media_hash}").headers


def test_a_cookie_that_we_never_gave_is_replaced(client, media_hash):
    client.set_cookie("lvs_user", "me")
    client.post(f"/api/ratings/{media_hash}", json={"value": 4})
    assert client.get_cookie("lvs_user").value != "me"


@pytest.mark.parametrize(
    ("body", "parameter", "got"),
    [
        ({"value": 0}, "value", 0), ({"value": 6}, "value", 6), ({"value": True}, "value", True), ({"value": "4"}, "value", "4"),
        ({"value": 4.5}, "value", 4.5), ({"value": None}, "value", None), ({}, "value", None),
        ([4], "body", "[4]"), (4, "body", 4), ("4", "body", "4"),
    ],
)  # fmt: skip
def test_a_bad_value_is_400_with_its_name_what_it_must_be_and_what_it_was(client, media_hash, body, parameter, got):
    response = client.post(f"/api/ratings/{media_hash}", json=body)
    assert response.status_code == 400
    assert response.json["parameter"] == parameter
    assert response.json["got"] == got
    assert response.json["must_be"] in response.json["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"\xff\xfe", b'{"value": NaN}', b"[" * 60_000])
def test_a_body_that_is_no_json_is_400(client, media_hash, body):
    assert client.post(f"/api/ratings/{media_hash}", data=body, content_type="application/json").status_code == 400
    assert client.get(f"/api/ratings/{media_hash}").json["count"] == 0


def test_json_counts_whatever_type_the_client_calls_it(client, media_hash):
    assert client.post(f"/api/ratings/{media_hash}", data=json.dumps({"value": 3})).status_code == 201


@pytest.mark.parametrize("unknown", ["f" * 32, "x", "%00", "..%2f"])
def test_an_unknown_hash_is_404(client, unknown):
    assert client.get(f"/api/ratings/{unknown}").status_code == 404
    assert client.post(f"/api/ratings/{unknown}", json={"value": 3}).status_code == 404


def test_writes_past_the_limit_are_429_and_reads_are_not(make_app, add_video):
    app = make_app(write_limit="3/minute")
    media_hash = add_video(app.extensions["local_video_server"].database, "a.mp4")
    client = app.test_client()
    for _ in range(3):
        assert client.post(f"/api/ratings/{media_hash}", json={"value": 3}).status_code == 201
    response = client.post(f"/api/ratings/{media_hash}", json={"value": 3})
    assert response.status_code == 429
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert client.post("/rate", json={"filename": "a.mp4", "rating": 3}).status_code == 429
    assert client.get(f"/api/ratings/{media_hash}").status_code == 200


def test_the_legacy_route_rates_by_file_name(client, media_hash):
    response = client.post("/rate", json={"filename": "in/a.mp4", "rating": 4})
    assert (response.status_code, response.json) == (200, {"success": True, "rating": 4})
    assert client.get(f"/api/ratings/{media_hash}").json["user"] == {"value": 4}


@pytest.mark.parametrize(
    ("body", "status", "parameter"),
    [
        ({"filename": "in/a.mp4", "rating": 9}, 400, "rating"),
        ({"filename": 5, "rating": 4}, 400, "filename"),
        ({"rating": 4}, 400, "filename"),
        ({"filename": "../a.mp4", "rating": 4}, 404, None),
        ({"filename": "a\0.mp4", "rating": 4}, 404, None),
    ],
)
def test_a_bad_legacy_body_is_told_as_well(client, media_hash, body, status, parameter):
    response = client.post("/rate", json=body)
    assert response.status_code == status
    assert response.json.get("parameter") == parameter


def test_a_form_rates_and_goes_back_to_the_video(client, media_hash):
    response = client.post(f"/ratings/{media_hash}", data={"value": "3", "path": "in/a.mp4"})
    assert (response.status_code, response.headers["Location"]) == (303, "/watch/in/a.mp4")
    assert client.get(f"/api/ratings/{media_hash}").json["user"] == {"value": 3}
    page = client.get("/watch/in/a.mp4")
    assert 'value="3" checked' in page.text


@pytest.mark.parametrize("path", ["//evil.example", "https://evil.example/", "none.mp4", ""])
def test_a_form_never_leads_to_another_site(client, media_hash, path):
    assert client.post(f"/ratings/{media_hash}", data={"value": "3", "path": path}).headers["Location"] == "/"


def test_a_form_without_a_value_is_400(client, media_hash):
    assert client.post(f"/ratings/{media_hash}", data={"path": "in/a.mp4"}).status_code == 400


def test_a_write_of_another_worker_is_seen_at_once(make_app, add_video):
    one, two = make_app(), make_app()
    media_hash = add_video(one.extensions["local_video_server"].database, "a.mp4")
    reader, writer = one.test_client(), two.test_client()
    for value in (1, 5, 2):
        writer.post(f"/api/ratings/{media_hash}", json={"value": value})
        assert reader.get(f"/api/ratings/{media_hash}").json["average"] == value
