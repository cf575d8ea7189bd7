"""The witness: the interpreter's profiler tells each call of C code, those of sqlite3 among them."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any

NAMES = frozenset({"execute", "executemany", "executescript"})
KINDS = (sqlite3.Connection, sqlite3.Cursor)


class Witness:
    """Counts what reaches sqlite3 while each request is served, by the request's path.

    A WSGI middleware around the app says which request that is; nested requests, bodies that are made while they are sent and
    threads that have the request's context are its own.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._path: ContextVar[str | None] = ContextVar("witness", default=None)
        self._lock = threading.Lock()

    def profile(self, _: FrameType, event: str, function: Any) -> None:
        """Look at one call."""
        if event != "c_call" or function.__name__ not in NAMES or not isinstance(function.__self__, KINDS):
            return
        path = self._path.get()
        if path is not None:
            with self._lock:
                self.counts[path] += 1

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look at this thread and those that it starts."""
        before = sys.getprofile()
        threading.setprofile(self.profile)
        sys.setprofile(self.profile)
        try:
            yield
        finally:
            sys.setprofile(before)
            threading.setprofile(before)  # type: ignore[arg-type]

    def around(self, wsgi_app: Any) -> Any:
        """Return a WSGI app that says to the witness which request is being served."""

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            self.counts[path] += 0
            token = self._path.set(path)
            try:
                body = wsgi_app(environ, start_response)
            finally:
                self._path.reset(token)
            return Body(self._path, path, body)

        return app


class Body:
    """A body whose making belongs to its request."""

    def __init__(self, path: ContextVar[str | None], name: str, body: Iterable[bytes]) -> None:
        self._path, self._name, self._body, self._chunks = path, name, body, iter(body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = self._path.set(self._name)
        try:
            return next(self._chunks)
        finally:
            self._path.reset(token)

    def close(self) -> None:
        """Close the body within its request."""
        token = self._path.set(self._name)
        try:
            getattr(self._body, "close", lambda: None)()
        finally:
            self._path.reset(token)
