"""What all commands share: an option for each setting, and how a command fails."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from config import Loaded, SettingsError, load_settings, settings_table
from telemetry.figures import printable

WRONG_SETTING: Final = 2
FAILED: Final = 1
INTERRUPTED: Final = 130


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option a setting. Values are checked with all the others, not by click."""
    for row in reversed(settings_table()):
        if row.field:
            text = f"{row.description} [{row.must_be}; default: {row.default}; {row.env}]"
            command = click.option(row.option, row.field, metavar="VALUE", help=text)(command)
        else:
            kind = click.Path(path_type=Path)
            command = click.option(
                row.option, "config_file", type=kind, metavar="FILE", help=f"{row.description} [{row.env}]"
            )(command)
    return command


def load(config_file: Path | None, options: dict[str, Any]) -> Loaded:
    """Return the settings; a wrong one ends the command with one line."""
    try:
        loaded = load_settings(options, config_file)
    except SettingsError as error:
        fail(str(error), WRONG_SETTING)
    for warning in loaded.warnings:
        click.echo(f"local-video-server: warning: {warning}", err=True)
    return loaded


def fail(message: str, code: int) -> NoReturn:
    """End the command with one line and an exit code."""
    click.echo(f"local-video-server: {printable(message)}", err=True)
    sys.exit(code)
