"""What is kept of one query: a plain tuple, because a named one costs five times as much to make, and names for its places."""

from __future__ import annotations

from types import CodeType
from typing import Final

Query = tuple[str, int, int, str | None, int, int, int, CodeType | str | None, int, CodeType | str | None, int]
"""One DB-API call that reached SQLite. The constants below say what is where; the last four are its `telemetry.source.Site`."""

SQL: Final = 0
START_NS: Final = 1
"""When it began (perf_counter_ns), by which what else is kept of it is found."""
DURATION_NS: Final = 2
ERROR_TYPE: Final = 3
FLAGS: Final = 4
ROWS: Final = 5
"""Rows affected; -1 where SQLite tells none."""
TRANSACTION: Final = 6
"""The number of the transaction that it wrote in, 0 for none."""
SITE: Final = 7
"""From here on, `query[SITE:]`, where it was made: code, position in it, and the same of the caller."""
CODE: Final = 7
POSITION: Final = 8
CALLER: Final = 9
CALLER_POSITION: Final = 10

MADE: Final = 1
"""Flag of a query whose span is none that the request's record becomes: made by the SDK, or exported as another span's child."""
MANY: Final = 2
"""Flag of an `executemany`."""
SCRIPT: Final = 4
"""Flag of an `executescript`."""
FROM_FIRST: Final = 8
"""Flag of a library's query whose last parameter, an OFFSET, is 0: it asks for the first rows, as `.first()` of an ORM does."""
FURTHER: Final = 16
"""Flag of one whose OFFSET is another."""
DATABASE_SHIFT: Final = 5
"""Above the flags is the number of the database that it was asked of, where the process has opened several; 0 is any."""


def with_span(query: Query) -> Query:
    """Return a query without `MADE`: its span is made from the record that it is in."""
    return (*query[:FLAGS], query[FLAGS] & ~MADE, *query[ROWS:])
