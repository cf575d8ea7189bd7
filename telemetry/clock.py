"""The clock that requests and queries are timed by: the system's, whatever a test has put in its place.

What freezes time in tests, such as freezegun, replaces `time.perf_counter_ns` in every module that has it. The queries of a
request are told apart by when they began, so all of them would be one; and a frozen clock may move on each time that it is read.
When a request began is told by `time_ns`, which tests may freeze.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.machinery import BuiltinImporter
from importlib.util import module_from_spec
from types import ModuleType
from typing import Final


def _own_copy_of_time() -> ModuleType:
    spec = BuiltinImporter.find_spec("time")
    if spec is None or spec.loader is None:  # no interpreter that is known
        return time
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


perf_counter_ns: Final[Callable[[], int]] = _own_copy_of_time().perf_counter_ns
"""As `time.perf_counter_ns`, and the same clock."""
