"""What stands where `sqlite3.connect` has stood, also inside of what other tools have wrapped it in."""

from __future__ import annotations

import functools
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from sqlite3 import dbapi2
from types import BuiltinFunctionType, FunctionType
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

    def __repr__(self) -> str:
        return f"<{self._opens!r}, whose queries are seen>"

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
    """Where SQLite's own `connect` stands: names of modules, and the inside of what other tools have put in its place.

    A wrapper is left as it is, with ours in it: what it asks for, such as a `factory` of its own, is asked of ours.
    Not thread-safe.
    """

    def __init__(self, ours: Connect, but_in: Collection[str]) -> None:
        """Put `ours` there, but in the modules of these names."""
        self._ours = ours
        self._original = ours.__wrapped__
        self._names = References(self._original, ours, but_in)
        self._insides: list[tuple[Any, str]] = []
        self._told: set[int] = set()

    def replace(self) -> None:
        """Replace it wherever it stands now: not where something else does, such as what a test has put there."""
        self._names.replace()
        for module in (sqlite3, dbapi2):
            layers = list(_layers(module.connect))
            for layer in layers:
                self._enter(layer)
            if not any(map(self._leads_to_ours, layers)) and id(module.connect) not in self._told:
                self._told.add(id(module.connect))
                _log.warning(
                    "%s.connect is %r at present, in which SQLite's own can't be found: queries of what it opens are not seen",
                    module.__name__,
                    module.connect,
                )

    def restore(self) -> None:
        """Undo `replace`, but where something else stands by now."""
        self._names.restore()
        for holder, name in self._insides:
            if getattr(holder, name, None) is self._ours:
                setattr(holder, name, self._original)
        self._insides.clear()
        for module in (sqlite3, dbapi2):  # a tool may have been taken out from around ours
            if module.connect is self._ours:
                vars(module)["connect"] = self._original

    def _enter(self, layer: Any) -> None:
        for holder, name in _inside(layer):
            if getattr(holder, name) is self._original:
                try:
                    setattr(holder, name, self._ours)
                except (AttributeError, TypeError):
                    continue
                self._insides.append((holder, name))

    def _leads_to_ours(self, layer: Any) -> bool:
        if layer is self._ours or any(getattr(holder, name) is self._ours for holder, name in _inside(layer)):
            return True
        return type(layer) is FunctionType and any(value is self._ours for value in list(layer.__globals__.values()))


def _inside(layer: Any) -> Iterator[tuple[Any, str]]:
    """Yield where a wrapper may hold what it calls, as object and name of an attribute."""
    if type(layer) is FunctionType:  # `isinstance` goes by what a proxy says that it is
        for cell in layer.__closure__ or ():
            try:
                _ = cell.cell_contents
            except ValueError:  # it is empty
                continue
            yield cell, "cell_contents"
    elif type(layer) is not Connect and hasattr(layer, "__wrapped__"):
        yield layer, "__wrapped__"
