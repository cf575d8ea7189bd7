"""What is known of an exception, for the event of the span that it ended."""

from __future__ import annotations

import traceback
from types import CodeType, TracebackType
from typing import Final

from telemetry.memo import Memo

_TYPE, _MESSAGE, _STACKTRACE = "exception.type", "exception.message", "exception.stacktrace"
_ESCAPED: Final = "exception.escaped"
_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"
_SAYING_MORE: Final = (SyntaxError, NameError, AttributeError, ImportError, BaseExceptionGroup)
"""What the standard library writes more of than a type and a message."""
_FRAME_BYTES: Final = 120  # of three numbers and a reference
_ways: Final[Memo[str]] = Memo()


class Failure(str):
    """The type of an exception, as `error.type` wants it, together with what its event says.

    Only where it is exported: a string for everybody who wants to know no more than the type. The lines of code in it are
    one string for all exceptions that come the same way.
    """

    __slots__ = ("_message", "_stack")

    _message: str | None
    _stack: tuple[str, ...]

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return what is known of `error`; of one that can't be written as text, its type."""
        made = cls(error_type_of(error))
        try:
            made._message, made._stack = clean(str.__str__(str(error))), _stacktrace(error)
        except Exception:
            made._message, made._stack = None, ()
        return made

    @property
    def said(self) -> tuple[str, str | None, tuple[str, ...]]:
        """All that is known: what is equal where the events are."""
        return str(self), self._message, self._stack

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of the event (semantic conventions for exceptions)."""
        if self._message is None:
            return {_TYPE: str(self)}
        stacktrace = clean("".join(self._stack))
        return {_TYPE: str(self), _MESSAGE: self._message, _STACKTRACE: stacktrace, _ESCAPED: "True"}

    @property
    def description(self) -> str | None:
        """What the status of the span says."""
        return None if self._message is None else f"{self.rpartition('.')[2]}: {self._message}"

    @property
    def characters(self) -> int:
        """How long the text of the event is."""
        return sum(map(len, self._stack)) + len(self._message or "")


def failure_in(error_type: str | None) -> Failure | None:
    """Return what else is known of an error of this type, if anything is."""
    return error_type if isinstance(error_type, Failure) else None


def error_type_of(error: BaseException) -> str:
    """Return the fully qualified class name of `error`, as `error.type` wants it."""
    kind = type(error)
    module = kind.__module__
    return f"{module}.{kind.__qualname__}" if module and module != "builtins" else kind.__qualname__


def clean(text: str) -> str:
    """Return `text` itself where it can be written, else with a mark for each lone surrogate, such as file names may have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _stacktrace(error: BaseException) -> tuple[str, ...]:
    """Return what `traceback.format_exception` does, in parts.

    Which looks for the source of each line anew: 0.1 ms a call and more. Here that is done once for each way through the code.
    """
    try:
        parts = _parts(error)
    except Exception:  # one that was handled meanwhile can't be written as text
        parts = None
    return parts or tuple(traceback.format_exception(error))


def _parts(error: BaseException) -> tuple[str, ...] | None:
    parts: list[str] = []
    seen: set[int] = set()
    shown: BaseException | None = error
    while shown is not None:
        module: object = type(shown).__module__
        is_usual = module and isinstance(module, str) and not isinstance(shown, _SAYING_MORE)
        if not is_usual or hasattr(shown, "__notes__") or id(shown) in seen:
            return None
        seen.add(id(shown))
        parts.append(_last_line(shown))
        if shown.__traceback__ is not None:
            parts.append(_way_of(shown.__traceback__))
        before = shown.__cause__
        if before is None and not shown.__suppress_context__:
            before = shown.__context__
        if before is not None:
            parts.append(_CONTEXT if shown.__cause__ is None else _CAUSE)
        shown = before
    return tuple(reversed(parts))


def _last_line(error: BaseException) -> str:
    kind, message = type(error), str.__str__(str(error))
    name = kind.__qualname__ if kind.__module__ == "__main__" else error_type_of(error)
    return f"{name}: {message}\n" if message else f"{name}\n"


def _way_of(stack: TracebackType) -> str:
    """Return the lines that an exception has come through."""
    numbers: list[int] = []
    codes: list[CodeType] = []
    each: TracebackType | None = stack
    while each is not None:
        code = each.tb_frame.f_code
        codes.append(code)
        numbers += (id(code), each.tb_lasti, each.tb_lineno)
        each = each.tb_next
    key = tuple(numbers)
    known = _ways.made.get(key)
    if known is not None:
        return known[0]
    text = "".join(("Traceback (most recent call last):\n", *traceback.format_tb(stack)))
    return _ways.keep(key, text, codes, len(text) + _FRAME_BYTES * len(codes))
