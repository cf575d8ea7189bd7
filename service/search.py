"""Search: every word of the query is found in the file name, the title or a tag, in any case; the best match first."""

from __future__ import annotations

import sqlite3

from service.errors import BadParameterError
from service.library import COLUMNS, Listing, videos_of
from service.text import fold, is_clean

MAX_QUERY_CHARACTERS = 200
MAX_TOKENS = 12

# A tag of that name counts most, then a whole word of title or name, then the beginning of one, then any place.
_SCORE = """(
    CASE WHEN EXISTS (SELECT 1 FROM tags AS t WHERE t.media_hash = f.media_hash AND t.tag = :{n}) THEN 8 ELSE 0 END
    + CASE WHEN instr(f.words_fold, ' ' || :{n} || ' ') > 0 THEN 4
           WHEN instr(f.words_fold, ' ' || :{n}) > 0 THEN 2 ELSE 0 END
    + CASE WHEN instr(f.title_fold, :{n}) > 0 THEN 1 ELSE 0 END
)"""
_MATCH = """(
    instr(f.name_fold, :{n}) > 0 OR instr(f.title_fold, :{n}) > 0
    OR EXISTS (SELECT 1 FROM tags AS t WHERE t.media_hash = f.media_hash AND instr(t.tag, :{n}) > 0)
)"""


def tokens_of(query: str) -> list[str]:
    """Return the different words of a query, folded. Raises `BadParameterError` for one that is too long or not text."""
    if not is_clean(query) or len(query) > MAX_QUERY_CHARACTERS:
        raise BadParameterError("q", f"text of at most {MAX_QUERY_CHARACTERS} characters", query)
    tokens = list(dict.fromkeys(fold(query).split()))
    if len(tokens) > MAX_TOKENS:
        raise BadParameterError("q", f"at most {MAX_TOKENS} words", query)
    return tokens


def search_videos(connection: sqlite3.Connection, tokens: list[str], limit: int, offset: int) -> Listing:
    """Return a page of the videos that match all of `tokens`, by relevance, then title. No token matches nothing."""
    if not tokens:
        return Listing((), 0)
    values: dict[str, object] = {f"t{number}": token for number, token in enumerate(tokens)}
    where = " AND ".join(_MATCH.format(n=name) for name in values)
    score = " + ".join(_SCORE.format(n=name) for name in values)
    joined = "FROM files AS f JOIN media AS m ON m.media_hash = f.media_hash"
    total = connection.execute(f"SELECT COUNT(*) {joined} WHERE {where}", values).fetchone()[0]
    rows = connection.execute(
        f"SELECT {COLUMNS} {joined} WHERE {where} ORDER BY {score} DESC, f.title_fold, f.path"
        " LIMIT :limit OFFSET :offset",
        {**values, "limit": limit, "offset": offset},
    ).fetchall()
    return Listing(videos_of(rows), int(total))
