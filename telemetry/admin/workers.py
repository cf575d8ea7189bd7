"""The workers of a server: their panel, its JSON, and what this one answers the others."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from telemetry import joint_figures
from telemetry.admin import answers, overview, questions, requests_facts
from telemetry.admin.admin import admin_of
from telemetry.admin.joint_reader import JointReader
from telemetry.document import ENDED_PID, rounded

if TYPE_CHECKING:
    from flask import Flask, Response

    from telemetry.admin.admin import Admin
    from telemetry.admin.requests_facts import Reader


def answer(app: Flask, question: bytes) -> bytes:
    """Return what another worker of the server has asked of this one."""
    return msgspec.msgpack.encode(
        _found(app, msgspec.msgpack.decode(question, type=questions.Question)), enc_hook=_plain
    )


def _found(app: Flask, asked: questions.Question) -> object:
    admin = admin_of(app)
    reader = admin.own_reader
    match asked:
        case questions.AskFigures():
            return joint_figures.tell(reader.metrics)
        case questions.AskDetails():
            return _details(admin)
        case questions.AskFind(request_id):
            return [questions.tell_of(kept, reader.known(kept)) for kept in reader.find(request_id)]
        case questions.AskFacts(request_ids):
            kept = [each for each in reader.all() if each.request_id in request_ids]
            return {each.request_id: detail for each, detail in zip(kept, reader.facts(kept), strict=True)}
        case questions.AskSpans(request_ids):
            return reader.spans([each for each in reader.all() if each.request_id in request_ids], app)
        case questions.AskFamilies():
            scraped = admin.scraped()
            return [] if scraped is None else scraped.families()
        case questions.AskPlan(request_id) | questions.AskTest(request_id):
            found = reader.find(request_id)
            if not found:
                return None
            return reader.plan(found[0], asked.group) if isinstance(asked, questions.AskPlan) else reader.test(found[0])


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, MappingProxyType) else answers.plain(value)


def _details(admin: Admin) -> questions.Details:
    reader = admin.own_reader
    return questions.Details(
        joint_figures.queries_of(reader.metrics),
        [questions.tell_of(kept, reader.known(kept)) for kept in reader.all()],
        requests_facts.databases(),
        [
            questions.ToldExporter(each.name, each.signal, each.target, each.status)
            for each in admin.look_at_exporters()
        ],
    )


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
    every = reader.told if isinstance(reader, JointReader) else [joint_figures.tell(reader.metrics)]
    processes, size = reader.figures.processes(), reader.settings.window
    found = [
        Row(
            worker.pid,
            False,
            worker.uptime_s,
            worker.percentages.get("cpu_percent"),
            worker.memory_bytes,
            overview.request_rate([process], size, now_unix_nano).per_second,
        )
        for worker, process in zip(every, processes, strict=True)
        if worker.pid != ENDED_PID
    ]
    return sorted([*found, *(Row(pid, True) for pid in reader.silent())], key=lambda row: row.pid)
