"""The exceptions of the package; they are raised where a program is set up, never into a request.

A budget of queries that a test exceeds is an `AssertionError`: `telemetry.testing.QueryBudgetError`.
"""

from __future__ import annotations


class TelemetryError(Exception):
    """Root of the errors of setting up."""


class SettingsError(TelemetryError, ValueError):
    """A setting has a wrong value; the text names it, what it must be and what it was."""


class InstrumentationError(TelemetryError, RuntimeError):
    """`instrument` was given something that it can't instrument."""
