"""What our capture does otherwise than OpenTelemetry's instrumentations, each with its reason and a request that shows it.

`apply` takes one difference out of a pair of outcomes, and nothing else; when all of them have been taken out, the pair must be
equal. docs/PARITY.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.integration.telemetry.parity.record import Outcome, Setup
from tests.integration.telemetry.parity.traffic import QUERIES, Child, Query, Request, Touch

Entry = dict[str, Any]
KNOWN_OPERATIONS = {"SELECT", "INSERT", "UPDATE", "DELETE", "PRAGMA", "WITH"}


def pairs(own: Outcome, stock: Outcome, *roles: str) -> Iterator[tuple[Entry, Entry]]:
    """Yield what both sides have noted of the same span or question."""
    for ours, theirs in zip(own.log, stock.log, strict=False):
        if ours["role"] == theirs["role"] in roles and ours["event"] == theirs["event"]:
            yield ours, theirs


def points(outcome: Outcome, name: str) -> list[Entry]:
    """Return the series of one instrument."""
    return [point for point in outcome.metrics if point["name"] == name]


def exception_of(span: Entry) -> str | None:
    """Return the type of the exception that the instrumentation has recorded last."""
    events = span.get("events") or []
    return str(events[-1][1]["exception.type"]) if events and events[-1][0] == "exception" else None


# -- server spans ----------------------------------------------------------------------------------------------------------


def name_without_route(own: Outcome, stock: Outcome) -> None:
    for ours, theirs in pairs(own, stock, "server"):
        method, _, path = theirs["name"].partition(" ")
        if path.startswith("/") and ours["name"] == method:
            theirs["name"] = method


def url_query(own: Outcome, stock: Outcome) -> None:
    for ours, theirs in pairs(own, stock, "server"):
        if "url.query" not in ours["attributes"]:
            theirs["attributes"].pop("url.query", None)


def url_path(own: Outcome, stock: Outcome) -> None:
    for ours, theirs in pairs(own, stock, "server"):
        path, whole = theirs["attributes"].get("url.path"), ours["attributes"].get("url.path")
        if whole is not None and (path is None or whole == "/mounted" + path):
            theirs["attributes"]["url.path"] = whole


def server_address(own: Outcome, stock: Outcome) -> None:
    for ours, theirs in pairs(own, stock, "server"):
        address, port = ours["attributes"].get("server.address"), ours["attributes"].get("server.port")
        if theirs["attributes"].get("server.address") in (f"{address}:{port}", f"[{address}]:{port}"):
            theirs["attributes"].update({"server.address": address, "server.port": port})


def opt_in_attributes(own: Outcome, stock: Outcome) -> None:
    for _, theirs in pairs(own, stock, "server"):
        theirs["attributes"].pop("client.port", None)
        theirs["attributes"].pop("user_agent.synthetic.type", None)


def error_type(own: Outcome, stock: Outcome) -> None:
    for ours, theirs in pairs(own, stock, "server"):
        raised, said = exception_of(theirs), theirs["attributes"].get("error.type")
        if raised is not None and raised == ours["attributes"].get("error.type") and said in ("500", None):
            theirs["attributes"]["error.type"] = raised
    for point in points(own, "http.server.request.duration"):
        status = point["attributes"].get("http.response.status_code")
        if status == 500 and "error.type" in point["attributes"]:
            point["attributes"]["error.type"] = "500"


def escaped(own: Outcome, stock: Outcome) -> None:
    for ours, theirs in pairs(own, stock, "server", "query"):
        if exception_of(ours) is not None and exception_of(ours) == exception_of(theirs):
            recorded = theirs["events"][-1][1]
            if recorded["exception.escaped"] == "False" and ours["events"][-1][1]["exception.escaped"] == "True":
                recorded["exception.escaped"] = "True"


def stack_trace(own: Outcome, stock: Outcome) -> None:
    name = "exception.stacktrace"
    for ours, theirs in pairs(own, stock, "server", "query", "user"):
        for (_, here), (_, there) in zip(ours.get("events", ()), theirs.get("events", ()), strict=False):
            if name in here and name in there and here[name].splitlines()[-1] == there[name].splitlines()[-1]:
                there[name] = here[name]


def base_exception(own: Outcome, stock: Outcome) -> None:
    for ours, theirs in pairs(own, stock, "server"):
        if exception_of(ours) == "SystemExit" and exception_of(theirs) != "SystemExit":
            ours["events"].pop()
            ours["status"] = theirs["status"]
            ours["attributes"].pop("error.type")


def status_in_teardown(own: Outcome, stock: Outcome) -> None:
    for ours, theirs in pairs(own, stock, "server"):
        answered = ours["attributes"].get("http.response.status_code", 0)
        if ours["event"] == "end" and answered >= 500 and ours["status"] == ("ERROR", None) != theirs["status"]:
            theirs["status"] = (theirs["status"][0], None)


# -- query spans -----------------------------------------------------------------------------------------------------------


def query_name(own: Outcome, stock: Outcome) -> None:
    collection = None
    for ours, theirs in pairs(own, stock, "query"):
        operation = theirs["name"].upper()
        if operation not in KNOWN_OPERATIONS:
            theirs["name"] = "sqlite"
            continue
        if ours["event"] == "sample" or "began" in ours:  # has all attributes, whatever the sampler makes of them
            collection = ours["attributes"].get("db.collection.name")
        theirs["name"] = operation if collection is None else f"{operation} {collection}"


def query_attributes(own: Outcome, stock: Outcome) -> None:
    for ours, _ in pairs(own, stock, "query"):
        for name in ("db.operation.name", "db.collection.name", "error.type"):
            ours["attributes"].pop(name, None)


def query_attributes_at_the_start(own: Outcome, stock: Outcome) -> None:
    for ours, theirs in pairs(own, stock, "query"):
        if ours["event"] in ("sample", "start"):
            for name in ("db.system.name", "db.query.text"):
                if name not in theirs["attributes"]:
                    ours["attributes"].pop(name, None)


def source_of_queries(own: Outcome, stock: Outcome) -> None:
    for ours, _ in pairs(own, stock, "query"):
        if str(ours["attributes"].get("code.file.path", "")).endswith(".py"):
            for name in ("code.file.path", "code.function.name", "code.line.number"):
                ours["attributes"].pop(name, None)


def database_of_requests(own: Outcome, stock: Outcome) -> None:
    for ours, _ in pairs(own, stock, "server"):
        if ours["attributes"].get("telemetry.request.db_duration", -1) >= 0:
            for name in ("db_operations", "db_duration", "db_commit_duration", "db_statements", "verdict"):
                ours["attributes"].pop(f"telemetry.request.{name}", None)


# -- metrics ---------------------------------------------------------------------------------------------------------------


def other_instruments(own: Outcome, stock: Outcome) -> None:
    own.metrics = [point for point in own.metrics if not point["name"].startswith(("telemetry.", "process."))]
    left_out = ("http.server.active_requests", "db.client.response.returned_rows")
    stock.metrics = [point for point in stock.metrics if point["name"] not in left_out]


def duration_dimensions(own: Outcome, stock: Outcome) -> None:
    for point in points(stock, "http.server.request.duration"):
        for name in ("url.scheme", "network.protocol.version"):
            if all(name not in ours["attributes"] for ours in points(own, "http.server.request.duration")):
                point["attributes"].pop(name, None)


def duration_of_what_leaves_the_app(own: Outcome, stock: Outcome) -> None:
    own.metrics = [
        point
        for point in own.metrics
        if point["name"] != "http.server.request.duration" or "http.response.status_code" in point["attributes"]
    ]


def operation_dimensions(own: Outcome, stock: Outcome) -> None:
    for point in points(own, "db.client.operation.duration"):
        point["attributes"].pop("db.collection.name", None)
    for point in points(stock, "db.client.operation.duration"):
        operation = str(point["attributes"].pop("db.operation.name", "")).upper()
        if operation in KNOWN_OPERATIONS:
            point["attributes"]["db.operation.name"] = operation
        if "error.type" in point["attributes"]:
            point["attributes"]["error.type"] = "sqlite3." + point["attributes"]["error.type"]


def operation_buckets(own: Outcome, stock: Outcome) -> None:
    for point in points(own, "db.client.operation.duration"):
        if point["bounds"] == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0):
            point["bounds"] = _DEFAULT_BOUNDS


_DEFAULT_BOUNDS = (
    0.0,
    5.0,
    10.0,
    25.0,
    50.0,
    75.0,
    100.0,
    250.0,
    500.0,
    750.0,
    1000.0,
    2500.0,
    5000.0,
    7500.0,
    10000.0,
)


DEFAULT = Setup()


@dataclass(frozen=True)
class Difference:
    """One thing that is done otherwise on purpose, and a request that shows it."""

    what: str
    apply: Callable[[Outcome, Outcome], None]
    shown_by: Request
    setup: Setup = DEFAULT


UNHANDLED = Request(end="unhandled")
DIFFERENCES = (
    Difference("name without a route", name_without_route, Request(path="/nothing")),
    Difference("`url.query`", url_query, Request(query="token=secret", environ=(("RAW_URI", "/?token=secret"),))),
    Difference("`url.path`", url_path, Request(script_name="/mounted", environ=(("RAW_URI", "/mounted/"),))),
    Difference("`server.address`", server_address, Request(environ=(("HTTP_HOST", "videos.local:8443"),))),
    Difference(
        "`client.port`, `user_agent.synthetic.type`", opt_in_attributes, Request(environ=(("REMOTE_PORT", "4"),))
    ),
    Difference("`error.type` of a request", error_type, UNHANDLED),
    Difference("`exception.escaped`", escaped, UNHANDLED),
    Difference("`exception.stacktrace`", stack_trace, Request(steps={"view": (Query("SELEC 1"),)})),
    Difference("`SystemExit` and its like", base_exception, Request(end="exit")),
    Difference(
        "description of the status of a 5xx",
        status_in_teardown,
        Request(end="abort", status=500, steps={"teardown": (Touch("error"),)}),
    ),
    Difference("name of a query's span", query_name, Request(steps={"view": (QUERIES[0],)})),
    Difference("attributes of a query's span", query_attributes, Request(steps={"view": (Query("SELEC 1"),)})),
    Difference(
        "what samplers see of a query",
        query_attributes_at_the_start,
        Request(steps={"view": (QUERIES[0],)}),
        Setup(sampler="always_off"),
    ),
    Difference("source lines", source_of_queries, Request(steps={"view": (QUERIES[0],)})),
    Difference("the database on the server span", database_of_requests, Request(steps={"view": (QUERIES[0],)})),
    Difference("instruments", other_instruments, Request()),
    Difference("attributes of `http.server.request.duration`", duration_dimensions, Request()),
    Difference(
        "duration of a request that leaves the app by an exception",
        duration_of_what_leaves_the_app,
        UNHANDLED,
        Setup(propagate_exceptions=True),
    ),
    Difference(
        "attributes of `db.client.operation.duration`",
        operation_dimensions,
        Request(steps={"view": (Child("user.a", (QUERIES[6],)),)}),
    ),
    Difference("buckets of `db.client.operation.duration`", operation_buckets, Request(steps={"view": (QUERIES[0],)})),
)


def take_out_differences(own: Outcome, stock: Outcome, without: Difference | None = None) -> None:
    """Change both outcomes so that they are equal, if they differ in nothing but `DIFFERENCES` (`without` one of them)."""
    for difference in DIFFERENCES:
        if difference is not without:
            difference.apply(own, stock)
    own.metrics, stock.metrics = _merged(own.metrics), _merged(stock.metrics)


def _merged(series: list[Entry]) -> list[Entry]:
    """Return the points with those of the same name and attributes added up, in a fixed order."""
    found: dict[str, Entry] = {}
    for point in series:
        key = f"{point['name']} {sorted(point['attributes'].items(), key=str)}"
        if key in found:
            found[key]["count"] += point["count"]
            found[key].pop("exemplars", None)
        else:
            found[key] = dict(point)
    for point in found.values():
        # Exemplars are kept one a bucket, so only a single measurement has the same one whatever the time it took. A query's
        # is that of its own span with stock, of the request's with ours: the request's record knows no span of a query.
        if point.get("count", 1) != 1 or not point["name"].startswith("http."):
            point.pop("exemplars", None)
    return [found[key] for key in sorted(found)]
