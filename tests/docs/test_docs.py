"""The docs say what the code does."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from opentelemetry.sdk.trace import TracerProvider

from config.settings import Settings
from service import create_app
from telemetry import PerformanceMetrics
from tools import doc_tables

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*doc_tables.documents(), ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]


@pytest.mark.parametrize("path", doc_tables.documents(), ids=lambda path: path.name)
def test_tables_are_those_of_the_code(path: Path) -> None:
    text = path.read_text("utf-8")
    assert doc_tables.refreshed(text) == text, "run: python tools/doc_tables.py"


def test_every_table_has_a_place() -> None:
    text = "".join(path.read_text("utf-8") for path in doc_tables.documents())
    assert {name for name in doc_tables.TABLES if f"<!-- table: {name} -->" in text} == set(doc_tables.TABLES)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


def test_the_example_of_the_snapshot_has_its_keys() -> None:
    text = (ROOT / "docs" / "PERFORMANCE_MONITORING.md").read_text("utf-8")
    block = re.search(r"<!-- example: snapshot -->\n```json\n(.*?)```", text, re.DOTALL)
    assert block is not None
    example = json.loads(block[1])
    metrics = PerformanceMetrics()
    metrics.record_endpoint_latency("GET /watch/<filename>", 0.02)
    actual = metrics.snapshot()
    assert shape(example) == shape(actual)


def shape(value: object) -> object:
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return "number" if isinstance(value, int | float) else type(value).__name__


@pytest.mark.parametrize("is_installed", [True, False])
def test_the_example_of_a_fallback_works_with_and_without_the_package(
    is_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "PERFORMANCE_MONITORING.md").read_text("utf-8")
    block = re.search(r"<!-- example: fallback -->\n```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    if not is_installed:
        monkeypatch.setitem(sys.modules, "telemetry.monitor", None)
    names: dict[str, Any] = {}
    exec(block[1], names)
    decorate = names["performance_monitor"]
    for decorated in (decorate(len), decorate()(len), decorate("name")(len)):
        assert decorated("four") == 4
    app = Flask(__name__)
    assert names["flask_route_monitor"](app) is app


def test_the_examples_of_the_readme_make_a_test_that_passes(pytester: pytest.Pytester) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    examples = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", text, re.DOTALL))
    pytester.makepyfile(app=examples["app"], test_budget=examples["budget"])
    result = pytester.runpytest_subprocess("-p", "telemetry.testing", "-p", "no:telemetry")
    result.assert_outcomes(passed=1)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    (tmp_path / "videos").mkdir()
    made = create_app(
        Settings(videos=tmp_path / "videos", data=tmp_path / "data"),
        metrics=PerformanceMetrics(),
        tracer_provider=TracerProvider(shutdown_on_exit=False),
        background=False,
    )
    yield made
    made.extensions["local_video_server"].close()


def test_the_contract_is_written_from_the_code() -> None:
    assert doc_tables.CONTRACT.read_text("utf-8") == doc_tables.contract(), "run: python tools/doc_tables.py"


def test_the_contract_has_every_json_endpoint_and_no_other(app: Flask) -> None:
    html = {"cache_admin": False, "library_admin": True, "main": True, "media": True}
    pages = {"ratings.submit", "tags.submit"} | {
        f"telemetry_admin.performance{name}"
        for name in (
            "",
            "_live",
            "_requests",
            "_requests_live",
            "_request",
            "_request_file",
            "_request_test",
            "_report_file",
        )
    }
    served = {
        (re.sub(r"<(?:[a-z]+:)?([a-z_]+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.endpoint.endswith("static") and rule.endpoint not in pages
        if rule.endpoint == "main.ping" or not html.get(rule.endpoint.partition(".")[0], False)
    }
    contract = app.test_client().get("/api/openapi.json").json
    documented = {
        (path, method)
        for path, operations in contract["paths"].items()
        for method in operations
        if method != "parameters"
    }
    assert documented == served


def test_every_endpoint_is_in_the_reference_and_none_that_is_not_there(app: Flask) -> None:
    text = (ROOT / "docs" / "API.md").read_text("utf-8")
    documented = set(re.findall(r"`((?:GET|POST|DELETE|PUT|PATCH) /[^`]*)`", text))
    served = {
        f"{method} {re.sub(r'<[a-z]+:', '<', rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.endpoint.endswith("static")
    }
    assert documented == served
