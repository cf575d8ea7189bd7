"""The routes of the admin pages, and when what answers them is imported."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

import pytest
from flask.testing import FlaskClient

from telemetry.admin.routes import ROUTES, Route

IMPORTED = """
import sys
from flask import Flask
from telemetry import instrument

app = Flask("app")
app.add_url_rule("/", "home", lambda: "home")
instrument(app)
client = app.test_client()
client.get("/")
views = {"telemetry.admin." + name for name in ("api", "exporters", "pages", "requests_api", "requests_facts", "requests_pages")}
print(*sorted(views & set(sys.modules)))
client.get("/api/admin/performance/exporters", environ_base={"REMOTE_ADDR": "127.0.0.1"}).get_data()
print(*sorted(views & set(sys.modules)))
"""


def test_what_answers_an_admin_route_is_imported_with_the_first_request_for_it() -> None:
    told = subprocess.run([sys.executable, "-c", IMPORTED], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert told.splitlines() == ["", "telemetry.admin.exporters telemetry.admin.requests_facts"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.rule)
def test_every_route_has_a_view(route: Route) -> None:
    module, _, name = route.view.partition(":")
    assert callable(getattr(import_module(f"telemetry.admin.{module}"), name))


def test_every_view_is_a_function_with_a_name_of_its_own_for_extensions_that_ask_views_for_theirs(
    client: FlaskClient,
) -> None:
    views = [client.application.view_functions[f"telemetry_admin.{route.endpoint}"] for route in ROUTES]
    assert all(inspect.isfunction(view) for view in views)
    assert len({(view.__module__, view.__name__) for view in views}) == len(ROUTES)
