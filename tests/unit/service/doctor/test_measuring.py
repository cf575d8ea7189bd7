"""What the doctor says of the telemetry's settings, and of others that measure the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor

from service.doctor.measuring import check_instrumentors, check_telemetry
from telemetry import system

ROOT = Path(__file__).parents[4]
FINE = "no other instrumentation of Flask or sqlite3 is active."


def only(findings):
    (finding,) = findings
    return finding


def test_nothing_else_measures():
    assert only(check_instrumentors({})).text == FINE


def test_an_instrumentor_that_is_switched_on_counts_twice():
    instrumentor = SQLite3Instrumentor()
    instrumentor.instrument()
    try:
        found = only(check_instrumentors({}))
    finally:
        instrumentor.uninstrument()
    assert found.level == "problem"
    assert "instrumentation of sqlite3 is active as well (they are switched on in this process)" in found.text
    assert "counted twice" in found.text
    assert only(check_instrumentors({})).text == FINE


def test_both_of_an_app_that_calls_them_count_twice():
    script = (
        "from opentelemetry.instrumentation.flask import FlaskInstrumentor\n"
        "from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor\n"
        "FlaskInstrumentor().instrument(); SQLite3Instrumentor().instrument()\n"
        "from service.doctor.measuring import check_instrumentors\n"
        "print(next(check_instrumentors({})).text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert "instrumentation of flask and sqlite3 is active as well" in done.stdout, done.stderr


def around(**variables):
    return {"PYTHONPATH": "/x/opentelemetry/instrumentation/auto_instrumentation:/y", **variables}


def test_opentelemetry_instrument_around_the_server_counts_twice():
    found = only(check_instrumentors(around(), {}, {"flask", "sqlite3", "requests"}))
    assert found.level == "problem"
    assert "of flask and sqlite3 is active as well (opentelemetry-instrument is around this process)" in found.text
    assert "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=flask,sqlite3" in found.remedy
    loaded = {"opentelemetry.instrumentation.auto_instrumentation._load": object()}
    assert only(check_instrumentors({}, loaded, {"flask"})).level == "problem"


@pytest.mark.parametrize(
    ("disabled", "installed"), [("flask, sqlite3", {"flask", "sqlite3"}), ("", {"requests"}), ("", set())]
)
def test_what_is_disabled_or_not_installed_does_not(disabled, installed):
    environment = around(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=disabled)
    assert only(check_instrumentors(environment, {}, installed)).text == FINE


def test_the_settings_of_the_telemetry(monkeypatch):
    assert [finding.level for finding in check_telemetry()] == ["ok"]
    monkeypatch.setenv("LVS_TELEMETRY_WINDOW", "many")
    found = only(check_telemetry())
    assert found.level == "problem"
    assert found.text == "LVS_TELEMETRY_WINDOW must be a whole number from 1 to 10000, got 'many'."


def test_without_psutil_it_says_what_is_left_out(monkeypatch):
    monkeypatch.setattr(system, "psutil", None)
    assert [finding.level for finding in check_telemetry()] == ["ok", "note"]
