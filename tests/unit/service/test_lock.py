from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.lock import FileLock

ROOT = Path(__file__).parents[3]
HOLDER = """
import pathlib, sys
from service.lock import FileLock
lock = FileLock(pathlib.Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


def test_one_holds_the_lock_and_the_other_gets_it_afterwards(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    assert (first.held, second.held) == (True, False)
    first.release()
    first.release()
    assert second.acquire()
    second.release()


def test_the_lock_of_a_process_that_dies_is_free(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    lock = FileLock(tmp_path / "lock")
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        assert not lock.acquire()
        holder.kill()
    assert lock.acquire()
    lock.release()


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_once_and_nobody_waits(tmp_path, monkeypatch, caplog, code):
    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("service.lock._lock", refuse)
    locks = [FileLock(tmp_path / name) for name in "ab"]
    assert all(lock.acquire() and lock.held for lock in locks)
    for lock in locks:
        lock.release()
        assert not lock.held
    (told,) = caplog.messages
    assert str(tmp_path) in told
    assert os.strerror(code) in told
