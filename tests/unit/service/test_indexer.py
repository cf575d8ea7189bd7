from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from service.indexer import Indexer
from service.probe import MediaInfo, ProbeError, media_hash, probe
from service.thumbnails import Thumbnails


class CountingProbe:
    def __init__(self):
        self.paths = []

    def __call__(self, path):
        self.paths.append(path.name)
        return probe(path)


@pytest.fixture
def folder(tmp_path, clips):
    folder = tmp_path / "videos"
    (folder / "inner").mkdir(parents=True)
    shutil.copy(clips / "red.mp4", folder / "red.mp4")
    shutil.copy(clips / "blue.webm", folder / "inner" / "100% blü & #1?.webm")
    return folder


@pytest.fixture
def prober():
    return CountingProbe()


@pytest.fixture
def thumbnails(tmp_path):
    return Thumbnails(tmp_path / "data" / "thumbs", 80)


@pytest.fixture
def indexer(database, folder, thumbnails, prober):
    return Indexer(database, folder, thumbnails, prober=prober, clock=lambda: 1000.0)


@pytest.fixture
def paths(database, query):
    return lambda: [
        row[0] for row in query(database, "SELECT path FROM files WHERE media_hash IS NOT NULL ORDER BY path")
    ]


@pytest.fixture
def problems(database, query):
    return lambda: dict(query(database, "SELECT path, reason FROM files WHERE reason IS NOT NULL"))


def test_videos_are_found_in_all_folders_whatever_their_names(indexer, paths, database, query, thumbnails):
    result = indexer.scan()
    assert (result.files, result.examined) == (2, 2)
    assert paths() == ["inner/100% blü & #1?.webm", "red.mp4"]
    rows = query(database, "SELECT m.media_hash, m.width, m.added_at FROM media AS m ORDER BY m.duration_s")
    assert [(row[1], row[2]) for row in rows] == [(160, 1000.0), (160, 1000.0)]
    assert all(thumbnails.path(row[0]).exists() for row in rows)


def test_a_second_look_opens_only_what_has_changed(indexer, prober, folder, clips):
    indexer.scan()
    assert indexer.scan().examined == 0
    shutil.copy(clips / "green.mkv", folder / "red.mp4")
    assert indexer.scan().examined == 1
    assert sorted(prober.paths) == ["100% blü & #1?.webm", "red.mp4", "red.mp4"]


def test_a_renamed_file_keeps_its_hash_and_is_not_probed_again(indexer, prober, folder, paths, database, query):
    indexer.scan()
    before = query(database, "SELECT media_hash FROM files WHERE path = 'red.mp4'")
    (folder / "red.mp4").rename(folder / "inner" / "crimson.mp4")
    result = indexer.scan()
    assert (result.examined, result.gone) == (1, 1)
    assert paths() == ["inner/100% blü & #1?.webm", "inner/crimson.mp4"]
    assert query(database, "SELECT media_hash FROM files WHERE path = 'inner/crimson.mp4'") == before
    assert len(prober.paths) == 2


def test_a_removed_file_leaves_the_list_and_its_ratings_wait_for_it(indexer, folder, clips, paths, database, query):
    indexer.scan()
    content = media_hash(folder / "red.mp4")
    with database.connection() as connection, connection:
        connection.execute("INSERT INTO ratings VALUES (?, 'user', 5, 0)", (content,))
    (folder / "red.mp4").unlink()
    indexer.scan()
    assert paths() == ["inner/100% blü & #1?.webm"]
    shutil.copy(clips / "red.mp4", folder / "back.mp4")
    indexer.scan()
    joined = "SELECT r.value FROM files AS f JOIN ratings AS r ON r.media_hash = f.media_hash WHERE f.path = 'back.mp4'"
    assert query(database, joined) == [(5,)]


def test_two_files_with_the_same_content_are_both_listed(indexer, folder, paths):
    shutil.copy(folder / "red.mp4", folder / "copy.mp4")
    indexer.scan()
    assert {"copy.mp4", "red.mp4"} <= set(paths())


