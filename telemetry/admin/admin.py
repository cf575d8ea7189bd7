"""The admin pages of one app: what they are about, and whom they read it from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from flask import Flask, request

from telemetry.instrumentation.capture import ADMIN_BLUEPRINT

if TYPE_CHECKING:
    from telemetry.admin.requests_facts import Reader, Source
    from telemetry.exporters.prometheus import ScrapedReader
    from telemetry.exporters.status import Exporting
    from telemetry.workers import Workers

Look = Callable[[], Sequence["Exporting"]]
_READER: Final = "telemetry.admin.reader"


@dataclass(frozen=True)
class Admin:
    """What the admin pages of one app show, and how."""

    source: Source
    title: str
    links: Mapping[str, str]
    look_at_exporters: Look

    @functools.cached_property
    def own_reader(self) -> Reader:
        """What the figures and the kept requests of this process are read by."""
        from telemetry.admin.requests_facts import Reader

        return Reader(self.source)

    @property
    def reader(self) -> Reader:
        """What the figures and the kept requests are read by, of all workers of the server, for the request that is served."""
        found: Reader | None = request.environ.get(_READER)
        if found is None:
            found, workers = self.own_reader, self.workers()
            if workers is not None and workers.has_figures_of_others():
                from telemetry.admin.joint_reader import JointReader

                found = JointReader(found, workers)
            request.environ[_READER] = found
        return found

    def workers(self) -> Workers | None:
        """Return the workers of the server, where the app is instrumented."""
        return getattr(self.source, "workers", None)

    def scraped(self) -> ScrapedReader | None:
        """Return the exporter of this process that Prometheus fetches from, if there is one."""
        found = (exporter for exporter in self.look_at_exporters() if hasattr(exporter, "page"))
        return cast("ScrapedReader | None", next(found, None))

    def exporting(self) -> Sequence[Exporting]:
        """Return the exporters of all workers of the server."""
        return self.reader.exporting(self.look_at_exporters())


def admin_of(app: Flask) -> Admin:
    """Return what the admin pages of `app` show."""
    return cast("Admin", app.blueprints[ADMIN_BLUEPRINT].admin)  # type: ignore[attr-defined]
