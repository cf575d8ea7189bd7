"""Admin pages of a server with several workers: whichever of them answers shows what all have measured.

What is worked out of a request is worked out by the worker that keeps it, which alone knows the code that the queries came from:
the others get the short of it for their lists, and have it answer for the pages of the request.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from flask import Flask, Response, request

from telemetry import together, workers
from telemetry.admin import answers, blueprint, exporters, overview, requests_facts
from telemetry.admin.requests_facts import Known, Reader
from telemetry.document import rounded
from telemetry.exporters.status import ExportStatus, Signal
from telemetry.recent import KeptRequest, KeptRule
from telemetry.requests import Transfer

if TYPE_CHECKING:
    from telemetry.admin.routes import Admin
    from telemetry.document import Figures
    from telemetry.exporters.prometheus import Family
    from telemetry.exporters.status import Exporting
    from telemetry.workers import Workers

_Answer = TypeVar("_Answer")

PAGE_PATIENCE_S: Final = 10.0
"""How long the worker that keeps a request may take for a page of it."""


class ToldRequest(msgspec.Struct, frozen=True, array_like=True):
    """A kept request without its queries, with what is told of them; times in nanoseconds."""

    method: str
    rule: tuple[str, str] | None
    path: str
    status: int
    error_type: str | None
    start_unix_ns: int
    duration_ns: int
    transfer_ns: int | None
    is_handed_over: bool
    request_id: str
    query_count: int
    wait_ns: int
    waited_for: str | None
    db_time_ns: int
    known: Known


class ToldExporter(msgspec.Struct, frozen=True, array_like=True):
    """An exporter of one worker, or of several."""

    name: str
    signal: Signal
    target: str
    status: ExportStatus


class Details(msgspec.Struct, frozen=True):
    """What pages need of a worker beside its figures."""

    queries: together.Queries
    requests: list[ToldRequest]
    databases: list[dict[str, Any]]
    exporters: list[ToldExporter]


class AskFigures(msgspec.Struct, frozen=True, tag=True):
    """Asks for what a worker has measured."""


class AskDetails(msgspec.Struct, frozen=True, tag=True):
    """Asks for the `Details`."""


class AskPage(msgspec.Struct, frozen=True, tag=True):
    """Asks for what a view answers of a request that the worker keeps."""

    view: str
    request_id: str
    base_url: str
    path: str
    query_string: bytes


class AskFacts(msgspec.Struct, frozen=True, tag=True):
    """Asks for what pages tell of some requests that the worker keeps."""

    request_ids: list[str]


class AskFamilies(msgspec.Struct, frozen=True, tag=True):
    """Asks for the metrics that Prometheus fetches."""


class Page(msgspec.Struct, frozen=True):
    """The response of a view."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def answer(app: Flask, question: bytes) -> bytes:
    """Return what another worker of the server has asked of this one."""
    asked = msgspec.msgpack.decode(question, type=AskFigures | AskDetails | AskPage | AskFacts | AskFamilies)
    admin = blueprint.admin_of(app)
    reader = admin.own_reader
    if isinstance(asked, AskFigures):
        found: object = together.tell(reader.metrics)
    elif isinstance(asked, AskDetails):
        found = _details(admin)
    elif isinstance(asked, AskFamilies):
        scraped = admin.scraped()
        found = [] if scraped is None else scraped.families()
    elif isinstance(asked, AskFacts):
        wanted = set(asked.request_ids)
        kept = [each for each in reader.all() if each.request_id in wanted]
        found = {each.request_id: detail for each, detail in zip(kept, reader.facts(kept), strict=True)}
    else:
        with app.test_request_context(asked.path, asked.base_url, query_string=asked.query_string):
            admin.read_by(reader)
            module, _, view = asked.view.partition(":")
            response: Response = getattr(import_module(f"telemetry.admin.{module}"), view)(admin, asked.request_id)
            found = Page(response.status_code, list(response.headers), response.get_data())
    return msgspec.msgpack.encode(found, enc_hook=_plain)


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, MappingProxyType) else answers.plain(value)


def _details(admin: Admin) -> Details:
    reader = admin.own_reader
    return Details(
        together.queries_of(reader.metrics),
        [_told(kept, reader.known(kept)) for kept in reader.all()],
        requests_facts.databases(),
        [ToldExporter(each.name, each.signal, each.target, each.status) for each in admin.look_at_exporters()],
    )


