"""The query parameters of the JSON endpoints, checked: what is wrong is told by name, with what it must be and what it was."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from flask import Response, request

from telemetry.admin import answers

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 1000

_MOST_CHARACTERS = 100
_MOST_VALUES = 5
_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)


class ParameterError(Exception):
    """A query parameter is wrong; `answer` tells the client which, what it must be and what it was, cut if it was long."""

    def __init__(self, parameter: str, must_be: str, got: str | list[str]) -> None:
        self.parameter = parameter
        self.must_be = must_be
        self.got = cut(got) if isinstance(got, str) else [cut(value) for value in got[:_MOST_VALUES]]
        super().__init__(f"{parameter} must be {must_be}, got {self.got!r}")

    def answer(self) -> Response:
        """Return the 400 of this error."""
        body = {"error": str(self), "parameter": self.parameter, "must_be": self.must_be, "got": self.got}
        return answers.json(body, 400)


def single(parameter: str, must_be: str) -> str | None:
    """Return the value of a parameter, `None` without it; given twice, it is wrong."""
    given = request.args.getlist(parameter)
    if len(given) > 1:
        raise ParameterError(parameter, f"{must_be}, given once", given)
    return given[0] if given else None


def whole(parameter: str, default: int, most: int, least: int = 1) -> int:
    """Return a whole number from `least` to `most`."""
    must_be = f"a whole number from {least} to {most}"
    given = single(parameter, must_be)
    if given is None:
        return default
    if not _WHOLE.fullmatch(given) or not least <= int(given) <= most or (given[0] == "0" and given != "0"):
        raise ParameterError(parameter, must_be, given)
    return int(given)


def one_of(parameter: str, allowed: Sequence[str], default: str | None = None) -> str:
    """Return one of `allowed`; the first of them without a `default`."""
    must_be = f"one of {', '.join(allowed)}"
    given = single(parameter, must_be)
    if given is None:
        return allowed[0] if default is None else default
    if given not in allowed:
        raise ParameterError(parameter, must_be, given)
    return given


def cut(value: str) -> str:
    """Return what a client gave as an answer repeats it: not all of it where it is long."""
    return value if len(value) <= _MOST_CHARACTERS else value[: _MOST_CHARACTERS - 1] + "…"
