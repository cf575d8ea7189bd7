"""How the workers of one server reach each other.

Each worker that has begun to serve listens on a Unix socket in a folder that all of them know. Nothing goes through it until
somebody looks at an admin page: the worker that answers asks the others. Requests know nothing of it.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import secrets
import socket
import stat
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from telemetry.exporters import forked

_log = logging.getLogger(__name__)

PATIENCE_S: Final = 3.0
"""How long the others may take for an answer, all of them together; one that takes longer is told as silent."""
SHORT_PATIENCE_S: Final = 0.3
"""How long one may take that was silent the last time."""

_WAITING: Final = 16  # questions
_SUFFIX: Final = ".sock"
MOST_FOLDER_BYTES: Final = 60
"""A path of a socket has 104 bytes at most on macOS, and 108 on Linux."""


class Workers:
    """The workers of one server that serve an app: this one, which answers the others, and those that it can ask. Thread-safe.

    Where there is no folder to meet in, and on systems without Unix sockets, there are no others.
    """

    def __init__(self, app_name: str, folder: str, answer: Callable[[bytes], bytes]) -> None:
        """Meet in `folder`, or if that is empty where the server's workers do; tell others what `answer` returns."""
        # Apps of one name in one process, such as a factory makes, are told apart by their order, which all workers share.
        self.app_name: Final = app_name
        number = sum(each.app_name == app_name for each in _of_process)
        _of_process.add(self)
        self._tag = hashlib.sha256(f"{app_name} {number}".encode()).hexdigest()[:8]
        self._folder = folder
        self._answer = answer
        self._lock = forked.lock()
        self._path: Path | None = None
        self._leave: weakref.finalize[..., Workers] | None = None
        self._has_failed = False
        self._silent: set[str] = set()
        self._has_failed_to_answer = False
        forked.call_in_child(self._forget)

    def join(self) -> None:
        """Listen from now on, if this is one of several workers; called again, do nothing."""
        with self._lock:
            if self._path is not None or self._has_failed:
                return
            try:
                folder = self._meeting_place()
                if folder is not None:
                    self._listen(folder)
            except Exception as error:
                self._has_failed = True
                _log.warning(
                    "the admin pages show the figures of this worker alone: it can't meet the others: %s", error
                )

    def leave(self) -> None:
        """Listen no more, and be no worker of the app any longer."""
        _of_process.discard(self)
        with self._lock:
            leave, self._leave, self._path = self._leave, None, None
        if leave is not None:
            leave()

    def has_others(self) -> bool:
        """Tell whether there are others."""
        return next(self._others(), None) is not None

    def ask(self, question: bytes) -> dict[str, bytes | None]:
        """Return what each of the others answers, by its name; `None` for one that lives and is silent."""
        asked_at = time.monotonic()
        answers = {
            name: None if connection is None else _read(connection, asked_at + self._patience_s(name))
            for name, connection in list(self._asked(question))
        }
        silent = {name for name, answered in answers.items() if answered is None}
        for name in silent - self._silent:
            _log.warning("worker %d does not answer: the admin pages lack what it has measured", pid_of(name))
        self._silent = silent
        return answers

    def _patience_s(self, name: str) -> float:
        return SHORT_PATIENCE_S if name in self._silent else PATIENCE_S

    def ask_one(self, name: str, question: bytes, patience_s: float) -> bytes | None:
        """Return what the one of that name answers, as `ask` told it; `None` where it is silent, or gone."""
        own = self._path
        if own is None:
            return None
        try:
            connection = _connect(own.parent / name, question, patience_s)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        return None if connection is None else _read(connection, time.monotonic() + patience_s)

    def _asked(self, question: bytes) -> Iterator[tuple[str, socket.socket | None]]:
        """Yield the name of each of the others with a connection that waits for its answer, `None` where it can't be asked."""
        for path in list(self._others()):
            try:
                yield path.name, _connect(path, question, self._patience_s(path.name))
            except (ConnectionRefusedError, FileNotFoundError):  # it has ended, by whatever means
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def _others(self) -> Iterator[Path]:
        self.join()
        own = self._path
        if own is not None:
            yield from (path for path in own.parent.glob(f"{self._tag}-*{_SUFFIX}") if path != own)

    def _meeting_place(self) -> Path | None:
        if not hasattr(socket, "AF_UNIX"):
            return None
        if self._folder:
            folder = Path(self._folder).absolute()
        else:
            server = _server()
            if server is None:
                return None
            # Containers may share a folder for temporary files, and each has its own process 1.
            host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
            of_user = Path(tempfile.gettempdir()) / f"telemetry-{os.geteuid()}"
            _make_private(of_user)
            _sweep(of_user, host)
            folder = of_user / f"{server}-{host}"
        _make_private(folder)
        return folder

    def _listen(self, folder: Path) -> None:
        name = f"{self._tag}-{os.getpid()}-{secrets.token_hex(4)}"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unheard = folder / f"{name}.new"
        try:
            listening.bind(str(unheard))
            unheard.chmod(0o600)
            listening.listen(_WAITING)
            self._path = unheard.rename(folder / f"{name}{_SUFFIX}")  # nobody finds it before it listens
        except OSError:
            listening.close()
            raise
        self._leave = weakref.finalize(self, _stop, listening, self._path)  # at the end of the process at the latest
        serve = functools.partial(_serve, listening, weakref.ref(self))
        threading.Thread(target=serve, name="telemetry-worker", daemon=True).start()

    def answer(self, question: bytes) -> bytes:
        """Return what this worker has to say; nothing where that fails, which is logged once."""
        try:
            return self._answer(question)
        except Exception:
            if not self._has_failed_to_answer:
                self._has_failed_to_answer = True
                _log.exception("a question of another worker could not be answered; later ones are not told")
            return b""

    def _forget(self) -> None:
        """In a forked child: what listens is its parent; it joins by itself when it serves."""
        leave, self._leave, self._path = self._leave, None, None
        self._has_failed = False
        if leave is not None and (of_parent := leave.detach()) is not None:
            of_parent[2][0].close()  # the child's end alone


