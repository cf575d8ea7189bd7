"""How pages, report and command line write numbers and lines of text, and which status a number has."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from telemetry.settings import TelemetrySettings

NONE: Final = "–"
"""What stands where there is no number yet."""

ERRORS_GOOD_BELOW_PERCENT: Final = 1.0
ERRORS_POOR_FROM_PERCENT: Final = 5.0
CACHE_LEAST_LOOKUPS: Final = 100
"""A cache that has only been filled so far has answered nothing yet."""

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


@dataclass(frozen=True, slots=True)
class Status:
    """A judgement as a word and a shape, so that it never depends on colour; `severity` grows with the need to look."""

    word: str
    shape: str
    severity: int


GOOD: Final = Status("good", "●", 0)
WARNING: Final = Status("warning", "▲", 1)
POOR: Final = Status("poor", "■", 2)
STATUSES: Final = (GOOD, WARNING, POOR)


def status_called(word: str) -> Status:
    """Return the status whose word that is."""
    return next(status for status in STATUSES if status.word == word)


def worst(*statuses: Status) -> Status:
    """Return the one that most needs a look."""
    return max(statuses, key=lambda status: status.severity)


def digits(value: float) -> str:
    """Return `value` with three significant digits: `0.006`, `0.42`, `8.31`, `20.1`, `1,240`; no finer than a thousandth."""
    if 0 < value < 0.0005:
        return "<0.001"
    if 0 < value < 0.0995:
        return f"{value:.3f}"
    for limit, decimals in ((9.995, 2), (99.95, 1)):
        if value < limit:
            return f"{value:.{decimals}f}"
    return f"{value:,.0f}"


def milliseconds(value: float) -> str:
    """Return a duration in milliseconds with its unit: `8.31 ms`, `124 ms`, `1.20 s`."""
    return f"{digits(value)} ms" if value < 999.5 else f"{digits(value / 1000)} s"


def percent(value: float) -> str:
    """Return a share of 0 to 100 as `93.1 %`; only all of it reads `100 %`, and only none of it `0 %`."""
    if value in (0, 100):
        return f"{value:.0f} %"
    return f"{min(max(value, 0.1), 99.9):.1f} %"


def share(value: float) -> str:
    """Return a share as `percent` does; of what went on at once, in threads or one inside of another, it may be more than 100."""
    return percent(value) if value <= 100 else f"{value:,.0f} %, several at once"


def count(value: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{value:,}"


def bytes(value: int) -> str:
    """Return a size as `512 B`, `1.24 kB`, `31.0 MB`: in units of 1000."""
    if value < 1000:
        return f"{value} B"
    size = value / 1000
    for unit in ("kB", "MB", "GB"):
        if size < 999.5:
            return f"{digits(size)} {unit}"
        size /= 1000
    return f"{digits(size)} TB"


def printable(text: str) -> str:
    """Return `text` with a mark for each character that would steer a terminal: names may come from elsewhere."""
    return "".join(character if character.isprintable() else "�" for character in text)


def wrapped(text: str, width: int, first: str = "", later: str = "") -> list[str]:
    """Return `text`, made printable, as lines of at most `width` columns; a word that is too long stays whole."""
    return textwrap.wrap(
        printable(text),
        max(width, 20),
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def plural(value: int, noun: str) -> str:
    """Return `1 request`, `2 requests`."""
    if value == 1:
        return f"1 {noun}"
    return f"{count(value)} {noun[:-1]}ies" if noun.endswith("ry") else f"{count(value)} {noun}s"


def duration(seconds: float) -> str:
    """Return a long duration in its two largest units: `3 d 4 h`, `2 h 5 min`, `4 min 9 s`, `12 s`."""
    whole = max(0, int(seconds))
    if whole >= _DAY_S:
        return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"
    if whole >= _HOUR_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"
    if whole >= _MINUTE_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    return f"{whole} s"


def clock(unix_nano: int) -> str:
    """Return the time of day in UTC, to the second."""
    return datetime.fromtimestamp(unix_nano / 1e9, UTC).strftime("%H:%M:%S")


def day(unix_nano: int) -> str:
    """Return the date in UTC."""
    return datetime.fromtimestamp(unix_nano / 1e9, UTC).strftime("%Y-%m-%d")


def ago(unix_nano: int, now_unix_nano: int) -> str:
    """Return how long ago that was, in the largest unit: `now`, `12 s`, `4 min`, `2 h`, `3 d`."""
    seconds = max(0, (now_unix_nano - unix_nano) // 1_000_000_000)
    for size, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s" if seconds else "now"


def latency_status(p95_ms: float, settings: TelemetrySettings) -> Status:
    """Return the status of a p95 by the thresholds of `settings`; a value on a threshold reads warning."""
    return _rising(p95_ms, lambda value: value < settings.good_below_ms, lambda value: value > settings.poor_above_ms)


def latency_rule(settings: TelemetrySettings) -> str:
    """Return the thresholds of `latency_status` in words."""
    good, poor = milliseconds(settings.good_below_ms), milliseconds(settings.poor_above_ms)
    return f"p95 under {good} is good, over {poor} poor, between them a warning"


def error_status(share_percent: float) -> Status:
    """Return the status of a share of failed requests, 0 to 100."""
    return _rising(
        share_percent, lambda value: value < ERRORS_GOOD_BELOW_PERCENT, lambda value: value >= ERRORS_POOR_FROM_PERCENT
    )


def failing_status(failed: int, requests: int) -> Status:
    """Return the status of a route of whose `requests` so many failed: one that fails is worth a look, however seldom."""
    return worst(WARNING, error_status(100 * failed / requests)) if failed else GOOD


def failing_rule() -> str:
    """Return the thresholds of `failing_status` in words."""
    return f"a route with one is a warning, and poor from {ERRORS_POOR_FROM_PERCENT:g} % of its requests on"


def error_rule() -> str:
    """Return the thresholds of `error_status` in words."""
    return f"under {ERRORS_GOOD_BELOW_PERCENT:g} % is good, from {ERRORS_POOR_FROM_PERCENT:g} % poor"


def fan_out_status(most_queries: int, settings: TelemetrySettings) -> Status:
    """Return the status of the most queries that one request ran."""
    return WARNING if most_queries >= settings.fan_out_warning else GOOD


def cache_status(hit_rate_percent: float, lookups: int, settings: TelemetrySettings) -> Status | None:
    """Return the status of a cache hit rate, 0 to 100; `None` while there are too few lookups to judge it."""
    if lookups < CACHE_LEAST_LOOKUPS:
        return None
    return GOOD if hit_rate_percent >= settings.cache_good_percent else WARNING


def cache_rule(settings: TelemetrySettings) -> str:
    """Return the thresholds of `cache_status` in words."""
    return f"from {settings.cache_good_percent:g} % on it is good, judged from {CACHE_LEAST_LOOKUPS} lookups on"


def _rising(value: float, is_good: Callable[[float], bool], is_poor: Callable[[float], bool]) -> Status:
    if is_good(value):
        return GOOD
    return POOR if is_poor(value) else WARNING
