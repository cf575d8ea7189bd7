"""Running the app under Granian: the listening address, the workers, and a clean end.

Workers are always spawned, never forked, on every system: providers and threads start inside the worker, and what a
worker gets is the same everywhere: its settings, pickled.
"""

from __future__ import annotations

import atexit
import errno
import ipaddress
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from config import Settings
from service.errors import ServerError
from service.lock import FileLock
from service.security import MAX_BODIES
from telemetry import meeting_place
from telemetry.logs import JsonFormatter, TraceContextFilter

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

# A worker that is still sending a film, or waits for a body, is ended after this long: with all around it, within 5 s.
_KILL_TIMEOUT_S = 4
_LONGEST_START_S = 60
_ENDING = {signal.SIGINT, signal.SIGTERM}
# Granian's own lines, such as that a worker has died, go where ours do, and look like them.
_GRANIANS_LOG: dict[str, Any] = {
    "formatters": {},
    "handlers": {},
    "loggers": {"_granian": {"propagate": True}, "granian.access": {"propagate": True}},
}


class CannotListenError(ServerError):
    """The address or port can't be had; the text is for the user."""


@dataclass(frozen=True)
class WorkerLoader:
    """Makes the app in a worker process. Holds nothing but what pickles."""

    settings: Settings

    def __call__(self) -> Flask:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        set_up_logging(self.settings)
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # It tells of every burst of changes.
        for name in ("opentelemetry.baggage.propagation", "opentelemetry.trace.span"):
            logging.getLogger(name).setLevel(logging.ERROR)  # They repeat headers that anybody may send, however long.
        from service.app import create_app
        from service.state import EXTENSION

        _end_with_the_server()
        app = create_app(self.settings)
        atexit.register(app.extensions[EXTENSION].close)
        return app


def set_up_logging(settings: Settings) -> None:
    """Log to standard error as the settings say; each line of a request with the ids of its span."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(TraceContextFilter())
    plain = logging.Formatter("%(levelname)s %(name)s: %(message)s%(request_context)s")
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else plain)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])


def _end_with_the_server() -> None:
    """End this worker when the process that started it is gone, however it went: it would hold the port for ever."""
    server = multiprocessing.parent_process()
    if server is None:
        return

    def watch() -> None:
        server.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_KILL_TIMEOUT_S)  # a signal that comes while the worker starts is lost between two handlers of it
        os._exit(1)

    threading.Thread(target=watch, name="server-watch", daemon=True).start()


def pick_port(host: str, port: int) -> int:
    """Return the port to listen on, a free one for 0. Raises `CannotListenError` if it is taken or not allowed.

    Granian's workers share a port on purpose, so a second server on the same one would start without a complaint:
    this looks first.
    """
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if sys.platform == "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            if port:
                probe.listen(1)
            return int(probe.getsockname()[1])
    except OSError as error:
        # EINVAL: a link-local address without its interface.
        is_elsewhere = error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL}
        remedy = "--host must be an address of this machine" if is_elsewhere else "try --port 0"
        raise CannotListenError(f"can't listen on {host} port {port}: {error.strerror}; {remedy}") from error


def claim_port(data: Path, port: int) -> FileLock:
    """Return the lock of a data folder's server on `port`; it is held until the process ends.

    `pick_port` looks, and Granian listens moments later: of servers that start together, it would let several through. Raises
    `CannotListenError` if another one holds it.
    """
    lock = FileLock(data / f"port-{port}.lock")
    if not lock.acquire():
        raise CannotListenError(
            f"another server with the data folder '{data}' has port {port}; use that one, or try --port 0"
        )
    return lock


def address(host: str, port: int) -> str:
    """Return the URL of the server, without a slash at the end; one that listens everywhere has an address of this machine."""
    if ipaddress.ip_address(host).is_unspecified:
        host = _outward_address(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def reachable(host: str) -> str:
    """Return where this machine reaches a server that listens on `host`: loopback, if that is every address."""
    listens = ipaddress.ip_address(host)
    if not listens.is_unspecified:
        return host
    return "127.0.0.1" if listens.version == 4 else "::1"


def _outward_address(host: str) -> str:
    """Return the address that others reach this machine by; loopback if it is on no network. Nothing is sent."""
    is_v6 = ipaddress.ip_address(host).version == 6
    with socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("2001:db8::1" if is_v6 else "192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "::1" if is_v6 else "127.0.0.1"


def _wait_for_signals(tell: Callable[[], None]) -> None:
    """Have a thread wait for a Ctrl-C, SIGTERM and the end of the terminal, and `tell` the server.

    Without a terminal, SIGHUP is left to Granian, which starts new workers then.

    A signal's handler would not do: it is not run when the signal comes just before the server waits, and it waits for ever when
    it comes while the server, or the handler of another signal, holds the lock of what both wait for. Workers inherit what is
    blocked here, and let SIGTERM through again; a Ctrl-C, which the terminal sends to all processes, would end one that starts
    with a traceback, and is two signals at once to one that serves.
    """
    resource_tracker.ensure_running()  # its start, which the first worker's would be, lets the signals through again
    ending = _ENDING | {signal.SIGHUP} if _ends_with_a_terminal() else _ENDING
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)

    def wait() -> None:
        while True:
            signal.sigwait(ending)
            tell()

    threading.Thread(target=wait, name="signals", daemon=True).start()


def _ends_with_a_terminal() -> bool:
    """Tell whether there is one, and SIGHUP is not ignored as `nohup` has it."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _call_when_it_listens(settings: Settings, on_listening: Callable[[], None]) -> None:
    """Have a thread call `on_listening` once a worker takes connections, or after long, where this machine can't reach itself."""
    target, ends_at = (reachable(settings.host), settings.port), time.monotonic() + _LONGEST_START_S

    def wait() -> None:
        while time.monotonic() < ends_at:
            try:
                socket.create_connection(target, timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)
        on_listening()

    threading.Thread(target=wait, name="start-watch", daemon=True).start()


def run(settings: Settings, on_listening: Callable[[], None]) -> None:
    """Serve until a signal ends it, and call `on_listening` once it can be reached. `settings.port` is a real port."""
    set_up_logging(settings)
    multiprocessing.set_start_method("spawn", force=True)
    server = Granian(
        "local-video-server",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        workers=settings.workers,
        blocking_threads=settings.threads + settings.streams + MAX_BODIES,
        workers_kill_timeout=_KILL_TIMEOUT_S,
        respawn_failed_workers=True,
        log_level=LogLevels.debug if settings.log_level == "debug" else LogLevels.error,
        log_dictconfig=_GRANIANS_LOG,
    )
    if sys.platform != "win32":
        _wait_for_signals(server.signal_handler_interrupt)
    _call_when_it_listens(settings, on_listening)
    try:
        server.serve(target_loader=WorkerLoader(settings), wrap_loader=False)
    finally:
        meeting_place.Server("granian", os.getpid()).clear()
