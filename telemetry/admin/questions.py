"""What workers of one server ask each other for the admin pages, and what they tell."""

from __future__ import annotations

from typing import Any

import msgspec

from telemetry import joint_figures
from telemetry.admin.requests_facts import Known
from telemetry.exporters.status import ExportStatus, Signal
from telemetry.recent import KeptRequest, KeptRule
from telemetry.requests import Transfer
from telemetry.writes import Writes


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
    commit_count: int
    commit_ns: int
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

    queries: joint_figures.Queries
    requests: list[ToldRequest]
    databases: list[dict[str, Any]]
    exporters: list[ToldExporter]


class AskFigures(msgspec.Struct, frozen=True, tag=True):
    """Asks for what a worker has measured."""


class AskDetails(msgspec.Struct, frozen=True, tag=True):
    """Asks for the `Details`."""


class AskFind(msgspec.Struct, frozen=True, tag=True):
    """Asks which requests of a trace, or with that id, the worker keeps: for `ToldRequest`s, the newest first."""

    request_id: str


class AskFacts(msgspec.Struct, frozen=True, tag=True):
    """Asks for what `Reader.facts` returns of some requests that the worker keeps, by their ids."""

    request_ids: list[str]


class AskPlan(msgspec.Struct, frozen=True, tag=True):
    """Asks for what `Reader.plan` returns."""

    request_id: str
    group: int


class AskTest(msgspec.Struct, frozen=True, tag=True):
    """Asks for what `Reader.test` returns."""

    request_id: str


class AskSpans(msgspec.Struct, frozen=True, tag=True):
    """Asks for what `Reader.spans` returns."""

    request_ids: list[str]


class AskFamilies(msgspec.Struct, frozen=True, tag=True):
    """Asks for the metrics that Prometheus fetches."""


OfKept = AskPlan | AskTest | AskSpans
"""What is asked of the worker that keeps a request."""
Question = AskFigures | AskDetails | AskFind | AskFacts | OfKept | AskFamilies


def tell_of(kept: KeptRequest, known: Known) -> ToldRequest:
    """Return what is told of a request that this worker keeps, of which it knows `known`."""
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
        kept.commit_count,
        kept.commit_ns,
        kept.db_time_ns,
        known,
    )


def kept_of(told: ToldRequest) -> KeptRequest:
    """Return a request that another worker keeps, without its queries."""
    transfer: int | Transfer | None = told.transfer_ns
    if told.is_handed_over:
        transfer = Transfer(0)
        transfer.ns = told.transfer_ns
    waited_for = None if told.waited_for is None else (told.wait_ns, told.waited_for)
    writes = Writes(told.wait_ns, waited_for, told.commit_count, told.commit_ns)
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
        writes,
        queries=(),
        repeats=None,
        sums=None,
        fetches=(0, told.db_time_ns - told.commit_ns, 0),
        estimated_bytes=0,
    )