def _told(kept: KeptRequest, known: Known) -> ToldRequest:
    return ToldRequest(
        kept.method,
        None if kept.rule is None else (kept.rule.rule, kept.rule.endpoint),
        kept.path,
        kept.status,
        kept.error_type,
        kept.start_unix_ns,
        kept.duration_ns,
        kept.whole_transfer_ns,
        isinstance(kept.transfer, Transfer),
        kept.request_id,
        kept.query_count,
        kept.wait_ns,
        kept.waited_for,
        kept.db_time_ns,
        known,
    )


def _kept(told: ToldRequest) -> KeptRequest:
    transfer: int | Transfer | None = told.transfer_ns
    if told.is_handed_over:
        transfer = Transfer(0)
        transfer.ns = told.transfer_ns
    trace_id, _, span_id = told.request_id.partition("-")
    return KeptRequest(
        told.method,
        None if told.rule is None else KeptRule(*told.rule),
        told.path,
        told.status,
        told.error_type,
        0,
        told.start_unix_ns,
        told.duration_ns,
        transfer,
        int(trace_id, 16),
        int(span_id, 16),
        told.query_count,
        told.wait_ns,
        told.waited_for,
        queries=(),
        repeats=None,
        sums=None,
        fetches=(0, told.db_time_ns, 0),
        estimated_bytes=0,
    )


class JointReader(Reader):
    """Reads figures and kept requests of all workers, as they were when it was made."""

    def __init__(self, admin: Admin, siblings: Workers) -> None:
        """Read of the `siblings` of this worker as well, which are asked when something is read."""
        super().__init__(admin.own_reader.source)
        self._own = admin.own_reader
        self._siblings = siblings
        self._silent: set[int] = set()

    @functools.cached_property
    def told(self) -> list[together.Told]:
        """What each worker that has answered has measured, this one first."""
        return [together.tell(self.metrics), *self._ask_all(AskFigures(), together.Told).values()]

    @functools.cached_property
    def figures(self) -> Figures:
        """What the pages show: of all workers."""
        return together.Together(self.metrics, self.told, self._queries)

    def silent(self) -> list[int]:
        """Return the processes of workers that live, and have not answered in time."""
        return sorted(self._silent)

    def _queries(self) -> list[together.Queries]:
        return [together.queries_of(self.metrics), *(details.queries for details in self._details.values())]

    @functools.cached_property
    def _details(self) -> dict[str, Details]:
        return self._ask_all(AskDetails(), Details)

    @functools.cached_property
    def _elsewhere(self) -> dict[str, tuple[str, Known, KeptRequest]]:
        """By id the requests that others keep: the name of the worker, what is known of them, and themselves."""
        ours = {kept.request_id for kept in self._own.all()}  # a forked worker has some of its parent's
        return {
            told.request_id: (name, told.known, _kept(told))
            for name, details in self._details.items()
            for told in details.requests
            if told.request_id not in ours
        }

    def all(self) -> list[KeptRequest]:
        """Return all requests, the newest first; of those that others keep without their queries."""
        every = self._own.all() + [kept for _, _, kept in self._elsewhere.values()]
        return sorted(every, key=lambda kept: kept.start_unix_ns, reverse=True)

    def known(self, kept: KeptRequest) -> Known:
        """Return the short of a request."""
        elsewhere = self._elsewhere.get(kept.request_id)
        return self._own.known(kept) if elsewhere is None else elsewhere[1]

    def facts(self, requests: Sequence[KeptRequest]) -> list[dict[str, Any]]:
        """Return what pages tell of each of `requests`; those are left out that their workers do not tell of in time."""
        of_workers: dict[str, list[str]] = {}
        for kept in requests:
            name = self.keeper(kept)
            if name is not None:
                of_workers.setdefault(name, []).append(kept.request_id)
        found: dict[str, dict[str, Any]] = {}
        for name, request_ids in of_workers.items():
            found |= self._ask(name, AskFacts(request_ids), dict[str, dict[str, Any]]) or {}
        ours = [kept for kept in requests if self.keeper(kept) is None]
        found |= {kept.request_id: detail for kept, detail in zip(ours, self._own.facts(ours), strict=True)}
        return [found[kept.request_id] for kept in requests if kept.request_id in found]

    def databases(self) -> list[dict[str, Any]]:
        """Return the files of databases, each with the longest write of any worker."""
        found: dict[str, dict[str, Any]] = {}
        for told in (self._own.databases(), *(details.databases for details in self._details.values())):
            for database in told:
                known = found.setdefault(database["file"], database)
                if (database["longest_write_ms"] or 0) > (known["longest_write_ms"] or 0):
                    found[database["file"]] = database
        return list(found.values())

    def exporting(self, own: Sequence[Exporting]) -> Sequence[Exporting]:
        """Return the exporters of all workers, those of one kind as one."""
        found: dict[tuple[str, str, str], ToldExporter] = {}
        told = [ToldExporter(each.name, each.signal, each.target, each.status) for each in own]
        for each in (*told, *(exporter for details in self._details.values() for exporter in details.exporters)):
            key = (each.name, each.signal, each.target)
            known = found.get(key)
            if known is not None:
                each = ToldExporter(*key, exporters.summed(known.status, each.status))
            found[key] = each
        return list(found.values())

    def keeper(self, kept: KeptRequest) -> str | None:
        """Return the name of the worker that keeps a request; `None` if it is this one."""
        elsewhere = self._elsewhere.get(kept.request_id)
        return None if elsewhere is None else elsewhere[0]

    def spans_elsewhere(self, requests: Sequence[KeptRequest], request_id: str) -> list[Any]:
        """Return the spans of those of `requests` that others keep, as `resourceSpans` of OTLP JSON."""
        keepers = {name for kept in requests if (name := self.keeper(kept)) is not None}
        pages = [self.page_of(name, "requests_api:otlp", request_id) for name in sorted(keepers)]
        return [spans for page in pages if page.status_code == 200 for spans in page.get_json()["resourceSpans"]]

    def page_of(self, name: str, view: str, request_id: str) -> Response:
        """Return what a view answers in the worker of that name, for the request that is being served."""
        asked = AskPage(view, request_id, request.root_url, request.path, request.query_string)
        page = self._ask(name, asked, Page)
        if page is None:
            return answers.json(
                {"error": f"worker {workers.pid_of(name)}, which keeps the request, did not answer"}, 503
            )
        return Response(page.body, page.status, page.headers)

    def _ask_all(self, question: AskFigures | AskDetails, kind: type[_Answer]) -> dict[str, _Answer]:
        found = {}
        for name, answered in self._siblings.ask(msgspec.msgpack.encode(question)).items():
            of_one = _decoded(answered, kind)
            if of_one is None:
                self._silent.add(workers.pid_of(name))
            else:
                found[name] = of_one
        return found

    def _ask(self, name: str, question: AskPage | AskFacts, kind: type[_Answer]) -> _Answer | None:
        return _decoded(self._siblings.ask_one(name, msgspec.msgpack.encode(question), PAGE_PATIENCE_S), kind)


