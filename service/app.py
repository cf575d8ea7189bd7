"""The app factory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from flask import Flask
from opentelemetry.trace import TracerProvider

from config import Settings, load_settings
from service import admin, errors, security
from service.filters import install as install_filters
from service.routes import BLUEPRINTS
from service.state import EXTENSION, Server, end_request
from service.text import TITLE
from telemetry import PerformanceMetrics, TelemetrySettings, get_metrics, instrument, uninstrument

ADMIN_LINKS = {"Videos": "main.index", "Library status": "library_admin.index"}
ADMIN_ROUTES = ("/admin/cache/*", "/admin/library")


def create_app(
    settings: Settings | None = None,
    *,
    metrics: PerformanceMetrics | None = None,
    telemetry_settings: TelemetrySettings | None = None,
    tracer_provider: TracerProvider | None = None,
    authorize: Callable[[], object] | None = None,
    background: bool = True,
) -> Flask:
    """Return the video server for `settings` (by default from environment and file), instrumented.

    `background=False` starts no thread: the index then changes only through `server.indexer.scan()`. Close what this
    made with `app.extensions["local_video_server"].close()`. `authorize` says who may see the admin pages in place of
    the admin token. Raises what `Database` does, `TokenError` and `SettingsError`.
    """
    settings = settings or load_settings().settings
    app = Flask("service")
    server = Server.build(settings, metrics or get_metrics(telemetry_settings))
    app.extensions[EXTENSION] = server
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's default provider
    security.install(app, settings)
    guard = authorize or admin.AdminGuard(
        admin.load_token(settings.data.resolve()), trusts_this_machine=settings.is_on_loopback
    )
    admin.install(app, guard)
    errors.install(app)
    install_filters(app)
    app.teardown_appcontext(end_request)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    instrument(
        app,
        settings=_without_admin(telemetry_settings),
        metrics=metrics,
        tracer_provider=tracer_provider,
        authorize=guard,
        admin_links=ADMIN_LINKS,
        service_name="local-video-server",
        service_version=_installed_version(),
        title=TITLE,
    )
    app.wsgi_app = admin.TokenParameter(app.wsgi_app)  # type: ignore[method-assign]
    if settings.trusted_proxies:
        app.wsgi_app = security.TrustedProxies(app.wsgi_app, settings.trusted_proxies)  # type: ignore[method-assign]
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
