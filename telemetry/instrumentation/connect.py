"""What stands where `sqlite3.connect` has stood, also where other tools have wrapped it."""

from __future__ import annotations

import functools
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from sqlite3 import dbapi2
from types import BuiltinFunctionType
from typing import Any, Final, cast

from telemetry import locks
from telemetry.instrumentation.references import References

_log = logging.getLogger(__name__)
_Open = Callable[..., sqlite3.Connection]
# database, timeout, detect_types, isolation_level, check_same_thread, factory, cached_statements, uri
_FACTORY_POSITION: Final = 5
_URI_POSITION: Final = 7
_MOST_LAYERS: Final = 100


class Connect:
    """Opens connections as `sqlite3.connect` does, of a class whose queries are seen.

    An object and no function: as an attribute of a class, that would be a method, which the builtin one is not.
    """

    __wrapped__: _Open

    def __init__(self, opens: _Open, traced: Callable[[Any], Any], is_on: Callable[[], object]) -> None:
        """Open by `opens`, with what `traced` makes of the `factory` that is asked for, as long as `is_on()`."""
        functools.update_wrapper(self, opens, updated=())
        self._opens = opens
        self._traced = traced
        self._is_on = is_on

    def __call__(self, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        if not self._is_on():
            return self._opens(*args, **kwargs)
        if len(args) > _FACTORY_POSITION:
            factory = self._traced(args[_FACTORY_POSITION])
            args = (*args[:_FACTORY_POSITION], factory, *args[_FACTORY_POSITION + 1 :])
        else:
            kwargs["factory"] = self._traced(kwargs.get("factory", sqlite3.Connection))
        made = self._opens(*args, **kwargs)
        is_uri = args[_URI_POSITION] if len(args) > _URI_POSITION else kwargs.get("uri", False)
        locks.opened(made, args[0] if args else kwargs.get("database"), bool(is_uri))
        return made

    def __reduce__(self) -> tuple[Callable[[], _Open], tuple[()]]:
        return _of_this_process, ()


def _of_this_process() -> _Open:
    """Return what `sqlite3.connect` is where one of ours is unpickled."""
    return sqlite3.connect


def original() -> _Open:
    """Return SQLite's own function, whoever has wrapped it before."""
    innermost = list(_layers(sqlite3.connect))[-1]
    if not isinstance(innermost, BuiltinFunctionType):
        from _sqlite3 import connect as innermost
    return cast(_Open, innermost)


def _layers(function: Any) -> Iterator[Any]:
    """Yield `function`, what it says that it wraps, and so on."""

    def all_of_them() -> Iterator[Any]:
        layer = function
        while layer is not None:
            yield layer
            layer = getattr(layer, "__wrapped__", None)

    return islice(all_of_them(), _MOST_LAYERS)


class Places:
    """The names of modules that stand for `sqlite3.connect`, or for what another tool has made of it. Not thread-safe."""

    def __init__(self, ours: Connect, also: Callable[[_Open], Connect], but_in: Collection[str]) -> None:
        """Put `ours` there; in place of a wrapper what `also` makes of it; in the modules `but_in` nothing."""
        self._original = ours.__wrapped__
        self._also = also
        self._but_in = but_in
        self._references = [References(self._original, ours, but_in)]
        self._wrappers: list[_Open] = []

    def replace(self) -> None:
        """Replace it wherever it stands now: not where something else does, such as what a test has put there."""
        for module in (sqlite3, dbapi2):
            standing: Any = module.connect
            layers = list(_layers(standing))
            if any(standing is known for known in self._wrappers) or any(
                isinstance(layer, Connect) for layer in layers
            ):
                continue
            if layers[-1] is not self._original:
                _log.warning(
                    "%s.connect is %r at present, which doesn't say that it wraps SQLite's own: "
                    "queries of what it opens are not seen",
                    module.__name__,
                    standing,
                )
            elif standing is not self._original:
                self._wrappers.append(standing)
                self._references.append(References(standing, self._also(standing), self._but_in))
        for references in self._references:
            references.replace()

    def restore(self) -> None:
        """Undo `replace`, but for names that stand for something else by now."""
        for references in self._references:
            references.restore()
        del self._references[1:]
        self._wrappers.clear()
