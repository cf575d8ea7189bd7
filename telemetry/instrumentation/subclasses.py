"""Subclasses of an app's own connection and cursor classes, and of those that its factories make."""

from __future__ import annotations

import functools
import logging
from collections.abc import Hashable
from typing import Any, Final, cast

_log = logging.getLogger(__name__)
_log_once: Final = functools.lru_cache(maxsize=64)(_log.warning)


@functools.lru_cache(maxsize=256)
def _subclass(base: Hashable, traced: Hashable) -> Any:
    assert isinstance(base, type)
    assert isinstance(traced, type)
    if issubclass(base, traced):
        return base
    if issubclass(traced, base):
        return traced
    namespace: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,  # as messages of Python's have it
        "__doc__": base.__doc__,
    }
    if _may_call_super_of_own_class(base):
        namespace["__class__"] = property(lambda self: base if type(self) is made else type(self))
    made = type(base.__name__, (base, traced), namespace)
    return made


def _may_call_super_of_own_class(base: type) -> bool:
    """Tell whether methods of a class may say `super(self.__class__, self)`: with ours, that would lead back to them."""
    codes = (getattr(value, "__code__", None) for each in base.__mro__ for value in vars(each).values())
    return any(code is not None and {"super", "__class__"} <= set(code.co_names) for code in codes)


def traced_class(base: type, traced: type) -> Any:
    """Return the subclass of both; where a class lets nobody subclass it, itself."""
    try:
        return _subclass(cast(Hashable, base), traced)
    except Exception as error:
        _log_once(f"queries of {base.__qualname__} objects are not seen: their class takes no subclass ({error})")
        return base


def adopt(made: Any, base: type, traced: type) -> Any:
    """Give an object that a factory function has made the traced class, where Python lets its class change."""
    if isinstance(made, base) and not isinstance(made, traced):
        try:
            made.__class__ = _subclass(cast(Hashable, type(made)), traced)
        except TypeError:
            _log_once(f"queries of {type(made).__qualname__} objects are not seen: their factory is no class")
    return made
