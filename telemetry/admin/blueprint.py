"""The blueprint itself: routes, guard and headers put together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from flask import Blueprint, Response, abort, current_app, request
from flask.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue

from telemetry.admin import answers, guard, parameters, routes
from telemetry.admin.admin import Admin, Look
from telemetry.admin.missing_request import MissingRequestError
from telemetry.instrumentation.capture import ADMIN_BLUEPRINT, EXTENSION
from telemetry.requests import serving

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from werkzeug.datastructures import Headers

    from telemetry.admin.requests_facts import Source

_ANY_HOST: Final = "telemetry_admin_host"


def create_blueprint(
    source: Source,
    *,
    authorize: guard.Authorize | None = None,
    title: str = "Performance",
    links: Mapping[str, str] | None = None,
    is_active: Callable[[], bool] = lambda: True,
    look_at_exporters: Look = tuple,
) -> Blueprint:
    """Return the admin pages and their JSON over `source`, as a blueprint named `telemetry_admin`.

    Args:
        source: has the `metrics` that the figures are read from, and the `settings` that they are judged by.
        authorize: says in the context of a request whether it may look; an exception in it means no. Without it, only
            requests from this machine may (see `guard.why_not_local`). The `authorize` of an instrumented app goes first.
        title: what the pages call the app.
        links: label -> endpoint of other pages for the header; one that the app doesn't have is left out.
        is_active: while it returns false, every admin route answers 404.
        look_at_exporters: returns the exporters of the app, for the panel; one that has a `page` gets the route `/metrics`.
    """
    blueprint = _AnyHostBlueprint(
        ADMIN_BLUEPRINT,
        __name__,
        static_folder=str(answers.FOLDER / "static"),
        static_url_path="/admin/performance/static",
    )

    def in_force() -> guard.Authorize | None:
        return getattr(current_app.extensions.get(EXTENSION), "authorize", authorize)

    def admit() -> ResponseReturnValue | None:
        if not is_active():
            abort(404)
        return guard.check(in_force())

    def harden(response: Response) -> Response:
        if is_active():
            is_static, is_of_this_machine = request.endpoint == f"{ADMIN_BLUEPRINT}.static", in_force() is None
            have_the_last_word = functools.partial(_have_the_last_word, is_static, is_of_this_machine)
            have_the_last_word(response)
            record = serving.get()
            if record is not None:  # a function of the app may put another answer in its place
                record.last_word = have_the_last_word
        return response

    blueprint.url_value_preprocessor(_forget_the_host)
    blueprint.url_defaults(_name_the_host)
    blueprint.before_request(admit)
    blueprint.after_request(harden)
    blueprint.admin = Admin(source, title, links or {}, look_at_exporters)
    blueprint.register_error_handler(parameters.ParameterError, parameters.ParameterError.answer)
    blueprint.register_error_handler(
        MissingRequestError, lambda error: routes.answer("requests_pages:missing", blueprint.admin, error)
    )
    routes.add_routes(blueprint, blueprint.admin)
    return blueprint


class _AnyHostState(BlueprintSetupState):
    def add_url_rule(self, rule: str, *args: Any, **options: Any) -> None:
        if self.app.url_map.host_matching:
            options["host"] = f"<{_ANY_HOST}>"
        super().add_url_rule(rule, *args, **options)


class _AnyHostBlueprint(Blueprint):
    """A blueprint whose rules hold for every host, also in an app with `host_matching`, where a rule must name one."""

    admin: Admin
    enable_openapi = False  # asked for by APIFlask of each blueprint that has functions before its requests

    def make_setup_state(
        self, app: Any, options: dict[str, Any], first_registration: bool = False
    ) -> BlueprintSetupState:
        return _AnyHostState(self, app, options, first_registration)


def _forget_the_host(_: str | None, values: dict[str, Any] | None) -> None:
    if values:
        values.pop(_ANY_HOST, None)


def _name_the_host(endpoint: str, values: dict[str, Any]) -> None:
    if current_app.url_map.is_endpoint_expecting(endpoint, _ANY_HOST):
        values.setdefault(_ANY_HOST, request.host.lower())


def _have_the_last_word(is_static: bool, is_of_this_machine: bool, response: Response) -> None:
    """Have our headers set when they are sent, over what functions of the app set after this.

    The one place behind all of these that is not a cost to the app's other requests: a function that is registered with the app
    itself is some 130 steps of the interpreter for each of them.
    """

    def get_wsgi_headers(environ: WSGIEnvironment) -> Headers:
        answers.harden(response, is_static=is_static)
        if is_of_this_machine:
            _forget_cross_origin_grants(response)
        return type(response).get_wsgi_headers(response, environ)

    response.get_wsgi_headers = get_wsgi_headers  # type: ignore[method-assign]


def _forget_cross_origin_grants(response: Response) -> None:
    """Drop what a CORS extension of the app granted: any site open in a browser here could read the figures."""
    for name in [name for name in response.headers.keys() if name.lower().startswith("access-control-")]:  # noqa: SIM118
        response.headers.pop(name)
