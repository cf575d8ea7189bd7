"""What begins anew in a forked child, and what is done at the end of a process, forked or not."""

from __future__ import annotations

import atexit
import functools
import itertools
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

_log = logging.getLogger(__name__)
_noticed_pid: Final = [os.getpid()]


def lock() -> Any:
    """Return a `threading.Lock` that nobody holds in a forked child: the thread that did is not there."""
    return _renewed(threading.Lock())


def reentrant_lock() -> Any:
    """Return a `threading.RLock` of which the same is true."""
    return _renewed(threading.RLock())


def call_at_end(function: Callable[[], object], priority: int = 0) -> None:
    """Call `function`, perhaps twice, when this process ends: `atexit` does not where `multiprocessing` has forked it.

    There what has the higher `priority` is called first, and with `atexit` what was registered last.
    """
    atexit.register(function)
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, function, exitpriority=priority)


@functools.cache
def warn_if_unnoticed() -> None:
    """Warn where this process was forked and Python has not noticed, as by C code that calls `fork` itself: nothing has begun
    anew then.
    """
    if os.getpid() != _noticed_pid[0]:
        _log.warning(
            "process %d was forked without telling Python, as uWSGI does unless it is set py-call-osafterfork or lazy-apps: "
            "the admin pages are right, but exporters do not run in it",
            os.getpid(),
        )


def call_in_child(method: Callable[[], None]) -> None:
    """Call a bound method in each forked child, as long as its object lives."""
    number = next(_numbers)
    _methods[number] = weakref.WeakMethod(method, lambda _: _methods.pop(number, None))
    _watch_for_methods()


def _renewed(made: Any) -> Any:
    _locks.add(made)
    return made


# What is registered with `os` stays registered, so that is one function for all.
_locks: Final = weakref.WeakSet[Any]()
_methods: Final[dict[int, weakref.WeakMethod[Callable[[], None]]]] = {}
_numbers: Final = itertools.count()


def _begin_anew() -> None:
    _noticed_pid[0] = os.getpid()
    for held in list(_locks):
        held._at_fork_reinit()  # as `logging` does


def _call_methods() -> None:
    for weak in list(_methods.values()):
        method = weak()
        if method is not None:
            try:
                method()
            except Exception:
                _log.exception("something could not begin anew in process %d, which was forked", os.getpid())


@functools.cache
def _watch_for_methods() -> None:
    """Have them called after what modules have registered when they were imported."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_call_methods)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
