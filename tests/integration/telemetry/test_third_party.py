"""An exporter that is no package of ours, plugged in by the name that it announces itself with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.integration.telemetry.test_foreign_apps import SHOP, run
from tests.serving import serving

SERVED = (
    SHOP
    + """
    from telemetry import instrument
    app = instrument(create_app())
    for _ in range(3):
        assert app.test_client().get("/shop/items").status_code == 200
    print("{}")
    """
)


class Zipkin(ThreadingHTTPServer):
    """What Zipkin's collector is to an exporter."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Zipkin

    def do_POST(self) -> None:
        self.server.spans += json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(202)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def zipkin() -> Iterator[Zipkin]:
    with serving(Zipkin()) as server:
        yield server


def test_zipkins_exporter_gets_the_spans(zipkin: Zipkin, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{zipkin.server_port}/api/v2/spans"
    run(tmp_path, SERVED, OTEL_TRACES_EXPORTER="zipkin_json", OTEL_EXPORTER_ZIPKIN_ENDPOINT=endpoint)
    assert Counter(span["kind"] for span in zipkin.spans) == {"SERVER": 3, "CLIENT": 6}
    server = {span["id"]: span for span in zipkin.spans if span["kind"] == "SERVER"}
    assert {span["name"] for span in server.values()} == {"GET /shop/items"}
    assert Counter(span["parentId"] for span in zipkin.spans if span["kind"] == "CLIENT") == dict.fromkeys(server, 2)
    assert all(span["tags"]["db.system.name"] == "sqlite" for span in zipkin.spans if span["kind"] == "CLIENT")


def test_several_exporters_each_get_all(zipkin: Zipkin, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{zipkin.server_port}/api/v2/spans"
    run(
        tmp_path,
        SERVED.replace("instrument(create_app())", 'instrument(create_app(), exporters=["zipkin_json", "jsonfile"])'),
        OTEL_EXPORTER_ZIPKIN_ENDPOINT=endpoint,
    )
    assert len(zipkin.spans) == 9
    lines = (tmp_path / "telemetry-export" / "traces.jsonl").read_text("utf-8").splitlines()
    written = [
        span
        for line in lines
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert {span["spanId"] for span in written if span["kind"] == 2} == {
        span["id"] for span in zipkin.spans if span["kind"] == "SERVER"
    }
    assert (tmp_path / "telemetry-export" / "metrics.jsonl").is_file()
