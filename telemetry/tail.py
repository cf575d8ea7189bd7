"""Which requests are exported, decided when they have ended and everything about them is known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from typing import Final, NamedTuple, Self

MUST_BE: Final = "all, a share of the requests such as 1/10 or 0.1, notable, or notable+ and such a share of the rest"
_RANDOM: Final = 2**64


class Decision(NamedTuple):
    """Why a request is exported, and the share of its like that is: what a backend multiplies counts by is `1 / share`."""

    reason: str
    share: float


@dataclass(frozen=True, slots=True)
class TailPolicy:
    """Keeps what is notable, if `keeps_notable`, and of the rest the share `share`, by trace id: traces stay whole.

    Notable is a request that failed, that took `slow_ns` or longer, or that made `fan_out` queries or more.
    """

    keeps_notable: bool
    share: float
    slow_ns: int
    fan_out: int

    @classmethod
    def of(cls, export: str, slow_ms: float, fan_out: int) -> Self | None:
        """Return the policy of the setting `export`; `None` for `all`.

        Raises:
            ValueError: `export` is no such thing.
        """
        if export == "all":
            return None
        keeps_notable, share = parse(export)
        return cls(keeps_notable, share, int(slow_ms * 1e6), fan_out)

    def decide(self, trace_id: int, error_type: str | None, duration_ns: int, queries: int) -> Decision | None:
        """Return why the request is exported; `None` if it is not."""
        if self.keeps_notable:
            if error_type is not None:
                return Decision("error", 1.0)
            if queries >= self.fan_out:
                return Decision("fan_out", 1.0)
            if duration_ns >= self.slow_ns:
                return Decision("slow", 1.0)
        if mixed(trace_id) < self.share * _RANDOM:
            return Decision("share", self.share)
        return None


def stronger(one: Decision | None, other: Decision | None) -> Decision | None:
    """Return the reason of the two that keeps more requests; the first of equals."""
    if one is None or other is None:
        return one or other
    return other if other.share > one.share else one


def mixed(trace_id: int) -> int:
    """Return a number under `_RANDOM` that depends on a trace id alone, and not on what a sampler has looked at in it."""
    return int.from_bytes(blake2b(trace_id.to_bytes(16), digest_size=8).digest())


def parse(text: str) -> tuple[bool, float]:
    """Return whether the setting `export`, which is not `all`, keeps what is notable, and the share of the rest.

    Raises:
        ValueError: saying what it must be.
    """
    notable, plus, rest = text.partition("+")
    if notable == "notable":
        share = _share(rest) if plus else 0.0
        return True, share
    return False, _share(text)


_LONGEST: Final = 40
_LARGE_EXPONENT: Final = re.compile(r"[eE][+-]?\d{3}")  # a fraction of that would take the memory that there is


def _share(text: str) -> float:
    try:
        share = float(Fraction(text)) if len(text) <= _LONGEST and not _LARGE_EXPONENT.search(text) else -1.0
    except (ValueError, ZeroDivisionError, OverflowError):
        share = -1.0
    if not 0 < share <= 1:
        raise ValueError(f"must be {MUST_BE}")
    return share
