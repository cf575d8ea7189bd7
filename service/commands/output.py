"""How commands write to a terminal of any width, without colours, in any encoding, or to a pipe."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Any, Final

import click

_MOST_COLUMNS: Final = 100
_IN_ASCII: Final = str.maketrans({"●": "o", "▲": "!", "■": "X", "→": ">", "–": "-", "×": "x", "…": "...", "’": "'"})
_STYLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "title": {"bold": True},
    "heading": {"bold": True},
    "good": {"fg": "green"},
    "warning": {"fg": "yellow"},
    "poor": {"fg": "red"},
    "rule": {"dim": True},
}


def width() -> int:
    """Return the columns to write in: those of the terminal, or of `COLUMNS`; 80 in a pipe; longer lines are hard to read."""
    return min(shutil.get_terminal_size((80, 24)).columns, _MOST_COLUMNS)


def clean(text: str) -> str:
    """Return `text` without what would steer a terminal: names and statements may come from elsewhere."""
    return "".join(character if character.isprintable() else "�" for character in text)


def wrapped(text: str, later: str, first: str = "") -> list[str]:
    """Return `text` as lines that fit, all but the first after `later`; a word that is too long stays whole."""
    return textwrap.wrap(
        clean(text),
        max(width(), 20),
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def say(line: str, kind: str = "text") -> None:
    """Write a line to standard output, cleaned, in the style of `kind`; colours only on a terminal, and not with `NO_COLOR`."""
    colour = False if os.environ.get("NO_COLOR") else None
    click.echo(click.style(encodable(clean(line)), **_STYLES.get(kind, {})), color=colour)


def encodable(text: str, encoding: str | None = None) -> str:
    """Return `text` as `encoding`, by default that of standard output, can write it."""
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_IN_ASCII).encode(encoding, "replace").decode(encoding)
    return text
