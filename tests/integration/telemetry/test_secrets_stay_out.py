"""What users type, through parameters, bodies and addresses, is nowhere in what telemetry keeps, shows, sends or logs.

The secrets are made while the test runs, so that no code object holds them. A literal that the app writes into its SQL is kept,
as a control that the search finds what is there.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import pickle
import random
import sqlite3
import types
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, Response, g, request, stream_with_context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from telemetry import PerformanceMetrics, fanout, locks
from telemetry.exporters import otlp
from telemetry.exporters.options import Options
from telemetry.instrumentation import sqlite
from telemetry.instrumentation.capture import EXTENSION
from tests.conftest import Instrument

Secrets = dict[str, Any]
CONTROL = "written by the app"
PLACES = (
    *(
        "tuple",
        "list",
        "dict",
        "many",
        "repeated",
        "very often",
        "unique",
        "address",
        "form",
        "json",
        "header",
        "cookie",
    ),
    *("streamed", "named"),
)


def make_secrets() -> Secrets:
    chance = random.SystemRandom()
    texts = {name: f"{name} {uuid.uuid4().hex}" for name in PLACES}
    return texts | {"bytes": uuid.uuid4().bytes, "int": chance.getrandbits(60) | 2**59}


class Unsupported:
    """A parameter that sqlite3 refuses, and whose text would tell it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def shop(file: Path, secrets: Secrets) -> Flask:
    app = Flask("shop")
    app.logger.setLevel(logging.CRITICAL)

    def db() -> sqlite3.Connection:
        if "db" not in g:
            g.db = sqlite3.connect(file)
        return g.db  # type: ignore[no-any-return]

    @app.teardown_appcontext
    def close(_: BaseException | None) -> None:
        if "db" in g:
            g.pop("db").close()

    @app.route("/styles", methods=["GET", "POST"])
    def styles() -> str:
        db().executescript("CREATE TABLE IF NOT EXISTS t (a UNIQUE, b)")
        db().execute(f"SELECT a FROM t WHERE a = '{CONTROL}'")
        db().execute("SELECT a FROM t WHERE a = ?", (secrets["tuple"],))
        db().execute("SELECT a FROM t WHERE a = ?", [secrets["list"]])
        db().execute("SELECT a FROM t WHERE a = :a", {"a": secrets["dict"]})
        db().execute("SELECT a FROM t WHERE a = ? AND b = ?", (secrets["bytes"], secrets["int"]))
        db().executemany("INSERT OR IGNORE INTO t (a) VALUES (?)", [(secrets["many"],), (secrets["unique"],)])
        for _ in range(8):
            db().execute("SELECT a FROM t WHERE a = ?", (secrets["repeated"],))
        db().execute(
            "SELECT ?, ?, ?", (request.args.get("q"), request.form.get("f"), str(request.get_json(silent=True)))
        )
        db().commit()
        return "done"

    @app.get("/often")
    def often() -> str:
        for number in range(1300):
            db().execute("SELECT ?, ?", (secrets["very often"], number + secrets["int"]))
        return "done"

    @app.get("/failing")
    def failing() -> str:
        db().execute("INSERT INTO t (a) VALUES (?)", (secrets["unique"],))
        return "never"

    @app.get("/unsupported")
    def unsupported() -> str:
        db().execute("SELECT ?", (Unsupported(secrets["named"]),))
        return "never"

    @app.get("/streamed")
    def streamed() -> Response:
        @stream_with_context
        def lines() -> Iterator[str]:
            for number in range(3):
                yield str(db().execute("SELECT ?, ?", (secrets["streamed"], number)).fetchone())

        return Response(lines())

    return app


def ask(app: Flask, secrets: Secrets) -> None:
    client = app.test_client()
    client.set_cookie("session", secrets["cookie"])
    headers = {"Authorization": f"Bearer {secrets['header']}"}
    client.get("/styles", query_string={"q": secrets["address"]}, headers=headers)
    client.post("/styles", data={"f": secrets["form"]})
    client.post("/styles", json={"a": [secrets["json"]]})
    for path in ("/often", "/failing", "/unsupported", "/streamed"):
        client.get(path, query_string={"q": secrets["address"]}).get_data()


def reachable(*roots: object) -> Iterator[object]:
    """Return all that is reachable from `roots`, but for code: modules, classes and functions, and the caches of others."""
    seen: set[int] = set()
    todo = list(roots)
    while todo:
        found = todo.pop()
        if id(found) in seen or isinstance(found, types.ModuleType | type | types.FunctionType):
            continue
        if hasattr(found, "cache_info") and not str(getattr(found, "__module__", "")).startswith("telemetry"):
            continue  # such as the one of urllib, which knows the addresses that were split last
        seen.add(id(found))
        yield found
        todo.extend(gc.get_referents(found))


