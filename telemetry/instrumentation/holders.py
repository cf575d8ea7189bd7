"""Who has taken an app's `wsgi_app` before it was instrumented: middleware that stands around the app, and names for a server."""

from __future__ import annotations

import gc
from types import CellType, MethodType
from typing import Any


def replace_held(method: MethodType, by: Any) -> None:
    """Put `by` in place of `method` in attributes, dictionaries and variables of closures, but for what `by` has itself.

    Looking through all objects for it takes some milliseconds.
    """
    for held in gc.get_referrers(method.__self__):
        if type(held) is MethodType and held == method:
            for holder in gc.get_referrers(held):
                _replace(holder, held, by)


def _replace(holder: object, held: MethodType, by: Any) -> None:
    if isinstance(holder, CellType):
        holder.cell_contents = by
        return
    # Python 3.11 and later name the object where its attributes have no dictionary of their own yet.
    values = holder if type(holder) is dict else getattr(holder, "__dict__", None)
    if type(values) is dict and values is not vars(by):
        for name, value in list(values.items()):
            if value is held:
                values[name] = by
