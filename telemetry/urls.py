"""Paths of requests as an address has them."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

_OF_PATHS: Final = "/!$&'()*+,:;=@~"  # RFC 3986, section 3.3


def url_path(path: str) -> str:
    """Return a path, each character of which is a byte as WSGI has it, as an address has it: percent-encoded."""
    return quote(path, safe=_OF_PATHS, encoding="latin-1", errors="replace")
