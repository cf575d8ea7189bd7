"""How SQLite would run a statement: EXPLAIN QUERY PLAN, on a read-only connection of its own, for SELECT alone.

Nothing is executed, and no parameter is known: each is bound to NULL.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from telemetry.fingerprint import Statement, statement

_TIMEOUT_S: Final = 0.5
_MOST_PARAMETERS: Final = 40_000
_SUPPLIED: Final = re.compile(r"uses (\d+)")
_SCAN: Final = re.compile(r"^SCAN (?:TABLE )?(?P<table>\S+)(?P<how>.*)$")
_AUTOMATIC: Final = re.compile(r"^SEARCH (?:TABLE )?(?P<table>\S+) USING AUTOMATIC .*INDEX(?: \((?P<columns>.*)\))?")
_MANY_ROWS: Final = 5000
_MOST_ROWS: Final = 100_000
_NOT_SIMPLE: Final = frozenset(
    ("OR", "JOIN", "UNION", "EXCEPT", "INTERSECT", "WITH", "NOT", "EXISTS", "GROUP", "HAVING", "DISTINCT", "COLLATE")
)
_COUNT: Final = re.compile(r"SELECT COUNT\(\*\)( AS \S+)? FROM ", re.IGNORECASE)
_COUNTED: Final = re.compile(r"SELECT COUNT\(\*\)(?: AS \S+)? FROM \((SELECT .*)\)(?: AS \S+)?", re.IGNORECASE)
"""How ORMs count what a query would return."""
_NAME: Final = r"(?:[\w\"`\[\]]+\.)*[\w\"`\[\]]+"
_EQUALS: Final = re.compile(rf"{_NAME} (?:==?|IS) \?|\? ==? {_NAME}", re.IGNORECASE)
_AFTER_CONDITIONS: Final = re.compile(r" (?:ORDER BY|LIMIT) ")
_NO_TABLE: Final = ("CONSTANT", "(", "VIRTUAL TABLE")
_NO_SCAN: Final = ("USING", "VIRTUAL TABLE")
_FUNCTIONS: Final = re.compile(
    r"\b(COUNT|SUM|TOTAL|AVG|MIN|MAX|GROUP_CONCAT|STRING_AGG|JSON_GROUP_\w+) ?\(", re.IGNORECASE
)
_NO_FILE: Final = (
    "no database file is known that it is sure to have run in: one in memory can't be opened a second time"
)
_SEVERAL_FILES: Final = "several databases have its tables, and it was too quick for it to be noted in which it ran"
MUST_BE_SELECT: Final = "only a SELECT is explained: nothing that could change data is prepared"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a plan; `depth` is how deep it is nested, `warning` what is wrong with it."""

    detail: str
    depth: int
    warning: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a statement in `file`, or why there is none."""

    file: str
    steps: tuple[Step, ...] = ()
    error: str = ""

    @property
    def warnings(self) -> list[str]:
        """What is wrong with it: whole tables that are read, indexes that are missing."""
        return [step.warning for step in self.steps if step.warning]


class _Nulls(dict[str, None]):
    """Named parameters, all of them NULL."""

    def __missing__(self, key: str) -> None:
        return None


def explain(sql: str, files: Sequence[str]) -> Plan:
    """Return the plan of `sql` in the one of `files` in which it can be had."""
    known = statement(sql)
    if known.operation != "SELECT":
        return Plan("", error=MUST_BE_SELECT)
    if not files:
        return Plan("", error=_NO_FILE)
    found = [_explain_in(sql, file, known.equals) for file in files]
    explained = [plan for plan in found if not plan.error]
    if len(explained) > 1:
        return Plan("", error=_SEVERAL_FILES)
    return (explained or found)[0]


def _explain_in(sql: str, file: str, columns: Sequence[str]) -> Plan:
    try:
        connection = _open(file, _TIMEOUT_S)
    except (sqlite3.Error, ValueError) as error:
        return Plan(file, error=f"the database can't be opened: {error}")
    try:
        depths = {0: -1}
        steps = []
        for number, parent, _, detail in _rows(connection, f"EXPLAIN QUERY PLAN {sql}"):
            depths[number] = depths.get(parent, -1) + 1
            steps.append(Step(detail, depths[number], _warning(detail, columns)))
        return Plan(file, tuple(steps))
    except (sqlite3.Error, sqlite3.Warning) as error:
        return Plan(file, error=f"SQLite does not explain it: {error}")
    finally:
        connection.close()


def _open(file: str, timeout_s: float) -> sqlite3.Connection:
    """Return a read-only connection of a class whose queries nobody sees."""
    return sqlite3.Connection(f"{Path(file).as_uri()}?mode=ro", uri=True, timeout=timeout_s)


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


def _warning(detail: str, columns: Sequence[str]) -> str:
    automatic = _AUTOMATIC.match(detail)
    if automatic:
        return f"SQLite builds an index on {automatic['table']} for this query alone: make one that stays"
    scan = _SCAN.match(detail)
    if scan is None or "USING" in scan["how"] or scan["how"].strip().startswith(_NO_TABLE):
        return ""
    if scan["table"].startswith(("(", "CONSTANT", "SUBQUERY")):
        return ""
    wanted = ", ".join(dict.fromkeys(columns))
    mend = f"; an index on {scan['table']}({wanted}) would serve it" if wanted else ""
    return f"reads all of {scan['table']}, without an index{mend}"


def missing_index(sql: str, file: str, rows: int | None) -> str | None:
    """Return the index that would spare a SELECT from reading all of a large table, such as `tags(video_id)`; `None` where that
    can't be said for certain. `rows` is how many rows it has returned, if that is known.

    Certain is one table that is looked through for the rows whose column equals a value, all conditions being wanted at once,
    where they are few, or only counted; and an index that SQLite makes for a statement each time it runs. It waits for no lock.

    Raises:
        sqlite3.Error: the database can't be asked now.
    """
    known = statement(sql)
    counted = _COUNTED.fullmatch(known.text)
    if counted is not None and " LIMIT " not in known.text:
        sql, rows = counted[1], 0
        known = statement(sql)
    connection = _open(file, 0)
    try:
        details = [detail for *_, detail in _rows(connection, f"EXPLAIN QUERY PLAN {sql}")]
        for detail in details:
            automatic = _AUTOMATIC.match(detail)
            if automatic and automatic["columns"]:
                table, columns = automatic["table"], re.findall(r"(\w+)=\?", automatic["columns"])
                if _is_large(connection, table, 0):
                    return _index(connection, table, columns)
        looks = [detail for detail in details if detail.startswith(("SCAN ", "SEARCH "))]
        is_scan = len(looks) == 1 and looks[0].startswith("SCAN ") and not any(how in looks[0] for how in _NO_SCAN)
        matching = _least_matching(known, rows) if is_scan and _is_simple(known) else None
        if matching is not None and _is_large(connection, known.table, matching):
            return _index(connection, known.table, known.equals)
        return None
    finally:
        connection.close()


def _is_simple(known: Statement) -> bool:
    """Tell whether a statement asks one table for what fulfils all of its conditions."""
    words = Counter(re.findall(r"\w+", known.text))
    return words["SELECT"] == words["WHERE"] == words["FROM"] == 1 and not words.keys() & _NOT_SIMPLE


def _least_matching(known: Statement, rows: int | None) -> int | None:
    """Return how many rows of the table, at least, have the values that a slow statement with so many `rows` looks for, if that
    is known: not of those that it sums up, skips, sorts and leaves out, or looks through for something else.
    """
    conditions, *_ = _AFTER_CONDITIONS.split(known.text.partition(" WHERE ")[2])
    if not all(_EQUALS.fullmatch(each.strip("() ")) for each in conditions.split(" AND ")):
        return None
    if _COUNT.match(known.text):  # by an index on all that is asked, however many there are
        return 0
    if _FUNCTIONS.search(known.text.partition(" FROM ")[0]):
        return None
    is_cut = rows is None or known.has_offset or (known.has_limit and (known.limit is None or rows >= known.limit))
    return None if is_cut and " ORDER BY " in known.text else rows or 0


def _is_large(connection: sqlite3.Connection, table: str, rows: int) -> bool:
    """Tell whether `table` is one, of so many rows that `rows` are few of them; only so many are looked at."""
    least = max(_MANY_ROWS, 10 * rows)
    if least > _MOST_ROWS:
        return False
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
    if found is None:
        return False  # an alias, a view, or in another file
    beyond = f"SELECT 1 FROM {_quoted(table)} LIMIT 1 OFFSET ?"  # noqa: S608  # quoted
    return connection.execute(beyond, (least - 1,)).fetchone() is not None


def _index(connection: sqlite3.Connection, table: str, columns: Iterable[str]) -> str | None:
    """Return an index on those of `columns` that `table` has; `None` for none, where its own key is one of them, or where an
    index begins with one of them, which SQLite has not used.
    """
    of_table = {
        name.lower(): is_key for _, name, _, _, _, is_key in connection.execute(f"PRAGMA table_info({_quoted(table)})")
    }
    wanted = [column for column in dict.fromkeys(columns) if column.lower() in of_table]
    if not wanted or any(of_table[column.lower()] for column in wanted):
        return None
    unused = (
        connection.execute(f"PRAGMA index_info({_quoted(each[1])})").fetchone()
        for each in connection.execute(f"PRAGMA index_list({_quoted(table)})").fetchall()
    )
    if {column.lower() for column in wanted} & {str(first[2]).lower() for first in unused if first}:
        return None
    return f"{table}({', '.join(wanted)})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
