"""Where modules have taken a function, under whatever name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from itertools import repeat
from operator import is_
from typing import Any


class References:
    """The names of modules that stand for a function, and what is put in its place for a while. Not thread-safe."""

    def __init__(self, original: Callable[..., Any], ours: Callable[..., Any], but_in: Collection[str]) -> None:
        """Put `ours` where modules have `original`, but in those of these names."""
        self._original = original
        self._ours = ours
        self._but_in = but_in
        self._replaced: list[tuple[dict[str, Any], str]] = []

    def replace(self) -> None:
        """Replace it wherever it stands now: not where something else does, such as what a test has put there."""
        for names, name in self._found():
            names[name] = self._ours
            self._replaced.append((names, name))

    def restore(self) -> None:
        """Undo `replace`, but for names that stand for something else by now."""
        for names, name in self._replaced:
            if names.get(name) is self._ours:
                names[name] = self._original
        self._replaced.clear()

    def _found(self) -> Iterator[tuple[dict[str, Any], str]]:
        for module_name, module in list(sys.modules.items()):
            names = getattr(module, "__dict__", None)
            if module_name in self._but_in or type(names) is not dict:
                continue
            if any(map(is_, list(names.values()), repeat(self._original))):  # by far the quickest way to ask
                yield from ((names, name) for name, value in list(names.items()) if value is self._original)
