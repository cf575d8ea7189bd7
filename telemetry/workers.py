"""How the workers of one server reach each other.

Each worker that has begun to serve listens on a Unix socket in a folder that all of them know. Nothing goes through it until
somebody looks at an admin page: the worker that answers asks the others. Requests know nothing of it. One that ends leaves
what it would have answered in the folder.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import secrets
import selectors
import socket
import struct
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from telemetry import forked
from telemetry.handover import Handover
from telemetry.meeting_place import StillMasterError, make_private, server_of_worker, short_hash

_log = logging.getLogger(__name__)

PATIENCE_S: Final = 3.0
"""How long one may take for an answer; one that takes longer is told as silent."""
SHORT_PATIENCE_S: Final = 0.5
"""How long one may take that has just been silent."""
SILENCE_S: Final = 30.0
"""For how long that is so."""

_BEFORE_PROVIDERS: Final = 1  # which are shut down at the end of the process
_WAITING: Final = 128  # questions
_SUFFIX: Final = ".sock"
_ATTEMPTS: Final = 10
_PAUSE_S: Final = 0.01
_DEADLINE: Final = struct.Struct("=d")
"""What a question begins with: until when its answer is waited for, in Unix seconds."""


class Workers:
    """The workers of one server that serve an app: this one, which answers the others, and those that it can ask. Thread-safe.

    Where there is no folder to meet in, and on systems without Unix sockets, there are no others.
    """

    def __init__(
        self,
        app_name: str,
        folder: str,
        answer: Callable[[bytes], bytes],
        begin: Callable[[], object] = lambda: None,
        hand_over: Callable[[Handover, str], object] = lambda _, __: None,
    ) -> None:
        """Meet in `folder`, or if that is empty where the server's workers do; tell others what `answer` returns.

        `begin` is called before this worker serves its first request, and `hand_over` when its process ends, with its name and
        with what takes what it leaves to the others. Not so in a `folder` that was given, which does not say for how long a
        server runs. Apps of one name in one process, such as a factory makes, are told apart by the order in which they were
        made, which all workers share.
        """
        number = next(_numbers[app_name])
        self._tag = short_hash(f"{app_name} {number}")
        self.folder = folder
        self._answer = answer
        self._begin = begin
        self._hand_over = hand_over
        self._handover: Handover | None = None
        self._lock = forked.lock()
        self._joined_in: int | None = None  # the process that has joined, or can't
        self._generation = 0  # how often it has left
        self._has_met = False
        self._path: Path | None = None
        self._leave: weakref.finalize[..., Workers] | None = None
        self._silent_until: dict[str, float] = {}
        self._has_failed_to_answer = False
        forked.call_in_child(self._forget)

    def join(self) -> bool:
        """Listen from now on, if this is one of several workers; called again, do nothing.

        Returns:
            Whether nothing is left to do: not so in a master that is yet to fork its workers.
        """
        process = os.getpid()
        if self._joined_in == process:
            return True
        with self._lock:  # and nothing that waits: under gevent, the one that is waited for may wait for the lock
            if self._joined_in == process:
                return True
            if self._joined_in is not None:
                self._forget()  # uWSGI forks without telling Python
            try:
                folder = self._meeting_place()
                if folder is not None:
                    self._begin()
            except StillMasterError:
                return False
            except Exception as error:
                self._joined_in = process
                self._tell_failure(error)
                return True
            self._joined_in, generation = process, self._generation
        if folder is not None:
            try:
                self._publish(*_listen(folder, self._file_name(), weakref.ref(self)), generation)
            except Exception as error:
                self._tell_failure(error)
        return True

    def _publish(self, listening: socket.socket, path: Path, generation: int) -> None:
        with self._lock:
            is_wanted = self._generation == generation  # another thread may have left meanwhile
            if is_wanted:
                self._leave = weakref.finalize(self, _stop, listening, path)  # at the end of the process at the latest
                self._path = path
                if self._handover is not None:
                    forked.call_at_end(functools.partial(_end, weakref.ref(self)), _BEFORE_PROVIDERS)
        if not is_wanted:
            _stop(listening, path)

    def is_one_of_several(self) -> bool:
        """Tell whether there are others, or have been."""
        return self.has_others() or self._has_met

    def _tell_failure(self, error: Exception) -> None:
        _log.warning("the admin pages show the figures of this worker alone: it can't meet the others: %s", str(error))

    def leave(self) -> None:
        """Listen no more; joining again is possible."""
        with self._lock:
            self._generation += 1
            leave, self._leave, self._path, self._joined_in = self._leave, None, None, None
        if leave is not None:
            leave()

    def _end(self) -> None:
        """At the end of the process, hand over what it has measured; whoever asks has it from there once it answers no more."""
        path, handover = self._path, self._handover
        if self._joined_in == os.getpid() and path is not None and handover is not None:
            try:
                self._hand_over(handover, path.name)
            except Exception as error:
                _log.warning("what this worker has measured ends with it: %s", error)
        self.leave()

    def handed_over(self) -> list[bytes]:
        """Return what workers that have ended have handed over: `Handover.read`."""
        return [] if self._handover is None else self._handover.read()

    def has_figures_of_others(self) -> bool:
        """Tell whether there are others, or any that have ended have handed something over."""
        return self.has_others() or (self._handover is not None and self._handover.exists())

    def has_others(self) -> bool:
        """Tell whether there are others."""
        found = next(self._others(), None) is not None
        self._has_met = self._has_met or found
        return found

    def ask(self, question: bytes) -> dict[str, bytes | None]:
        """Return what each of the others answers, by its name; `None` for one that lives and is silent."""
        now = time.monotonic()
        paths, asked = {path.name: path for path in self._others()}, dict[str, _Asked]()
        silent = {name for name, until in self._silent_until.copy().items() if until > now}
        answers: dict[str, bytes | None] = {}
        for name, path in paths.items():
            try:
                one = _Asked.of(path, question, now + (SHORT_PATIENCE_S if name in silent else PATIENCE_S))
            except _EndedError:
                _remove(path)
                continue
            if one is None:
                answers[name] = None
            else:
                asked[name] = one
        answers |= _read_all(asked)
        for name, one in asked.items():
            if answers[name] is None and one.is_cut_off and _is_ending(paths[name]):
                del answers[name]
                _remove(paths[name])
        self._note_silence(answers, silent)
        return answers

    def ask_one(self, name: str, question: bytes, patience_s: float) -> bytes | None:
        """Return what the one of that name answers, as `ask` told it; `None` where it is silent, or gone."""
        own = self._path
        if own is None:
            return None
        try:
            one = _Asked.of(own.parent / name, question, time.monotonic() + patience_s)
        except _EndedError:
            return None
        return None if one is None else _read_all({name: one})[name]

    def answer(self, question: bytes) -> bytes:
        """Return what this worker has to say; nothing where that fails, which is logged once."""
        try:
            return self._answer(question)
        except Exception:
            if not self._has_failed_to_answer:
                self._has_failed_to_answer = True
                _log.exception("a question of another worker could not be answered; later ones are not told")
            return b""

    def _note_silence(self, answers: dict[str, bytes | None], silent: set[str]) -> None:
        """Remember which have not answered; `silent` are those that had a short time to."""
        for name in self._silent_until.copy().keys() - answers.keys():
            self._silent_until.pop(name, None)  # it has ended
        for name, answered in answers.items():
            if answered is not None:
                self._silent_until.pop(name, None)
            elif name not in silent:
                if name not in self._silent_until:
                    _log.warning("worker %d does not answer: the admin pages lack what it has measured", pid_of(name))
                self._silent_until[name] = time.monotonic() + SILENCE_S

    def _others(self) -> Iterator[Path]:
        own = self._path
        if own is not None:
            ours = f"-{_process()}"
            for path in sorted(own.parent.glob(f"{self._tag}-*{_SUFFIX}")):
                if not path.stem.endswith(ours):
                    yield path

    def _meeting_place(self) -> Path | None:
        if not hasattr(socket, "AF_UNIX"):
            return None
        if self.folder:
            return Path(self.folder).absolute()
        server = server_of_worker()
        if server is None:
            return None
        self._handover = Handover(server.make_room(), self._tag)
        self._handover.forget_before(server.start_unix_s)
        return server.folder

    def _file_name(self) -> str:
        return f"{self._tag}-{os.getpid()}-{next(_serial):x}-{_process()}{_SUFFIX}"

    def _forget(self) -> None:
        """In a forked child: what listens is its parent; it joins by itself when it serves."""
        leave, self._leave, self._path, self._handover = self._leave, None, None, None
        if self._joined_in is not None:
            self._joined_in = -1
        self._silent_until, self._has_met = {}, False
        if leave is not None and (of_parent := leave.detach()) is not None:
            of_parent[2][0].close()  # the child's end alone


_numbers: Final[defaultdict[str, Iterator[int]]] = defaultdict(itertools.count)


class _EndedError(Exception):
    """The worker has ended."""


class _Asked:
    """A worker that has been asked, and what has come of its answer so far."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.connection = connection
        self.deadline = deadline
        self.received = bytearray()
        self.is_cut_off = False
        """Whether it has closed the connection without an answer."""

    @classmethod
    def of(cls, path: Path, question: bytes, deadline: float) -> _Asked | None:
        """Ask the worker that listens at `path`; return `None` where it does not take the question in time.

        Raises:
            _EndedError: nobody listens there.
        """
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:  # there are no descriptors left
            return None
        try:
            while True:
                connection.settimeout(max(_PAUSE_S, deadline - time.monotonic()))
                try:
                    connection.connect(str(path))
                    break
                except BlockingIOError:  # too many are waiting
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(_PAUSE_S)
            until_unix_s = time.time() + deadline - time.monotonic()
            connection.sendall(_DEADLINE.pack(until_unix_s) + question)
            connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            connection.close()
            if isinstance(error, TimeoutError | BlockingIOError) or _is_alive(path):
                return None
            raise _EndedError from error
        return cls(connection, deadline)


