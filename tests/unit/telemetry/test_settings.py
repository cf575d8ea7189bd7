"""Settings come from arguments and the environment; a wrong one is named in one line."""

from __future__ import annotations

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
        ("LVS_TELEMETRY_WINDOW", "0", "LVS_TELEMETRY_WINDOW: input should be greater than or equal to 1, got '0'"),
        ("LVS_TELEMETRY_WINDOW", "many", "LVS_TELEMETRY_WINDOW: input should be a valid integer"),
        ("LVS_TELEMETRY_POOR_ABOVE_MS", "nan", "LVS_TELEMETRY_POOR_ABOVE_MS: input should be"),
        ("LVS_TELEMETRY_POOR_ABOVE_MS", "10", "poor_above_ms must be at least good_below_ms (50), got 10"),
        ("LVS_TELEMETRY_EXCLUDED_ROUTES", "/health", "LVS_TELEMETRY_EXCLUDED_ROUTES must be JSON, got '/health'"),
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
    with pytest.raises(TelemetryError, match=r"^window: input should be greater than or equal to 1, got 0$"):
        TelemetrySettings.load(window=0)
    with pytest.raises(SettingsError, match=r"^colour: extra inputs are not permitted, got 'red'$"):
        TelemetrySettings.load(colour="red")
