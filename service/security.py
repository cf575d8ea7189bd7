"""What keeps others out: hosts, cross-site writes, paths, headers, and the write limit."""

from __future__ import annotations

import ipaddress
import math
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Flask, Response, request
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.sansio.utils import host_is_trusted
from werkzeug.security import safe_join

from config import Settings
from service.errors import BadParameterError, BusyError, RefusedError, TooManyWritesError
from service.text import is_clean

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MAX_BODY_BYTES = 64 * 1024
MAX_BODIES = 8
MAX_BODIES_OF_A_CLIENT = 4
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_DRIVE = re.compile(r"^[A-Za-z]:")
MAX_PATH_CHARACTERS = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_AFTER_BRACKET = re.compile(r"\][^:]")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: with that, browsers name no origin in forms that they send to a server without TLS on the network.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def install(app: Flask, settings: Settings) -> None:
    """Guard every request of `app`: the Host first, then writes from other sites; and set the headers of every
    answer.
    """
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    names = (*own_names(), *settings.trusted_hosts)
    app.before_request(lambda: check_host(names))
    app.before_request(check_site)
    app.before_request(BodyReader().read)
    app.after_request(_set_headers)


def own_names() -> tuple[str, ...]:
    """Return the names that this machine goes by on its own network."""
    name = socket.gethostname().lower()
    return (name, f"{name.partition('.')[0]}.local") if name else ()


def check_host(names: Collection[str]) -> None:
    """Refuse a Host that is neither an address nor one of `names`: a page elsewhere could point its own name at this machine
    (DNS rebinding). An address can't be pointed anywhere.
    """
    if not is_known_host(request.headers.get("Host", ""), names):
        raise BadParameterError(
            "Host",
            "localhost, an IP address, this machine's name, or one of LVS_TRUSTED_HOSTS, with or without a port",
            request.headers.get("Host"),
        )


def is_known_host(host: str, names: Collection[str]) -> bool:
    """Say whether a Host header names this machine by an address, a loopback name, or one of `names`."""
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname, parts.port
        if name is None or _AFTER_BRACKET.search(host) or "@" in host or parts.path or parts.query or parts.fragment:
            return False
        ipaddress.ip_address(name)
    except ValueError:
        return host_is_trusted(host.lower(), ("localhost", *names))
    return True


class TrustedProxies:
    """Believes the X-Forwarded-* headers of requests that come from the proxies that the settings name, of one hop, and of no
    others.
    """

    def __init__(self, app: WSGIApplication, networks: Collection[str]) -> None:
        self._app = app
        self._fixed = ProxyFix(app, x_for=1, x_proto=1, x_host=1, x_port=1, x_prefix=1)
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        app = self._fixed if self._is_trusted(environ.get("REMOTE_ADDR", "")) else self._app
        return app(environ, start_response)

    def _is_trusted(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)


def check_site() -> None:
    """Refuse a write that a page of another site makes. A client that is no browser sends neither header."""
    if request.method in _SAFE_METHODS:
        return
    site = request.headers.get("Sec-Fetch-Site")
    is_ours = request.headers.get("Origin") in {None, request.host_url.rstrip("/")}
    # Behind a proxy that speaks TLS the origin has another scheme than the request here; the browser knows better.
    if site != "same-origin" and not (site in {None, "none"} and is_ours):
        raise RefusedError("writes from another site are refused")


def _set_headers(response: Response) -> Response:
    # setdefault: the admin pages of the telemetry bring headers of their own.
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def is_servable(path: str) -> bool:
    """Say whether a relative POSIX path may name a video on any system.

    The index takes no other, and no route serves one.
    """
    if (
        not 0 < len(path) <= MAX_PATH_CHARACTERS
        or not is_clean(path)
        or _CONTROL.search(path)
        or "\\" in path
        or _DRIVE.match(path)
    ):
        return False
    return all(part not in {"", ".", ".."} and not part.startswith(".") for part in path.split("/"))


def confined(folder: Path, path: str) -> Path | None:
    """Return the real file that `path` names inside `folder`, or None: a path that leads out, also by a symlink,
    names none.
    """
    joined = safe_join(str(folder), path) if is_servable(path) else None
    if joined is None:
        return None
    try:
        real = Path(joined).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return None
    return real if real.is_relative_to(folder.resolve()) and real.is_file() else None


class BodyReader:
    """Reads the bodies of writes before anything else is done for them: `MAX_BODIES` at once, `MAX_BODIES_OF_A_CLIENT` of one.

    A body that never comes holds the thread that waits for it. The server has `MAX_BODIES` threads more than it needs, so that
    clients who send slowly, or say so and send nothing, keep nobody else from being answered. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: Counter[str] = Counter()

    def read(self) -> None:
        """Read the body of the current request, where a write has one. Raises `BusyError`, or 413 for one that is too large."""
        if request.method in _SAFE_METHODS or not (request.content_length or request.headers.get("Transfer-Encoding")):
            return
        client = request.remote_addr or "unknown"
        with self._lock:
            if self._clients.total() >= MAX_BODIES or self._clients[client] >= MAX_BODIES_OF_A_CLIENT:
                raise BusyError("too many requests are being received, try again in a moment")
            self._clients[client] += 1
        try:
            request.get_data(cache=True)
        finally:
            with self._lock:
                self._clients[client] -= 1
                self._clients += Counter()  # forgets who has none


class WriteLimiter:
    """At most `rate` writes a client, over a moving window. Thread-safe; each worker counts its own."""

    def __init__(self, rate: str, clock: Callable[[], float] = time.time) -> None:
        self._item = parse(rate)
        self._clock = clock
        self._strategy = MovingWindowRateLimiter(MemoryStorage())

    def check(self, client: str) -> None:
        """Count one write of `client`. Raises `TooManyWritesError` past the limit."""
        if not self._strategy.hit(self._item, client):
            reset = self._strategy.get_window_stats(self._item, client).reset_time
            raise TooManyWritesError(max(1, math.ceil(reset - self._clock())))
