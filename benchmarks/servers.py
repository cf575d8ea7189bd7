"""Apps under Granian, in processes of their own, for what has to be measured from outside.

`python -m benchmarks.servers PORT WORKERS LOADER` runs until its input ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError
from urllib.request import urlopen

from benchmarks.plan import VAR

_START_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class VariantLoader:
    """Makes the app of one variant in a worker of the server."""

    variant: str

    def __call__(self) -> Any:
        from benchmarks.variants import VARIANTS

        return VARIANTS[self.variant].make().wsgi


@dataclass(frozen=True, slots=True)
class VideoServerLoader:
    """Makes the video server; `telemetry=False`: nothing is instrumented, and its cache lookups are counted nowhere."""

    videos: str
    data: str
    telemetry: bool

    def __call__(self) -> Any:
        from config import Settings
        from service import app as service_app

        settings = Settings(videos=Path(self.videos), data=Path(self.data), rescan_interval=86400, log_level="error")
        if self.telemetry:
            return service_app.create_app(settings)
        vars(service_app)["instrument"] = _without_telemetry
        return service_app.create_app(settings, metrics=_NoMetrics())  # type: ignore[arg-type]


def _without_telemetry(app: Any, **_: object) -> Any:
    """Leave `app` as it is, but for a page of figures that others can link to."""
    app.add_url_rule("/admin/performance", "telemetry_admin.performance", lambda: "")
    return app


class _NoMetrics:
    def record_cache_hit(self, lookups: int) -> None:
        """Count nothing."""

    def record_cache_miss(self, lookups: int) -> None:
        """Count nothing."""


LOADERS: dict[str, Callable[..., Callable[[], Any]]] = {
    loader.__name__: loader for loader in (VariantLoader, VideoServerLoader)
}


@contextmanager
def serving(
    loader: VariantLoader | VideoServerLoader,
    ready_path: str,
    *,
    workers: int = 1,
    threads: int = 4,
    is_ready: str = "",
) -> Iterator[int]:
    """Serve what `loader` makes until the block ends; gives the port once `ready_path` answers with `is_ready` in its body.

    Raises:
        TimeoutError: that takes longer than a minute.
    """
    port = _free_port()
    (VAR / "logs").mkdir(parents=True, exist_ok=True)
    said = json.dumps([type(loader).__name__, asdict(loader)])
    with (VAR / "logs" / f"server-{port}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.servers", str(port), str(workers), str(threads), said],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}{ready_path}", is_ready, log)
            yield port
        finally:
            process.communicate()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, is_ready: str, log: IO[str]) -> None:
    until = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(url, timeout=5) as answer:
                if is_ready in answer.read().decode():
                    return
        except (URLError, OSError):
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{url} has not answered; the server left {log.name}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(port: str, workers: str, threads: str, said: str) -> None:
    """Serve until the input ends."""
    import multiprocessing
    import threading

    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    name, values = json.loads(said)
    threading.Thread(target=_end_with_input, daemon=True).start()
    multiprocessing.set_start_method("spawn", force=True)
    Granian(
        "benchmark",
        address="127.0.0.1",
        port=int(port),
        interface=Interfaces.WSGI,
        workers=int(workers),
        blocking_threads=int(threads),
        workers_kill_timeout=5,
        log_level=LogLevels.error,
    ).serve(target_loader=LOADERS[name](**values), wrap_loader=False)


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    # Workers unpickle the loader, which must not be in `__main__`.
    from benchmarks.servers import main as imported_main

    imported_main(*sys.argv[1:])
