"""Everything that is looked at, in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from config import Settings
from service.db import DATABASE_FILE
from service.doctor.clock import ClockWatch
from service.doctor.exporting import check_chosen, check_running
from service.doctor.finding import Finding
from service.doctor.folders import check_data, check_database, check_videos
from service.doctor.measuring import check_instrumentors, check_telemetry
from service.doctor.network import check_exporter, check_port


def examine(settings: Settings, progress: Callable[[str], object] = lambda _: None) -> Iterator[Finding]:
    """Look at everything that a server with `settings` needs, and yield what there is to say; `progress` is told of what."""
    clock = ClockWatch()
    data = settings.data.resolve()
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("videos folder", lambda: check_videos(settings.videos)),
        ("data folder", lambda: check_data(data)),
        ("database", lambda: check_database(data / DATABASE_FILE)),
        ("port", lambda: check_port(settings.host, settings.port)),
        ("telemetry", check_telemetry),
        ("exporter", lambda: check_exporter(os.environ)),
        ("exporters", lambda: check_chosen(os.environ)),
        ("exporters", lambda: check_running(settings.host, settings.port, data)),
        ("double counting", lambda: check_instrumentors(os.environ)),
        ("clock", lambda: clock.check(data)),
    )
    for subject, check in checks:
        progress(subject)
        yield from check()
