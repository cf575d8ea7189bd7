"""How the pages write durations, sizes and numbers."""

from __future__ import annotations

from flask import Flask

from telemetry import figures


def duration(seconds: float) -> str:
    """Return `1:02:03` or `4:05`, and an en dash for 0: that a file does not say how long it is."""
    if not seconds:
        return "–"
    minutes, rest = divmod(max(round(seconds), 1), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def install(app: Flask) -> None:
    app.add_template_filter(duration)
    app.add_template_filter(figures.bytes)
    app.add_template_filter(figures.percent)
