"""How commands write to a terminal of any width, without colours, in any encoding, or to a pipe."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any, Final

import click

from telemetry import figures

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


def wrapped(text: str, later: str, first: str = "") -> list[str]:
    """Return `text` as lines that fit, all but the first after `later`; a word that is too long stays whole."""
    return figures.wrapped(text, width(), first, later)


def say(line: str, kind: str = "text") -> None:
    """Write a line to standard output, cleaned, in the style of `kind`; colours only on a terminal, and not with `NO_COLOR`."""
    colour = False if os.environ.get("NO_COLOR") else None
    click.echo(click.style(encodable(figures.printable(line)), **_STYLES.get(kind, {})), color=colour)


def encodable(text: str, encoding: str | None = None) -> str:
    """Return `text` as `encoding`, by default that of standard output, can write it."""
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_IN_ASCII).encode(encoding, "replace").decode(encoding)
    return text
