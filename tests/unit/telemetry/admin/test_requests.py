"""The kept requests as JSON, pages and files."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, quote

import msgspec
import pytest
from flask import Flask, Response, request
from flask.testing import FlaskClient

from telemetry import PerformanceMetrics, TelemetrySettings, fanout
from telemetry.admin import requests_pages
from telemetry.admin.admin import admin_of
from telemetry.admin.questions import ToldRequest, kept_of, tell_of
from telemetry.admin.requests_facts import Known, Reader
from telemetry.writes import Writes
from tests.unit.telemetry import queries

Instrumented = Callable[..., Flask]
API = "/api/admin/performance/requests"
PAGE = "/admin/performance/requests"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A file with 30 videos and no index on what their tags are looked up by."""
    path = tmp_path / "library.sqlite3"
    with closing(sqlite3.connect(path)) as made:
        made.executescript("CREATE TABLE videos (id INTEGER PRIMARY KEY, title); CREATE TABLE tags (video_id, name)")
        made.executemany("INSERT INTO videos (title) VALUES (?)", [(f"video {number}",) for number in range(30)])
        made.commit()
    return path


@pytest.fixture
def client(instrumented: Instrumented, database: Path) -> Iterator[FlaskClient]:
    """A client of an app that lists videos in the way that asks for the tags of each by itself."""
    app = Flask("library")

    @app.get("/list/<int:number>")
    def listing(number: int) -> str:
        with closing(sqlite3.connect(database)) as connection:
            videos = connection.execute("SELECT id FROM videos LIMIT ?", (number,)).fetchall()
            return str([tags_of(connection, video) for (video,) in videos])

    def tags_of(connection: sqlite3.Connection, video: int) -> list[Any]:
        return connection.execute("SELECT name FROM tags WHERE video_id = ?", (video,)).fetchall()

    @app.get("/many/<int:number>")
    def many(number: int) -> str:
        with closing(sqlite3.connect(database)) as connection:
            return str([tags_of(connection, video) for video in range(number)])

    @app.get("/fails/<int:number>")
    def fails_after(number: int) -> Response:
        many(number)
        return Response("no", 503)

    @app.get("/plain")
    def plain() -> str:
        return "plain"

    @app.get("/fails")
    def fails() -> Response:
        return Response("no", 503)

    return instrumented(app).test_client()


