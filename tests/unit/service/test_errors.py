from __future__ import annotations

import json
import sqlite3

import pytest

from service import db
from service.errors import BadParameterError, shown


def test_a_long_value_is_cut_in_the_message():
    assert len(shown("x" * 1000)) == 100
    assert str(BadParameterError("page", "a number", "x")) == "page must be a number, got 'x'"


@pytest.mark.parametrize(
    ("path", "is_json"),
    [("/nothing", False), ("/api/nothing", True), ("/admin/cache/nothing", True), ("/ratings/x", False)],
)
def test_errors_are_json_under_the_api_and_pages_elsewhere(client, path, is_json):
    response = client.get(path)
    assert response.status_code in {404, 405}
    assert response.is_json == is_json


def test_a_wrong_method_names_the_right_ones(client):
    response = client.put("/ping")
    assert response.status_code == 405
    assert "GET" in response.headers["Allow"]


def test_an_exception_shows_no_traceback_and_no_secret(make_app):
    app = make_app()

    def fail():
        raise RuntimeError("the secret of the house")

    app.add_url_rule("/fail", view_func=fail)
    app.add_url_rule("/api/fail", endpoint="api_fail", view_func=fail)
    page, answer = app.test_client().get("/fail"), app.test_client().get("/api/fail")
    assert (page.status_code, answer.status_code) == (500, 500)
    assert "secret" not in page.text + answer.text
    assert "Traceback" not in page.text
    assert answer.json == {"error": "The server failed to answer this. Its log says why."}


@pytest.mark.parametrize(("value", "got"), [("NaN", "nan"), ("1e400", "inf"), ("-1e400", "-inf"), ("2.5", 2.5)])
def test_what_was_got_is_json_also_where_it_is_no_number_that_json_has(client, server, add_video, value, got):
    media_hash = add_video(server.database, "a.mp4")
    answer = client.post(f"/api/ratings/{media_hash}", data=f'{{"value": {value}}}')
    assert answer.status_code == 400
    assert json.loads(answer.text, parse_constant=pytest.fail)["got"] == got


def test_a_write_that_another_process_keeps_from_the_database_is_503_with_the_time_to_come_again(
    make_app, add_video, monkeypatch
):
    monkeypatch.setattr(db, "BUSY_TIMEOUT_S", 0.1)
    app = make_app()
    database = app.extensions["local_video_server"].database
    media_hash = add_video(database, "a.mp4")
    database.close()  # its idle connections have the real timeout
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = app.test_client().post(f"/api/ratings/{media_hash}", json={"value": 4})
    other.close()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json == {"error": "another process holds the database, try again in a moment"}


@pytest.mark.parametrize(
    ("trouble", "why", "remedy"),
    [
        ("PRAGMA max_page_count = 1", "database or disk is full", "make room on its disk"),
        ("PRAGMA query_only = ON", "attempt to write a readonly database", "give the user who runs the server"),
    ],
)
def test_a_write_that_the_disk_does_not_take_is_507_and_one_line_of_the_log(
    trouble, why, remedy, make_app, add_video, caplog
):
    app = make_app(write_limit="1000/second")
    database = app.extensions["local_video_server"].database
    videos = [add_video(database, f"{number}.mp4") for number in range(8)]
    with database.connection() as connection:  # the one that is idle next
        connection.execute(trouble)
    client = app.test_client()
    tags = ((media_hash, f"{at:030}") for media_hash in videos for at in range(30))  # more than a page of them
    answers = (client.post(f"/api/tags/{media_hash}", json={"tag": tag}) for media_hash, tag in tags)
    answer = next(answer for answer in answers if answer.status_code != 201)
    assert (answer.status_code, answer.json) == (507, {"error": f"the server's database can't be written: {why}"})
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        f"the database can't be written: {why}"
    ]
    assert remedy in caplog.text
    assert client.get("/watch/0.mp4").status_code == 200


def test_other_trouble_of_the_database_is_500(make_app, add_video, query):
    app = make_app()
    database = app.extensions["local_video_server"].database
    media_hash = add_video(database, "a.mp4")
    query(database, "DROP TABLE ratings")
    answer = app.test_client().post(f"/api/ratings/{media_hash}", json={"value": 4})
    assert answer.status_code == 500


def test_a_message_on_a_page_is_escaped(client):
    page = client.get("/?page=<script>alert(1)</script>")
    assert page.status_code == 400
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;" in page.text


def test_a_redirect_stays_a_redirect(client):
    response = client.get("/watch//a.mp4")
    assert response.status_code == 308
