"""The folder of videos, the data folder, and the database in it."""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final

from service.doctor.finding import Finding
from service.errors import why
from service.indexer import is_ignored
from service.probe import mime_type

LEAST_FREE_BYTES: Final = 200 * 1024 * 1024
"""Less than this and thumbnails and the database may soon have no room."""

_PROBE_BYTES: Final = 256 * 1024
_BUSY_TIMEOUT_S: Final = 3.0


def check_videos(folder: Path) -> Iterator[Finding]:
    """Look at the folder of videos: is it there, can all of it be read, are there videos in it."""
    subject, other = "videos folder", "or name another folder with --videos (LVS_VIDEOS)"
    try:
        kind = folder.stat().st_mode
    except FileNotFoundError:
        leads = " leads nowhere" if folder.is_symlink() else " does not exist"
        yield Finding(
            "problem", subject, f"'{folder}'{leads}.", f"Make it, {other}; 'serve --samples' fills it with clips."
        )
        return
    except (OSError, ValueError) as error:
        yield Finding("problem", subject, f"'{folder}' can't be reached: {why(error)}.", f"Correct it, {other}.")
        return
    if not stat.S_ISDIR(kind):
        yield Finding("problem", subject, f"'{folder}' is a file, not a folder.", f"Move the file away, {other}.")
        return
    unreadable: list[OSError] = []
    videos = 0
    for parent, inner, names in os.walk(folder, onerror=unreadable.append):
        inner[:] = [name for name in inner if not is_ignored(name)]
        videos += sum(1 for name in names if _may_be_video(name) and not Path(parent, name).is_symlink())
    if unreadable:
        first = unreadable[0].filename
        which = f"'{folder}'" if Path(first) == folder else f"'{first}' in it"
        more = "" if len(unreadable) == 1 else f", nor can {len(unreadable) - 1} more"
        remedy = "Give the user who runs the server the right to read and enter it: chmod -R u+rX, or chown."
        yield Finding("problem", subject, f"{which} can't be read: {why(unreadable[0])}{more}.", remedy)
    elif not videos:
        remedy = f"Copy videos into it, {other}; 'serve --samples' makes a few clips there."
        yield Finding("problem", subject, f"'{folder}' has no video in it.", remedy)
    else:
        yield Finding("ok", subject, f"'{folder}' has {videos:,} video file{'' if videos == 1 else 's'}.")


def _may_be_video(name: str) -> bool:
    return mime_type(name) is not None and not is_ignored(name)


def check_data(folder: Path) -> Iterator[Finding]:
    """Look whether the data folder, or the nearest one above that is there, can be written and has room."""
    subject, other = "data folder", "or name another folder with --data (LVS_DATA)"
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        yield Finding("problem", subject, f"'{existing}' is a file, not a folder.", f"Move the file away, {other}.")
        return
    made = "" if existing == folder else " (to be made at the first start)"
    try:
        _write_probe(existing)
        free = shutil.disk_usage(existing).free
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            yield _full(folder, "there is no room left", other)
        else:
            remedy = f"Give the user who runs the server the right to write there, {other}."
            yield Finding("problem", subject, f"'{existing}' can't be written: {why(error)}.", remedy)
        return
    if free < LEAST_FREE_BYTES:
        yield _full(folder, f"{free / 1e6:,.0f} MB are left", other)
    else:
        yield Finding("ok", subject, f"'{folder}'{made} can be written, {free / 1e9:,.1f} GB are free.")


def _full(folder: Path, how: str, other: str) -> Finding:
    remedy = f"Delete what is not needed on that disk, {other}. Thumbnails can be deleted, they are made again."
    return Finding("problem", "data folder", f"the disk of '{folder}' is full: {how}.", remedy)


def _write_probe(folder: Path) -> None:
    """Write a file as SQLite would, to the disk, and take it away again."""
    path = folder / f".doctor-{secrets.token_hex(8)}"
    try:
        with path.open("xb", buffering=0) as file:
            file.write(b"\0" * _PROBE_BYTES)
            os.fsync(file.fileno())
            if file.tell() < _PROBE_BYTES:
                raise OSError(ENOSPC, os.strerror(ENOSPC))
    finally:
        path.unlink(missing_ok=True)


def check_database(path: Path) -> Iterator[Finding]:
    """Look whether the database is sound and of a version that this program knows."""
    from service.db import MIGRATIONS

    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        yield Finding("ok", "database", "there is none yet; the first start makes it.")
        return
    except OSError as error:
        remedy = "Give the user who runs the server the right to read and write it."
        yield Finding("problem", "database", f"'{path}' can't be read: {why(error)}.", remedy)
        return
    if head and head != b"SQLite format 3\0":
        yield _corrupt(path, "it is no SQLite database")
        return
    try:
        version, complaint = _read_database(path)
    except sqlite3.OperationalError as error:
        yield Finding(
            "problem", "database", f"'{path}' can't be opened: {error}.", "Stop what else uses it and look again."
        )
        return
    except sqlite3.DatabaseError as error:
        yield _corrupt(path, str(error))
        return
    if complaint != "ok":
        yield _corrupt(path, complaint)
    elif version > len(MIGRATIONS):
        text = f"'{path}' is newer than this program: it has schema {version}, this program knows {len(MIGRATIONS)}."
        remedy = "Use the program that wrote it, or another data folder with --data (LVS_DATA)."
        yield Finding("problem", "database", text, remedy)
    elif not _is_writable(path):
        remedy = "Give the user who runs the server the right to write it, or name another data folder with --data (LVS_DATA)."
        yield Finding("problem", "database", f"'{path}' is sound, but can't be written.", remedy)
    else:
        older = "" if version == len(MIGRATIONS) else "; the next start brings it up to date"
        yield Finding("ok", "database", f"'{path}' is sound, schema {version}{older}.")


def _is_writable(path: Path) -> bool:
    try:
        path.open("r+b").close()
    except OSError:
        return False
    return True


def _read_database(path: Path) -> tuple[int, str]:
    """Return the schema's version and what SQLite finds wrong, `ok` if nothing."""
    uri = path.as_uri() + "?mode=ro"
    try:
        return _checked(uri)
    except sqlite3.OperationalError:
        # A folder that can't be written has no room for the files that WAL wants beside the database.
        return _checked(uri + "&immutable=1")


def _checked(uri: str) -> tuple[int, str]:
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        return version, str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    finally:
        connection.close()


def _corrupt(path: Path, why: str) -> Finding:
    remedy = (
        "Stop the server and put a backup in its place, or move the file away with its -wal and -shm: the videos are "
        f"indexed anew, but ratings and tags are in it alone. sqlite3 '{path.name}' .recover may get them out."
    )
    return Finding("problem", "database", f"'{path}' is corrupt: {' '.join(why.split())}.", remedy)