def listed(client: FlaskClient, query: str = "") -> list[dict[str, Any]]:
    answer = client.get(f"{API}?{query}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = json.loads(answer.text)
    return list(body["requests"])


def trace_of(response: Any) -> str:
    return str(response.headers["traceparent"].split("-")[1])


def id_of(response: Any) -> str:
    """Return what the admin pages address a request by."""
    return str(response.headers["traceparent"][3:].rpartition("-")[0])


def test_requests_of_one_trace_are_told_apart(client: FlaskClient, read) -> None:
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    paths = ["/list/10", "/plain", "/fails", "/list/3"]
    ids = {path: id_of(client.get(path, headers=trace)) for path in paths}
    for path, request_id in ids.items():
        assert json.loads(client.get(f"{API}/{request_id}").text)["path"] == path
    rows = read(client.get(PAGE).text).by_id("requests").all("tr", tabindex="-1")
    assert [link["href"].rpartition("/")[2] for row in rows for link in row.all("a")] == [
        ids[path] for path in reversed(paths)
    ]
    overview = read(client.get("/admin/performance").text)
    (proof,) = [link for link in overview.by_id("needs-a-look").all("a") if link.text.startswith("N+1")]
    assert proof["href"] == f"{PAGE}/{ids['/list/10']}"
    (row,) = overview.all("tr", **{"data-route": "GET /plain"})
    assert {link["href"].rpartition("/")[2] for link in row.all("a", class_="example")} == {ids["/plain"]}
    timeline = json.loads(client.get("/api/admin/performance/timeline").text)
    shown = [
        f"{trace_id}-{span_id}" for trace_id, span_id in zip(timeline["trace_id"], timeline["span_id"], strict=True)
    ]
    assert shown == list(ids.values())
    newest, whole = ids["/list/3"], ids["/list/3"].partition("-")[0]
    assert json.loads(client.get(f"{API}/{whole}").text)["span_id"] == newest.partition("-")[2]
    for asked, number in ((newest, 1), (whole, 4)):
        body = json.loads(client.get(f"{API}/{asked}/otlp").text)
        spans = [span for scope in body["resourceSpans"][0]["scopeSpans"] for span in scope["spans"]]
        assert len([span for span in spans if span["kind"] == 2]) == number
    assert client.get(f"{API}/{whole}-{'0' * 16}").status_code == 404


def test_the_response_names_the_request_that_is_kept(client: FlaskClient) -> None:
    response = client.get("/list/10")
    assert response.headers["Server-Timing"].startswith("db;dur=")
    assert ';desc="11 queries", total;dur=' in response.headers["Server-Timing"]
    (row,) = listed(client)
    assert row["trace_id"] == trace_of(response)
    assert (row["route"], row["path"], row["status"]) == ("GET /list/<number>", "/list/10", 200)
    assert (row["query_count"], row["statements"], row["repeated"], row["verdict"]) == (11, 2, 10, "n_plus_one")
    assert 0 < row["db_ms"] <= row["duration_ms"]


def test_of_very_many_statements_it_is_told_that_not_all_are_told_apart(
    instrumented: Callable[..., Flask], read
) -> None:
    app = Flask("many")

    @app.get("/<int:number>")
    def view(number: int) -> str:
        with closing(sqlite3.connect(":memory:")) as opened:
            for key in range(number):
                opened.execute(f"SELECT {key} AS x{key}")
        return "ok"

    client = instrumented(app).test_client()
    for number, said in ((300, "300 queries of 300 statements"), (2500, r"2,500 queries of more than \d+ statements")):
        client.get(f"/{number}")
        trace_id = client.get("/api/admin/performance/requests").json["requests"][0]["trace_id"]
        page = read(client.get(f"/admin/performance/requests/{trace_id}").text)
        assert re.search(said, " ".join(page.text.split()))
        detail = client.get(f"/api/admin/performance/requests/{trace_id}").json
        assert ("room to tell apart" in (detail["checked"] or "")) is (number > 500)


def test_a_stranger_is_told_no_costs(client: FlaskClient) -> None:
    response = client.get("/plain", environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    assert "Server-Timing" not in response.headers
    assert "traceparent" not in response.headers


def test_the_app_is_asked_about_the_admin_pages_alone(instrumented: Instrumented) -> None:
    asked: list[str] = []

    def authorize() -> bool:
        asked.append(request.path)
        return True

    app = Flask("decides")
    app.add_url_rule("/", "index", lambda: "hello")
    client = instrumented(app, authorize=authorize).test_client()
    assert "Server-Timing" not in client.get("/").headers
    assert client.get(API).status_code == 200
    assert asked == [API]


def test_an_authorize_that_does_more_is_asked_by_its_peek(instrumented: Instrumented) -> None:
    class Authorize:
        def __call__(self) -> bool:
            raise AssertionError("asked for more than a header")

        def peek(self, environ: dict[str, Any]) -> bool:
            return bool({"yes": True, "no": False}[environ["HTTP_X_ASK"]])

    app = Flask("peeks")
    app.add_url_rule("/", "index", lambda: "hello")
    client = instrumented(app, authorize=Authorize()).test_client()
    told = ["Server-Timing" in client.get("/", headers={"X-Ask": ask}).headers for ask in ("yes", "no", "raises")]
    assert told == [True, False, False]


def test_a_proxy_is_noticed_after_plain_requests_too(client: FlaskClient) -> None:
    names = [f"X-Own-{number}" for number in range(1200)]
    for name in names:
        assert "Server-Timing" in client.get("/plain", headers={name: "1"}).headers
    for name in ("X-Forwarded-For", "X-Forwarded-Anything", "Forwarded", "Via"):
        assert "Server-Timing" not in client.get("/plain", headers={name: "1"}).headers


def test_the_headers_can_be_switched_off(instrumented: Instrumented) -> None:
    app = Flask("quiet")
    app.add_url_rule("/", "index", lambda: "hello")
    client = instrumented(app, settings=TelemetrySettings(server_timing=False)).test_client()
    assert "Server-Timing" not in client.get("/").headers


def test_one_request_is_told_with_its_statements_their_lines_and_the_verdict(client: FlaskClient) -> None:
    trace_id = trace_of(client.get("/list/10"))
    one = json.loads(client.get(f"{API}/{trace_id}").text)
    feeder, repeated = one["groups"]
    assert feeder["sql"] == "SELECT id FROM videos LIMIT ?"
    assert (feeder["runs"], feeder["rows"]) == (1, 10)
    assert (repeated["runs"], repeated["distinct"], repeated["rows"]) == (10, 10, 0)
    assert repeated["source"]["function"].endswith("tags_of")
    assert repeated["called_from"]["line"] == feeder["source"]["line"] + 1
    (finding,) = one["findings"]
    assert (finding["kind"], finding["group"], finding["feeder"]) == ("n_plus_one", 1, 0)
    assert re.search(r"ran 10 times at \S*test_requests\.py:\d+", finding["text"])
    assert finding["mend"] == "a JOIN of tags in the query of videos, or one query with video_id IN (…)"
    assert [query["group"] for query in one["queries"]] == [0] + [1] * 10


@pytest.mark.parametrize("number", [500, 501, 1200])
def test_however_many_queries_the_first_ones_are_shown_with_their_statement(
    number: int, client: FlaskClient, read
) -> None:
    trace_id = trace_of(client.get(f"/many/{number}"))
    one = json.loads(client.get(f"{API}/{trace_id}").text)
    assert [query["group"] for query in one["queries"]] == [0] * 500
    for path in (f"{PAGE}/{trace_id}", f"{PAGE}/{trace_id}/page", "/admin/performance/report"):
        (row,) = read(client.get(path).text).all("summary", class_="span")
        assert row.text.startswith("SELECT tags ×500")


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        ("min_queries=6", ["/list/7", "/list/5"]),
        ("verdict=ok", ["/fails", "/plain", "/list/1"]),
        ("verdict=n_plus_one&sort_by=query_count&order=asc", ["/list/5", "/list/7"]),
        ("verdict=any", ["/list/7", "/list/5"]),
        ("errors=1", ["/fails"]),
        ("errors=0&route=GET%20/plain", ["/plain"]),
        ("min_ms=3600000", []),
        ("sort_by=query_count&limit=2", ["/list/7", "/list/5"]),
    ],
)
def test_requests_are_chosen_by_parameters(query: str, paths: list[str], client: FlaskClient) -> None:
    for path in ("/list/1", "/list/5", "/list/7", "/plain", "/fails"):
        client.get(path)
    assert [row["path"] for row in listed(client, query)] == paths


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("min_queries=-1", "min_queries"),
        ("min_ms=fast", "min_ms"),
        ("errors=yes", "errors"),
        ("verdict=bad", "verdict"),
        ("sort_by=path", "sort_by"),
        ("limit=0", "limit"),
        ("route=a&route=b", "route"),
    ],
)
def test_a_wrong_parameter_is_named(query: str, parameter: str, client: FlaskClient) -> None:
    answer = client.get(f"{API}?{query}")
    assert answer.status_code == 400
    assert json.loads(answer.text)["parameter"] == parameter


