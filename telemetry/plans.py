"""How SQLite would run a statement: EXPLAIN QUERY PLAN, on a read-only connection of its own, for SELECT alone.

Nothing is executed, and no parameter is known: each is bound to NULL.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from telemetry.fingerprint import statement

_TIMEOUT_S: Final = 0.5
_MOST_PARAMETERS: Final = 40_000
_SUPPLIED: Final = re.compile(r"uses (\d+)")
_SCAN: Final = re.compile(r"^SCAN (?:TABLE )?(?P<table>\S+)(?P<how>.*)$")
_AUTOMATIC: Final = re.compile(r"^SEARCH (?:TABLE )?(?P<table>\S+) USING AUTOMATIC .*INDEX")
_NO_TABLE: Final = ("CONSTANT", "(", "VIRTUAL TABLE")
MUST_BE_SELECT: Final = "only a SELECT is explained: nothing that could change data is prepared"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a plan; `depth` is how deep it is nested, `fault` what is wrong with it, `mend` what would help."""

    detail: str
    depth: int
    fault: str = ""
    mend: str = ""
    rows: int | None = None
    """So many rows the table that it reads as a whole has at most; `None` where that can't be told at once."""

    @property
    def warning(self) -> str:
        """What is wrong with it, as a sentence."""
        return f"{self.fault}; {self.mend} would serve it" if self.mend else self.fault


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a statement in `file`, or why there is none."""

    file: str
    steps: tuple[Step, ...] = ()
    error: str = ""

    @property
    def faults(self) -> list[Step]:
        """What is wrong with it: whole tables that are read, indexes that are missing."""
        return [step for step in self.steps if step.fault]


class _Nulls(dict[str, None]):
    """Named parameters, all of them NULL."""

    def __missing__(self, key: str) -> None:
        return None


def explain(sql: str, files: Sequence[str]) -> Plan:
    """Return the plan of `sql` in the first of `files` in which it can be had."""
    known = statement(sql)
    if known.operation != "SELECT":
        return Plan("", error=MUST_BE_SELECT)
    if not files:
        return Plan("", error="no database file is known: a database in memory can't be opened a second time")
    failed = None
    for file in files:
        found = _explain_in(sql, file, known.equals)
        if not found.error:
            return found
        failed = failed or found
    return failed or Plan("")


def _explain_in(sql: str, file: str, columns: Sequence[str]) -> Plan:
    try:
        connection = sqlite3.Connection(f"{Path(file).as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT_S)
    except (sqlite3.Error, ValueError) as error:
        return Plan(file, error=f"the database can't be opened: {error}")
    try:
        depths = {0: -1}
        steps = []
        for number, parent, _, detail in _rows(connection, f"EXPLAIN QUERY PLAN {sql}"):
            depths[number] = depths.get(parent, -1) + 1
            steps.append(_judged(connection, Step(detail, depths[number]), columns))
        return Plan(file, tuple(steps))
    except (sqlite3.Error, sqlite3.Warning) as error:
        return Plan(file, error=f"SQLite does not explain it: {error}")
    finally:
        connection.close()


def _rows(connection: sqlite3.Connection, sql: str) -> list[Any]:
    try:
        return connection.execute(sql, _Nulls()).fetchall()
    except sqlite3.ProgrammingError as error:
        if "no name" not in str(error):
            raise
    try:
        return connection.execute(sql).fetchall()
    except sqlite3.ProgrammingError as error:
        supplied = _SUPPLIED.search(str(error))
        if supplied is None or int(supplied[1]) > _MOST_PARAMETERS:
            raise
        return connection.execute(sql, (None,) * int(supplied[1])).fetchall()


def _judged(connection: sqlite3.Connection, step: Step, columns: Sequence[str]) -> Step:
    """Return a line of a plan with what is wrong with it, if anything is."""
    wanted = ", ".join(dict.fromkeys(columns))
    automatic = _AUTOMATIC.match(step.detail)
    if automatic:
        table = automatic["table"]
        fault, mend = f"SQLite builds an index on {table} for this query alone", "an index that stays"
    else:
        scan = _SCAN.match(step.detail)
        if scan is None or "USING" in scan["how"] or scan["how"].strip().startswith(_NO_TABLE):
            return step
        table = scan["table"]
        if table.startswith(("(", "CONSTANT", "SUBQUERY")):
            return step
        fault, mend = f"reads all of {table}, without an index", ""
    mend = f"an index on {table}({wanted})" if wanted else mend
    return replace(step, fault=fault, mend=mend, rows=_most_rows(connection, table))


def _most_rows(connection: sqlite3.Connection, table: str) -> int | None:
    """Return how many rows a table has at most, by its last row id, which is found at once; `None` for an alias or a view."""
    quoted = table.replace('"', '""')
    try:
        last = connection.execute(f'SELECT max(rowid) FROM "{quoted}"').fetchone()[0]  # noqa: S608  # quoted
    except (sqlite3.Error, sqlite3.Warning):
        return None
    return last or 0
