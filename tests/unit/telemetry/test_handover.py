"""What workers that end write down for the others."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from telemetry import handover
from telemetry.handover import Handover


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.left"


def test_each_adds_to_what_was_there(path: Path) -> None:
    shared = Handover(path)
    assert (shared.exists(), shared.read()) == (False, None)
    barrier = threading.Barrier(8)

    def add(number: int) -> None:
        barrier.wait()
        Handover(path).replace(lambda before: (before or b"") + bytes([number]))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert (shared.exists(), sorted(shared.read() or b"")) == (True, list(range(8)))
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_fails_in_the_middle_leaves_what_was_there(path: Path) -> None:
    shared = Handover(path)
    shared.replace(lambda _: b"before")
    with pytest.raises(ZeroDivisionError):
        shared.replace(lambda _: bytes(1 // 0))
    assert shared.read() == b"before"
    shared.replace(lambda before: (before or b"") + b" and after")
    assert shared.read() == b"before and after"


def test_one_that_ends_does_not_wait_for_ever_for_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "PATIENCE_S", 0.05)
    descriptor = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(TimeoutError, match=r"another process has kept .* locked for 0\.05 s"):
        Handover(path).replace(lambda _: b"never")
    os.close(descriptor)
    Handover(path).replace(lambda _: b"now")
    assert Handover(path).read() == b"now"


def test_what_was_handed_over_under_an_earlier_server_is_forgotten(path: Path) -> None:
    shared, now = Handover(path), time.time()
    shared.forget_before(lambda: now)
    shared.replace(lambda _: b"figures")
    shared.forget_before(lambda: now - 60)
    assert shared.read() == b"figures"
    shared.forget_before(lambda: now + 60)
    assert not shared.exists()