@pytest.mark.parametrize("trace_id", ["0" * 32, "nothing", "x" * 500, "0x1", "-1"])
def test_a_request_that_is_not_kept_is_a_404_that_says_so(trace_id: str, client: FlaskClient) -> None:
    for path in ("", "/plan", "/otlp"):
        answer = client.get(f"{API}/{trace_id}{path}")
        assert answer.status_code == 404
        assert "no request with the id" in json.loads(answer.text)["error"]
    for path in ("", "/page", "/test"):
        answer = client.get(f"{PAGE}/{trace_id}{path}")
        assert answer.status_code == 404
        assert "This request is not kept" in answer.text


def test_a_plan_points_out_the_table_that_is_read_as_a_whole(client: FlaskClient) -> None:
    trace_id = trace_of(client.get("/list/10"))
    plan = json.loads(client.get(f"{API}/{trace_id}/plan?group=1").text)
    assert plan["file"] == "library.sqlite3"
    (step,) = plan["steps"]
    assert step["warning"] == "reads all of tags, without an index; an index on tags(video_id) would serve it"
    page = client.get(f"{PAGE}/{trace_id}?plan=1").text
    assert "reads all of tags, without an index" in page


def test_a_request_without_queries_has_no_plan_and_a_page(client: FlaskClient) -> None:
    trace_id = trace_of(client.get("/plain"))
    plan = json.loads(client.get(f"{API}/{trace_id}/plan").text)
    assert plan == {"file": "", "steps": [], "error": "this request has made no query"}
    assert client.get(f"{PAGE}/{trace_id}").status_code == 200


def test_the_trace_as_otlp_json_is_what_protobuf_reads(client: FlaskClient) -> None:
    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

    trace_id = trace_of(client.get("/list/3"))
    answer = client.get(f"{API}/{trace_id}/otlp")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{trace_id}.json"'
    body = json.loads(answer.text)
    assert ParseDict(body, TracesData()).resource_spans
    spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert {span["traceId"] for span in spans} == {trace_id}
    assert [span.get("parentSpanId") for span in spans] == [None] + [spans[0]["spanId"]] * 4
    attributes = {each["key"]: each["value"] for each in spans[0]["attributes"]}
    assert attributes["telemetry.request.db_operations"] == {"intValue": "4"}
    assert attributes["telemetry.request.verdict"] == {"stringValue": "ok"}


def test_the_list_says_what_is_the_matter_and_leads_to_the_request(client: FlaskClient, read) -> None:
    request_id = id_of(client.get("/list/10"))
    page = read(client.get(PAGE).text)
    (row,) = page.by_id("requests").all("tr", tabindex="-1")
    assert [link["href"] for link in row.all("a")] == [f"{PAGE}/{request_id}"]
    assert [cell.text for cell in row.all("td")[:3]] == ["N+1", "11", "10"]
    assert "No request matches" in client.get(f"{PAGE}/live?verdict=ok").text


def test_each_time_of_day_says_its_zone(client: FlaskClient, read) -> None:
    trace_id = trace_of(client.get("/plain"))
    listed, overview = read(client.get(PAGE).text), read(client.get("/admin/performance").text)
    assert listed.by_id("sort-started_at").text == "when UTC"
    for each in (*listed.all("time"), *overview.all("time")):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.\d]* UTC", each["title"])
    assert "times in UTC" in overview.by_id("legend").text
    assert re.search(r"\d\d:\d\d:\d\d\.\d{3} UTC", read(client.get(f"{PAGE}/{trace_id}").text).text)


