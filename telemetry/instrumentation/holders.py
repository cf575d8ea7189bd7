"""Who has taken an app's `wsgi_app` before it was instrumented: middleware that stands around the app, and names for a server."""

from __future__ import annotations

import gc
import itertools
from contextlib import suppress
from types import CellType, MethodType
from typing import Any, Final

_MOST_LOOKS: Final = 4
_looks = itertools.count()


def replace_held(method: MethodType, by: Any) -> None:
    """Put `by` in place of what equals `method`, which nobody else has, in attributes, dictionaries and variables of closures.

    Looking through all objects takes some 20 ms, and 40 where there are half a million: a process does so for its first few apps
    alone, because one that makes an app for each test, say, would do little else.
    """
    if next(_looks) >= _MOST_LOOKS:
        return
    for held in gc.get_referrers(method.__self__):
        if type(held) is MethodType and held == method and held is not method:
            for holder in gc.get_referrers(held):
                with suppress(Exception):  # attributes may do anything when they are looked at
                    _replace(holder, held, by)


def _replace(holder: object, held: MethodType, by: Any) -> None:
    if isinstance(holder, CellType):
        holder.cell_contents = by
        return
    # Python 3.11 and later name the object where its attributes have no dictionary of their own yet.
    values = holder if type(holder) is dict else getattr(holder, "__dict__", None)
    if type(values) is dict and not _is_of_a_class(values):
        for name, value in list(values.items()):
            if value is held:
                values[name] = by


def _is_of_a_class(values: dict[Any, Any]) -> bool:
    """Tell whether `values` are the attributes of a class: Python remembers what it found there, and would use what is gone."""
    return any(isinstance(owner, type) for owner in gc.get_referrers(values))
