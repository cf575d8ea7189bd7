"""Wrapping a function so that its calls are timed: what `@performance_monitor` does to each kind of function.

The wrapper of a coroutine function is one as well, of a generator function too, and so on: frameworks ask. What the function
returns, raises, yields and is sent passes through untouched.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from time import perf_counter, time
from typing import Any, Protocol, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])


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
    """One call under way."""

    __slots__ = ("_memory_before", "_name", "_recorder", "_timestamp", "elapsed_s", "error")

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder = recorder
        self._name = name
        self._memory_before = recorder.memory_mb()
        self._timestamp = time()
        self.elapsed_s = 0.0
        self.error: BaseException | None = None

    def end(self) -> None:
        error, self.error = self.error, None  # no cycle through the traceback
        self._recorder.record_call(self._name, self.elapsed_s, self._memory_before, self._timestamp, error)


def _function(function: Callable[..., Any], name: str, recorder: Callable[[], Recorder]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        current = recorder()
        if not current.enabled:
            return function(*args, **kwargs)
        call = _Call(current, name)
        started = perf_counter()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            call.error = error
            raise
        finally:
            call.elapsed_s = perf_counter() - started
            call.end()

    return wrapper


def _coroutine(
    function: Callable[..., Coroutine[Any, Any, Any]], name: str, recorder: Callable[[], Recorder]
) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        current = recorder()
        if not current.enabled:
            return await function(*args, **kwargs)
        call = _Call(current, name)
        started = perf_counter()
        try:
            return await function(*args, **kwargs)
        except BaseException as error:
            call.error = error
            raise
        finally:
            call.elapsed_s = perf_counter() - started
            call.end()

    return wrapper


def _generator(
    function: Callable[..., Generator[Any, Any, Any]], name: str, recorder: Callable[[], Recorder]
) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        current = recorder()
        generator = function(*args, **kwargs)
        if not current.enabled:
            return (yield from generator)
        call = _Call(current, name)
        step: Callable[[Any], Any] = generator.send
        given: Any = None
        try:
            while True:
                started = perf_counter()
                try:
                    item = step(given)
                except StopIteration as stop:
                    return stop.value
                finally:
                    call.elapsed_s += perf_counter() - started
                try:
                    given = yield item
                    step = generator.send
                except GeneratorExit:
                    generator.close()
                    raise
                except BaseException as thrown:
                    step, given = generator.throw, thrown
        except GeneratorExit:
            raise
        except BaseException as error:
            call.error = error
            raise
        finally:
            call.end()

    return wrapper


def _async_generator(
    function: Callable[..., AsyncGenerator[Any, Any]], name: str, recorder: Callable[[], Recorder]
) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        current = recorder()
        generator = function(*args, **kwargs)
        call = _Call(current, name) if current.enabled else None
        step: Callable[[Any], Any] = generator.asend
        given: Any = None
        try:
            while True:
                started = perf_counter()
                try:
                    item = await step(given)
                except StopAsyncIteration:
                    return
                finally:
                    if call is not None:
                        call.elapsed_s += perf_counter() - started
                try:
                    given = yield item
                    step = generator.asend
                except GeneratorExit:
                    await generator.aclose()
                    raise
                except BaseException as thrown:
                    step, given = generator.athrow, thrown
        except GeneratorExit:
            raise
        except BaseException as error:
            if call is not None:
                call.error = error
            raise
        finally:
            if call is not None:
                call.end()

    return wrapper