_of_process: Final[weakref.WeakSet[Workers]] = weakref.WeakSet()


def _serve(listening: socket.socket, worker: weakref.ref[Workers]) -> None:
    """Answer what comes, until the socket is closed; a worker that is dropped lives no longer for that."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection, suppress(OSError):  # whoever asks may have gone
            connection.settimeout(PATIENCE_S)
            with connection.makefile("rb") as asked:
                question = asked.read()
            found = worker()
            if found is not None:
                connection.sendall(found.answer(question))
            del found


def _stop(listening: socket.socket, path: Path) -> None:
    with suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)  # which ends a call of `accept` that is waiting
    listening.close()
    with suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()  # if this was the last one


def pid_of(name: str) -> int:
    """Return the process of the worker of that name."""
    return int(name.split("-")[1])


def _server() -> str | None:
    """Return what is the same for all workers of the server that this process belongs to, if it is one of a server's workers."""
    if os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn/"):
        return f"gunicorn-{os.getppid()}"
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None and (master := uwsgi.masterpid()):
        return f"uwsgi-{master}"
    if "granian" in sys.modules:
        from multiprocessing import parent_process

        parent = parent_process()
        if parent is not None:
            return f"granian-{parent.pid}"
    return None


def _make_private(folder: Path) -> None:
    """Make a folder that this user alone can write to, or see that it is one.

    Raises:
        OSError: it can't be had so.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} must be a folder of this user's, to which nobody else can write")


def _sweep(of_user: Path, host: str) -> None:
    """Remove what workers have left behind whose server has ended, all of them killed."""
    import psutil  # which is loaded by now

    for folder in of_user.glob(f"*-*-{host}"):
        if not psutil.pid_exists(int(folder.name.split("-")[1])):
            with suppress(OSError):
                for left in folder.iterdir():
                    left.unlink(missing_ok=True)
                folder.rmdir()


def _connect(path: Path, question: bytes, patience_s: float) -> socket.socket | None:
    """Return a connection to a worker that has been asked; `None` where it does not take the question.

    Raises:
        ConnectionRefusedError, FileNotFoundError: the worker has ended.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(patience_s)
    try:
        connection.connect(str(path))
        connection.sendall(question)
        connection.shutdown(socket.SHUT_WR)
    except (ConnectionRefusedError, FileNotFoundError):
        connection.close()
        raise
    except OSError:
        connection.close()
        return None
    return connection


def _read(connection: socket.socket, deadline: float) -> bytes | None:
    """Return all that comes through `connection`, and close it; `None` if it takes too long, or is nothing."""
    received = bytearray()
    with connection:
        try:
            while True:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                part = connection.recv(1 << 20)
                if not part:
                    return bytes(received) or None
                received += part
        except OSError:
            return None
