"""The one table of settings: the command line is made from it, and the docs are checked against it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.settings import CONFIG_VARIABLE, Settings, env_name, must_be, option_name


@dataclass(frozen=True, slots=True)
class Row:
    """One setting as a user meets it; `field` is its key in the TOML file, empty for the file itself."""

    field: str
    option: str
    env: str
    default: str
    must_be: str
    description: str


def settings_table() -> list[Row]:
    """Return one row a setting, in the order of the model, and last the row of the TOML file itself."""
    rows = []
    for field, info in Settings.model_fields.items():
        rows.append(
            Row(field, option_name(field), env_name(field), shown(info.default), must_be(field), str(info.description))
        )
    return [
        *rows,
        Row(
            "",
            "--config",
            CONFIG_VARIABLE,
            "none",
            "a readable TOML file",
            "A TOML file with any of these settings: `page_size = 48`.",
        ),
    ]


def shown(value: Any) -> str:
    """Return a setting's value as a user writes it; lists with commas between, empty ones as `none`."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return value.as_posix() if isinstance(value, Path) else str(value)
