"""What a look found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; a problem says how to mend it."""

    level: Level
    subject: str
    text: str
    remedy: str = ""

    def body(self) -> dict[str, str]:
        """Return it as JSON shows it."""
        return {"level": self.level, "subject": self.subject, "text": self.text, "remedy": self.remedy}
