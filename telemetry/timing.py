"""Wrapping a function so that its calls are timed: what `@performance_monitor` does to each kind of function.

The wrapper of a coroutine function is one as well, of a generator function too, and so on: frameworks ask. What the function
returns, raises, yields and is sent passes through untouched.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import nullcontext
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import Any, Protocol, Self, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(slots=True)
class PerformanceMetric:
    """One call of a function. `memory_before` and `memory_after` are the process's, in MiB; `None` where it can't be read."""

    name: str
    duration: float  # seconds
    memory_before: float | None = None
    memory_after: float | None = None
    timestamp: float = field(default_factory=time)  # when it began, Unix seconds
    error: str | None = None  # the class of what it raised


class Recorder(Protocol):
    """Where timed calls are told."""

    @property
    def enabled(self) -> bool:
        """Whether calls are timed at all; asked at every call."""

    def memory_mb(self) -> float | None:
        """Return the memory of the process now."""

    def record_call(
        self, name: str, duration: float, memory_before: float | None, timestamp: float, error: BaseException | None
    ) -> None:
        """Take a call that has ended, of `duration` seconds, begun at `timestamp`; must not raise."""


def timed(function: _Function, name: str | None, recorder: Callable[[], Recorder]) -> _Function:
    """Return `function` with its calls told to what `recorder` returns at the time, under `name` or the function's own.

    Raises:
        TypeError: `function` is nothing that a wrapper can stand for, such as a class.
    """
    given: Any = function
    if isinstance(given, (staticmethod, classmethod)):
        return cast(_Function, type(given)(timed(given.__func__, name, recorder)))
    if not callable(given) or inspect.isclass(given):
        raise TypeError(f"performance_monitor must decorate a function or a method, got {function!r}")
    label = name or function_name(function)
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        wrapper: Any = _coroutine(function, label, recorder)
    elif inspect.isasyncgenfunction(function):
        wrapper = _async_generator(function, label, recorder)
    elif inspect.isgeneratorfunction(function):
        wrapper = _generator(function, label, recorder)
    else:
        wrapper = _function(function, label, recorder)
    return cast(_Function, functools.wraps(function)(wrapper))


def function_name(function: Callable[..., Any]) -> str:
    """Return `module.qualified_name`, also of what a `functools.partial` or a callable object leads to."""
    while isinstance(function, functools.partial):
        function = function.func
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


class _Call:
    """One call under way, told of at the end of its `with`; of a generator, the time between `go_on` and `pause` counts."""

    __slots__ = ("_elapsed_s", "_memory_before", "_name", "_recorder", "_started", "_timestamp")

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder = recorder
        self._name = name
        self._memory_before = recorder.memory_mb()
        self._timestamp = time()
        self._elapsed_s = 0.0
        self._started: float | None = None

    def go_on(self) -> None:
        self._started = perf_counter()

    def pause(self) -> None:
        if self._started is not None:
            self._elapsed_s += perf_counter() - self._started
            self._started = None

    def __enter__(self) -> Self:
        self.go_on()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.pause()
        told = None if isinstance(error, GeneratorExit) else error
        self._recorder.record_call(self._name, self._elapsed_s, self._memory_before, self._timestamp, told)


def _function(function: Callable[..., Any], name: str, recorder: Callable[[], Recorder]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        current = recorder()
        if not current.enabled:
            return function(*args, **kwargs)
        with _Call(current, name):
            return function(*args, **kwargs)

    return wrapper


def _coroutine(
    function: Callable[..., Coroutine[Any, Any, Any]], name: str, recorder: Callable[[], Recorder]
) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        current = recorder()
        if not current.enabled:
            return await function(*args, **kwargs)
        with _Call(current, name):
            return await function(*args, **kwargs)

    return wrapper


def _generator(
    function: Callable[..., Generator[Any, Any, Any]], name: str, recorder: Callable[[], Recorder]
) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        current = recorder()
        generator = function(*args, **kwargs)
        if not current.enabled:
            return (yield from generator)
        step: Callable[[Any], Any] = generator.send
        given: Any = None
        with _Call(current, name) as call:
            while True:
                call.go_on()
                try:
                    item = step(given)
                except StopIteration as stop:
                    return stop.value
                call.pause()
                try:
                    given = yield item
                    step = generator.send
                except GeneratorExit:
                    generator.close()
                    raise
                except BaseException as thrown:
                    step, given = generator.throw, thrown

    return wrapper


def _async_generator(
    function: Callable[..., AsyncGenerator[Any, Any]], name: str, recorder: Callable[[], Recorder]
) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        current = recorder()
        generator = function(*args, **kwargs)
        step: Callable[[Any], Any] = generator.asend
        given: Any = None
        with _Call(current, name) if current.enabled else nullcontext() as call:
            while True:
                if call is not None:
                    call.go_on()
                try:
                    item = await step(given)
                except StopAsyncIteration:
                    return
                if call is not None:
                    call.pause()
                try:
                    given = yield item
                    step = generator.asend
                except GeneratorExit:
                    await generator.aclose()
                    raise
                except BaseException as thrown:
                    step, given = generator.athrow, thrown

    return wrapper
