"""The virtual environments that peers run in: made on first use under `var/`, pinned by `requirements/`, with our Flask."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.apps import UnavailableError

REQUIREMENTS = Path(__file__).with_name("requirements")
ENVIRONMENTS = Path(__file__).resolve().parents[2] / "var" / "bench" / "peers"
_SAME_AS_OURS = ("flask", "werkzeug", "jinja2", "markupsafe", "click", "blinker", "itsdangerous")
_TIMEOUT_S = 300


def python_of(peer: str) -> str:
    """Return the interpreter of the environment of `peer`, which is made if it is not there or not up to date.

    Raises:
        UnavailableError: it can't be made.
    """
    requirements = REQUIREMENTS / f"{peer}.txt"
    pins = "".join(f"{name}=={version(name)}\n" for name in _SAME_AS_OURS)
    wanted = hashlib.sha256(f"{sys.version}{pins}{requirements.read_text('utf-8')}".encode()).hexdigest()
    folder = ENVIRONMENTS / peer
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = folder / "stamp"
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return str(python)
    folder.parent.mkdir(parents=True, exist_ok=True)
    constraints = folder.parent / f"{peer}.constraints.txt"
    constraints.write_text(pins, "utf-8")
    _uv("venv", "--clear", "--python", sys.executable, str(folder))
    _uv("pip", "install", "--python", str(python), "-c", str(constraints), "-r", str(requirements), "flask")
    stamp.write_text(wanted, "utf-8")
    return str(python)


def _uv(*arguments: str) -> None:
    command = [sys.executable, "-m", "uv", "-q", *arguments]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"it can't be installed: {' '.join(error.stderr.split())[:300]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"it can't be installed: {error}") from error