def test_a_request_leads_back_to_the_list_as_it_was(client: FlaskClient, read) -> None:
    request_id = id_of(client.get("/list/10"))
    listed = read(
        client.get(f"{PAGE}?verdict=any&sort=query_count&order=desc&q=list&route=GET+/list/<number>&all=1").text
    )
    fields = {field["name"]: field["value"] for field in listed.by_id("filter-form").all("input")}
    state = {"q": "list", "sort": "query_count", "order": "desc", "verdict": "any"}
    assert fields == state | {"errors": "", "route": "GET /list/<number>", "all": "1"}
    query = "sort=query_count&q=list&verdict=any&route=GET+%2Flist%2F%3Cnumber%3E&all=1&order=desc"
    (row,) = listed.by_id("requests").all("tr", tabindex="-1")
    (link,) = row.all("a")
    assert link["href"] == f"{PAGE}/{request_id}?{query}"
    page = read(client.get(link["href"]).text)
    assert page.by_id("still")["data-back"] == f"{PAGE}?{query}"
    gone = read(client.get(f"{PAGE}/{'0' * 32}?{query}").text)
    assert gone.by_id("still")["data-back"] == f"{PAGE}?{query}"
    plans = {link["href"] for link in page.all("a") if link.text == "plan"}
    assert plans == {f"?{query}&plan={at}#g-{at}" for at in (0, 1)}


def test_the_filter_keeps_to_failed_requests_without_javascript_too(client: FlaskClient, read) -> None:
    client.get("/fails")
    page = read(client.get(f"{PAGE}?errors=1").text)
    fields = {field["name"]: field["value"] for field in page.by_id("filter-form").all("input")}
    assert fields["errors"] == "1"


def paths_of(page: Any) -> list[str]:
    return [node.text for row in page.all("tr", tabindex="-1") for node in row.all("span", class_="endpoint")]


@pytest.mark.parametrize(
    ("q", "paths"),
    [
        ("503", ["/fails"]),
        ("fails 503", ["/fails"]),
        ("test_requests.py", ["/list/10"]),
        ("TAGS_OF", []),
        ("nothing", []),
    ],
)
def test_the_filter_looks_at_status_error_and_line_too(q: str, paths: list[str], client: FlaskClient, read) -> None:
    for path in ("/list/10", "/plain", "/fails"):
        client.get(path)
    assert paths_of(read(client.get(PAGE, query_string={"q": q}).text)) == paths


def test_the_filter_takes_ids_as_they_are_copied_and_no_part_of_one_that_may_be_chance(
    client: FlaskClient, read
) -> None:
    for path in ("/plain", "/plain", "/plain"):
        client.get(path)
    *_, wanted = listed(client)
    trace_id, span_id = wanted["trace_id"], wanted["span_id"]
    ids = (trace_id, trace_id.upper(), trace_id[:8], f"{trace_id}-{span_id}", f"{trace_id}-{span_id[:4]}", span_id)
    for q in (*ids, f"00-{trace_id}-{span_id}-01", f"traceparent: 00-{trace_id}-{'1' * 16}-01"):
        page = read(client.get(PAGE, query_string={"q": q}).text)
        assert [row["id"] for row in page.all("tr", tabindex="-1")] == [f"t-{trace_id}-{span_id}"]
    for q in (trace_id[:7], trace_id[1:9], f"{trace_id[:-1]}g"):
        assert paths_of(read(client.get(PAGE, query_string={"q": q}).text)) == []


def test_of_several_requests_of_a_trace_the_filter_finds_the_one_of_the_span(client: FlaskClient, read) -> None:
    trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    for _ in range(2):
        client.get("/plain", headers={"traceparent": f"00-{trace_id}-{parent}-01"})
    rows = listed(client)
    for q, found in (
        (f"{trace_id}-{rows[0]['span_id']}", rows[:1]),
        (f"00-{trace_id}-{rows[1]['span_id']}-01", rows[1:]),
        (f"00-{trace_id}-{parent}-01", rows),
        (trace_id, rows),
    ):
        page = read(client.get(PAGE, query_string={"q": q}).text)
        assert [row["id"] for row in page.all("tr", tabindex="-1")] == [
            f"t-{trace_id}-{row['span_id']}" for row in found
        ]


def test_the_filter_finds_an_exception_by_its_name(instrumented: Instrumented, read) -> None:
    app = Flask("raises")
    app.add_url_rule("/raise", "raises", lambda: {}["no"])
    client = instrumented(app).test_client()
    client.get("/raise")
    assert paths_of(read(client.get(f"{PAGE}?q=keyerror").text)) == ["/raise"]


def test_a_chosen_route_leads_to_its_requests_and_they_to_all(client: FlaskClient, read) -> None:
    for path in ("/list/1", "/list/2", "/plain"):
        client.get(path)
    route = "GET /list/<number>"
    chosen = read(client.get("/admin/performance", query_string={"route": route}).text)
    page = read(client.get(chosen.by_id("to-its-requests")["href"]).text)
    assert paths_of(page) == ["/list/2", "/list/1"]
    assert page.by_id("requests-title").text == f"requests of {route} 2 of 3 kept · all routes"
    assert parse_qs(page.by_id("verdict-any")["href"].removeprefix("?")) == {"route": [route], "verdict": ["any"]}
    assert page.by_id("all-routes")["href"] == "?"
    assert not paths_of(read(client.get(PAGE, query_string={"route": "GET /list"}).text))


def test_a_request_of_another_day_has_its_day(client: FlaskClient, read, monkeypatch: pytest.MonkeyPatch) -> None:
    client.get("/plain")
    (time_of,) = read(client.get(PAGE).text).all("time")
    assert time_of.text == time_of["datetime"][11:23]
    tomorrow_ns = time.time_ns() + 24 * 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: tomorrow_ns)
    (time_of,) = read(client.get(PAGE).text).all("time")
    assert time_of.text == f"{time_of['datetime'][5:10]} {time_of['datetime'][11:19]}"


