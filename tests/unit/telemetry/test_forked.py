"""What begins anew in a forked child."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from telemetry import forked


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("make", [forked.lock, forked.reentrant_lock])
def test_a_lock_that_another_thread_holds_is_free_in_a_forked_child(make: Callable[[], Any]) -> None:
    lock, held, done = make(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    child = os.fork()
    if not child:
        os._exit(0 if lock.acquire(timeout=5) else 1)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_fork_that_python_is_not_told_of_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forked.warn_if_unnoticed.cache_clear()
    monkeypatch.setattr(forked, "_noticed_pid", [os.getpid() + 1])
    for _ in range(2):
        forked.warn_if_unnoticed()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "py-call-osafterfork" in caplog.text
    forked.warn_if_unnoticed.cache_clear()
    monkeypatch.undo()
    forked.warn_if_unnoticed()
    assert len(caplog.records) == 1


def test_what_begins_anew_in_a_child_is_kept_no_longer_than_it_lives() -> None:
    class Thing:
        def __init__(self) -> None:
            self.lock = forked.lock()
            forked.call_in_child(self.begin_anew)

        def begin_anew(self) -> None:
            pass

    gc.collect()
    before = len(forked._locks), len(forked._methods)
    things = [Thing() for _ in range(10)]
    assert (len(forked._locks), len(forked._methods)) == (before[0] + 10, before[1] + 10)
    del things
    gc.collect()
    assert (len(forked._locks), len(forked._methods)) == before
