"""Sending many requests to a server and saying how they went."""

from __future__ import annotations

import ipaddress
import itertools
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import monotonic, perf_counter
from typing import Final
from urllib.parse import SplitResult, urlsplit

from telemetry.errors import TelemetryError
from telemetry.exporters.endpoints import is_address
from telemetry.percentiles import percentile

MOST_REQUESTS: Final = 1_000_000
MOST_CONCURRENCY: Final = 256
_CHUNK_BYTES = 64 * 1024
_MOST_KINDS = 20
_PATIENCE_S = 0.5
"""So long a request that is under way may take when the test is interrupted; it is left out then."""
_USER_AGENT = "local-video-server-loadtest"


class LoadTestError(TelemetryError, ValueError):
    """The load test can't be made; the text says why in one line."""


class UnreachableError(LoadTestError):
    """Nothing answers at the URL."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send: `requests` GET requests to `url`, `concurrency` at a time, each over within `timeout_s` seconds.

    Raises:
        LoadTestError: naming the parameter, what it must be and what it was.
    """

    url: str
    requests: int = 100
    concurrency: int = 4
    allow_remote: bool = False
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name, value, most in (
            ("requests", self.requests, MOST_REQUESTS),
            ("concurrency", self.concurrency, MOST_CONCURRENCY),
        ):
            if type(value) is not int or not 1 <= value <= most:
                raise LoadTestError(f"{name} must be a whole number from 1 to {most}, got {value!r}")
        if type(self.timeout_s) not in (int, float) or not 0 < self.timeout_s <= 3600:  # NaN is in no range
            raise LoadTestError(f"timeout must be a number of seconds over 0 to 3600, got {self.timeout_s!r}")
        self.target()

    def target(self) -> SplitResult:
        """Return the parts of the URL."""
        is_clean = self.url.isascii() and self.url.isprintable() and " " not in self.url
        if not (is_clean and is_address(self.url)) or (parts := urlsplit(self.url)).username is not None:
            raise LoadTestError(f"url must be an address such as http://127.0.0.1:5000/, got {self.url!r}")
        return parts


@dataclass(slots=True)
class LoadResult:
    """How a load test went. Durations are seconds, from the request's first byte to the last of the answer."""

    seconds: float = 0.0
    durations_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    stopped: str = ""
    """Why not all requests were made; empty if they were."""

    @property
    def made(self) -> int:
        """Requests that were answered or have failed."""
        return sum(self.statuses.values()) + sum(self.failures.values())

    @property
    def errors(self) -> int:
        """Requests that failed, or were answered 4xx or 5xx."""
        return sum(self.failures.values()) + sum(count for status, count in self.statuses.items() if status >= 400)

    @property
    def requests_per_second(self) -> float:
        """Answers a second, over all of the test."""
        return len(self.durations_s) / self.seconds if self.seconds > 0 else 0.0

    def percentile_ms(self, percent: int) -> float:
        """Return a percentile of the answers' durations in milliseconds; 0.0 without an answer."""
        return percentile(self.durations_s, percent) * 1000

    @property
    def ok(self) -> bool:
        """Whether every request was made and none is an error."""
        return not self.errors and not self.stopped


def run(plan: Plan, progress: Callable[[int], object] | None = None) -> LoadResult:
    """Make the requests of `plan` and return how they went; `progress` is told each time how many have been made.

    Redirects are not followed. It ends early once no connection is made any more; on `KeyboardInterrupt` it ends with what
    there is so far. The requests that are under way then count as neither answered nor failed.

    Raises:
        LoadTestError: the host is not this machine and may not be.
        UnreachableError: nothing answers there.
    """
    return _LoadTest(plan, _address(plan), progress).run()


def _address(plan: Plan) -> tuple[str, int]:
    """Return the address that answers: resolved once, so that what was checked is what is asked."""
    target = plan.target()
    host, port = str(target.hostname), target.port or (443 if target.scheme == "https" else 80)
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise UnreachableError(f"the host {host!r} can't be found: {_kind(error)}") from error
    if not plan.allow_remote and not all(map(_is_of_this_machine, found)):
        raise LoadTestError(f"url must be of this machine unless remote hosts are allowed, got {host!r}")
    failure: OSError | None = None
    for name in found:
        try:
            socket.create_connection((name, port), min(plan.timeout_s, 5.0)).close()
        except OSError as error:
            failure = failure or error
        else:
            return name, port
    assert failure is not None  # a host that is found has an address
    raise UnreachableError(f"no server answers at {plan.url}: {_kind(failure)}") from failure


