from __future__ import annotations

import pytest

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


def test_a_message_on_a_page_is_escaped(client):
    page = client.get("/?page=<script>alert(1)</script>")
    assert page.status_code == 400
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;" in page.text


def test_a_redirect_stays_a_redirect(client):
    response = client.get("/watch//a.mp4")
    assert response.status_code == 308
