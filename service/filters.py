"""How the pages write durations, sizes and numbers."""

from __future__ import annotations

from flask import Flask
from markupsafe import Markup, escape

from service.text import revealed
from telemetry import figures


def duration(seconds: float) -> str:
    """Return `1:02:03` or `4:05`, and an en dash for 0: that a file does not say how long it is."""
    if not seconds:
        return "–"
    minutes, rest = divmod(max(round(seconds), 1), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def isolated(path: object) -> Markup:
    """Return `path` for display: a folder stands before what is in it, whatever direction the name of each is read in."""
    shown = str(escape(revealed(str(path))))
    return Markup("<bdi>" + shown.replace("/", "</bdi>/<bdi>") + "</bdi>")  # noqa: S704


def install(app: Flask) -> None:
    app.add_template_filter(duration)
    app.add_template_filter(revealed)
    app.add_template_filter(isolated)
    app.add_template_filter(figures.bytes)
    app.add_template_filter(figures.percent)