def _end(worker: weakref.ref[Workers]) -> None:
    found = worker()
    if found is not None:
        found._end()


def _is_alive(path: Path) -> bool:
    """Tell whether somebody listens at `path`, or may."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            connection.connect(str(path))
    except OSError as error:
        return not isinstance(error, ConnectionError | FileNotFoundError)
    return True


def _is_ending(path: Path) -> bool:
    """Tell whether the worker that listens at `path` ends just now, as it closes what it has open."""
    for _ in range(_ATTEMPTS):
        if not _is_alive(path):
            return True
        time.sleep(_PAUSE_S)
    return False


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


_serial: Final = itertools.count()


def pid_of(name: str) -> int:
    """Return the process of the worker of that name."""
    return int(name.split("-")[1])


def _process() -> str:
    """Return what tells this process from all others: workers in containers may have the same number."""
    pid = os.getpid()
    if _token[0] != pid:
        _token[:] = pid, secrets.token_hex(3)
    return str(_token[1])


_token: Final[list[object]] = [0, ""]


def _listen(folder: Path, name: str, worker: weakref.ref[Workers]) -> tuple[socket.socket, Path]:
    """Have a thread answer what comes to the socket `name` in `folder`; return both."""
    listening, unheard = _bound(folder, name)
    try:
        serve = functools.partial(_serve, listening, worker)
        threading.Thread(target=serve, name="telemetry-worker", daemon=True).start()
        return listening, unheard.rename(unheard.with_suffix(_SUFFIX))  # nobody finds it before it answers
    except BaseException:
        _stop(listening, unheard.with_suffix(_SUFFIX))
        raise


def _bound(folder: Path, name: str) -> tuple[socket.socket, Path]:
    """Return a socket that listens in `folder`, under a name that nobody looks for."""
    unheard = (folder / name).with_suffix(".new")
    for attempt in range(_ATTEMPTS):
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            make_private(folder)
            listening.bind(str(unheard))
            unheard.chmod(0o600)
            listening.listen(_WAITING)
            break
        except OSError as error:
            listening.close()
            # The last of the others may have left just now, and removed the folder.
            if not isinstance(error, FileNotFoundError) or attempt == _ATTEMPTS - 1:
                raise
    return listening, unheard


def _serve(listening: socket.socket, worker: weakref.ref[Workers]) -> None:
    """Answer what comes, until the socket is closed; a worker that is dropped lives no longer for that."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            if listening.fileno() < 0:
                return
            time.sleep(_PAUSE_S)  # as where there are no descriptors left, for now
            continue
        with connection, suppress(OSError, struct.error):  # whoever asks may have gone
            _serve_one(connection, worker)


