"""What the doctor says of the telemetry's settings, and of others that measure the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.doctor.measuring import check_instrumentors, check_telemetry
from telemetry import system

ROOT = Path(__file__).parents[4]
FINE = "no other instrumentation of Flask or sqlite3 is active."


def only(findings):
    (finding,) = findings
    return finding


def test_nothing_else_measures():
    assert only(check_instrumentors({})).text == FINE


def in_a_process(script):
    """Run `script` apart: switching a stock instrumentor on settles its attribute names for the whole process."""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_instrumentor_that_is_switched_on_counts_twice_until_it_is_off():
    on, off = in_a_process(
        "from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor\n"
        "from service.doctor.measuring import check_instrumentors\n"
        "SQLite3Instrumentor().instrument()\n"
        "print(next(check_instrumentors({})).text)\n"
        "SQLite3Instrumentor().uninstrument()\n"
        "print(next(check_instrumentors({})).text)"
    )
    assert "instrumentation of sqlite3 is active as well (they are switched on in this process)" in on
    assert "counted twice" in on
    assert off == FINE


def test_both_of_an_app_that_calls_them_count_twice():
    (text,) = in_a_process(
        "from opentelemetry.instrumentation.flask import FlaskInstrumentor\n"
        "from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor\n"
        "FlaskInstrumentor().instrument(); SQLite3Instrumentor().instrument()\n"
        "from service.doctor.measuring import check_instrumentors\n"
        "print(next(check_instrumentors({})).text)"
    )
    assert "instrumentation of flask and sqlite3 is active as well" in text


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
