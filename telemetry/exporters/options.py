"""What exporters are told beside the standard variables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from telemetry.settings import TelemetrySettings


@dataclass(frozen=True, slots=True)
class Options:
    """Of all exporters of one app; times in seconds."""

    shutdown_timeout_s: float = 3.0
    jsonfile_folder: Path = Path("telemetry-export")
    jsonfile_bytes: int = 100 * 1024 * 1024

    @classmethod
    def of(cls, settings: TelemetrySettings) -> Options:
        """Return the options that the settings say."""
        return cls(settings.shutdown_timeout_s, Path(settings.jsonfile_folder), settings.jsonfile_max_mb * 1024 * 1024)
