"""The report: what the figures say, as a colleague would write it down, and the same for machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from telemetry import figures
from telemetry.admin import attention
from telemetry.admin.requests_facts import Reader
from telemetry.document import rounded
from telemetry.figures import GOOD, WARNING, Status
from telemetry.settings import TelemetrySettings

if TYPE_CHECKING:
    from telemetry.performance import PerformanceMetrics
    from telemetry.timing import PerformanceMetric

MOST_LINES: Final = 10
"""How many routes a section names at most."""
FEW: Final = 20
"""A window with fewer requests says little."""

_THRESHOLDS: Final = ("window", "good_below_ms", "poor_above_ms", "fan_out_warning", "cache_good_percent")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say about a route, or about what `subject` names."""

    subject: str
    text: str
    status: Status

    def body(self) -> dict[str, str]:
        """Return it as JSON shows it."""
        return {"subject": self.subject, "status": self.status.word, "text": self.text}


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report: what was found, a sentence in place of it where there is nothing, and the rule it goes by."""

    key: str
    title: str
    findings: tuple[Finding, ...]
    otherwise: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The whole report. `facts` is what it was written from."""

    facts: dict[str, Any]
    headline: str
    sections: tuple[Section, ...]

    def body(self) -> dict[str, Any]:
        """Return the report as JSON."""
        found = {section.key: [finding.body() for finding in section.findings] for section in self.sections}
        return {"headline": self.headline, "findings": found, "facts": self.facts}

    def lines(self, width: int = 80) -> Iterator[tuple[str, str]]:
        """Yield each line of the text with what it is: `title`, `heading`, the word of a status, `text` or `rule`."""
        yield from (("title", line) for line in figures.wrapped(self.headline, width))
        for section in self.sections:
            yield "text", ""
            yield from (("heading", line) for line in figures.wrapped(section.title, width))
            for finding in section.findings:
                mark = f"  {finding.status.shape} "
                for line in figures.wrapped(f"{finding.subject}: {finding.text}", width, mark, " " * len(mark)):
                    yield finding.status.word, line
            if not section.findings:
                yield from (("text", line) for line in figures.wrapped(section.otherwise, width, "  ", "  "))
            if section.rule:
                yield from (("rule", line) for line in figures.wrapped(section.rule, width, "  ", "  "))

    def text(self, width: int = 80) -> str:
        """Return the report as plain text, no line of it longer than `width` but for names that can't be broken."""
        return "".join(line + "\n" for _, line in self.lines(width))


class _Shown(NamedTuple):
    """What the findings are read from."""

    metrics: PerformanceMetrics
    settings: TelemetrySettings


def facts_of(metrics: PerformanceMetrics, settings: TelemetrySettings) -> dict[str, Any]:
    """Return what `facts` does, of this process."""
    return facts(Reader(_Shown(metrics, settings)))


def facts(reader: Reader) -> dict[str, Any]:
    """Return what a report is written from: the admin JSON, queries by route, workers that did not answer, thresholds."""
    shown, settings = reader.figures, reader.settings
    windows = shown.route_windows()
    found = attention.fan_out(reader, reader.all(), windows, time.time_ns())
    return {
        "snapshot": shown.snapshot(),
        "queries": {
            window.route: {
                "avg": rounded(sum(window.queries) / len(window.queries)),
                "max": max(window.queries),
                "finding": found[window.route].text if window.route in found else None,
            }
            for window in windows
            if window.queries
        },
        "silent_workers": reader.silent(),
        "thresholds": {name: getattr(settings, name) for name in _THRESHOLDS},
    }


