"""Settings come from arguments and the environment; a wrong one is named in one line."""

from __future__ import annotations

from typing import Any

import pytest

from telemetry import SettingsError, TelemetryError, TelemetrySettings


def test_defaults_are_those_of_the_spec() -> None:
    settings = TelemetrySettings.load()
    assert (settings.window, settings.good_below_ms, settings.poor_above_ms) == (100, 50, 200)


def test_the_environment_sets_what_is_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVS_TELEMETRY_WINDOW", "7")
    monkeypatch.setenv("LVS_TELEMETRY_EXCLUDED_ROUTES", '["/health", "/internal/*"]')
    assert TelemetrySettings.load().window == 7
    assert TelemetrySettings.load(window=8).window == 8
    assert TelemetrySettings.load().excluded_routes == ("/health", "/internal/*")


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("LVS_TELEMETRY_WINDOW", "0", "LVS_TELEMETRY_WINDOW must be a whole number from 1 to 10000, got '0'"),
        ("LVS_TELEMETRY_WINDOW", "many", "LVS_TELEMETRY_WINDOW must be a whole number from 1 to 10000, got 'many'"),
        (
            "LVS_TELEMETRY_POOR_ABOVE_MS",
            "nan",
            "LVS_TELEMETRY_POOR_ABOVE_MS must be a number over 0 to 86400000, got 'nan'",
        ),
        (
            "LVS_TELEMETRY_GOOD_BELOW_MS",
            "inf",
            "LVS_TELEMETRY_GOOD_BELOW_MS must be a number over 0 to 86400000, got 'inf'",
        ),
        ("LVS_TELEMETRY_ADMIN", "maybe", "LVS_TELEMETRY_ADMIN must be true or false, got 'maybe'"),
        ("LVS_TELEMETRY_INSTRUMENTATION", "none", "LVS_TELEMETRY_INSTRUMENTATION must be own or stock, got 'none'"),
        ("LVS_TELEMETRY_EXPORT", "some", "LVS_TELEMETRY_EXPORT must be all, a share"),
        (
            "LVS_TELEMETRY_POOR_ABOVE_MS",
            "10",
            "LVS_TELEMETRY_POOR_ABOVE_MS must be at least good_below_ms (50), got 10",
        ),
        (
            "LVS_TELEMETRY_GOOD_BELOW_MS",
            "300",
            "LVS_TELEMETRY_GOOD_BELOW_MS must be at most poor_above_ms (200), got 300",
        ),
        (
            "LVS_TELEMETRY_EXCLUDED_ROUTES",
            "/health",
            'LVS_TELEMETRY_EXCLUDED_ROUTES must be a JSON list of texts such as ["/health"], got',
        ),
        (
            "LVS_TELEMETRY_EXPORTERS",
            "otlp",
            'LVS_TELEMETRY_EXPORTERS must be a JSON list of texts such as ["otlp", "jsonfile"], got',
        ),
        ("LVS_TELEMETRY_EXCLUDED_ROUTES", "[1]", "LVS_TELEMETRY_EXCLUDED_ROUTES must be a JSON list of texts"),
    ],
)
def test_a_wrong_variable_is_named_with_what_it_must_be_and_was(
    variable: str, value: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as raised:
        TelemetrySettings.load()
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wrong_argument_is_named_as_it_was_passed() -> None:
    with pytest.raises(TelemetryError, match=r"^window must be a whole number from 1 to 10000, got 0$"):
        TelemetrySettings.load(window=0)
    with pytest.raises(SettingsError, match=r"^colour must be one of window, .*, got a setting of another name$"):
        TelemetrySettings.load(colour="red")


@pytest.mark.parametrize("wrong", [{"window": 0}, {"window": "7"}, {"window": 1.5}, {"admin": 1}, {"export": 0.1}])
def test_a_wrong_value_is_refused_where_the_settings_are_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"^{next(iter(wrong))} must be "):
        TelemetrySettings(**wrong)


def test_a_list_passes_for_the_excluded_routes() -> None:
    assert TelemetrySettings(excluded_routes=["/health"]).excluded_routes == ("/health",)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("False", False), ("0", False)])
def test_a_switch_can_be_written_in_several_ways(text: str, value: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVS_TELEMETRY_ADMIN", text)
    assert TelemetrySettings.load().admin is value