def in_text(text: str, secrets: Secrets) -> set[str]:
    """Return the names of the secrets that `text` holds in one form or another."""
    found = set()
    for name, secret in secrets.items():
        forms = [str(secret)]
        if isinstance(secret, bytes):
            forms = [repr(secret)[2:-1], secret.hex(), secret.decode("latin-1")]
        elif isinstance(secret, str):
            forms = [secret, secret.rpartition(" ")[2]]
        if any(form in text for form in forms):
            found.add(name)
    return found


def in_objects(objects: Iterable[object], secrets: Secrets) -> set[str]:
    found: set[str] = set()
    numbers = {secret: name for name, secret in secrets.items() if isinstance(secret, int)}
    for each in objects:
        if isinstance(each, str):
            found |= in_text(each, secrets)
        elif isinstance(each, bytes | bytearray):
            found |= in_text(each.decode("latin-1"), secrets)
        elif type(each) is int and numbers and any(0 <= each - number < 2000 for number in numbers):
            found |= set(numbers.values())
    return found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies that OTLP sends; none leaves."""
    bodies: list[bytes] = []

    def keep(_: Any, body: bytes) -> SimpleNamespace:
        bodies.append(body)
        return SimpleNamespace(success=True)

    monkeypatch.setattr("opentelemetry.exporter.otlp.common.http._OTLPHTTPClient.export", keep)
    return bodies


@pytest.fixture
def at_end() -> Iterator[contextlib.ExitStack]:
    """What is to be done when the test is over."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["100 %", "0 %"])
@pytest.mark.parametrize("looked_at", [False, True], ids=["exported from records", "spans are looked at"])
def test_no_secret_is_kept_shown_sent_or_logged(
    looked_at: bool,
    sampler: Sampler,
    sent: list[bytes],
    instrumented: Instrument,
    metrics: PerformanceMetrics,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    at_end: contextlib.ExitStack,
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = make_secrets()
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=sampler, shutdown_on_exit=False)
    processor = otlp.processor(Options())
    provider.add_span_processor(processor)
    at_end.callback(provider.shutdown)
    if looked_at:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = shop(tmp_path / "data.db", secrets)
    instrumented(app, tracer_provider=provider)
    ask(app, secrets)
    kept = metrics.recent.all()
    assert len(kept) == 7
    assert sorted(each.status for each in kept) == [200] * 5 + [500] * 2
    provider.force_flush()

    capture = app.extensions[EXTENSION].middleware.capture
    memory = list(
        reachable(
            metrics, metrics.recent, capture, processor, vars(locks), vars(sqlite), *exporter.get_finished_spans()
        )
    )
    assert in_objects(memory, {"control": CONTROL}) == {"control"}, "the search finds what is there"
    assert in_objects(memory, secrets) == set()

    plain = [pickle.dumps([_plain(each), fanout.analyse(each).summary, _told(each)]) for each in kept]
    assert any(CONTROL.encode() in each for each in plain)
    assert in_objects(plain, secrets) == set()

    client = app.test_client()
    pages = [client.get(path).get_data() for path in ("/admin/performance", "/admin/performance/json")]
    assert in_objects(pages, secrets) == set()
    assert in_objects([json.dumps([span.to_json() for span in exporter.get_finished_spans()])], secrets) == set()

    if sampler is ALWAYS_ON:
        assert any(CONTROL.encode() in body for body in sent)
    assert in_objects(sent, secrets) == set()
    assert in_text(caplog.text, secrets) == set()


def _plain(kept: Any) -> list[Any]:
    """Return a kept request as what any export could make of it: texts and numbers."""
    return [
        *(value for value in kept if isinstance(value, str | int | None)),
        [[value for value in query if isinstance(value, str | int | None)] for query in kept.queries],
        dict(kept.repeats or {}),
        [(each.sql, each.runs, each.distinct) for each in kept.sums or ()],
    ]


def _told(kept: Any) -> list[str]:
    return [finding.text + finding.mend for finding in fanout.analyse(kept).findings]


def test_a_request_of_many_queries_lets_go_of_its_hashes(
    instrumented: Instrument, metrics: PerformanceMetrics, tmp_path: Path
) -> None:
    secrets = make_secrets()
    app = shop(tmp_path / "data.db", secrets)
    instrumented(app)
    hashes: set[int | None] = set()
    hear = lambda _, hashed: hashes.add(hashed)  # noqa: E731
    sqlite.listen(hear)
    try:
        app.test_client().get("/often")
    finally:
        sqlite.unlisten(hear)
    (kept,) = metrics.recent.all()
    assert kept.query_count == len(hashes) == 1300
    assert not any(type(each) is int and each in hashes for each in reachable(kept))
    (one,) = fanout.analyse(kept).groups
    assert (one.runs, one.distinct) == (1300, 1300)
