"""`@performance_monitor` on every kind of function: nothing of the function changes, and its calls are known."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import sys
import time
import timeit
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from typing import Any

import pytest

from telemetry import PerformanceMetrics, PerformanceMonitor, performance_monitor
from telemetry.monitor import set_monitor

STYLES = {
    "bare": lambda function: performance_monitor(function),
    "called": lambda function: performance_monitor()(function),
    "named": lambda function: performance_monitor("job")(function),
}


@pytest.fixture(autouse=True)
def monitor(metrics: PerformanceMetrics) -> Iterator[PerformanceMonitor]:
    made = PerformanceMonitor(metrics)
    before = set_monitor(made)
    yield made
    set_monitor(before)


@pytest.fixture(params=[True, False], ids=["on", "off"])
def calls(request: pytest.FixtureRequest, monitor: PerformanceMonitor) -> Callable[..., None]:
    """Asserts which calls there were, by the last part of the name and the error; none where the monitor is off."""
    monitor.enabled = request.param

    def expect(*wanted: tuple[str, str | None]) -> None:
        found = [(metric.name.rpartition(".")[2], metric.error) for metric in monitor.metrics]
        assert found == (list(wanted) if request.param else [])

    return expect


def divide(number: int, /, *, by: int = 1) -> float:
    """Divide."""
    return number / by


async def divide_later(number: int, by: int = 1) -> float:
    await asyncio.sleep(0)
    return number / by


def echo(first: str) -> Generator[str, str, str]:
    given = yield first
    while given != "end":
        try:
            given = yield given.upper()
        except KeyError:
            given = "key"
    return "returned"


async def echo_later(first: str) -> AsyncGenerator[str, str]:
    given = yield first
    while given != "end":
        try:
            given = yield given.upper()
        except KeyError:
            given = "key"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("function", [divide, divide_later, echo, echo_later])
def test_the_function_looks_as_before(function: Callable[..., Any], style: str) -> None:
    decorated = STYLES[style](function)
    assert inspect.signature(decorated) == inspect.signature(function)
    assert (decorated.__name__, decorated.__qualname__, decorated.__module__, decorated.__doc__) == (
        function.__name__,
        function.__qualname__,
        function.__module__,
        function.__doc__,
    )
    assert decorated.__wrapped__ is function
    for kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        assert kind(decorated) is kind(function)


def test_a_call_gives_its_result_and_is_recorded_under_its_name(calls: Any) -> None:
    assert performance_monitor(divide)(6, by=3) == 2
    assert performance_monitor("by hand")(divide)(6) == 6
    calls(("divide", None), ("by hand", None))


def test_an_exception_goes_on_as_it_is_and_is_recorded(calls: Any) -> None:
    decorated = performance_monitor(divide)
    with pytest.raises(ZeroDivisionError) as raised:
        decorated(1, by=0)
    assert raised.traceback[-1].name == "divide"
    with pytest.raises(TypeError, match=r"divide\(\) missing 1 required positional argument"):
        decorated()
    calls(("divide", "ZeroDivisionError"), ("divide", "TypeError"))


def test_a_coroutine_is_timed_until_it_ends(calls: Any) -> None:
    decorated = performance_monitor(divide_later)
    assert asyncio.run(decorated(6, by=3)) == 2
    with pytest.raises(ZeroDivisionError):
        asyncio.run(decorated(6, by=0))
    calls(("divide_later", None), ("divide_later", "ZeroDivisionError"))


def test_a_cancelled_coroutine_is_recorded_and_stays_cancelled(calls: Any) -> None:
    @performance_monitor
    async def wait() -> None:
        await asyncio.Event().wait()

    async def main() -> bool:
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert asyncio.run(main())
    calls(("wait", "CancelledError"))


def test_a_generator_gets_what_it_is_sent_and_thrown(calls: Any) -> None:
    generator = performance_monitor(echo)("a")
    assert next(generator) == "a"
    assert generator.send("b") == "B"
    assert generator.throw(KeyError()) == "KEY"
    with pytest.raises(StopIteration) as stopped:
        generator.send("end")
    assert stopped.value.value == "returned"
    failing = performance_monitor(echo)("a")
    next(failing)
    with pytest.raises(ValueError, match="thrown in"):
        failing.throw(ValueError("thrown in"))
    calls(("echo", None), ("echo", "ValueError"))


def test_a_generator_that_is_left_early_is_closed_and_no_error(calls: Any) -> None:
    closed = []

    @performance_monitor
    def numbers() -> Generator[int, None, None]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    for number in numbers():
        if number == 2:
            break
    gc.collect()
    assert closed == [True]
    numbers()  # never started: nothing happens
    calls(("numbers", None))


def test_an_async_generator_gets_what_it_is_sent_and_thrown(calls: Any) -> None:
    async def main() -> None:
        generator = performance_monitor(echo_later)("a")
        assert await anext(generator) == "a"
        assert await generator.asend("b") == "B"
        assert await generator.athrow(KeyError()) == "KEY"
        with pytest.raises(StopAsyncIteration):
            await generator.asend("end")
        failing = performance_monitor(echo_later)("a")
        await anext(failing)
        with pytest.raises(ValueError, match="thrown in"):
            await failing.athrow(ValueError("thrown in"))
        left = performance_monitor(echo_later)("a")
        await anext(left)
        await left.aclose()

    asyncio.run(main())
    calls(("echo_later", None), ("echo_later", "ValueError"), ("echo_later", None))


def test_of_a_generator_the_time_in_it_counts_not_that_of_its_consumer(
    monitor: PerformanceMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("telemetry.timing.perf_counter", lambda: now[0])

    @performance_monitor
    def steps() -> Generator[int, None, None]:
        for number in range(3):
            now[0] += 1
            yield number

    for _ in steps():
        now[0] += 100
    assert monitor.metrics[0].duration == 3


@pytest.mark.parametrize("order", ["above", "below"])
def test_methods_of_every_kind(order: str, calls: Any) -> None:
    def both(kind: Any) -> Callable[[Any], Any]:
        if order == "above":
            return lambda function: performance_monitor(kind(function))
        return lambda function: kind(performance_monitor(function))

    class Shop:
        price = 3

        @performance_monitor
        def total(self, count: int) -> int:
            return self.price * count

        @both(staticmethod)
        def tax(amount: int) -> int:  # noqa: N805
            return amount // 3

        @both(classmethod)
        def named(cls) -> str:  # noqa: N805
            return cls.__name__

    class Corner(Shop):
        price = 4

    assert (Corner().total(2), Corner.tax(9), Corner().tax(9), Corner.named(), Shop().named()) == (
        8,
        3,
        3,
        "Corner",
        "Shop",
    )
    calls(("total", None), ("tax", None), ("tax", None), ("named", None), ("named", None))


def test_partials_and_callable_objects_have_a_name(calls: Any) -> None:
    class Job:
        def __call__(self) -> int:
            return 1

    assert performance_monitor(functools.partial(divide, 6))(by=2) == 3
    assert performance_monitor(Job())() == 1
    calls(("divide", None), ("Job", None))


@pytest.mark.parametrize("wrong", [int, 7, object()])
def test_what_is_no_function_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="performance_monitor must decorate a function or a method, got "):
        performance_monitor(wrong)


def test_a_call_knows_when_it_began_and_the_memory_around_it(monitor: PerformanceMonitor) -> None:
    performance_monitor(divide)(1)
    (metric,) = monitor.metrics
    assert metric.name == f"{__name__}.divide"
    assert metric.duration >= 0
    assert metric.timestamp > 1_700_000_000
    assert metric.memory_before is not None
    assert metric.memory_after is not None
    assert metric.memory_after >= metric.memory_before / 2


def nothing() -> None:
    return


def count() -> Generator[int, None, None]:
    yield 1


async def nothing_later() -> None:
    return


def drive(function: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> None:
        with contextlib.suppress(StopIteration):
            function().send(None)

    return run


class Held:
    def method(self) -> None:
        return


@pytest.mark.parametrize(
    ("function", "call"),
    [
        (nothing, lambda function: function),
        (nothing_later, drive),
        (count, lambda function: lambda: list(function())),
        (Held.method, lambda function: functools.partial(function, Held())),
    ],
    ids=["function", "coroutine", "generator", "method"],
)
def test_switched_off_by_the_setting_it_adds_less_than_3_microseconds(
    function: Callable[..., Any],
    call: Callable[[Callable[..., Any]], Callable[[], Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LVS_TELEMETRY_MONITOR", "0")
    before = set_monitor(PerformanceMonitor(PerformanceMetrics()))
    try:
        added_s = added(call(function), call(performance_monitor(function)))
    finally:
        set_monitor(before)
    assert added_s < 3e-6


def added(plain: Callable[[], Any], decorated: Callable[[], Any]) -> float:
    """Return the CPU seconds that `decorated` takes longer a call, at best, without what a coverage tracer adds to each line.

    CPU time of this thread, both in turn: other programs on the machine don't count.
    """
    number, tracer = 2_000, sys.gettrace()
    sys.settrace(None)
    try:
        times = [
            [timeit.timeit(either, timer=time.thread_time, number=number) for either in (plain, decorated)]
            for _ in range(15)
        ]
    finally:
        sys.settrace(tracer)
    return (min(row[1] for row in times) - min(row[0] for row in times)) / number