def test_files_that_are_no_videos_are_kept_with_their_reason_and_told_once(indexer, folder, problems, caplog):
    (folder / "broken.mp4").write_bytes(b"this is no video" * 100)
    (folder / "notes.txt").write_text("notes")
    (folder / "plain").write_text("plain")
    with caplog.at_level(logging.INFO, "service"):
        indexer.scan()
        os.utime(folder / "broken.mp4", (5, 5))
        indexer.scan()
    assert problems() == {
        "broken.mp4": "not readable as a video: Invalid data found when processing input",
        "notes.txt": "not a video file (.txt)",
        "plain": "not a video file (no extension)",
    }
    assert caplog.text.count("broken.mp4 is left out") == 1
    assert caplog.text.count("notes.txt is left out") == 1


def test_after_a_death_over_a_file_each_is_tried_by_itself_before_it_is_read(
    database, folder, thumbnails, prober, paths, problems, caplog
):
    tried = []

    def try_alone(path, width_px):
        tried.append((path.name, width_px))
        return "Aborted" if path.name == "red.mp4" else None

    indexer = Indexer(database, folder, thumbnails, prober=prober, try_alone=try_alone)
    left = database.path.parent / "being-read"
    left.mkdir()
    (left / "4711-1").write_bytes(b"/videos/red.mp4")
    indexer.scan()
    assert sorted(tried) == [("100% blü & #1?.webm", 80), ("red.mp4", 80)]
    assert (paths(), prober.paths) == (["inner/100% blü & #1?.webm"], ["100% blü & #1?.webm"])
    assert problems() == {"red.mp4": "reading it kills the process that does: Aborted"}
    assert "a process ended while it was reading /videos/red.mp4" in caplog.text
    (folder / "inner" / "100% blü & #1?.webm").rename(folder / "again.webm")
    indexer.scan()
    assert tried[2:] == [("again.webm", 80)], "such files seldom come alone"


def test_a_file_that_ffmpeg_can_not_read_for_the_disk_is_looked_at_again(
    indexer, folder, prober, paths, problems, monkeypatch
):
    def fail(*_):
        raise ProbeError("not readable as a video: Invalid data found")

    def is_away(path):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as away:
        away.setattr(indexer, "_probe", fail)
        away.setattr("service.indexer.read_ends", is_away)
        indexer.scan()
    assert set(problems().values()) == {"can't be read: Input/output error"}
    indexer.scan()
    assert (len(paths()), problems()) == (2, {})


def test_a_broken_file_that_becomes_whole_is_listed(indexer, folder, clips, paths, problems):
    (folder / "late.mkv").write_bytes((clips / "green.mkv").read_bytes()[:500])
    indexer.scan()
    assert "late.mkv" in problems()
    shutil.copy(clips / "green.mkv", folder / "late.mkv")
    indexer.scan()
    assert "late.mkv" in paths()
    assert problems() == {}


def test_hidden_and_temporary_files_are_left_out(indexer, folder, clips, paths, problems):
    (folder / ".trash").mkdir()
    shutil.copy(clips / "red.mp4", folder / ".trash" / "a.mp4")
    for name in (".hidden.mp4", "a.mp4.part", "b.mp4.crdownload", "c.mp4~", "~$d.mp4"):
        shutil.copy(clips / "red.mp4", folder / name)
    indexer.scan()
    assert paths() == ["inner/100% blü & #1?.webm", "red.mp4"]
    assert problems() == {}