def test_what_was_worked_out_of_a_request_goes_with_it(client: FlaskClient) -> None:
    reader = admin_of(client.application).own_reader
    most = 0
    for _ in range(5):
        for _ in range(150):
            client.get("/list/6")
        for kept in reader.all():
            reader.known(kept)
        most = max(most, len(reader._known))
    assert most <= 2 * len(reader.all())


def test_many_requests_are_cut_and_all_can_be_shown(client: FlaskClient, read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests_pages, "MOST_ROWS", 2)
    for _ in range(5):
        client.get("/plain")
    page = read(client.get(f"{PAGE}?q=plain").text)
    (link,) = [link for link in page.all("a") if link.text == "show all"]
    assert len(paths_of(page)) == 2
    assert "3 more" in page.by_id("requests").text
    assert len(paths_of(read(client.get(f"{PAGE}{link['href']}").text))) == 5


def test_errors_and_most_queries_lead_to_a_request_that_shows_them(client: FlaskClient, read) -> None:
    client.get("/fails/0")
    client.get("/fails/0")
    most = id_of(client.get("/fails/3"))
    failed = id_of(client.get("/fails/1"))
    (row,) = read(client.get("/admin/performance").text).all("tr", **{"data-route": "GET /fails/<number>"})
    cells = row.all("td")
    assert [link["href"].rpartition("/")[2] for cell in (cells[7], cells[9]) for link in cell.all("a")] == [
        failed,
        most,
    ]


def test_the_page_of_a_request_tells_the_finding_and_the_code(client: FlaskClient, read) -> None:
    trace_id = trace_of(client.get("/list/10"))
    page = read(client.get(f"{PAGE}/{trace_id}").text)
    (finding,) = page.all("li", class_="warning")
    assert finding.text.startswith("▲ N+1 : SELECT tags ran 10 times")
    assert "Mend: a JOIN of tags" in finding.text
    assert any('connection.execute("SELECT name FROM tags' in node.text for node in page.all("code"))


def test_a_request_leads_to_its_trace_at_the_backend(instrumented: Instrumented) -> None:
    app = Flask("traced")
    app.add_url_rule("/", "view", lambda: "x")
    settings = TelemetrySettings(trace_url="http://127.0.0.1:16686/trace/{trace_id}")
    client = instrumented(app, settings=settings).test_client()
    trace_id = trace_of(client.get("/"))
    page = client.get(f"{PAGE}/{trace_id}").text
    assert f'<a href="http://127.0.0.1:16686/trace/{trace_id}" rel="noreferrer">open in Jaeger</a>' in page


def test_a_request_without_a_finding_says_what_was_looked_for(client: FlaskClient, read) -> None:
    told = "no statement ran 5 times or more from one line"
    trace_id = trace_of(client.get("/many/3"))
    assert json.loads(client.get(f"{API}/{trace_id}").text)["checked"] == told
    (badge,) = read(client.get(f"{PAGE}/{trace_id}").text).all("span", class_="badge")
    assert (badge.text, badge["class"]) == (f"● {told}", "badge good")
    assert json.loads(client.get(f"{API}/{trace_of(client.get('/many/5'))}").text)["checked"] is None


def test_what_repeats_for_a_good_reason_is_not_said_not_to_repeat(instrumented: Instrumented) -> None:
    app = Flask("clock")

    @app.get("/")
    def index() -> str:
        with closing(sqlite3.connect(":memory:")) as connection:
            return str([connection.execute("SELECT 1").fetchall() for _ in range(9)])

    client = instrumented(app).test_client()
    one = json.loads(client.get(f"{API}/{trace_of(client.get('/'))}").text)
    assert (one["findings"], one["verdict"]) == ([], "ok")
    assert one["checked"] == "nothing to mend, though one statement ran 9 times from one line"


def test_a_failed_request_does_not_look_good(client: FlaskClient, read) -> None:
    page = read(client.get(f"{PAGE}/{trace_of(client.get('/fails/3'))}").text)
    assert page.all("h2", class_="headline")[0].all("span", class_="poor")[0].text == "■ poor 503"
    (badge,) = page.all("span", class_="badge")
    assert badge.text == "· no statement ran 5 times or more from one line"
    assert "good" not in badge["class"]


def test_the_file_of_a_request_needs_nothing_from_elsewhere(client: FlaskClient, read) -> None:
    trace_id = trace_of(client.get("/list/10"))
    answer = client.get(f"{PAGE}/{trace_id}/page")
    assert answer.headers["Content-Disposition"].startswith("attachment")
    page = read(answer.text)
    assert not page.all("script")
    assert not page.all("a")
    assert [link for link in page.all("link") if "href" in link.attributes] == []
    assert "SELECT tags ran 10 times" in page.text


def test_the_report_is_one_file_with_the_worst_request_of_each_route(client: FlaskClient, read) -> None:
    client.get("/list/10")
    client.get("/list/20")
    client.get("/plain")
    answer = client.get("/admin/performance/report")
    page = read(answer.text)
    assert not page.all("script")
    assert "GET /plain" in page.text
    assert "SELECT tags ran 20 times" in page.text
    assert "SELECT tags ran 10 times" not in page.text


