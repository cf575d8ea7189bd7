from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

from service.indexer import ScanResult
from service.watcher import Watcher

PATIENCE_S = 20


class FakeIndexer:
    """Counts looks, and lets a test wait for the next one."""

    def __init__(self, error=None, videos=None):
        self.scans = 0
        self.error = error
        self.videos = videos
        self._changed = threading.Condition()

    def scan(self, stop=None):
        with self._changed:
            self.scans += 1
            self._changed.notify_all()
        if self.error:
            raise self.error
        folders = os.walk(self.videos) if self.videos else ()
        return ScanResult(folders=frozenset(folder for folder, _, _ in folders))

    def wait_until_quiet(self):
        """Return how many looks there were once none has come for half a second: the notices are on."""
        seen = self.wait_for(2)
        with self._changed:
            while self._changed.wait_for(lambda seen=seen: self.scans > seen, 0.5):
                seen = self.scans
        return seen

    def wait_for(self, number):
        with self._changed:
            assert self._changed.wait_for(lambda: self.scans >= number, PATIENCE_S), f"{self.scans} looks, not {number}"
            return self.scans


@pytest.fixture
def make_watcher(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "data").mkdir()
    made = []

    def make(indexer, videos=tmp_path / "videos", **options):
        options = {"interval_s": 3600, "tick_s": 0.1, **options}
        watcher = Watcher(indexer, videos, tmp_path / "data", **options)
        made.append(watcher)
        watcher.start()
        return watcher

    yield make
    for watcher in made:
        watcher.close()


def test_it_looks_at_the_start_and_once_more_when_the_notices_are_on(make_watcher):
    indexer = FakeIndexer()
    make_watcher(indexer)
    assert indexer.wait_for(2) == 2


def test_a_new_file_is_noticed_also_in_a_folder_that_is_new_or_came_again(make_watcher, tmp_path):
    videos = tmp_path / "videos"
    indexer = FakeIndexer(videos=videos)
    make_watcher(indexer)
    for folder in (videos, videos / "new", videos / "new" / "deep"):
        folder.mkdir(exist_ok=True)
        seen = indexer.wait_until_quiet()
        (folder / "new.mp4").write_bytes(b"x")
        indexer.wait_for(seen + 1)
    shutil.rmtree(videos / "new")
    (videos / "new").mkdir()
    seen = indexer.wait_until_quiet()
    (videos / "new" / "new.mp4").write_bytes(b"x")
    indexer.wait_for(seen + 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is watched, and has names that aren't UTF-8")
def test_links_that_lead_out_are_not_watched_and_a_name_that_is_not_utf8_is_a_change_like_any_other(
    make_watcher, tmp_path, caplog
):
    videos = tmp_path / "videos"
    (videos / "inner").mkdir()
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (videos / "up").symlink_to(tmp_path)
    indexer = FakeIndexer(videos=videos)
    make_watcher(indexer)
    seen = indexer.wait_until_quiet()
    assert watched() == 2
    (videos / os.fsdecode(b"bad\xff.mp4")).write_bytes(b"x")
    indexer.wait_for(seen + 1)
    seen = indexer.wait_until_quiet()
    (videos / "good.mp4").write_bytes(b"x")
    indexer.wait_for(seen + 1)
    assert caplog.text == ""


def watched():
    """Return how many folders this process has the notices of."""
    files = [path for path in Path("/proc/self/fd").iterdir() if "inotify" in str(path.resolve())]
    return sum(Path("/proc/self/fdinfo", path.name).read_text().count("inotify wd") for path in files)


def test_a_look_can_be_asked_for_from_another_worker(make_watcher):
    indexer, other = FakeIndexer(), FakeIndexer()
    make_watcher(indexer)
    seen = indexer.wait_for(2)
    make_watcher(other).request_scan()
    indexer.wait_for(seen + 1)
    assert other.scans == 0


def test_without_notices_it_looks_after_the_interval(make_watcher):
    indexer = FakeIndexer()
    make_watcher(indexer, interval_s=0.2)
    indexer.wait_for(5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that aren't UTF-8")
def test_a_folder_whose_own_name_is_not_utf8_is_looked_at_after_the_interval(make_watcher, tmp_path, caplog):
    videos = tmp_path / os.fsdecode(b"bad\xff")
    videos.mkdir()
    indexer = FakeIndexer(videos=videos)
    make_watcher(indexer, videos, interval_s=0.2)
    indexer.wait_for(5)
    assert caplog.text == ""


def test_of_two_workers_one_keeps_the_index_and_the_other_takes_over(make_watcher):
    first, second = FakeIndexer(), FakeIndexer()
    keeper = make_watcher(first)
    first.wait_for(1)
    waiting = make_watcher(second)
    assert keeper.is_indexing()
    assert second.scans == 0
    keeper.close()
    second.wait_for(1)
    assert waiting.is_indexing()


def test_a_look_that_fails_is_told_once_and_tried_again(make_watcher, caplog):
    indexer = FakeIndexer(OSError("the disk is away"))
    with caplog.at_level(logging.WARNING):
        make_watcher(indexer)
        indexer.wait_for(4)
    assert caplog.text.count("the disk is away") == 1


def test_a_look_that_finds_nothing_new_is_not_told(make_watcher, caplog):
    class Unreadable(FakeIndexer):
        def scan(self, stop=None):
            super().scan(stop)
            return ScanResult(files=3, examined=1, changed=1 if self.scans == 1 else 0)

    indexer = Unreadable()
    with caplog.at_level(logging.INFO):
        watcher = make_watcher(indexer)
        indexer.wait_for(2)
        watcher.request_scan()
        indexer.wait_for(3)
        watcher.close()
    assert caplog.text.count("library: 3 files, 1 examined, 0 gone") == 1


def test_after_each_look_that_fails_it_waits_longer_unless_a_look_is_asked_for(make_watcher):
    indexer = FakeIndexer(OSError("the disk is full"))
    started = time.monotonic()
    watcher = make_watcher(indexer, tick_s=0.05)
    indexer.wait_for(5)
    waited = time.monotonic()
    assert waited - started >= (2 + 4 + 8 + 16) * 0.05
    watcher.request_scan()
    indexer.wait_for(6)
    assert time.monotonic() - waited < 32 * 0.05


def test_closing_twice_or_before_the_start_is_fine(tmp_path):
    (tmp_path / "data").mkdir()
    watcher = Watcher(FakeIndexer(), tmp_path, tmp_path / "data")
    watcher.close()
    watcher.close()
    assert not watcher.is_indexing()
