"""Answers that owe nothing to the app around."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import jinja2
import pytest
from flask import Flask, Response
from flask.json.provider import JSONProvider

from telemetry.admin import answers

PAGE = "/admin/performance"
JSON = "/admin/performance/json"
Instrumented = Callable[..., Flask]


class OddProvider(JSONProvider):
    """What an app may have: everything becomes a string."""

    def dumps(self, obj: Any, **_: Any) -> str:
        return f'"{obj}"'

    def loads(self, s: str | bytes, **_: Any) -> Any:
        return s


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deep": [float("-inf")]}, datetime.UTC])
def test_what_is_not_json_is_never_sent(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        answers.json(value)


class Statement(str):
    """What an app may hand to `execute`."""


def test_a_string_of_a_class_of_its_own_is_a_string() -> None:
    assert answers.json({"sql": Statement("SELECT 1")}).get_data(as_text=True) == '{"sql":"SELECT 1"}\n'


def test_json_keeps_its_order_and_its_letters() -> None:
    answer = answers.json({"b": "Łódź", "a": [1, 2.5, None]}, 418)
    assert answer.get_data(as_text=True) == '{"b":"Łódź","a":[1,2.5,null]}\n'
    assert (answer.status_code, answer.mimetype) == (418, "application/json")
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_apps_json_provider_is_not_asked(shop: Flask, instrumented: Instrumented) -> None:
    shop.json = OddProvider(shop)
    client = instrumented(shop).test_client()
    text = client.get(JSON).text
    assert text.startswith('{"cache_hit_rate":0.0,')
    assert client.get("/api/admin/performance/routes?limit=0").text.startswith('{"error":"limit must be')


def test_the_apps_jinja_settings_are_not_asked(shop: Flask, instrumented: Instrumented, tmp_path) -> None:
    theirs = tmp_path / "telemetry_admin"
    theirs.mkdir()
    for name in ("overview.html", "_live.html", "_layout.html"):
        (theirs / name).write_text("theirs")
    shop.jinja_loader = jinja2.FileSystemLoader(tmp_path)  # type: ignore[misc]
    shop.jinja_options = {"variable_start_string": "[[", "variable_end_string": "]]", "autoescape": False}
    shop.jinja_env.filters["length"] = lambda value: "theirs"
    shop.jinja_env.globals["figures"] = "theirs"

    @shop.context_processor
    def names() -> dict[str, object]:
        return {"title": "theirs", "rows": "theirs", "state": None}

    @shop.template_filter("join")
    def join(*_: object) -> str:
        raise AssertionError("theirs")

    client = instrumented(shop, title="ours <b>").test_client()
    client.get("/")
    page = client.get(PAGE)
    assert page.status_code == 200
    assert "theirs" not in page.text
    assert "ours &lt;b&gt;" in page.text


def test_the_apps_response_class_and_session_are_not_used(shop: Flask, instrumented: Instrumented) -> None:
    class Shouting(Response):
        default_mimetype = "text/shout"

    shop.response_class = Shouting
    shop.secret_key = "x"
    answer = instrumented(shop).test_client().get(JSON)
    assert answer.mimetype == "application/json"
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ],
)
@pytest.mark.parametrize(("path", "status"), [(PAGE, 200), (JSON, 200), ("/api/admin/performance/routes?limit=0", 400)])
def test_every_answer_is_hardened(path: str, status: int, header: str, value: str, client) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers.getlist(header) == [value]


def test_the_policy_of_the_page_allows_nothing_inline_and_nothing_from_elsewhere(client) -> None:
    directives = dict(
        directive.strip().split(" ", 1) for directive in client.get(PAGE).headers["Content-Security-Policy"].split(";")
    )
    assert directives["default-src"] == "'none'"
    assert directives["frame-ancestors"] == "'none'"
    assert {source for value in directives.values() for source in value.split()} <= {"'none'", "'self'", "data:"}
