from __future__ import annotations

import re
import sqlite3

from service import create_app
from service.app import ADMIN_LINKS


def test_the_stable_routes_are_there(app):
    rules = {(rule.rule, method) for rule in app.url_map.iter_rules() for method in rule.methods}
    for rule, method in [
        ("/ping", "GET"), ("/", "GET"), ("/watch/<path:filename>", "GET"),
        ("/video/<path:filename>", "GET"), ("/video/<path:filename>", "HEAD"),
        ("/tag/<tag>", "GET"), ("/search", "GET"),
        ("/api/ratings/<media_hash>", "GET"), ("/api/ratings/<media_hash>", "POST"),
        ("/admin/cache/status", "GET"), ("/admin/cache/refresh", "POST"), ("/rate", "POST"), ("/thumb/<media_hash>.jpg", "GET"),
    ]:  # fmt: skip
        assert (rule, method) in rules


def test_the_admin_links_name_real_pages(app):
    assert set(ADMIN_LINKS.values()) <= set(app.view_functions)


def test_closing_ends_the_threads_and_undoes_the_instrumentation(make_app):
    connect = sqlite3.connect
    app = make_app(background=True)
    server = app.extensions["local_video_server"]
    server.close()
    server.close()
    assert sqlite3.connect is connect
    assert not server.watcher.is_indexing()


def test_the_factory_is_the_public_name():
    assert create_app.__module__ == "service.app"


def test_every_link_of_a_page_is_below_the_prefix_that_a_proxy_names(client):
    page = client.get("/", environ_overrides={"SCRIPT_NAME": "/pre"}).text
    addresses = re.findall(r'(?:href|src|action)="(/[^"]*)"', page)
    assert "/pre/admin/performance" in addresses
    assert [address for address in addresses if not address.startswith("/pre/")] == []
