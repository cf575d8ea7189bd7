"""`instrument(app)` and `uninstrument(app)`."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Flask

from telemetry import forked, pipeline, source
from telemetry.admin import create_blueprint, guard
from telemetry.admin.routes import METRICS_PATH
from telemetry.errors import InstrumentationError, SettingsError
from telemetry.exporters import registry
from telemetry.exporters.options import Options
from telemetry.instrumentation import sqlite
from telemetry.instrumentation.capture import ADMIN_BLUEPRINT, EXTENSION, Capture
from telemetry.instrumentation.flask import RequestMiddleware, middleware_class
from telemetry.performance import PerformanceMetrics, get_metrics
from telemetry.settings import TelemetrySettings
from telemetry.workers import Workers

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from telemetry.exporters.registry import Exporter
    from telemetry.exporters.status import Exporting
    from telemetry.handover import Handover
    from telemetry.instrumentation.stock import StockMiddleware
    from telemetry.instruments import Instruments

_log = logging.getLogger(__name__)

_lock = forked.reentrant_lock()
_App = TypeVar("_App", bound=Flask)


@dataclass(slots=True)
class Telemetry:
    """What an instrumented app carries in `app.extensions[EXTENSION]`."""

    metrics: PerformanceMetrics
    settings: TelemetrySettings
    authorize: Callable[[], Any] | None = None
    middleware: RequestMiddleware | StockMiddleware | None = None
    meter_provider: MeterProvider | None = None
    tracer_provider: TracerProvider | None = None
    workers: Workers | None = None
    """The workers of the server that the app runs in."""

    @property
    def exporters(self) -> Sequence[Exporting]:
        """The exporters of this app's providers that this package has set up, and how they are doing."""
        return pipeline.exporters_of(self.tracer_provider, self.meter_provider)

    @property
    def active(self) -> bool:
        """Whether the app is instrumented at present."""
        return self.middleware is not None


def instrument(
    app: _App,
    *,
    settings: TelemetrySettings | None = None,
    metrics: PerformanceMetrics | None = None,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    exporters: Sequence[str | Exporter] | None = None,
    authorize: Callable[[], Any] | None = None,
    admin_links: Mapping[str, str] | None = None,
    service_name: str | None = None,
    service_version: str | None = None,
    title: str | None = None,
) -> _App:
    """Measure every request of `app` and every sqlite3 query made while serving it, mount the admin pages, and return `app`.

    Args:
        app: a Flask app, before its first request. An app that is instrumented already stays as it is.
        settings: what can be set; from the environment (`LVS_TELEMETRY_*`) if left out.
        metrics: where the figures are read from; `get_metrics(settings)` if left out.
        meter_provider: where measurements go; the process's provider if left out, made and set if there is none. With `metrics`
            of the app's own it is the one that these read, or else one apart from the process's, which exports likewise.
        tracer_provider: where spans go; likewise.
        exporters: what the providers export to, by names such as `"otlp"` or objects with the methods of
            `telemetry.exporters.registry.Exporter`; added to providers of the app's own as well. The setting `exporters`
            if left out; without that, providers that are made here export as the standard `OTEL_*` variables say.
        authorize: says whether the current request may see the admin pages; only requests from this machine may if left out.
            A method `peek(environ)` of it that says the same of any request, quickly, also decides whether a response has
            `Server-Timing` and `traceparent`; without that method none has.
        admin_links: label and endpoint of pages of the app that the admin pages link to.
        service_name: `service.name` of providers that are made here, unless `OTEL_SERVICE_NAME` says another; the app's name
            if left out.
        service_version: their `service.version`; none if left out.
        title: what the admin pages are headed with; the service name if left out.

    Raises:
        InstrumentationError: `app` is not a Flask app, or has served a request already and has no admin pages yet; or what
            the setting `instrumentation` asks for is not installed, or is in use in another way.
        SettingsError: a setting or a variable of OpenTelemetry in the environment is wrong, or an exporter is unknown or can't
            be set up.
    """
    _check_types(app, settings)
    with _lock:
        telemetry = app.extensions.get(EXTENSION)
        if isinstance(telemetry, Telemetry) and telemetry.active:
            return app
        _end_dropped()
        given = settings
        settings = settings or (metrics.settings if metrics is not None else TelemetrySettings.load())
        check_instrumentation(settings.instrumentation)
        apart = metrics is not None and meter_provider is None
        metrics = metrics or get_metrics(settings)
        _tell_settings_that_come_late(app, metrics, given)
        chosen = _choose(exporters, settings)
        service_name = service_name or app.name
        if apart:
            meter_provider = metrics.attached_provider or pipeline.meter_provider_apart(service_name, service_version)
        meter_provider = meter_provider or pipeline.meter_provider(service_name, service_version)
        tracer_provider = tracer_provider or pipeline.tracer_provider(service_name, service_version)
        is_asked = exporters is not None or bool(settings.exporters)
        options = Options.of(settings)
        pipeline.export(chosen, options, tracer_provider, meter_provider, to_foreign=is_asked)
        made = _attach(metrics, meter_provider)
        if not isinstance(telemetry, Telemetry):
            telemetry = Telemetry(metrics, settings)
        try:
            capture = Capture(made, tracer_provider, settings, metrics.recent, metrics.count_failure)
            telemetry.tracer_provider, telemetry.meter_provider = tracer_provider, meter_provider
            telemetry.metrics, telemetry.settings, telemetry.authorize = metrics, settings, authorize
            if settings.admin:
                _mount_admin(app, telemetry, title or service_name, admin_links)
            _set_up(app, telemetry, capture, tracer_provider, meter_provider)
        except BaseException:
            _detach(metrics, meter_provider)
            telemetry.meter_provider = telemetry.tracer_provider = None
            raise
        _in_use.append(_Instrumented(weakref.ref(app), settings.instrumentation, capture, metrics, meter_provider))
        return app


