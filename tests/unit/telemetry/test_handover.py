"""What workers that end leave to the others."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from telemetry.handover import Handover


def joined(contents: Sequence[bytes]) -> bytes:
    return b"".join(sorted(b"".join(contents)[at : at + 1] for at in range(len(b"".join(contents)))))


def test_nothing_of_those_that_end_at_once_is_lost_and_one_file_remains(tmp_path: Path) -> None:
    assert (Handover(tmp_path, "shop").exists(), Handover(tmp_path, "shop").read()) == (False, [])
    barrier = threading.Barrier(8)

    def end(number: int) -> None:
        mine = Handover(tmp_path, "shop")
        barrier.wait()
        mine.add(f"shop-{number}.sock", bytes([65 + number]))
        mine.merge(joined)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, range(8)))
    shared = Handover(tmp_path, "shop")
    assert sorted(b"".join(shared.read())) == list(b"ABCDEFGH")
    shared.merge(joined)
    assert shared.read() == [b"ABCDEFGH"]
    (file,) = tmp_path.iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == ("shop.left", 0o600)


def test_of_an_app_of_another_name_nothing_is_read(tmp_path: Path) -> None:
    Handover(tmp_path, "shop").add("shop-1.sock", b"figures")
    assert not Handover(tmp_path, "cafe").exists()


def test_merging_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    shared = Handover(tmp_path, "shop")
    for number in range(2):
        shared.add(f"shop-{number}.sock", bytes([65 + number]))
    with pytest.raises(ZeroDivisionError):
        shared.merge(lambda _: bytes(1 // 0))
    assert shared.read() == [b"A", b"B"]


def test_one_that_ends_waits_for_nobody(tmp_path: Path) -> None:
    shared = Handover(tmp_path, "shop")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    for number in range(2):
        shared.add(f"shop-{number}.sock", bytes([65 + number]))
        shared.merge(joined)
    assert shared.read() == [b"A", b"B"]
    os.close(descriptor)
    shared.merge(joined)
    assert shared.read() == [b"AB"]


def test_what_was_handed_over_under_an_earlier_server_is_forgotten(tmp_path: Path) -> None:
    shared, now = Handover(tmp_path, "shop"), time.time()
    shared.add("shop-1.sock", b"figures")
    shared.forget_before(lambda: now - 60)
    assert shared.read() == [b"figures"]
    shared.forget_before(lambda: now + 60)
    assert not shared.exists()