def _is_of_this_machine(address: str) -> bool:
    """Tell whether an interface of this machine has `address`: one that has can be listened on."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if found.is_loopback or found.is_unspecified:
        return found.is_loopback
    try:
        with socket.socket(socket.AF_INET if found.version == 4 else socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


class _HTTPSConnection(HTTPSConnection):
    """A connection to `address`, which has to show a certificate of `host`."""

    def __init__(self, host: str, address: tuple[str, int], timeout_s: float, tls: ssl.SSLContext) -> None:
        super().__init__(host, address[1], timeout=timeout_s, context=tls)
        self._address = address
        self._tls = tls

    def connect(self) -> None:
        self.sock = socket.create_connection(self._address, self.timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)


class _LoadTest:
    def __init__(self, plan: Plan, address: tuple[str, int], progress: Callable[[int], object] | None) -> None:
        self._plan = plan
        self._address = address
        target = plan.target()
        self._path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        self._headers = {"Host": target.netloc, "User-Agent": _USER_AGENT, "Accept": "*/*"}
        self._host = str(target.hostname)
        # Made once: it reads all certificates.
        self._tls = ssl.create_default_context() if target.scheme == "https" else None
        self._progress = progress or (lambda _: None)
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._refused_in_a_row = 0
        self._stop = threading.Event()
        self._result = LoadResult()

    def run(self) -> LoadResult:
        result, plan = self._result, self._plan
        started = perf_counter()
        threads = [
            threading.Thread(target=self._work, name=f"loadtest-{number}", daemon=True)
            for number in range(min(plan.concurrency, plan.requests))
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
                    self._progress(result.made)
        except KeyboardInterrupt:
            result.stopped = "it was interrupted"
            self._stop.set()
        until = perf_counter() + (_PATIENCE_S if result.stopped else plan.timeout_s)
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - perf_counter()))
        result.seconds = perf_counter() - started
        self._progress(result.made)
        return result

    def _work(self) -> None:
        connection: HTTPConnection | None = None
        while not self._stop.is_set() and next(self._numbers) < self._plan.requests:
            try:
                started = perf_counter()
                if connection is None:
                    connection = self._connect()
                status, is_kept = self._get(connection)
                duration_s = perf_counter() - started
            except (OSError, HTTPException) as error:
                _close(connection)
                connection = None
                if not self._stop.is_set():  # else it was given up
                    self._add_failure(error)
            else:
                self._add_answer(status, duration_s)
                if not is_kept:
                    connection.close()  # it connects again by itself
        _close(connection)

    def _connect(self) -> HTTPConnection:
        if self._tls is not None:
            return _HTTPSConnection(self._host, self._address, self._plan.timeout_s, self._tls)
        return HTTPConnection(*self._address, timeout=self._plan.timeout_s)

    def _get(self, connection: HTTPConnection) -> tuple[int, bool]:
        deadline = monotonic() + self._plan.timeout_s
        connection.request("GET", self._path, headers=self._headers)
        answer = connection.getresponse()
        while answer.read1(_CHUNK_BYTES):  # what has come: a whole chunk may take for ever
            if monotonic() > deadline or self._stop.is_set():
                raise TimeoutError(f"no end of the answer within {self._plan.timeout_s:g} s")
        answer.read()  # nothing is left; it lets the connection be used again
        return answer.status, not answer.will_close

    def _add_answer(self, status: int, duration_s: float) -> None:
        with self._lock:
            self._result.durations_s.append(duration_s)
            self._result.statuses[status] += 1
            self._refused_in_a_row = 0

    def _add_failure(self, error: OSError | HTTPException) -> None:
        with self._lock:
            failures = self._result.failures
            kind = _kind(error)
            failures[kind if kind in failures or len(failures) < _MOST_KINDS else "other failures"] += 1
            if isinstance(error, ConnectionRefusedError):
                self._refused_in_a_row += 1
                if self._refused_in_a_row >= max(10, 2 * self._plan.concurrency) and not self._stop.is_set():
                    self._result.stopped = "the server takes no connections any more"
                    self._stop.set()


def _kind(error: OSError | UnicodeError | HTTPException) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
    return " ".join(str(text).split())[:200]


def _close(connection: HTTPConnection | None) -> None:
    if connection is not None:
        connection.close()


def status_words(statuses: Counter[int]) -> str:
    """Return `98 × 200, 2 × 500`."""
    parts: Sequence[str] = [f"{count:,} × {status}" for status, count in sorted(statuses.items())]
    return ", ".join(parts)