def test_the_test_that_is_written_runs_and_fails_until_the_queries_are_mended(client: FlaskClient) -> None:
    trace_id = trace_of(client.get("/list/10"))
    source = client.get(f"{PAGE}/{trace_id}/test").text
    made: dict[str, Any] = {}
    exec(compile(source, "test_queries.py", "exec"), made)
    (run,) = [value for name, value in made.items() if name.startswith("test_")]
    with pytest.raises(AssertionError, match=r"11 queries, at most 2 allowed:\n +10 × SELECT name FROM tags"):
        run(client)


def test_the_test_that_is_written_counts_what_a_body_asks_while_it_is_sent(
    instrumented: Instrumented, database: Path
) -> None:
    app = Flask("streamed")

    @app.get("/rows")
    def rows() -> Response:
        def made() -> Iterator[str]:
            yield "rows:"
            with closing(sqlite3.connect(database)) as connection:
                for number in range(10):
                    yield str(connection.execute("SELECT title FROM videos WHERE id = ?", (number,)).fetchone())

        return Response(made())

    client = instrumented(app).test_client()
    answer = client.get("/rows", buffered=True)
    source = client.get(f"{PAGE}/{trace_of(answer)}/test").text
    made: dict[str, Any] = {}
    exec(source, made)
    with pytest.raises(AssertionError, match="10 queries, at most 1 allowed"):
        made["test_get_rows_needs_few_queries"](client)


@pytest.mark.parametrize(
    ("path", "told", "name"),
    [
        ("/plain", "GET /plain made no query; it keeps to that.", "test_get_plain_keeps_to_its_queries"),
        ("/many/1", "GET /many/<number> made 1 query; it keeps to that.", "test_get_many_number_keeps_to_its_queries"),
        ("/list/10", "GET /list/<number> made 11 queries; it should need 2.", "test_get_list_number_needs_few_queries"),
    ],
)
def test_the_test_that_is_written_says_what_it_wants(path: str, told: str, name: str, client: FlaskClient) -> None:
    source = client.get(f"{PAGE}/{trace_of(client.get(path))}/test").text
    assert source.startswith(f"# {told}\n")
    assert f"\ndef {name}(client):" in source
    assert "\n    # Query strings are not kept: add what the request had.\n" in source


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ż", "/named/ż"),
        ("what?", "/named/what%3F"),
        ("a%20b", "/named/a%2520b"),
        ("a#b", "/named/a%23b"),
        ("a b", "/named/a%20b"),
        ("it's (1);", "/named/it's (1);"),
    ],
)
def test_a_path_is_shown_as_the_address_that_leads_there_again(
    name: str, shown: str, instrumented: Instrumented
) -> None:
    app, seen = Flask("named"), []
    app.add_url_rule("/named/<name>", "named", lambda name: seen.append(name) or "")
    client = instrumented(app).test_client()
    client.get(f"/named/{quote(name)}")
    (one,) = listed(client)
    assert one["path"] == shown.replace(" ", "%20")
    made: dict[str, Any] = {}
    exec(client.get(f"{PAGE}/{one['trace_id']}/test").text, made)
    next(value for key, value in made.items() if key.startswith("test_"))(client)
    assert seen == [name, name]


def test_the_overview_names_the_line_and_leads_to_the_proof(client: FlaskClient, read) -> None:
    request_id = id_of(client.get("/list/10"))
    notes = read(client.get("/admin/performance").text).by_id("needs-a-look")
    (link,) = [link for link in notes.all("a") if link["href"] == f"{PAGE}/{request_id}"]
    assert re.search(r"N\+1: 10 of 11 queries alike at \S*test_requests\.py:\d+", link.text)


def test_a_route_whose_queries_grow_is_named_before_any_request_is_over_the_limit(client: FlaskClient) -> None:
    for number in (1, 2, 3):
        client.get(f"/list/{number}")
    assert {row["verdict"] for row in listed(client)} == {"ok"}
    (route,) = json.loads(client.get("/api/admin/performance/fanout").text)["routes"]
    assert (route["queries_p50"], route["queries_max"]) == (3, 4)
    assert {type(route[name]) for name in ("queries_p50", "queries_p95")} == {float}
    assert route["growth"].startswith("its queries grow: SELECT tags ran 1 → 2 → 3 times at")
    assert "its queries grow" in client.get("/admin/performance").text


