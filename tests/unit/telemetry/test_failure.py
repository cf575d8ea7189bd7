"""What the event of an exception says: the SDK's own, and the standard library's text of a stack, are the oracle."""

from __future__ import annotations

import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from telemetry import memo
from telemetry.failure import Failure, failure_in


class OwnError(Exception):
    """One with a text of its own."""

    def __str__(self) -> str:
        return f"<{self.args}>"


class NotedError(Exception):
    """One that always has something to add."""

    __notes__: ClassVar = ["as always"]


class UnspeakableError(Exception):
    """One that can't be written as text."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def unknown_name() -> None:
    traceback_ = 1
    print(tracebakc_)  # type: ignore[name-defined]  # noqa: F821
    print(traceback_)


def unknown_attribute() -> None:
    [].appendd(1)  # type: ignore[attr-defined]


def unknown_import() -> None:
    from traceback import format_exceptoin  # type: ignore[attr-defined]  # noqa: F401


def wrong_syntax() -> None:
    compile("a b", "<typed>", "exec")


def recursion(depth: int = 60) -> None:
    if not depth:
        raise ValueError("deep")
    recursion(depth - 1)


WAYS: list[Callable[[], Any]] = [unknown_name, unknown_attribute, unknown_import, wrong_syntax, recursion]
messages = st.sampled_from(["", "two\nlines", "é", "None"]) | st.text(max_size=8)
kinds = st.sampled_from([ValueError, KeyError, OwnError, NotedError, UnspeakableError, SystemExit])


def raised(raise_it: Callable[[], Any]) -> BaseException:
    try:
        raise_it()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def throw(error: BaseException) -> None:
    raise error


def throw_while(error: BaseException, around: BaseException) -> None:
    try:
        raise around
    except BaseException:
        throw(error)


def throw_from(error: BaseException, cause: BaseException | None) -> None:
    raise error from cause


single = st.builds(lambda kind, message: raised(lambda: throw(kind(message))), kinds, messages) | st.sampled_from(
    WAYS
).map(raised)


def _around(inner: st.SearchStrategy[BaseException]) -> st.SearchStrategy[BaseException]:
    outer = st.builds(lambda kind, message: kind(message), kinds, messages)
    return (
        st.builds(lambda error, other: raised(lambda: throw_while(error, other)), outer, inner)
        | st.builds(lambda error, other: raised(lambda: throw_from(error, other)), outer, inner | st.none())
        | st.lists(inner, min_size=1, max_size=2).map(
            lambda errors: raised(lambda: throw(BaseExceptionGroup("g", errors)))
        )
        | inner.map(lambda error: error.add_note("noted") or error)
    )


exceptions = st.recursive(single, _around, max_leaves=4)


def recorded(error: BaseException) -> dict[str, Any]:
    """Return the attributes of the event that the SDK makes of it."""
    span: Any = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("failing")
    span.record_exception(error, escaped=True)
    return dict(span.events[0].attributes)


def is_unspeakable(error: BaseException) -> bool:
    try:
        str(error)
    except RuntimeError:
        return True
    return False


@given(exceptions)
def test_it_says_what_the_sdk_says(error: BaseException) -> None:
    if is_unspeakable(error):
        assert Failure.of(error).attributes == {"exception.type": f"{__name__}.UnspeakableError"}
        return
    wanted = recorded(error)
    for _ in ("for the first time", "by what is remembered"):
        found = Failure.of(error)
        assert found.attributes == wanted
        assert found == wanted["exception.type"]
        assert found.description == f"{type(error).__name__}: {error}"
        assert found.characters == len(wanted["exception.stacktrace"]) + len(wanted["exception.message"])


def test_the_lines_of_one_way_are_written_down_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    format_tb = traceback.format_tb
    monkeypatch.setattr(traceback, "format_tb", lambda stack: calls.append(1) or format_tb(stack))

    def fail(number: int) -> None:
        raise ValueError(number)

    def other(number: int) -> None:
        fail(number)

    said = [Failure.of(raised(lambda number=number: fail(number))).attributes for number in range(3)]
    assert len(calls) == 1
    assert [each["exception.stacktrace"].splitlines()[-1] for each in said] == [f"ValueError: {n}" for n in range(3)]
    Failure.of(raised(lambda: other(1)))
    assert len(calls) == 2


def test_of_ever_new_code_only_so_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from telemetry import failure

    kept: memo.Memo[str] = memo.Memo()
    monkeypatch.setattr(failure, "_ways", kept)
    monkeypatch.setattr(memo, "MAX_NUMBER", 4)
    for _ in range(10):
        names: dict[str, Any] = {}
        exec("def fail():\n    raise ValueError('made')", names)
        error = raised(names["fail"])
        assert Failure.of(error).attributes == recorded(error)
        assert 0 < len(kept.made) <= 4


def test_a_cycle_of_causes_ends() -> None:
    first, second = raised(lambda: throw(ValueError(1))), raised(lambda: throw(KeyError(2)))
    first.__cause__, second.__context__ = second, first
    assert Failure.of(first).attributes == recorded(first)


def test_lines_that_were_told_by_hand_are_taken() -> None:
    """As a template engine does, which shows the line of the template."""
    error = raised(lambda: throw(ValueError("in a template")))
    stack = error.__traceback__
    assert stack is not None
    for line in (7, 9):
        error.__traceback__ = types.TracebackType(None, stack.tb_frame, -1, line)
        assert Failure.of(error).attributes == recorded(error)
        assert f", line {line}, " in Failure.of(error).attributes["exception.stacktrace"]


@pytest.mark.parametrize("module", [None, "", 5, "__main__"])
def test_a_class_of_an_odd_module_is_called_what_the_sdk_calls_it(module: object) -> None:
    kind = type("OddError", (Exception,), {})
    kind.__module__ = module  # type: ignore[assignment]
    error = raised(lambda: throw(kind("odd")))
    assert Failure.of(error).attributes == recorded(error)


def test_a_message_of_a_class_of_its_own_is_a_string() -> None:
    class Message(str):
        __slots__ = ()

        def __len__(self) -> int:
            raise RuntimeError("no length")

    class MessageError(Exception):
        def __str__(self) -> str:
            return Message("said")

    failure = Failure.of(raised(lambda: throw(MessageError())))
    assert failure.attributes["exception.message"] == "said"
    assert failure.characters > 4


def test_ways_through_deep_recursion_count_with_all_their_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    from telemetry import failure

    kept: memo.Memo[str] = memo.Memo()
    monkeypatch.setattr(failure, "_ways", kept)
    monkeypatch.setattr(memo, "MAX_CHARACTERS", 50_000)
    for depth in range(200, 300):
        Failure.of(raised(lambda depth=depth: recursion(depth)))
        assert len(kept.made) <= 2


def test_text_that_is_no_unicode_is_marked() -> None:
    said = Failure.of(raised(lambda: throw(ValueError("no \udc80.mp4")))).attributes
    assert said["exception.message"] == "no ?.mp4"
    assert said["exception.stacktrace"].endswith("ValueError: no ?.mp4\n")


def test_of_an_exception_of_the_main_module_the_stack_names_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnError, "__module__", "__main__")
    error = raised(lambda: throw(OwnError()))
    assert Failure.of(error).attributes == recorded(error)
    assert Failure.of(error) == "__main__.OwnError"


def test_a_type_alone_is_no_failure() -> None:
    assert failure_in("ValueError") is failure_in(None) is None
    known = Failure.of(ValueError("known"))
    assert failure_in(known) is known
    assert type(str(known)) is str
    assert sys.getsizeof(known) < 200