def test_links_that_lead_to_no_file_in_the_folder_are_left_out_and_told(
    indexer, folder, clips, paths, problems, tmp_path, caplog
):
    shutil.copy(clips / "red.mp4", tmp_path / "outside.mp4")
    (folder / "out.mp4").symlink_to(tmp_path / "outside.mp4")
    (folder / "up").symlink_to(tmp_path)
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "inside.mp4").symlink_to(folder / "red.mp4")
    indexer.scan()
    assert paths() == ["inner/100% blü & #1?.webm", "inside.mp4", "red.mp4"]
    assert problems() == dict.fromkeys(("out.mp4", "up", "dangling.mp4"), "a link that leads to no file in the folder")
    assert "out.mp4 is left out: a link that leads to no file in the folder" in caplog.text
    (folder / "out.mp4").unlink()
    shutil.copy(clips / "red.mp4", folder / "out.mp4")
    indexer.scan()
    assert "out.mp4" in paths()


def test_a_name_that_no_address_can_carry_is_left_out_and_told_once(indexer, folder, clips, paths, problems, caplog):
    shutil.copy(clips / "red.mp4", folder / os.fsdecode(b"bad\xff.mp4"))
    shutil.copy(clips / "red.mp4", folder / "back\\slash.mp4")
    shutil.copy(clips / "red.mp4", folder / "two\nlines.mp4")
    (folder / "control\x9b").mkdir()
    indexer.scan()
    assert indexer.scan().examined == 0
    assert len(paths()) == 2
    assert problems() == dict.fromkeys(
        ("bad\\udcff.mp4", "back\\slash.mp4", "two\\nlines.mp4", "control\\x9b"),
        "its name can't be part of a portable address",
    )
    assert caplog.text.count("its name can't be part of a portable address") == 4
    (folder / os.fsdecode(b"bad\xff.mp4")).unlink()
    assert indexer.scan().gone == 1


def test_a_folder_that_cannot_be_read_keeps_its_videos_and_is_told(indexer, folder, paths, problems, monkeypatch):
    indexer.scan()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refuse)
        assert indexer.scan().gone == 0
        assert "inner/100% blü & #1?.webm" in paths()
        assert problems() == {"inner/": "a folder that can't be read: Permission denied"}
    indexer.scan()
    assert "inner/100% blü & #1?.webm" in paths()
    assert problems() == {}


def test_videos_that_cannot_be_looked_at_stay_and_are_told(indexer, folder, paths, problems, monkeypatch):
    indexer.scan()
    stat = Path.stat

    def refuse(path, **options):
        if path.suffix in {".webm", ".mp4"}:
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", refuse)
        assert indexer.scan().gone == 0
        assert len(paths()) == 2
        assert problems() == {"inner/": "a folder whose files can't be looked at: Permission denied"}
    indexer.scan()
    assert (len(paths()), problems()) == (2, {})


