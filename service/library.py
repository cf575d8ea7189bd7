"""Reading the index: pages of videos, one video, what is like it, and the files that are no videos.

Every method is a fixed number of queries, whatever the number of videos. Rows come back as `Video`; ratings and tags
of a page are read for all of its videos together (service/ratings.py, service/tags.py).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS = (
    "f.path, f.folder, f.title, f.size_bytes, f.mtime_ns, f.media_hash,"
    " m.duration_s, m.width, m.height, m.codec, m.container, m.added_at"
)
_FROM = "FROM files AS f JOIN media AS m ON m.media_hash = f.media_hash"
_RATED = (
    "LEFT JOIN (SELECT media_hash, AVG(value) AS average FROM ratings GROUP BY media_hash) AS r"
    " ON r.media_hash = f.media_hash"
)

# Name in the address -> (label, ORDER BY).
SORTS = {
    "new": ("Newest", "m.added_at DESC, f.title_fold, f.path"),
    "title": ("Title", "f.title_fold, f.path"),
    "rating": ("Best rated", "COALESCE(r.average, 0) DESC, f.title_fold, f.path"),
    "longest": ("Longest", "m.duration_s DESC, f.title_fold, f.path"),
    "shortest": ("Shortest", "m.duration_s = 0, m.duration_s, f.title_fold, f.path"),
    "size": ("Largest", "f.size_bytes DESC, f.title_fold, f.path"),
}
DEFAULT_SORT = "new"


@dataclass(frozen=True, slots=True)
class Video:
    """One video file. Two files with the same content share `media_hash`, and so their rating, tags and thumbnail."""

    path: str
    folder: str
    title: str
    size_bytes: int
    mtime_ns: int
    media_hash: str
    duration_s: float
    width: int
    height: int
    codec: str
    container: str
    added_at: float


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of videos, and how many there are in all."""

    videos: tuple[Video, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Problem:
    """A file in the folder that is no video, and why."""

    path: str
    size_bytes: int
    reason: str


def videos_of(rows: Sequence[sqlite3.Row]) -> tuple[Video, ...]:
    return tuple(Video(*row) for row in rows)


def list_videos(connection: sqlite3.Connection, sort: str, limit: int, offset: int, tag: str | None = None) -> Listing:
    """Return a page of all videos, or of those with `tag`. `sort` is a key of `SORTS`."""
    where = ""
    values: tuple[str, ...] = ()
    if tag is not None:
        where, values = "JOIN tags AS t ON t.media_hash = f.media_hash AND t.tag = ?", (tag,)
    joined = f"{_FROM} {_RATED if sort == 'rating' else ''} {where}"
    total = int(connection.execute(f"SELECT COUNT(*) {_FROM} {where}", values).fetchone()[0])
    rows = connection.execute(
        f"SELECT {COLUMNS} {joined} ORDER BY {SORTS[sort][1]} LIMIT ? OFFSET ?",
        (*values, limit, offset),
    ).fetchall()
    return Listing(videos_of(rows), total)


def find_video(connection: sqlite3.Connection, path: str) -> Video | None:
    """Return the video at `path` inside the folder, or None if the index knows none there."""
    row = connection.execute(f"SELECT {COLUMNS} {_FROM} WHERE f.path = ?", (path,)).fetchone()
    return None if row is None else Video(*row)


def is_known(connection: sqlite3.Connection, media_hash: str) -> bool:
    """Say whether a file with this content is in the folder now."""
    return connection.execute("SELECT 1 FROM files WHERE media_hash = ?", (media_hash,)).fetchone() is not None


def related_videos(connection: sqlite3.Connection, video: Video, limit: int = 8) -> tuple[Video, ...]:
    """Return other videos, by tags in common, then of the same folder, of the same top folder, of a like length."""
    rows = connection.execute(
        f"""WITH shared AS (
            SELECT media_hash, COUNT(*) AS number FROM tags
            WHERE tag IN (SELECT tag FROM tags WHERE media_hash = :media_hash) GROUP BY media_hash
        )
        SELECT {COLUMNS} {_FROM} LEFT JOIN shared AS s ON s.media_hash = f.media_hash
        WHERE f.media_hash <> :media_hash
        ORDER BY COALESCE(s.number, 0) DESC, f.folder = :folder DESC,
            instr(f.folder || '/', :top) = 1 DESC, ABS(m.duration_s - :duration_s), f.path
        LIMIT :limit""",  # noqa: S608
        {
            "media_hash": video.media_hash,
            "folder": video.folder,
            "top": video.folder.split("/")[0] + "/",
            "duration_s": video.duration_s,
            "limit": limit,
        },
    ).fetchall()
    return videos_of(rows)


def list_problems(connection: sqlite3.Connection, limit: int = 500) -> tuple[list[Problem], int]:
    """Return the files that are no videos, broken ones first, at most `limit`, and how many there are."""
    total = connection.execute("SELECT COUNT(*) FROM files WHERE reason IS NOT NULL").fetchone()[0]
    rows = connection.execute(
        "SELECT path, size_bytes, reason FROM files WHERE reason IS NOT NULL"
        " ORDER BY reason LIKE 'not a video file%', path LIMIT ?",
        (limit,),
    ).fetchall()
    return [Problem(*row) for row in rows], int(total)


def totals(connection: sqlite3.Connection) -> tuple[int, float, int]:
    """Return how many videos there are, their length in seconds together, and their bytes."""
    row = connection.execute(
        f"SELECT COUNT(*), COALESCE(SUM(m.duration_s), 0), COALESCE(SUM(f.size_bytes), 0) {_FROM}"
    ).fetchone()
    return int(row[0]), float(row[1]), int(row[2])
