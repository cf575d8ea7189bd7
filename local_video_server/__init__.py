"""The installed face of the video server: its command, and `create_app` for a WSGI server of one's own.

In a checkout `service` and `config` are packages beside this one. A wheel carries them in `_packages/`, off the import
path, because an app that installs the wheel for `telemetry` alone may have modules of those names; only this module puts
them on the path.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from flask import Flask

    from config.settings import Settings

_PACKAGES = Path(__file__).with_name("_packages")


def _find_packages() -> None:
    if _PACKAGES.is_dir() and str(_PACKAGES) not in sys.path:
        sys.path.insert(0, str(_PACKAGES))


def main() -> None:
    """Run the `local-video-server` command."""
    _find_packages()
    try:
        _check_opentelemetry()
        from service.cli import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name in {"service", "config", "telemetry"} or str(error.name).startswith(("service.", "config.")):
            raise
        sys.exit(
            f"local-video-server needs the [server] extra ({error.name} is missing): pip install '.[server]' in its checkout"
        )
    command()


def _check_opentelemetry() -> None:
    """End with one line where OpenTelemetry can't use a variable that it reads as it is imported."""
    try:
        import opentelemetry.propagate
    except ValueError as error:
        _fail(f"OTEL_PROPAGATORS can't be used: {error}")
    try:
        import opentelemetry.sdk.trace  # noqa: F401
    except ValueError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print(f"local-video-server: {message}", file=sys.stderr)
    sys.exit(2)


def create_app(settings: Settings | None = None) -> Flask:
    """Return the video server as a WSGI application; see `service.create_app`."""
    _find_packages()
    from service import create_app as create

    return create(settings)