def test_a_video_that_could_not_be_read_is_listed_as_soon_as_it_can(indexer, paths, problems, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError(13, "Permission denied") if path.name == "red.mp4" else FileNotFoundError

    with monkeypatch.context() as patched:
        patched.setattr("service.indexer.media_hash", refuse)
        changes = []
        patched.setattr("service.indexer._bump_all", changes.append)
        found = [indexer.scan() for _ in range(3)]
        assert [(each.examined, each.changed) for each in found] == [(1, 1), (1, 0), (1, 0)]
        assert problems() == {"red.mp4": "can't be read: Permission denied"}
        assert len(changes) == 1, "nothing new was found by the later looks"
        assert caplog.text.count("red.mp4 is left out") == 1
    indexer.scan()
    assert "red.mp4" in paths()
    assert problems() == {}


def test_when_the_whole_folder_is_away_the_index_stays(indexer, folder, paths):
    indexer.scan()
    folder.rename(folder.with_name("away"))
    with pytest.raises(FileNotFoundError):
        indexer.scan()
    assert len(paths()) == 2


def test_the_servers_own_data_inside_the_folder_is_no_part_of_the_library(database, folder, paths, problems):
    indexer = Indexer(database, folder, Thumbnails(folder / "data" / "thumbs", 80))
    indexer.scan()
    indexer.scan()
    assert len(paths()) == 2
    assert problems() == {}


def test_a_lost_thumbnail_is_made_again(indexer, thumbnails, folder):
    indexer.scan()
    path = thumbnails.path(media_hash(folder / "red.mp4"))
    path.unlink()
    assert indexer.scan().examined == 1
    assert path.exists()


def test_a_prober_that_fails_in_an_unknown_way_costs_that_file_alone(
    database, folder, thumbnails, paths, problems, caplog
):
    def prober(path):
        if path.name == "red.mp4":
            raise RuntimeError("out of luck")
        return MediaInfo(1.0, 160, 90, "vp9", "webm", "A title of its own")

    Indexer(database, folder, thumbnails, prober=prober).scan()
    assert paths() == ["inner/100% blü & #1?.webm"]
    assert problems() == {"red.mp4": "can't be examined: RuntimeError"}
    assert "out of luck" in caplog.text


def test_a_file_of_a_far_date_is_listed_like_any_other_and_opened_once(indexer, folder, paths):
    year_2300_s = 10_413_792_000
    os.utime(folder / "red.mp4", (year_2300_s, year_2300_s))
    indexer.scan()
    assert paths() == ["inner/100% blü & #1?.webm", "red.mp4"]
    assert indexer.scan().examined == 0


def test_a_video_whose_facts_the_index_cannot_take_costs_that_file_alone(database, folder, thumbnails, paths, problems):
    def prober(path):
        return MediaInfo(1.0, 2**63 if path.name == "red.mp4" else 160, 90, "vp9", "webm", None)

    Indexer(database, folder, thumbnails, prober=prober).scan()
    assert paths() == ["inner/100% blü & #1?.webm"]
    assert problems() == {"red.mp4": "can't be kept in the index: Python int too large to convert to SQLite INTEGER"}


def test_a_title_in_the_container_wins_over_the_name(database, folder, thumbnails, query):
    Indexer(database, folder, thumbnails, prober=lambda _: MediaInfo(1.0, 1, 1, "x", "y", "Its own title")).scan()
    assert query(database, "SELECT DISTINCT title FROM files") == [("Its own title",)]


def test_a_stop_ends_the_look_early(database, folder, thumbnails, paths):
    stop = threading.Event()

    def prober(path):
        stop.set()
        raise ProbeError("no")

    assert Indexer(database, folder, thumbnails, prober=prober, threads=1).scan(stop).examined == 1
    assert paths() == []


def test_a_look_that_cannot_be_written_down_leaves_no_thread_behind(indexer, folder, database):
    for number in range(200):
        (folder / f"{number} {'x' * 200}.txt").touch()
    with database.connection() as connection:  # the one that the look gets; the file may not grow, as on a full disk
        connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        indexer.scan()
    assert [thread for thread in threading.enumerate() if thread.name == "library-probe"] == []


def test_results_do_not_pile_up_where_the_database_is_slow(database, folder, thumbnails, prober, monkeypatch):
    for number in range(200):
        (folder / f"{number}.txt").touch()
    examined, too_many = [], threading.Event()
    indexer = Indexer(database, folder, thumbnails, prober=prober, threads=2)
    examine, write = indexer._examine, indexer._write

    def count(file, contents):
        examined.append(file)
        if len(examined) > 25 + 25 + 2:  # those being written, those that wait, and one of each thread
            too_many.set()
        return examine(file, contents)

    def write_slowly(*given):
        assert not too_many.wait(0.3)
        monkeypatch.setattr(indexer, "_write", write)  # the first time alone
        write(*given)

    monkeypatch.setattr(indexer, "_examine", count)
    monkeypatch.setattr(indexer, "_write", write_slowly)
    assert indexer.scan().examined == 202


def test_every_change_of_the_index_moves_the_counters(indexer, folder, database, query):
    def counters():
        return dict(query(database, "SELECT kind, value FROM changes"))

    before = counters()
    indexer.scan()
    after = counters()
    assert all(after[kind] > before[kind] for kind in before)
    indexer.scan()
    assert counters() == after
    (folder / "red.mp4").unlink()
    indexer.scan()
    assert all(value > after[kind] for kind, value in counters().items())
