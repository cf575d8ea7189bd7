"""Tags: short words on a content, the same for every user."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from service.db import bump
from service.errors import BadParameterError
from service.text import fold, is_clean

MAX_TAG_CHARACTERS = 40
MAX_TAGS = 32
MUST_BE = f"1 to {MAX_TAG_CHARACTERS} printable characters without / or \\, other than dots"


def normalise(value: object) -> str:
    """Return the one spelling of a tag: folded, spaces collapsed, no leading `#`. Raises `BadParameterError`."""
    if not isinstance(value, str) or not is_clean(value) or len(value) > 4 * MAX_TAG_CHARACTERS:
        raise BadParameterError("tag", MUST_BE, value)
    tag = " ".join(fold(value).split()).lstrip("# ")
    if (
        not 0 < len(tag) <= MAX_TAG_CHARACTERS
        or "/" in tag
        or "\\" in tag
        or tag in {".", ".."}
        or not tag.isprintable()
    ):
        raise BadParameterError("tag", MUST_BE, value)
    return tag


def read_tags(connection: sqlite3.Connection, hashes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the tags of every one of `hashes`, sorted, in one query."""
    marks = ", ".join("?" * len(hashes))
    found: dict[str, list[str]] = {media_hash: [] for media_hash in hashes}
    for media_hash, tag in connection.execute(
        f"SELECT media_hash, tag FROM tags WHERE media_hash IN ({marks}) ORDER BY tag",  # noqa: S608
        tuple(hashes),
    ):
        found[media_hash].append(tag)
    return {media_hash: tuple(tags) for media_hash, tags in found.items()}


def popular_tags(connection: sqlite3.Connection, limit: int = 20) -> tuple[tuple[str, int], ...]:
    """Return the tags that most videos of the folder carry, with their numbers."""
    rows = connection.execute(
        "SELECT t.tag, COUNT(*) AS number FROM tags AS t JOIN files AS f ON f.media_hash = t.media_hash"
        " GROUP BY t.tag ORDER BY number DESC, t.tag LIMIT ?",
        (limit,),
    )
    return tuple((row[0], row[1]) for row in rows)


def add_tag(connection: sqlite3.Connection, media_hash: str, tag: str) -> int:
    """Add a normalised tag and commit; return the change counter of `tags`. Raises `BadParameterError` past
    `MAX_TAGS`.
    """
    with connection:
        connection.execute("INSERT OR IGNORE INTO tags (media_hash, tag) VALUES (?, ?)", (media_hash, tag))
        number = connection.execute("SELECT COUNT(*) FROM tags WHERE media_hash = ?", (media_hash,)).fetchone()[0]
        if number > MAX_TAGS:
            raise BadParameterError("tag", f"one of at most {MAX_TAGS} on a video", tag)
        return bump(connection, "tags")


def remove_tag(connection: sqlite3.Connection, media_hash: str, tag: str) -> int | None:
    """Remove a tag and commit; return the change counter of `tags`, or None if the tag was not there."""
    with connection:
        deleted = connection.execute("DELETE FROM tags WHERE media_hash = ? AND tag = ?", (media_hash, tag)).rowcount
        return bump(connection, "tags") if deleted else None