@pytest.fixture
def books(instrumented: Instrumented, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A client of an app with a large table, where every query is slow enough to be looked at."""
    monkeypatch.setattr("telemetry.admin.requests_facts.SLOW_STATEMENT_NS", 0)
    monkeypatch.setattr("telemetry.instrumentation.sqlite._WORTH_ASKING_NS", 0)
    monkeypatch.setattr("telemetry.locks.WORTH_ASKING_NS", 0)
    path = tmp_path / "books.sqlite3"
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE books (title TEXT, year INTEGER)")
        made.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
            "INSERT INTO books SELECT printf('%040d', i), i % 100 FROM n"
        )
        made.commit()
    app = Flask("books")

    def select(sql: str, *parameters: object) -> str:
        with closing(sqlite3.connect(path)) as connection:
            return str(len(connection.execute(sql, parameters).fetchall()))

    app.add_url_rule("/find", "find", lambda: select("SELECT * FROM books b WHERE b.year = ?", 5))
    app.add_url_rule("/every", "every", lambda: select("SELECT title FROM books"))
    return instrumented(app).test_client()


def test_a_slow_query_that_reads_a_whole_table_for_some_rows_is_a_finding(books: FlaskClient, read) -> None:
    found = books.get("/find")
    trace_id = trace_of(found)
    (row,) = listed(books, "verdict=full_scan")
    assert row["trace_id"] == trace_id
    (finding,) = json.loads(books.get(f"{API}/{trace_id}").text)["findings"]
    assert (finding["kind"], finding["is_warning"], finding["group"]) == ("full_scan", True, 0)
    assert re.fullmatch(
        r"SELECT books ran once at \S+:\d+, called at \S+:\d+, \S+ ms, and read all of books each time",
        finding["text"],
    )
    assert finding["mend"] == "an index on books(year)"
    notes = read(books.get("/admin/performance").text).by_id("needs-a-look")
    (link,) = [link for link in notes.all("a", href=f"{PAGE}/{id_of(found)}") if "full scan" in link.text]
    assert re.match(r"full scan: \S+ m?s without an index on books\(year\) at \S*test_requests\.py:\d+$", link.text)


def test_who_asks_for_all_rows_may_read_them_all(books: FlaskClient) -> None:
    books.get("/every")
    assert [row["verdict"] for row in listed(books)] == ["ok"]


def test_a_finding_that_a_plan_told_stays_the_same_in_lists_and_on_the_page(books: FlaskClient, tmp_path: Path) -> None:
    trace_id = trace_of(books.get("/find"))
    before = json.loads(books.get(f"{API}/{trace_id}").text)
    with closing(sqlite3.connect(tmp_path / "books.sqlite3")) as mended:
        mended.execute("CREATE INDEX by_year ON books (year)")
    after = json.loads(books.get(f"{API}/{trace_id}").text)
    (row,) = listed(books)
    assert row["verdict"] == after["verdict"] == before["verdict"] == "full_scan"
    assert after["findings"] == before["findings"]
    books.get("/find")
    assert [row["verdict"] for row in listed(books)] == ["ok", "full_scan"]


def test_the_pages_wait_for_no_lock_and_look_again_later(books: FlaskClient, tmp_path: Path) -> None:
    books.get("/find")
    with closing(sqlite3.connect(tmp_path / "books.sqlite3", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert [row["verdict"] for row in listed(books)] == ["ok"]
        holder.execute("ROLLBACK")
    assert [row["verdict"] for row in listed(books)] == ["full_scan"]


def test_the_test_of_a_request_counts_no_run_twice(
    books: FlaskClient, instrumented: Instrumented, tmp_path: Path
) -> None:
    app = Flask("loop")

    @app.get("/loop")
    def loop() -> str:
        with closing(sqlite3.connect(tmp_path / "books.sqlite3")) as connection:
            return str(
                [connection.execute("SELECT * FROM books WHERE year = ?", (year,)).fetchall() for year in range(9)]
            )

    client = instrumented(app).test_client()
    trace_id = trace_of(client.get("/loop"))
    found = json.loads(client.get(f"{API}/{trace_id}").text)["findings"]
    assert [finding["kind"] for finding in found] == ["n_plus_one", "full_scan"]
    assert "assert_max_queries(1)" in client.get(f"{PAGE}/{trace_id}/test").text
    only_slow = trace_of(books.get("/find"))
    written = books.get(f"{PAGE}/{only_slow}/test").text
    assert "made 1 query; it keeps to that." in written
    assert "Mend" not in written


def test_a_finding_goes_with_the_requests_that_showed_it(
    client: FlaskClient, read, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get("/list/10")
    monkeypatch.setattr("telemetry.admin.requests_facts.OF_LATE_NS", 0)
    assert "N+1" in read(client.get("/admin/performance").text).by_id("needs-a-look").text
    for _ in range(100):
        client.get("/list/1")
    overview = read(client.get("/admin/performance").text)
    assert overview.by_id("needs-a-look").text.startswith("needs a look ● nothing stands out")
    (route,) = json.loads(client.get("/api/admin/performance/fanout").text)["routes"]
    assert route["growth"] is None
    assert [row["verdict"] for row in listed(client, "verdict=n_plus_one")] == ["n_plus_one"], "it is kept all the same"


def test_databases_of_one_name_are_told_apart_by_their_folders(
    instrumented: Instrumented, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.locks._files", [])
    client = instrumented(Flask("shards")).test_client()
    for name in ("one/cache.db", "two/cache.db", "two/app.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        sqlite3.connect(tmp_path / name).close()
    databases = json.loads(client.get("/api/admin/performance/fanout").text)["databases"]
    assert sorted(each["file"] for each in databases) == ["app.db", "one/cache.db", "two/cache.db"]


def test_the_database_share_of_a_streamed_body_is_of_the_whole_transfer(
    instrumented: Instrumented, database: Path
) -> None:
    app = Flask("stream")

    @app.get("/stream")
    def stream() -> Response:
        def body() -> Iterator[str]:
            yield "first"
            with closing(sqlite3.connect(database)) as connection:
                for _ in range(3):
                    yield str(connection.execute("SELECT * FROM videos").fetchall())

        return Response(body())

    client = instrumented(app).test_client()
    assert client.get("/stream").data.startswith(b"first")
    (row,) = listed(client)
    assert row["db_ms"] > 0
    assert row["db_share_percent"] == pytest.approx(100 * row["db_ms"] / row["transfer_ms"], rel=0.01)


def test_a_request_that_waited_names_who_held_the_lock(instrumented: Instrumented, database: Path) -> None:
    app = Flask("locks")
    holds, may_end = threading.Event(), threading.Event()

    @app.post("/hold")
    def hold() -> str:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("INSERT INTO tags VALUES (1, 'a')")
            holds.set()
            may_end.wait(5)
            connection.commit()
        return "held"

    @app.post("/wait")
    def wait() -> str:
        with closing(sqlite3.connect(database, timeout=10)) as connection:
            threading.Timer(0.1, may_end.set).start()
            connection.execute("INSERT INTO tags VALUES (2, 'b')")
            connection.commit()
        return "waited"

    client = instrumented(app).test_client()
    holder = threading.Thread(target=app.test_client().post, args=("/hold",))
    holder.start()
    assert holds.wait(5)
    trace_id = trace_of(client.post("/wait"))
    holder.join()
    (row,) = listed(client, "verdict=lock_wait")
    assert row["trace_id"] == trace_id
    assert "which POST /hold held" in client.get(f"{PAGE}/{trace_id}").text
    assert re.search(r"lock wait: \S+ ms, POST /hold held it", client.get("/admin/performance").text)


def test_a_request_tells_its_commits(instrumented: Instrumented, database: Path) -> None:
    app = Flask("commits")

    @app.post("/")
    def view() -> str:
        with closing(sqlite3.connect(database)) as connection:
            for number in range(2):
                connection.execute("INSERT INTO tags VALUES (?, 'a')", (number,))
                connection.commit()
        return "done"

    client = instrumented(app).test_client()
    answer = client.post("/")
    trace_id = trace_of(answer)
    assert ';desc="2 queries, 2 commits", total;dur=' in answer.headers["Server-Timing"]
    (row,) = listed(client, "sort_by=commit_ms")
    one = client.get(f"{API}/{trace_id}").json
    assert one is not None
    assert (row["commit_count"], row["commit_ms"]) == (one["commit_count"], one["commit_ms"])
    assert [commit["has_failed"] for commit in one["commits"]] == [False, False]
    assert sum(commit["duration_ms"] for commit in one["commits"]) == pytest.approx(one["commit_ms"], abs=0.002)
    assert one["queries"][0]["start_ms"] < one["commits"][0]["start_ms"] < one["queries"][1]["start_ms"]
    page = client.get(f"{PAGE}/{trace_id}").text
    assert re.search(r" ms in the database \(\S+ %\), \S+ ms of it in 2 commits", page)
    assert ">commit</span> <b>×2</b>" in page


def test_the_short_of_many_commits_is_how_many_took_how_long(metrics: PerformanceMetrics) -> None:
    reader = Reader(SimpleNamespace(metrics=metrics, settings=TelemetrySettings()))
    warned = reader.known(
        queries.kept([], query_count=5, writes=Writes(0, None, 5, 12_000_000), duration_ns=20_000_000)
    ).warned
    assert warned is not None
    assert (warned.kind, warned.weight, warned.text) == ("commits", 12_000_000, "many commits: 5 took 12.0 ms")


def test_another_worker_is_told_what_writing_took() -> None:
    kept = queries.kept([], writes=Writes(7, (5, "POST /orders"), 3, 20))
    message = msgspec.msgpack.encode(tell_of(kept, Known(fanout.summary(kept), None, (), {})))
    again = kept_of(msgspec.msgpack.decode(message, type=ToldRequest))
    figures = [(each.wait_ns, each.waited_for, each.commit_count, each.db_time_ns) for each in (kept, again)]
    assert figures == [(7, "POST /orders", 3, 20)] * 2


def test_zero_is_a_bound_like_any_other(client: FlaskClient) -> None:
    client.get("/plain")
    assert len(listed(client, "min_ms=0&min_queries=0")) == 1


def test_what_a_user_types_is_shown_as_text(client: FlaskClient) -> None:
    client.get("/list/1")
    page = client.get(f"{PAGE}?q=<script>alert(1)</script>&verdict=<b>&sort=x&order=y").text
    assert "<script>alert" not in page


def test_reset_forgets_the_requests_too(client: FlaskClient, metrics: PerformanceMetrics) -> None:
    client.get("/list/1")
    metrics.reset()
    assert listed(client) == []


def test_latency_figures_lead_to_the_request_that_comes_nearest(client: FlaskClient, read) -> None:
    requests = {id_of(client.get("/plain")) for _ in range(3)}
    page = read(client.get("/admin/performance").text)
    (row,) = [node for node in page.by_id("routes").all("tr") if node.attributes.get("data-route") == "GET /plain"]
    links = [link["href"].rpartition("/")[2] for link in row.all("a", class_="example")]
    assert len(links) == 5
    assert set(links) <= requests
    assert client.get(f"{PAGE}/{links[0]}").status_code == 200
