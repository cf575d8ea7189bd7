"""What begins anew in a forked child, and what is done at the end of a process, forked or not."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)
_told_pid = [os.getpid()]


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
def warn_if_untold() -> None:
    """Warn where this process was forked by something that has not told Python, so that nothing has begun anew."""
    if os.getpid() != _told_pid[0]:
        _log.warning(
            "process %d was forked without telling Python, as uWSGI does unless it is set py-call-osafterfork or lazy-apps: "
            "the admin pages are right, but exporters do not run in it",
            os.getpid(),
        )


def _note_pid() -> None:
    _told_pid[0] = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_pid)


def _renewed(made: Any) -> Any:
    if hasattr(os, "register_at_fork"):
        weak = weakref.ref(made)
        os.register_at_fork(after_in_child=lambda: (held := weak()) and held._at_fork_reinit())  # as `logging` does
    return made


def call_in_child(method: Callable[[], None]) -> None:
    """Call a bound method in each forked child, as long as its object lives."""
    if hasattr(os, "register_at_fork"):
        weak = weakref.WeakMethod(method)
        os.register_at_fork(after_in_child=lambda: (method := weak()) and method())
