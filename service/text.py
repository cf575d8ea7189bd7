"""How names, titles, tags and queries are compared: whatever their case, their accents' encoding and their
separators. And how they are shown.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

TITLE = "Local Video Server"
"""What the figures and the OpenAPI document call this app; the titles of its pages end in it."""

_SEPARATORS = re.compile(r"[\s_.\-–—/+,;:()\[\]{}]+")
# Of UAX #9, without the marks that names in Hebrew or Arabic may need.
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def fold(text: str) -> str:
    """Return `text` for comparing: NFKC, casefolded."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def words(text: str) -> str:
    """Return the folded words of `text`, each with a space before and after, so that ` word ` finds whole words only."""
    return f" {_SEPARATORS.sub(' ', fold(text)).strip()} "


def title_of(path: str) -> str:
    """Return a title for a file that brings none: its name without the extension, underscores as spaces."""
    stem = PurePosixPath(path).stem
    return re.sub(r"[_\s]+", " ", stem).strip() or stem.strip() or PurePosixPath(path).name.strip()


def is_clean(text: str) -> bool:
    """Say whether `text` is free of NUL, of lone surrogates, and of the mark that undecodable bytes leave."""
    return not any(char in "\0\ufffd" or "\ud800" <= char <= "\udfff" for char in text)


def revealed(text: str) -> str:
    """Return `text` for display, with a mark such as `⟦U+202E⟧` for each character that turns what follows around.

    Without it, `evil` + U+202E + `gpj.exe` reads as `evilexe.jpg`.
    """
    return _DIRECTIONS.sub(lambda found: f"⟦U+{ord(found[0]):04X}⟧", text)
