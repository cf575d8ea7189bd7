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


def file_size(number_bytes: int) -> str:
    """Return a size with three significant digits at most, in units of 1000."""
    size = float(number_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def install(app: Flask) -> None:
    app.add_template_filter(duration)
    app.add_template_filter(file_size)
    app.add_template_filter(figures.percent)
