"""Ratings: 1 to 5, one a user and content, averaged over all users."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from service.db import bump
from service.errors import BadParameterError

MUST_BE = "a whole number from 1 to 5"


@dataclass(frozen=True, slots=True)
class Rating:
    """What all users say: the average (0.0 without ratings) and how many."""

    average: float = 0.0
    count: int = 0


def check_value(parameter: str, value: object) -> int:
    """Return `value` as a rating; 4.0 is the same number as 4 in JSON. Raises `BadParameterError`: `true` and `"4"` are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in (1, 2, 3, 4, 5):
        raise BadParameterError(parameter, MUST_BE, value)
    return int(value)


def read_ratings(connection: sqlite3.Connection, hashes: Sequence[str]) -> dict[str, Rating]:
    """Return the rating of every one of `hashes`, in one query."""
    where = f"WHERE media_hash IN ({', '.join('?' * len(hashes))})"
    rows = connection.execute(
        f"SELECT media_hash, AVG(value), COUNT(*) FROM ratings {where} GROUP BY media_hash",  # noqa: S608
        tuple(hashes),
    )
    found = {row[0]: Rating(round(row[1], 2), row[2]) for row in rows}
    return {media_hash: found.get(media_hash, Rating()) for media_hash in hashes}


def read_own(connection: sqlite3.Connection, media_hash: str, user_id: str) -> int | None:
    """Return what this user has rated, or None."""
    row = connection.execute(
        "SELECT value FROM ratings WHERE media_hash = ? AND user_id = ?", (media_hash, user_id)
    ).fetchone()
    return None if row is None else int(row[0])


def write_rating(connection: sqlite3.Connection, media_hash: str, user_id: str, value: int) -> int:
    """Set this user's rating and commit; return the change counter of `ratings`."""
    with connection:
        connection.execute(
            "INSERT INTO ratings (media_hash, user_id, value, rated_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (media_hash, user_id) DO UPDATE SET value = excluded.value, rated_at = excluded.rated_at",
            (media_hash, user_id, value, time.time()),
        )
        return bump(connection, "ratings")