def _check_types(app: object, settings: object) -> None:
    if not isinstance(app, Flask):
        raise InstrumentationError(f"app must be a Flask app, got {type(app).__name__}")
    if not isinstance(settings, TelemetrySettings | None):
        raise SettingsError(
            f"settings must be made by TelemetrySettings.load(window=500, ...), got {type(settings).__name__}"
        )


def _tell_settings_that_come_late(app: Flask, metrics: PerformanceMetrics, given: TelemetrySettings | None) -> None:
    if given is not None and (late := metrics.settled_otherwise(given)):
        _log.warning(
            "%s of %s cannot be set any more: the figures are kept as the settings say that they were made with; "
            "pass metrics=PerformanceMetrics(settings) for an app with figures of its own",
            ", ".join(late),
            app.name,
        )


def _choose(exporters: Sequence[str | Exporter] | None, settings: TelemetrySettings) -> registry.Chosen:
    """Return what is exported to: what the argument `exporters` names, else the setting, else the standard variables."""
    chosen = registry.of_settings(settings) if exporters is None else registry.choose(exporters)
    if not settings.admin and any(getattr(each, "name", None) == "prometheus" for each in chosen.metrics):
        raise SettingsError("admin must be true with the exporter prometheus, whose page is an admin page, got false")
    return chosen


def _set_up(
    app: Flask, telemetry: Telemetry, capture: Capture, tracer_provider: TracerProvider, meter_provider: MeterProvider
) -> None:
    """Make `telemetry` the one of `app`, and have `capture` record its requests."""
    source.add_root(app.root_path, app.import_name)
    telemetry.metrics.add_routes(app.url_map)
    app.extensions[EXTENSION] = telemetry
    if telemetry.workers is None:
        telemetry.workers = _workers(app, telemetry)
    telemetry.workers.folder = telemetry.settings.workers_dir
    telemetry.middleware = _install(app, telemetry, capture, tracer_provider, meter_provider)


def uninstrument(app: Flask) -> None:
    """Undo `instrument(app)`: nothing is measured, and the admin pages answer 404. What was measured can still be read.

    An app that is not instrumented stays as it is.
    """
    with _lock:
        telemetry = app.extensions.get(EXTENSION)
        if not isinstance(telemetry, Telemetry) or telemetry.middleware is None:
            return
        middleware, telemetry.middleware = telemetry.middleware, None
        middleware.remove()
        next(use for use in _in_use if use.app() is app).end()
        if telemetry.workers is not None:
            telemetry.workers.leave()
        telemetry.meter_provider = telemetry.tracer_provider = None


def check_instrumentation(chosen: str) -> None:
    """Raise `InstrumentationError` where `chosen` can't be had: not installed, or another one is at work in the process."""
    if _in_use and not any(use.instrumentation == chosen for use in _in_use):
        raise InstrumentationError(
            f"the setting instrumentation must be the same for all apps of a process, got {chosen!r} beside another"
        )
    if chosen == "stock":
        import_module("telemetry.instrumentation.stock")


def _install(
    app: Flask, telemetry: Telemetry, capture: Capture, tracer_provider: TracerProvider, meter_provider: MeterProvider
) -> RequestMiddleware | StockMiddleware:
    """Put in what the settings choose to capture requests and queries, and return its middleware."""
    begin = functools.partial(_join, telemetry)
    if telemetry.settings.instrumentation == "stock":
        from telemetry.instrumentation.stock import SCOPE, StockMiddleware

        telemetry.metrics.store.scopes.add(SCOPE)
        stock = StockMiddleware(app, capture, tracer_provider, meter_provider, begin)
        stock.install()
        return stock
    may_look = guard.quick_check(telemetry.authorize) if telemetry.settings.server_timing else None
    middleware = middleware_class(app)(app, capture, may_look, begin)
    middleware.install()
    sqlite.install(capture)
    return middleware


