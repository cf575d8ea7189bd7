"""The app factory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from flask import Flask
from opentelemetry.trace import TracerProvider

from config import Settings, load_settings
from service import errors, security
from service.db import release_request_connection
from service.filters import install as install_filters
from service.routes import BLUEPRINTS
from service.state import EXTENSION, Server
from telemetry import PerformanceMetrics, TelemetrySettings, get_metrics, instrument, uninstrument

ADMIN_LINKS = {"Library": "library_admin.index"}
ADMIN_ROUTES = ("/admin/cache/*", "/admin/library")


def create_app(
    settings: Settings | None = None,
    *,
    metrics: PerformanceMetrics | None = None,
    telemetry_settings: TelemetrySettings | None = None,
    tracer_provider: TracerProvider | None = None,
    authorize: Callable[[], bool] | None = None,
    background: bool = True,
) -> Flask:
    """Return the video server for `settings` (by default from environment and file), instrumented.

    `background=False` starts no thread: the index then changes only through `server.indexer.scan()`. Close what this
    made with `app.extensions["local_video_server"].close()`. Raises `DatabaseTooNewError`
    and `SettingsError`.
    """
    settings = settings or load_settings().settings
    app = Flask("service")
    server = Server.build(settings, metrics or get_metrics())
    app.extensions[EXTENSION] = server
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's default provider
    security.install(app)
    errors.install(app)
    install_filters(app)
    app.teardown_appcontext(release_request_connection)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    instrument(
        app,
        settings=_without_admin(telemetry_settings),
        metrics=metrics,
        tracer_provider=tracer_provider,
        authorize=authorize,
        admin_links=ADMIN_LINKS,
        service_name="local-video-server",
        service_version=_installed_version(),
        title="Local Video Server",
    )
    server.on_close.append(lambda: uninstrument(app))
    if background:
        server.watcher.start()
    return app


def _installed_version() -> str | None:
    try:
        return version("local-video-server")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return None


def _without_admin(settings: TelemetrySettings | None) -> TelemetrySettings:
    """Keep the server's own admin pages out of the figures, as the telemetry does with its own."""
    settings = settings or TelemetrySettings.load()
    return dataclasses.replace(settings, excluded_routes=(*settings.excluded_routes, *ADMIN_ROUTES))
