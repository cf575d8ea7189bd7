"""What the doctor says of the folders and the database, on real ones."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.db import MIGRATIONS, Database
from service.doctor import Finding, folders
from service.doctor.folders import check_data, check_database, check_videos

ROOT = Path(__file__).parents[4]


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


# -- videos -------------------------------------------------------------------------------------------------------------


def test_videos_are_counted_in_all_folders(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.mp4", "deep/b.mkv", "deep/readme.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert only(check_videos(tmp_path)) == Finding("ok", "videos folder", f"'{tmp_path}' has 2 video files.")


def test_files_that_the_library_does_not_look_at_are_not_counted(tmp_path):
    (tmp_path / ".trash").mkdir()
    for name in (".trash/old.mp4", "._a.mp4", "~$b.mp4"):  # macOS leaves ._ files on network shares
        (tmp_path / name).write_bytes(b"x")
    assert only(check_videos(tmp_path)).text == f"'{tmp_path}' has no video in it."
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert only(check_videos(tmp_path)).text == f"'{tmp_path}' has 1 video file."


def test_a_folder_that_is_not_there(tmp_path):
    found = only(check_videos(tmp_path / "none"))
    assert (found.level, found.text) == ("problem", f"'{tmp_path / 'none'}' does not exist.")
    assert "--videos" in found.remedy
    assert "--samples" in found.remedy


def test_a_link_that_leads_nowhere(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "none")
    assert only(check_videos(tmp_path / "link")).text.endswith("leads nowhere.")


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "videos").write_bytes(b"")
    assert "is a file, not a folder" in only(check_videos(tmp_path / "videos")).text
    assert "can't be reached" in only(check_videos(tmp_path / "videos" / "deep")).text


def test_an_empty_folder(tmp_path):
    (tmp_path / "readme.txt").write_bytes(b"")
    found = only(check_videos(tmp_path))
    assert (found.level, found.text) == ("problem", f"'{tmp_path}' has no video in it.")


@pytest.mark.skipif(sys.platform == "win32", reason="rights are of another kind there")
def test_a_folder_that_can_not_be_read(unprivileged):
    (unprivileged / "videos" / "private").mkdir(parents=True)
    (unprivileged / "videos" / "other").mkdir()
    (unprivileged / "videos" / "private").chmod(0)
    found = only(check_videos(unprivileged / "videos"))
    assert found.level == "problem"
    assert found.text == f"'{unprivileged / 'videos' / 'private'}' in it can't be read: permission denied."
    (unprivileged / "videos" / "other").chmod(0)
    assert only(check_videos(unprivileged / "videos")).text.endswith("permission denied, nor can 1 more.")
    (unprivileged / "videos").chmod(0)
    found = only(check_videos(unprivileged / "videos"))
    assert found.text == f"'{unprivileged / 'videos'}' can't be read: permission denied."
    assert "chmod" in found.remedy


# -- data ---------------------------------------------------------------------------------------------------------------


def test_a_data_folder_that_can_be_written_stays_as_it_was(tmp_path):
    found = only(check_data(tmp_path))
    assert found.level == "ok"
    assert f"'{tmp_path}' can be written" in found.text
    assert list(tmp_path.iterdir()) == []
    found = only(check_data(tmp_path / "var" / "data"))
    assert f"'{tmp_path / 'var' / 'data'}' (to be made at the first start) can be written" in found.text
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_data_folder(tmp_path):
    (tmp_path / "data").write_bytes(b"")
    assert "is a file, not a folder" in only(check_data(tmp_path / "data")).text


@pytest.mark.skipif(sys.platform == "win32", reason="rights are of another kind there")
def test_a_data_folder_that_is_read_only(unprivileged):
    (unprivileged / "data").mkdir()
    (unprivileged / "data").chmod(0o555)
    found = only(check_data(unprivileged / "data"))
    assert (found.level, found.text) == ("problem", f"'{unprivileged / 'data'}' can't be written: permission denied.")
    assert "--data" in found.remedy


def test_a_disk_with_little_room_is_full(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=12_000_000)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: usage)
    found = only(check_data(tmp_path))
    assert (found.level, found.text) == ("problem", f"the disk of '{tmp_path}' is full: 12 MB are left.")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_takes_no_more_is_full(code, tmp_path, monkeypatch):
    def full(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(folders.os, "fsync", full)
    assert only(check_data(tmp_path)).text == f"the disk of '{tmp_path}' is full: there is no room left."
    assert list(tmp_path.iterdir()) == []


def test_a_real_disk_that_is_full(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("no unshare to mount a small disk with")
    look = "from pathlib import Path; from service.doctor.folders import check_data; print(next(check_data(Path(r'{}'))).text)"
    done = subprocess.run(
        [
            *("unshare", "--map-root-user", "--mount", "sh", "-c"),
            'mount -t tmpfs -o size=64k none "$1" && "$2" -c "$3"',
            *("sh", tmp_path, sys.executable, look.format(tmp_path)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"small disks can't be mounted here: {done.stderr}")
    assert done.stdout == f"the disk of '{tmp_path}' is full: there is no room left.\n", done.stderr


# -- database -----------------------------------------------------------------------------------------------------------


def test_a_sound_database(tmp_path):
    path = tmp_path / "library.sqlite3"
    assert only(check_database(path)).text == "there is none yet; the first start makes it."
    Database(path).close()
    assert only(check_database(path)).text == f"'{path}' is sound, schema {len(MIGRATIONS)}."


def test_a_database_in_use_is_looked_at_all_the_same(tmp_path):
    path = tmp_path / "library 50%.sqlite3"
    database = Database(path)
    with database.connection() as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert only(check_database(path)).level == "ok"
        connection.rollback()
    database.close()


def test_an_older_database_is_fine(tmp_path):
    path = tmp_path / "library.sqlite3"
    path.write_bytes(b"")
    assert only(check_database(path)).text.endswith("is sound, schema 0; the next start brings it up to date.")


def test_a_file_that_is_no_database_is_corrupt(tmp_path):
    path = tmp_path / "library.sqlite3"
    path.write_bytes(b"nothing of the kind" * 100)
    found = only(check_database(path))
    assert (found.level, found.text) == ("problem", f"'{path}' is corrupt: it is no SQLite database.")
    assert "backup" in found.remedy


@pytest.mark.parametrize(("start", "length"), [(100, 800), (4096, 4096), (-4096, 4096), (8192, -1)])
def test_a_database_with_rubbish_in_it_or_cut_short_is_corrupt(start, length, tmp_path):
    path = tmp_path / "library.sqlite3"
    database = Database(path)
    with database.connection() as connection:
        connection.executemany(
            "INSERT INTO files VALUES (?, '', 1, 1, NULL, 'r', 't', 't', 't', 't')",
            [(str(n) * 50,) for n in range(500)],
        )
        connection.commit()
    database.close()
    content = bytearray(path.read_bytes())
    at = start % len(content)
    path.write_bytes(content[:at] + (b"\xa5" * length + content[at + length :] if length > 0 else b""))
    found = only(check_database(path))
    assert found.level == "problem"
    assert f"'{path}' is corrupt: " in found.text


def test_a_database_of_a_later_program_is_newer(tmp_path):
    path = tmp_path / "library.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    found = only(check_database(path))
    assert found.level == "problem"
    assert "is newer than this program: it has schema 99" in found.text
    assert "--data" in found.remedy


@pytest.mark.skipif(sys.platform == "win32", reason="rights are of another kind there")
def test_a_database_that_can_not_be_written_or_read_is_told(unprivileged):
    (unprivileged / "data").mkdir()
    path = unprivileged / "data" / "library.sqlite3"
    Database(path).close()
    (unprivileged / "data").chmod(0o555)
    assert only(check_database(path)).level == "ok"
    path.chmod(0o444)
    found = only(check_database(path))
    assert (found.level, found.text) == ("problem", f"'{path}' is sound, but can't be written.")
    assert "--data" in found.remedy
    path.chmod(0)
    found = only(check_database(path))
    assert (found.level, found.text) == ("problem", f"'{path}' can't be read: permission denied.")


def test_a_database_that_is_locked_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_BUSY_TIMEOUT_S", 0.01)
    path = tmp_path / "library.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 1")
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    found = only(check_database(path))
    connection.close()
    assert found.level in {"ok", "problem"}
    assert "corrupt" not in found.text
