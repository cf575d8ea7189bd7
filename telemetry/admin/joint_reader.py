"""Reads figures and kept requests of all workers of a server, for the one that answers.

What is worked out of a request is worked out by the worker that keeps it, which alone knows the code that the queries came from:
the others get the short of it for their lists, and ask for the rest when somebody opens the request.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from telemetry import joint_figures, workers
from telemetry.admin import questions, requests_facts
from telemetry.admin.missing_request import MissingRequestError
from telemetry.admin.requests_facts import REQUEST_ID, Known, Reader
from telemetry.recent import KeptRequest

if TYPE_CHECKING:
    from flask import Flask

    from telemetry.document import Figures
    from telemetry.exporters.prometheus import Family
    from telemetry.exporters.status import Exporting
    from telemetry.workers import Workers

_Answer = TypeVar("_Answer")

REQUEST_PATIENCE_S: Final = 10.0
"""How long the worker that keeps a request may take to tell of it."""


class JointReader(Reader):
    """Reads figures and kept requests of all workers, as they were when it was made."""

    def __init__(self, own: Reader, siblings: Workers) -> None:
        """Read of the `siblings` of this worker as well, which are asked when something is read."""
        super().__init__(own.source)
        self._own = own
        self._siblings = siblings
        self._figures_asked: set[str] = set()
        self._details_asked: set[str] = set()
        self._kept_by: dict[str, tuple[str, Known]] = {}
        """By id the requests that others keep: the name of the worker, and what is known of them."""

    @functools.cached_property
    def told(self) -> list[joint_figures.Told]:
        """What each worker that has answered has measured, this one first; last, what those have that have ended."""
        ended = (each.told_now() for each in self._handed_over)
        return [joint_figures.tell(self.metrics), *self._figures_told.values(), *ended]

    @functools.cached_property
    def figures(self) -> Figures:
        """What the pages show: of all workers."""
        return joint_figures.JointFigures(self.metrics, self.told, self._queries)

    def silent(self) -> list[int]:
        """Return the processes of workers that live, and have not told their figures in time."""
        return sorted(map(workers.pid_of, self._figures_asked - self._figures_told.keys()))

    def untold(self) -> list[int]:
        """Return the processes of those that have, but have not told their requests."""
        return sorted(map(workers.pid_of, self._figures_told.keys() & (self._details_asked - self._details.keys())))

    def _queries(self) -> list[joint_figures.Queries]:
        of_others = [details.queries for name, details in self._details.items() if name in self._figures_told]
        return [joint_figures.queries_of(self.metrics), *of_others, *(each.queries for each in self._handed_over)]

    @functools.cached_property
    def _answers(self) -> tuple[dict[str, joint_figures.Told], list[joint_figures.HandedOver]]:
        """The figures of the others, and of those that have ended; none is in both, nor in neither."""
        told = self._ask_all(questions.AskFigures(), joint_figures.Told, self._figures_asked)
        handed_over = joint_figures.handed_over(self._siblings.handed_over())  # after the last answer
        for name in (name for each in handed_over for name in each.names):
            told.pop(name, None)
            self._figures_asked.discard(name)
        return told, handed_over

    @property
    def _figures_told(self) -> dict[str, joint_figures.Told]:
        return self._answers[0]

    @property
    def _handed_over(self) -> list[joint_figures.HandedOver]:
        return self._answers[1]

    @functools.cached_property
    def _details(self) -> dict[str, questions.Details]:
        return self._ask_all(questions.AskDetails(), questions.Details, self._details_asked)

    @functools.cached_property
    def _all(self) -> list[KeptRequest]:
        told = {name: details.requests for name, details in self._details.items()}
        return self._with_others(self._own.all(), told)

    def all(self) -> list[KeptRequest]:
        """Return all requests, the newest first; of those that others keep without their queries."""
        return self._all.copy()

    def find(self, request_id: str) -> list[KeptRequest]:
        """Return what `Reader.find` does, of all workers."""
        ours, named = self._own.find(request_id), REQUEST_ID.fullmatch(request_id)
        if named is None or (ours and named["span"]):
            return ours
        asked = set[str]()
        told = self._ask_all(questions.AskFind(request_id), list[questions.ToldRequest], asked)
        found = self._with_others(ours, told)
        if not found and not asked <= told.keys():
            raise MissingRequestError(request_id, is_silent=True)
        return found

    def _with_others(
        self, ours: Sequence[KeptRequest], of_others: Mapping[str, Sequence[questions.ToldRequest]]
    ) -> list[KeptRequest]:
        found = {kept.request_id: kept for kept in ours}
        for name, requests in of_others.items():
            for told in requests:
                if told.request_id not in found:
                    found[told.request_id] = questions.kept_of(told)
                    self._kept_by[told.request_id] = name, told.known
        return sorted(found.values(), key=lambda kept: kept.start_unix_ns, reverse=True)

    def known(self, kept: KeptRequest) -> Known:
        """Return the short of a request."""
        elsewhere = self._kept_by.get(kept.request_id)
        return self._own.known(kept) if elsewhere is None else elsewhere[1]

    def facts(self, requests: Sequence[KeptRequest]) -> list[dict[str, Any]]:
        """Return what pages tell of each of `requests`; those are left out that their workers do not tell of in time."""
        ours, of_others = self._by_keeper(requests)
        found = {kept.request_id: detail for kept, detail in zip(ours, self._own.facts(ours), strict=True)}
        for name, request_ids in of_others.items():
            found |= self._ask(name, questions.AskFacts(request_ids), dict[str, dict[str, Any]]) or {}
        return [found[kept.request_id] for kept in requests if kept.request_id in found]

    def plan(self, kept: KeptRequest, at: int) -> requests_facts.GroupPlan:
        """Return the plan of the statement of a request's group `at`."""
        elsewhere = self._kept_by.get(kept.request_id)
        if elsewhere is None:
            return self._own.plan(kept, at)
        return self._ask_keeper(elsewhere[0], questions.AskPlan(kept.request_id, at), requests_facts.GroupPlan)

    def test(self, kept: KeptRequest) -> str:
        """Return a test that holds a request to its number of queries."""
        elsewhere = self._kept_by.get(kept.request_id)
        if elsewhere is None:
            return self._own.test(kept)
        return self._ask_keeper(elsewhere[0], questions.AskTest(kept.request_id), str)

    def spans(self, requests: Sequence[KeptRequest], app: Flask) -> list[dict[str, Any]]:
        """Return the spans of `requests` as `resourceSpans` of OTLP JSON."""
        ours, of_others = self._by_keeper(requests)
        found = self._own.spans(ours, app)
        for name, request_ids in of_others.items():
            found += self._ask_keeper(name, questions.AskSpans(request_ids), list[dict[str, Any]])
        return found

    def _by_keeper(self, requests: Iterable[KeptRequest]) -> tuple[list[KeptRequest], dict[str, list[str]]]:
        """Return those of `requests` that this worker keeps, and the ids of others by the name of the worker that does."""
        ours, of_others = list[KeptRequest](), dict[str, list[str]]()
        for kept in requests:
            elsewhere = self._kept_by.get(kept.request_id)
            if elsewhere is None:
                ours.append(kept)
            else:
                of_others.setdefault(elsewhere[0], []).append(kept.request_id)
        return ours, of_others

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
        found: dict[tuple[str, str, str], questions.ToldExporter] = {}
        told = [questions.ToldExporter(each.name, each.signal, each.target, each.status) for each in own]
        for each in (*told, *(exporter for details in self._details.values() for exporter in details.exporters)):
            key = (each.name, each.signal, each.target)
            known = found.get(key)
            if known is not None:
                each = questions.ToldExporter(*key, known.status.with_sibling(each.status))
            found[key] = each
        return list(found.values())

    def _ask_all(self, question: questions.Question, kind: type[_Answer], asked: set[str]) -> dict[str, _Answer]:
        """Return the answers of the others by their names, and put the names of all of them into `asked`."""
        answers = self._siblings.ask(msgspec.msgpack.encode(question))
        asked.update(answers)
        decoded = ((name, _decoded(answered, kind)) for name, answered in answers.items())
        return {name: found for name, found in decoded if found is not None}

    def _ask(self, name: str, question: questions.Question, kind: type[_Answer]) -> _Answer | None:
        return _decoded(self._siblings.ask_one(name, msgspec.msgpack.encode(question), REQUEST_PATIENCE_S), kind)

    def _ask_keeper(self, name: str, question: questions.OfKept, kind: type[_Answer]) -> _Answer:
        """Return what the worker that keeps a request tells of it.

        Raises:
            MissingRequestError: it does not tell.
        """
        found = self._ask(name, question, kind)
        if found is None:
            asked = question.request_ids[0] if isinstance(question, questions.AskSpans) else question.request_id
            raise MissingRequestError(asked, is_silent=True)
        return found


def _decoded(answered: bytes | None, kind: type[_Answer]) -> _Answer | None:
    """Return an answer; `None` where there is none, or one of another version of this package."""
    try:
        return None if answered is None else msgspec.msgpack.decode(answered, type=kind)
    except msgspec.MsgspecError:
        return None


def families(own: list[Family], siblings: Workers) -> dict[str, list[Family]]:
    """Return what Prometheus fetches of each worker, by the number of its process, or more where that is not enough."""
    from telemetry.exporters.prometheus import Family

    found = {str(os.getpid()): own}
    for name, answered in siblings.ask(msgspec.msgpack.encode(questions.AskFamilies())).items():
        of_one, pid = _decoded(answered, list[Family]), str(workers.pid_of(name))
        if of_one is not None:
            found[pid if pid not in found else name.partition("-")[2].partition(".")[0]] = of_one
    return found
