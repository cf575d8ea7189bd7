"""What two runs of a statement have in common: its fingerprint, and what can be read off it.

Literals and parameters read `?`, lists of them behind IN and rows behind VALUES are one whatever their length, keywords are in
capitals, comments and white space are gone. sqlglot's tokenizer for SQLite does the reading, when somebody looks: never on
a request's path.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from telemetry import forked
from telemetry.sums import LITERAL

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHORT: Final = 500
"""Statements of so many characters are remembered in large numbers, longer ones in small."""
_LONGEST: Final = 20_000
"""Characters of a statement that are read; what is behind them makes no other statement of it."""

_ELLIPSIS: Final = "(…)"
_LITERALS: Final = frozenset({"STRING", "NUMBER", "HEX_STRING", "BIT_STRING", "BYTE_STRING", "NATIONAL_STRING"})
_RESOLUTIONS: Final = ("ROLLBACK", "ABORT", "REPLACE", "FAIL", "IGNORE")  # UPDATE OR …
_COMPARISONS: Final = frozenset({"=", "==", "IS"})
_INEQUALITIES: Final = frozenset({"<", ">", "<=", ">="})
_NO_SPACE_BEFORE: Final = frozenset({",", ")", ".", ";", "("})
_KEYWORDS_BEFORE_PAREN: Final = frozenset(
    {
        "IN",
        "AND",
        "OR",
        "NOT",
        "WHERE",
        "ON",
        "VALUES",
        "FROM",
        "JOIN",
        "AS",
        "SELECT",
        "EXISTS",
        "USING",
        "UNION",
        "ALL",
    }
)
_SUBQUERIES: Final = frozenset({"SELECT", "VALUES", "WITH"})
_LIMITS: Final = re.compile(r" (?:LIMIT|OFFSET) \?|(?<= LIMIT \?), \?")
_BY_CHANCE: Final = frozenset({("RANDOM", "("), ("RANDOMBLOB", "(")})
_NAMED_BEHIND: Final = frozenset({"FROM", "INTO", "JOIN", "UPDATE", "TABLE", "."})
# https://www.sqlite.org/lang_keywords.html; the tokenizer knows the words of other databases as well, such as SETTINGS.
_WORDS: Final = (
    "ABORT ACTION ADD AFTER ALL ALTER ALWAYS ANALYZE AND AS ASC ATTACH AUTOINCREMENT BEFORE BEGIN BETWEEN BY CASCADE CASE "
    "CAST CHECK COLLATE COLUMN COMMIT CONFLICT CONSTRAINT CREATE CROSS CURRENT CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP "
    "DATABASE DEFAULT DEFERRABLE DEFERRED DELETE DESC DETACH DISTINCT DO DROP EACH ELSE END ESCAPE EXCEPT EXCLUDE EXCLUSIVE "
    "EXISTS EXPLAIN FAIL FILTER FIRST FOLLOWING FOR FOREIGN FROM FULL GENERATED GLOB GROUP GROUPS HAVING IF IGNORE "
    "IMMEDIATE IN INDEX INDEXED INITIALLY INNER INSERT INSTEAD INTERSECT INTO IS ISNULL JOIN KEY LAST LEFT LIKE LIMIT MATCH "
    "MATERIALIZED NATURAL NO NOT NOTHING NOTNULL NULL NULLS OF OFFSET ON OR ORDER OTHERS OUTER OVER PARTITION PLAN PRAGMA "
    "PRECEDING PRIMARY QUERY RAISE RANGE RECURSIVE REFERENCES REGEXP REINDEX RELEASE RENAME REPLACE RESTRICT RETURNING "
    "RIGHT ROLLBACK ROW ROWS SAVEPOINT SELECT SET TABLE TEMP TEMPORARY THEN TIES TO TRANSACTION TRIGGER UNBOUNDED UNION "
    "UNIQUE UPDATE USING VACUUM VALUES VIEW VIRTUAL WHEN WHERE WINDOW WITH WITHOUT"
)
_INT_DIGITS: Final = 20  # SQLite's numbers have fewer, and Python reads no more than some thousands
_KEYWORDS: Final = frozenset(_WORDS.split())
_LITERAL_OR_NAME: Final = re.compile(
    r"""
    [Ll][Ii][Mm][Ii][Tt]\s+\d+
    | (?P<number> [0-9] (?<! [\w.$@:?] . ) [0-9]* (?:\.[0-9]+)? (?![\w.]) )  # each begins with a character, by which
    | (?P<string> ' (?<! [\w$@:?] . ) [^']*' (?:'[^']*')* )  # it is passed over: what stands before is looked at second
    | (?:'[^']*')+
    | "[^"]*" | `[^`]*` | \[[^\]]*\]
    | (?P<stray> ['"`\[] )
    """,
    re.VERBOSE,
)
_SPACE: Final = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Statement:
    """A fingerprint and what it tells."""

    text: str
    operation: str
    """The first word that says what it does: `SELECT`, `INSERT` …, `SELECT` too for a WITH that ends in one."""
    table: str
    """The table that it names first, empty where there is none."""
    list_size: int
    """How many values the longest list behind IN has."""
    has_limit: bool
    has_offset: bool
    equals: tuple[str, ...]
    """Columns that are compared with a value by `=`."""
    is_ranged: bool
    """Whether a column is compared with a value by `<` or `>`."""
    is_ordered_by_range: bool
    """Whether its rows come in the order of such a column, as where each page begins behind the last row of the one before."""
    limit: int | None
    """The number behind LIMIT, where that is written out."""
    is_counted: bool
    """Whether all that it selects is one aggregate, such as COUNT(*)."""
    is_random: bool
    """Whether chance has a part in its answer."""

    @property
    def key(self) -> str:
        """The column that a run is for: where rows are chosen by one value alone, the column that equals it; else empty."""
        values = _LIMITS.sub("", self.text.partition(" WHERE ")[2])
        is_by_one = len(self.equals) == 1 and values.count("?") == 1 and _ELLIPSIS not in values
        return self.equals[0] if is_by_one else ""

    @property
    def is_of_schema(self) -> bool:
        """Whether it looks at what tables there are."""
        return self.table.lower().startswith("sqlite_")

    @property
    def reads(self) -> bool:
        """Whether it asks for rows."""
        return self.operation in ("SELECT", "VALUES")

    @property
    def writes(self) -> bool:
        """Whether it changes rows."""
        return self.operation in ("INSERT", "UPDATE", "DELETE", "REPLACE")


def statement(sql: str) -> Statement:
    """Return the fingerprint of `sql`; what is no SQL gets one too."""
    return _statement(sql) if len(sql) <= _SHORT else _long_statement(sql[:_LONGEST])


@functools.lru_cache(maxsize=4096)
def _statement(sql: str) -> Statement:
    return _of_form(form(sql))


@functools.lru_cache(maxsize=128)
def _long_statement(sql: str) -> Statement:
    shorter = form(sql)
    return _of_form(shorter) if len(shorter) <= _SHORT else _of_form.__wrapped__(shorter)


def form(sql: str) -> str:
    """Return a statement with the fingerprint of `sql`, if that is SQL, in which most literals are the shortest there are.

    Where an app writes values into its statements, few forms are left of many statements: reading one takes twenty times
    longer than this. What has comments, or quotes that nothing closes, is returned as it is.
    """
    if "--" in sql or "/*" in sql:
        return sql
    try:
        return _LITERAL_OR_NAME.sub(_shortest, sql)
    except ValueError:
        return sql


def _shortest(found: re.Match[str]) -> str:
    kind = found.lastgroup
    if kind == "number":
        return "0"
    if kind == "string":
        return "''"
    if kind == "stray":
        raise ValueError(found[0])
    return found[0]


@functools.lru_cache(maxsize=4096)
def _of_form(sql: str) -> Statement:
    read, limit = _read(sql)
    words, list_size = _collapsed(read)
    operation, table = _operation(words)
    ranged = set(_compared(words, _INEQUALITIES))
    upper = [word.upper() for word in words]
    return Statement(
        text=_joined(words),
        operation=operation,
        table=table,
        list_size=list_size,
        has_limit="LIMIT" in upper,
        has_offset="OFFSET" in upper or _has_comma_limit(upper),
        equals=tuple(_compared(words, _COMPARISONS)),
        is_ranged=bool(ranged),
        is_ordered_by_range=not ranged.isdisjoint(_ordered_by(words)),
        limit=limit,
        is_counted=_is_counted(upper),
        is_random=any(each in _BY_CHANCE for each in itertools.pairwise(upper)),
    )


def _read(sql: str) -> tuple[list[str], int | None]:
    """Return the words and the limit of `sql`, which may be cut off in the middle of a literal, or no SQL at all."""
    for end in ("", "'", '"', "*/"):
        try:
            return _words(sql + end)
        except Exception:  # noqa: S112  # the tokenizer meets whatever text an app sends
            continue
    return _SPACE.sub(" ", LITERAL.sub("?", sql)).strip().split(" "), None


def _words(sql: str) -> tuple[list[str], int | None]:
    """Return the tokens of `sql` as they are written, with `?` for literals and parameters, and the number behind the last
    LIMIT: of `LIMIT 20, 10` there is none.
    """
    with _tokenizing:
        tokens = _tokenizer().tokenize(sql)
    words: list[str] = []
    limit: int | None = None
    skip = False
    for at, token in enumerate(tokens):
        if skip:
            skip = False
            continue
        kind, text = token.token_type.name, token.text
        following = tokens[at + 1] if at + 1 < len(tokens) else None
        if kind in _LITERALS:
            is_limit = kind == "NUMBER" and words[-1:] == ["LIMIT"] and (following is None or following.text != ",")
            if is_limit and text.isdecimal() and len(text) < _INT_DIGITS:
                limit = int(text)
            if kind == "NUMBER" and words[-1:] == ["."]:  # of .5
                words.pop()
            if words and words[-1] == "-" and _is_sign(words):
                words.pop()
            words.append("?")
        elif (
            kind in ("PLACEHOLDER", "PARAMETER", "COLON") and following is not None and following.start == token.end + 1
        ):
            skip = following.token_type.name in ("VAR", "NUMBER") or following.text.isidentifier()
            words.append("?" if skip or kind == "PLACEHOLDER" else text)
        elif kind == "PLACEHOLDER" or (kind == "VAR" and text.startswith("$")):
            words.append("?")
        elif kind == "IDENTIFIER":
            words.append(sql[token.start : token.end + 1])
        else:
            words.append(text.upper() if _is_keyword(text, words) else text)
    return words, limit


def _is_keyword(text: str, before: Sequence[str]) -> bool:
    """Tell a keyword of SQLite from a name, which may be spelled like one."""
    upper = text.upper()
    if before and before[-1] in _NAMED_BEHIND and upper not in ("OR", "IF"):
        return upper == "SET" and list(before[-2:]) == ["DO", "UPDATE"]
    if upper == "KEY":
        return bool(before) and before[-1] in ("PRIMARY", "FOREIGN")
    return all(word in _KEYWORDS for word in upper.split())


def _is_sign(words: Sequence[str]) -> bool:
    before = words[-2] if len(words) > 1 else "("
    return (
        before in ("(", ",", "=", "<", ">", "<=", ">=", "<>", "!=", "+", "*", "/") or before in _KEYWORDS_BEFORE_PAREN
    )


_tokenizing: Final = forked.lock()
"""A tokenizer holds the text that it is at; two pages may be drawn at once."""


@functools.cache
def _tokenizer() -> Any:
    from sqlglot.dialects.sqlite import SQLite  # 200 ms, for those who look

    class Tokenizer(SQLite.Tokenizer):
        COMMANDS: ClassVar = set()  # else what is behind REPLACE or EXPLAIN is one text to it

    return Tokenizer()


def _collapsed(words: list[str]) -> tuple[list[str], int]:
    """Return `words` with the lists behind IN and the rows behind VALUES made one, and the length of the longest list."""
    out: list[str] = []
    at = longest = 0
    while at < len(words):
        word = words[at]
        out.append(word)
        at += 1
        if word == "IN" and (end := _list_end(words, at)):
            longest = max(longest, words[at:end].count("?"))
            out.append(_ELLIPSIS)
            at = end
        elif word == "VALUES":
            row_end = at
            while end := _group_end(words, row_end):
                row_end = end + 1 if words[end : end + 1] == [","] else end
                if row_end == end:
                    break
            if words[row_end : row_end + 1] == ["("]:  # the statement is cut off in this row
                row_end = len(words)
            if row_end > at:
                out.append(_ELLIPSIS)
                at = row_end
    return out, longest


def _list_end(words: Sequence[str], at: int) -> int:
    """Return where a list of values that begins at `at` is over, 0 if there is none; it may be empty, or cut off."""
    if words[at : at + 1] != ["("]:
        return 0
    end = _group_end(words, at)
    if not end:
        is_query = any(word.upper() in _SUBQUERIES for word in words[at + 1 : at + 2])
        return 0 if is_query else len(words)
    inside = words[at + 1 : end - 1]
    is_list = not inside or (set(inside[::2]) == {"?"} and set(inside[1::2]) <= {","} and len(inside) % 2)
    return end if is_list else 0


def _group_end(words: Sequence[str], at: int) -> int:
    if words[at : at + 1] != ["("]:
        return 0
    depth = 0
    for end in range(at, len(words)):
        depth += {"(": 1, ")": -1}.get(words[end], 0)
        if not depth:
            return end + 1
    return 0


def _operation(words: Sequence[str]) -> tuple[str, str]:
    operation = next((word.upper() for word in words if word.isalpha()), "")
    if operation == "WITH":
        depth = 0
        for word in words:
            depth += {"(": 1, ")": -1}.get(word, 0)
            if not depth and word.upper() in ("SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE"):
                operation = word.upper()
                break
    for at, (before, name) in enumerate(itertools.pairwise(words), 1):
        is_named = before in ("FROM", "INTO") or (before in ("UPDATE", *_RESOLUTIONS) and operation == "UPDATE")
        if not is_named or name == "OR":
            continue
        while words[at : at + 1] == ["("]:  # FROM (albums)
            at += 1
        if at < len(words) and words[at].upper() not in _SUBQUERIES:
            return operation, _unqualified(words, at)
    return operation, ""


def _unqualified(words: Sequence[str], at: int) -> str:
    """Return the name at `at` without its quotes and without what stands before it: of `main.users`, `users`."""
    while words[at + 1 : at + 2] == ["."] and at + 2 < len(words):
        at += 2
    return words[at].strip("\"'`[]")


def _compared(words: Sequence[str], operators: frozenset[str]) -> list[str]:
    found = []
    for at in range(1, len(words) - 1):
        if words[at] in operators and (words[at + 1] == "?" or words[at - 1] == "?"):
            name_at = at - 1 if words[at + 1] == "?" else at + 1
            if words[name_at] not in ("?", ")"):
                found.append(_unqualified(words, name_at))
    return found


def _ordered_by(words: Sequence[str]) -> Sequence[str]:
    """Return the words behind the last ORDER BY, names without their quotes."""
    upper = [word.upper() for word in words]
    starts = [at for at, word in enumerate(upper) if word == "ORDER BY" or upper[at - 1 : at + 1] == ["ORDER", "BY"]]
    return [word.strip("\"'`[]") for word in words[starts[-1] :]] if starts else ()


def _has_comma_limit(upper: Sequence[str]) -> bool:
    at = len(upper) - 1 - upper[::-1].index("LIMIT") if "LIMIT" in upper else len(upper)
    return "," in upper[at : at + 4]


def _is_counted(upper: Sequence[str]) -> bool:
    names = ("COUNT", "SUM", "MAX", "MIN", "AVG", "TOTAL", "EXISTS")
    return (
        len(upper) > 2
        and upper[0] == "SELECT"
        and upper[1] in names
        and upper[2] == "("
        and "," not in _selected(upper)
    )


def _selected(upper: Sequence[str]) -> Sequence[str]:
    return upper[: upper.index("FROM")] if "FROM" in upper else upper


def _joined(words: Sequence[str]) -> str:
    out: list[str] = []
    before = "("
    for word in words:
        is_call = word == "(" and before.isidentifier() and before not in _KEYWORDS_BEFORE_PAREN
        tight = before in ("(", ".") or (word in _NO_SPACE_BEFORE and word != "(") or is_call
        out.append(word if tight or not out else " " + word)
        before = word
    return "".join(out)