def _decoded(answered: bytes | None, kind: type[_Answer]) -> _Answer | None:
    """Return an answer; `None` where there is none, or one of another version of this package."""
    try:
        return None if answered is None else msgspec.msgpack.decode(answered, type=kind)
    except msgspec.MsgspecError:
        return None


def families(siblings: Workers) -> dict[int, list[Family]]:
    """Return the metrics that Prometheus fetches of each of the `siblings`, by its process."""
    from telemetry.exporters.prometheus import Family

    found = {}
    for name, answered in siblings.ask(msgspec.msgpack.encode(AskFamilies())).items():
        of_one = _decoded(answered, list[Family])
        if of_one is not None:
            found[workers.pid_of(name)] = of_one
    return found


def listed(admin: Admin) -> Response:
    """Answer with the workers of the server."""
    return answers.json({"workers": [row.body() for row in rows(admin.reader, time.time_ns())]})


@dataclass(frozen=True, slots=True)
class Row:
    """One worker as the panel shows it."""

    pid: int
    is_silent: bool
    """Whether it lives, but has not answered in time; then the rest is unknown."""
    uptime_s: float = 0.0
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    requests_per_second: float = 0.0

    def body(self) -> dict[str, Any]:
        """Return it as JSON; of one that is silent nothing more is known than that."""
        return {
            "pid": self.pid,
            "answers": not self.is_silent,
            "uptime_seconds": None if self.is_silent else rounded(self.uptime_s),
            "cpu_percent": self.cpu_percent,
            "memory_bytes": self.memory_bytes,
            "requests_per_second": None if self.is_silent else rounded(self.requests_per_second),
        }


def rows(reader: Reader, now_unix_nano: int) -> list[Row]:
    """Return the workers that there are, by their processes."""
    told, silent = (
        ([together.tell(reader.metrics)], []) if not isinstance(reader, JointReader) else (reader.told, reader.silent())
    )
    size = reader.settings.window
    found = [
        Row(
            worker.pid,
            False,
            worker.uptime_s,
            worker.percentages.get("cpu_percent"),
            worker.memory_bytes,
            overview.request_rate([together.process_of(worker)], size, now_unix_nano).per_second,
        )
        for worker in told
    ]
    return sorted([*found, *(Row(pid, True) for pid in silent)], key=lambda row: row.pid)
