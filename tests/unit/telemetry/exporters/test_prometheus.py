"""The page that Prometheus fetches: behind the admin rule, outside the windows, and as exact as the instruments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from telemetry import PerformanceMetrics, SettingsError, TelemetrySettings
from telemetry.exporters.prometheus import Family, joint_page
from telemetry.instrumentation.capture import EXTENSION
from tests.conftest import Instrument


@pytest.fixture
def app(instrumented: Instrument, metrics: PerformanceMetrics) -> Iterator[Flask]:
    provider = MeterProvider(shutdown_on_exit=False)
    made = Flask("shop")
    made.add_url_rule("/<name>", view_func=lambda name: name)
    instrumented(made, meter_provider=provider, exporters=["prometheus"])
    yield made
    provider.shutdown()


def value(page: str, name: str, **labels: str) -> float:
    (found,) = (
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
    return found


def test_the_page_counts_what_the_admin_json_counts(app: Flask, metrics: PerformanceMetrics) -> None:
    client = app.test_client()
    for _ in range(3):
        client.get("/one")
    metrics.record_cache_hit()
    for _ in range(2):  # looking changes nothing
        answer = client.get("/metrics")
        assert answer.status_code == 200
        assert answer.content_type.startswith("text/plain")
        assert value(answer.text, "http_server_request_duration_seconds_count", http_route="/<name>") == 3
        assert value(answer.text, "telemetry_cache_lookups_total", telemetry_cache_outcome="hit") == 1
    assert metrics.snapshot()["endpoints"]["GET /<name>"]["request_count"] == 3
    assert set(metrics.snapshot()["endpoints"]) == {"GET /<name>"}


def test_the_page_is_closed_to_those_who_may_not_see_the_admin_pages(app: Flask) -> None:
    assert app.test_client().get("/metrics", environ_base={"REMOTE_ADDR": "192.168.1.7"}).status_code == 403


def test_a_scraper_gets_the_format_that_it_asks_for(app: Flask) -> None:
    accept = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    answer = app.test_client().get("/metrics", headers={"Accept": accept})
    assert answer.content_type.startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_the_panel_tells_when_it_was_fetched(app: Flask) -> None:
    client = app.test_client()
    (row,) = client.get("/api/admin/performance/exporters").json["exporters"]
    assert (row["name"], row["signal"], row["last_success"]) == ("prometheus", "metrics", None)
    client.get("/metrics")
    (row,) = client.get("/api/admin/performance/exporters").json["exporters"]
    assert row["last_success"] is not None


def test_without_the_exporter_the_page_is_not_there(instrumented: Instrument) -> None:
    app = instrumented(Flask("shop"), exporters=[])
    assert app.test_client().get("/metrics").status_code == 404


def test_without_admin_pages_there_is_no_place_for_it(instrumented: Instrument) -> None:
    with pytest.raises(SettingsError, match="admin must be true with the exporter prometheus"):
        instrumented(Flask("shop"), exporters=["prometheus"], settings=TelemetrySettings(admin=False))


def test_a_page_of_the_apps_own_at_that_address_is_told(
    instrumented: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    provider, made = MeterProvider(shutdown_on_exit=False), Flask("shop")
    made.add_url_rule("/metrics", "own", lambda: "own")
    instrumented(made, meter_provider=provider, exporters=["prometheus"])
    assert made.test_client().get("/metrics").text == "own"
    assert "the page /metrics of the exporter prometheus can't be reached: shop has one of its own" in caplog.text
    provider.shutdown()


def test_the_page_of_several_workers_keeps_exemplars_and_labels_of_the_name() -> None:
    labels = {"worker": "painter", "le": "+Inf"}
    exemplar = ({"trace_id": "abc"}, 0.5, 12.0)
    family = Family("paint", "How it dries.", "histogram", "", [("paint_bucket", labels, 2.0, exemplar)])
    page, content_type = joint_page({"7": [family], "8": []}, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    (found,) = openmetrics(page.decode())
    (sample,) = found.samples
    assert (found.name, found.documentation, found.type) == ("paint", "How it dries.", "histogram")
    assert sample.labels == {"worker": "7", "exported_worker": "painter", "le": "+Inf"}
    labels, value, at = sample.exemplar
    assert (sample.value, labels, value, float(at)) == (2.0, {"trace_id": "abc"}, 0.5, 12.0)
    assert joint_page({"7": [family]})[1].startswith("text/plain")


def test_what_a_worker_tells_another_is_what_its_page_has(app: Flask) -> None:
    app.test_client().get("/one")
    (exporter,) = app.extensions[EXTENSION].exporters
    told, _ = joint_page({"1": exporter.families()})
    page, _ = exporter.page()
    without = told.decode().replace(',worker="1"', "")
    assert [line for line in without.splitlines() if "process_" not in line and "exported" not in line] == [
        line for line in page.decode().splitlines() if "process_" not in line and "exported" not in line
    ]