def _serve_one(connection: socket.socket, worker: weakref.ref[Workers]) -> None:
    connection.settimeout(PATIENCE_S)
    with connection.makefile("rb") as asked:
        (until_unix_s,), question = _DEADLINE.unpack(asked.read(_DEADLINE.size)), asked.read()
    found = worker()
    if found is not None and time.time() < until_unix_s:  # else nobody waits for it any more
        connection.sendall(found.answer(question))
        connection.shutdown(socket.SHUT_RDWR)  # a process that was forked meanwhile may hold the connection open


def _stop(listening: socket.socket, path: Path) -> None:
    with suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)  # which ends a call of `accept` that is waiting
    listening.close()
    with suppress(OSError):
        for each in (path, path.with_suffix(".new")):
            each.unlink(missing_ok=True)
        path.parent.rmdir()  # if this was the last one


def _read_all(asked: dict[str, _Asked]) -> dict[str, bytes | None]:
    """Return all that comes through the connections, and close them; `None` for one that takes too long, or says nothing."""
    answers: dict[str, bytes | None] = dict.fromkeys(asked)
    with selectors.DefaultSelector() as selector:
        for name, each in asked.items():
            each.connection.setblocking(False)
            selector.register(each.connection, selectors.EVENT_READ, name)
        while selector.get_map():
            now = time.monotonic()
            for key in list(selector.get_map().values()):
                if asked[key.data].deadline <= now:
                    selector.unregister(key.fileobj)
            soonest = min((asked[key.data].deadline for key in selector.get_map().values()), default=now)
            for key, _ in selector.select(max(0.0, soonest - now)):
                each = asked[key.data]
                try:
                    part = each.connection.recv(1 << 20)
                except BlockingIOError:
                    continue
                except OSError:
                    part, each.received = b"", bytearray()
                each.received += part
                if not part:
                    selector.unregister(each.connection)
                    answers[key.data] = bytes(each.received) or None
                    each.is_cut_off = not each.received
    for each in asked.values():
        each.connection.close()
    return answers
