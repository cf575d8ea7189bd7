"""How thoroughly to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

VAR = Path(__file__).resolve().parents[1] / "var" / "bench"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for."""

    console: Console
    rounds: int | None = None
    quick: bool = False
    """Only see that it works: the figures mean nothing."""
    full: bool = False
    """Measure what takes long as well: the million requests."""
    peers: bool = True

    def rounds_or(self, default: int, quick: int = 1) -> int:
        """Return how many rounds to measure."""
        return self.rounds or (quick if self.quick else default)
