"""The real servers that `make test-backends` tests against, made ready once and kept in the user's cache folder.

    python tools/backends.py           make ready what is not there yet, one after the other, and say where it is
    python tools/backends.py --check   only say what is there

The Collector is built by its own builder and Jaeger by `go build`, both from the Go module proxy; Prometheus and promtool
come out of Debian's package, without being installed. What can't be had here (no Go, no apt) is left out, with a line that
says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MANIFEST = Path(__file__).with_name("otelcol-builder.yaml")
BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.140.0"
# Jaeger 2 is released from the same commits as 1; its module path has no /v2, so that Go knows it by the number of 1.
JAEGER = "github.com/jaegertracing/jaeger/cmd/jaeger@v1.76.0"
BUILD_TIMEOUT_S = 50 * 60


class NotHereError(Exception):
    """A server can't be made ready on this machine; the text says why."""


@dataclass(frozen=True)
class Backend:
    """One server: its programs, and how they come to be in a folder."""

    name: str
    version: str
    programs: tuple[str, ...]
    make: Callable[[Path], None]

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return cache() / f"{self.name}-{self.version}"

    def program(self, name: str) -> Path | None:
        """Return one of its programs, `None` if it is not ready."""
        path = self.folder / name
        return path if path.is_file() else None

    @property
    def is_ready(self) -> bool:
        return all(self.program(name) for name in self.programs)


def cache() -> Path:
    """Return the folder that everything is kept in."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "local-video-server" / "backends"


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> None:
    """Run a command of a build, at low priority; what it says is shown only if it fails."""
    done = subprocess.run(
        ["nice", "-n", "10", *map(str, command)],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise NotHereError(f"{' '.join(map(str, command))}: {done.stdout[-2000:]}")


def need(program: str) -> None:
    """Raise `NotHereError` if `program` is not on this machine."""
    if shutil.which(program) is None:
        raise NotHereError(f"{program} is not installed")


def make_collector(folder: Path) -> None:
    """Build the Collector of the manifest."""
    need("go")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run("go", "install", BUILDER, GOBIN=name)
        manifest = work / "manifest.yaml"
        manifest.write_text(
            MANIFEST.read_text("utf-8").replace("dist:\n", f"dist:\n  output_path: {work}/src\n"), "utf-8"
        )
        # The builder's own `go mod tidy` asks for what the tests of the components need, too, which can't all be had.
        run(work / "builder", f"--config={manifest}", "--skip-get-modules", "--skip-compilation")
        run(
            *("go", "build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", folder / "otelcol", "."),
            cwd=work / "src",
            CGO_ENABLED="0",
        )


def make_jaeger(folder: Path) -> None:
    """Build Jaeger; its pages are a placeholder, its query API is whole."""
    need("go")
    with tempfile.TemporaryDirectory() as work:
        run("go", "mod", "init", "jaeger-build", cwd=Path(work))
        run("go", "get", JAEGER, cwd=Path(work))
        package = JAEGER.partition("@")[0]
        run(
            *("go", "build", "-trimpath", "-ldflags=-s -w", "-o", folder / "jaeger", package),
            cwd=Path(work),
            CGO_ENABLED="0",
        )


def make_prometheus(folder: Path) -> None:
    """Take Prometheus and promtool out of Debian's package."""
    for program in ("apt-get", "dpkg-deb"):
        need(program)
    with tempfile.TemporaryDirectory() as work:
        Path(work).chmod(0o755)  # apt drops its rights to download
        try:
            run("apt-get", "download", "prometheus", cwd=Path(work))
        except NotHereError:
            run("apt-get", "update", "-q")
            run("apt-get", "download", "prometheus", cwd=Path(work))
        run("dpkg-deb", "-x", next(Path(work).glob("prometheus_*.deb")), Path(work) / "out")
        for program in PROMETHEUS.programs:
            shutil.move(Path(work) / "out" / "usr" / "bin" / program, folder / program)


def _debian_version() -> str:
    try:
        lines = Path("/etc/os-release").read_text("utf-8").splitlines()
    except OSError:
        return "unknown"
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return fields.get("VERSION_CODENAME", "unknown").strip('"')


COLLECTOR = Backend(
    "collector", hashlib.sha256(MANIFEST.read_bytes() + BUILDER.encode()).hexdigest()[:12], ("otelcol",), make_collector
)
JAEGER_QUERY = Backend("jaeger", JAEGER.partition("@")[2], ("jaeger",), make_jaeger)
PROMETHEUS = Backend("prometheus", _debian_version(), ("prometheus", "promtool"), make_prometheus)
BACKENDS = (PROMETHEUS, COLLECTOR, JAEGER_QUERY)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep other runs from building at the same time."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_ready(backend: Backend) -> str:
    """Make one ready, and return what to say of it."""
    if backend.is_ready:
        return f"ready in {backend.folder}"
    began = time.monotonic()
    draft = Path(tempfile.mkdtemp(prefix=f".{backend.name}-", dir=cache()))
    try:
        backend.make(draft)
        draft.chmod(0o755)
        shutil.rmtree(backend.folder, ignore_errors=True)
        draft.rename(backend.folder)
    except (NotHereError, subprocess.TimeoutExpired, OSError) as error:
        return f"left out: {error}"
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return f"ready in {backend.folder} after {time.monotonic() - began:.0f} s"


def main(check: bool) -> int:
    """Make all ready, or only say what is there."""
    with alone() if not check else contextlib.nullcontext():
        for backend in BACKENDS:
            said = make_ready(backend) if not check else ("ready" if backend.is_ready else "not there")
            print(f"{backend.name} {backend.version}: {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