def _join(telemetry: Telemetry) -> bool:
    """Meet the other workers of the server, also as the other apps of this process whose figures are the same: any of their
    pages may be asked for them. Return whether nothing is left to do.
    """
    every = [telemetry]
    for use in _in_use.copy():
        app = use.app()
        if app is not None and use.metrics is telemetry.metrics:
            every.append(app.extensions[EXTENSION])
    return all(
        each.workers.join() for each in every if each.active and each.workers is not None and each.settings.admin
    )


def _workers(app: Flask, telemetry: Telemetry) -> Workers:
    """Return what reaches the other workers of the server, which run the same app."""
    weak = weakref.ref(app)

    def answer(question: bytes) -> bytes:
        from telemetry.admin import workers  # for those who have others

        found = weak()
        return b"" if found is None else workers.answer(found, question)

    def hand_over(handover: Handover, worker_name: str) -> None:
        from telemetry import joint_figures

        joint_figures.hand_over(telemetry.metrics, handover, worker_name)

    name = f"{app.import_name} {app.name} {app.root_path}"
    return Workers(
        name, telemetry.settings.workers_dir, answer, lambda: telemetry.metrics.begin_anew_in_child(), hand_over
    )


def _mount_admin(app: Flask, telemetry: Telemetry, title: str, links: Mapping[str, str] | None) -> None:
    """Register the admin pages, unless they are."""
    mounted = app.blueprints.get(ADMIN_BLUEPRINT)
    if mounted is not None:
        if not hasattr(mounted, "admin"):
            _log.warning("%s gets no admin pages: it has a blueprint %s of its own", app.name, ADMIN_BLUEPRINT)
        return
    blueprint = create_blueprint(
        telemetry,
        authorize=telemetry.authorize,
        title=title,
        links=links,
        is_active=lambda: telemetry.active and telemetry.settings.admin,
        look_at_exporters=lambda: telemetry.exporters,
    )
    try:
        app.register_blueprint(blueprint)
    except AssertionError as error:
        raise InstrumentationError(
            "instrument(app) must be called before the app's first request (or with the setting admin=False), "
            f"got {app.name!r}, which has answered one"
        ) from error
    pages = [rule.endpoint for rule in app.url_map.iter_rules() if rule.rule == METRICS_PATH]
    if len(pages) > 1 and f"{ADMIN_BLUEPRINT}.metrics" in pages:
        _log.warning(
            "the page %s of the exporter prometheus can't be reached: %s has one of its own", METRICS_PATH, app.name
        )


def _attach(metrics: PerformanceMetrics, provider: MeterProvider) -> Instruments:
    """Attach, and remember whose attachments `uninstrument` may undo: those that no other app uses and `instrument` made."""
    key = (id(metrics), id(provider))
    if key in _attachments or not metrics.is_attached(provider):
        _attachments[key] += 1
    return metrics.attach(provider)


def _detach(
    metrics: PerformanceMetrics,
    provider: MeterProvider | None,
    end_provider: Callable[[MeterProvider], object] = pipeline.end,
) -> None:
    key = (id(metrics), id(provider))
    if provider is None or key not in _attachments:
        return
    _attachments[key] -= 1
    if not _attachments[key]:
        del _attachments[key]
        metrics.detach(provider)
        end_provider(provider)


_attachments: Counter[tuple[int, int]] = Counter()


@dataclass(frozen=True, slots=True, eq=False)
class _Instrumented:
    """What has to be undone for an instrumented app, without holding it: many test suites make an app for each test."""

    app: weakref.ref[Flask]
    instrumentation: str
    capture: Capture
    metrics: PerformanceMetrics
    meter_provider: MeterProvider

    def end(self, end_provider: Callable[[MeterProvider], object] = pipeline.end) -> None:
        """Undo it, and end the provider with `end_provider` if no other app uses it."""
        _in_use.remove(self)
        if self.instrumentation != "stock":
            sqlite.remove(self.capture)
        _detach(self.metrics, self.meter_provider, end_provider)


def _end_dropped() -> None:
    """Undo what was done for apps that are gone; what the stock instrumentation has done for one, that can't take back."""
    dropped = [use for use in _in_use if use.app() is None and use.instrumentation != "stock"]
    for use in dropped:
        use.end(_end_aside)


def _end_aside(provider: MeterProvider) -> None:
    """End a provider that another app has left behind, which may take long, and fail."""
    threading.Thread(target=_end_quietly, args=(provider,), name="telemetry-end", daemon=True).start()


def _end_quietly(provider: MeterProvider) -> None:
    try:
        pipeline.end(provider)
    except Exception:
        _log.exception("a meter provider of an app that was dropped could not be shut down")


_in_use: list[_Instrumented] = []