def write(
    known: Mapping[str, Any],
    *,
    source: str = "this process",
    caches: Mapping[str, Any] | None = None,
    extra: Sequence[Section] = (),
    now: float | None = None,
) -> Report:
    """Return the report on `known`, which is what `facts` returned, or the admin JSON alone under `snapshot`.

    Args:
        known: the figures.
        source: what they are of.
        caches: entries and bounds of the app's caches: `{"name": {"entries": 3, "max_entries": 4096}}`.
        extra: sections to put before the last one.
        now: when they were read, Unix seconds; now if left out.

    Raises:
        KeyError, TypeError, ValueError: `known` is no such thing.
    """
    snapshot = known["snapshot"]
    settings = TelemetrySettings(
        **{name: value for name, value in known.get("thresholds", {}).items() if name in _THRESHOLDS}
    )
    routes: list[dict[str, Any]] = list(snapshot["endpoints"].values())
    sections = (
        _slow(routes, settings),
        _failing(routes),
        _fanning_out(snapshot["database"], known.get("queries"), settings),
        _caches(snapshot["cache"], caches, settings),
        *extra,
        _process(snapshot["resources"]),
    )
    bad = sum(finding.status is not GOOD for section in sections for finding in section.findings)
    if not routes:
        verdict = "No request yet: use the app for a while and ask again."
    elif bad:
        verdict = f"{figures.plural(bad, 'thing')} {'needs' if bad == 1 else 'need'} a look."
    else:
        verdict = "Nothing needs a look."
    at = datetime.fromtimestamp(time.time() if now is None else now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    parts = (verdict, _extent(routes, settings), _missing(known.get("silent_workers", ())))
    headline = f"Performance of {source}, {at}. {' '.join(filter(None, parts))}"
    everything = {**known, **({"caches": dict(caches)} if caches is not None else {})}
    return Report(everything, headline, sections)


def of_process(metrics: PerformanceMetrics, calls: Sequence[PerformanceMetric]) -> str:
    """Return the report on this process as text, with the newest `calls` that `@performance_monitor` has timed."""
    metrics.attach(metrics.meter_provider)  # the process's figures come through a provider, as all others
    extra = (_calls(calls, metrics.settings), _usage(dict(metrics.usage.stats())))
    return write(facts_of(metrics, metrics.settings), extra=extra).text()


def _extent(routes: Sequence[Mapping[str, Any]], settings: TelemetrySettings) -> str:
    if not routes:
        return ""
    requests = sum(route["request_count"] for route in routes)
    return (
        f"It looks at {figures.plural(requests, 'request')} of {figures.plural(len(routes), 'route')}: "
        f"the last {settings.window} of each."
    )


def _missing(silent_workers: Sequence[int]) -> str:
    if not silent_workers:
        return ""
    of_them = figures.plural(len(silent_workers), "worker")
    return f"Not in it: what {of_them} measured, which did not answer ({', '.join(map(str, silent_workers))})."


def _slow(routes: Sequence[Mapping[str, Any]], settings: TelemetrySettings) -> Section:
    found = []
    ranked = sorted(routes, key=lambda route: (-route["p95_ms"], route["route"]))
    for route in ranked:
        status = figures.latency_status(route["p95_ms"], settings)
        if status is GOOD:
            continue
        requests = route["request_count"]
        text = (
            f"{status.word}. Its p95 is {figures.milliseconds(route['p95_ms'])}, its p50 "
            f"{figures.milliseconds(route['p50_ms'])}, the slowest took {figures.milliseconds(route['max_ms'])}"
            f" ({figures.plural(requests, 'request')}{', too few to say much' if requests < FEW else ''})."
        )
        found.append(Finding(route["route"], text, status))
    otherwise = "No request yet."
    if ranked:
        slowest = ranked[0]
        otherwise = (
            f"Nothing. The slowest is {slowest['route']} with a p95 of {figures.milliseconds(slowest['p95_ms'])}."
        )
    rule = f"By the thresholds in force, a {figures.latency_rule(settings)}."
    return Section("slow", "What is slow", _cut(found), otherwise, rule)


def _failing(routes: Sequence[Mapping[str, Any]]) -> Section:
    found = []
    for route in sorted(routes, key=lambda route: (-route["error_count"] / route["request_count"], route["route"])):
        failed, requests = route["error_count"], route["request_count"]
        if failed:
            share = 100 * failed / requests
            status = figures.failing_status(failed, requests)
            errors, of = figures.plural(failed, "error"), figures.plural(requests, "request")
            text = f"{status.word}. {errors} in {of} ({figures.percent(share)})."
            found.append(Finding(route["route"], text, status))
    otherwise = "Nothing: no request ended in an error." if routes else "No request yet."
    rule = f"An error is an answer 5xx or an exception that nothing caught; {figures.failing_rule()}."
    return Section("failing", "What fails", _cut(found), otherwise, rule)


def _fanning_out(
    database: Mapping[str, Any], queries: Mapping[str, Mapping[str, Any]] | None, settings: TelemetrySettings
) -> Section:
    found = []
    for route, made in sorted((queries or {}).items(), key=lambda item: (-item[1]["max"], item[0])):
        finding = made.get("finding")
        if finding or figures.fan_out_status(made["max"], settings) is not GOOD:
            told = f" {_sentence(finding)}" if finding else ""
            text = (
                f"{WARNING.word}.{told} Up to {figures.plural(made['max'], 'query')} in one request, "
                f"{figures.digits(made['avg'])} on average."
            )
            found.append(Finding(route, text, WARNING))
    most = database["max_per_request"]
    if not found and figures.fan_out_status(most, settings) is not GOOD:
        text = f"{WARNING.word}. Up to {figures.plural(most, 'query')} in one request; the server does not say of which route."
        found.append(Finding("all routes", text, WARNING))
    otherwise = "No request yet."
    if database["count"]:
        newest = "request" if database["count"] == 1 else figures.plural(database["count"], "request")
        otherwise = (
            f"Nothing: at most {figures.plural(most, 'query')} in one request, {figures.digits(database['avg_per_request'])} "
            f"on average over the last {newest}."
        )
    rule = (
        f"From {settings.fan_out_warning} queries in one request on it is worth a look: "
        "often one query for each row of another. So is one statement that one line runs again and again, "
        "a slow query that reads a whole table, and one that waits for a lock."
    )
    return Section("fan_out", "What the queries come to", _cut(found), otherwise, rule)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _caches(cache: Mapping[str, Any], caches: Mapping[str, Any] | None, settings: TelemetrySettings) -> Section:
    found = []
    lookups = cache["hits"] + cache["misses"]
    if lookups:
        rate = cache["hit_rate_percent"]
        status = figures.cache_status(rate, lookups, settings)
        text = f"They answered {figures.percent(rate)} of {figures.plural(lookups, 'lookup')}"
        text = f"{text}, too few to judge." if status is None else f"{status.word}. {text}."
        found.append(Finding("hits", text, status or GOOD))
    for name, kept in sorted((caches or {}).items()):
        entries, most = kept["entries"], kept["max_entries"]
        share = f" ({figures.percent(100 * entries / most)} full)" if most else ""
        found.append(Finding(name, f"{figures.count(entries)} of {figures.count(most)} entries{share}.", GOOD))
    otherwise = "No cache lookup yet: the app calls record_cache_hit() and record_cache_miss()."
    rule = f"Of a hit rate, {figures.cache_rule(settings)}."
    return Section("caches", "How the caches do", tuple(found), otherwise, rule)


def _process(resources: Mapping[str, Any]) -> Section:
    shown = [f"Up {figures.duration(resources['uptime_seconds'])}"]
    for key, words in (("cpu_percent", "of all processors"), ("memory_percent", "of the machine's memory")):
        if key in resources:
            shown.append(f"{figures.digits(resources[key])} % {words}")
    unknown = [word for key, word in (("cpu_percent", "CPU"), ("memory_percent", "memory")) if key not in resources]
    text = ", ".join(shown) + "."
    if unknown:
        text += f" The system does not tell {' and '.join(unknown)}."
    return Section("process", "The process", (), text)


def _calls(calls: Sequence[PerformanceMetric], settings: TelemetrySettings) -> Section:
    found = []
    for call in sorted(calls, key=lambda call: -call.duration):
        status = figures.latency_status(call.duration * 1000, settings)
        if call.error is not None:
            status = max(status, WARNING, key=lambda status: status.severity)
        if status is not GOOD:
            raised = "" if call.error is None else f" and raised {call.error}"
            found.append(
                Finding(
                    call.name, f"{status.word}. It took {figures.milliseconds(call.duration * 1000)}{raised}.", status
                )
            )
    otherwise = (
        f"Nothing among the newest {figures.plural(len(calls), 'call')}." if calls else "No function is timed yet."
    )
    return Section("calls", "Timed functions that were slow or failed", _cut(found), otherwise)


def _usage(stats: Mapping[str, Any]) -> Section:
    words: dict[str, Callable[[Any], str]] = {
        "memory_mb": lambda value: f"{value:.1f} MiB resident",
        "threads": lambda value: figures.plural(value, "thread"),
        "open_files": lambda value: f"{figures.plural(value, 'file')} open",
        "disk_io_read_mb": lambda value: f"{value:.1f} MiB read",
        "disk_io_write_mb": lambda value: f"{value:.1f} MiB written",
    }
    shown = [word(stats[name]) for name, word in words.items() if name in stats]
    return Section("usage", "What it uses", (), ", ".join(shown) + "." if shown else "The system does not tell.")


def _cut(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the first findings, and one that says how many more there are."""
    if len(found) <= MOST_LINES:
        return tuple(found)
    rest = found[MOST_LINES:]
    worst = max((finding.status for finding in rest), key=lambda status: status.severity)
    return (*found[:MOST_LINES], Finding("more", f"{len(rest)} more like these.", worst))
