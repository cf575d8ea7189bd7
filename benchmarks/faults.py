"""What requests feel of a backend that is not well: p50 and p95 beside the same app without an exporter.

    python -m benchmarks.faults

Each fault is played by a real socket server. The apps of a pair are asked in turns, in blocks, so that what else the machine does
hits both.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import click

from tests.backends import servers
from tests.integration.telemetry.test_faults import FAULTS, OK, Backend

BLOCKS = 30
REQUESTS_A_BLOCK = 40
PATH = "/tagged"
ENVIRONMENT = {
    "OTEL_BSP_SCHEDULE_DELAY": "100",
    "OTEL_BSP_MAX_QUEUE_SIZE": "5000",
    "OTEL_METRIC_EXPORT_INTERVAL": "500",
}


class Receiver(Backend):
    """One that keeps nothing, and takes metrics as well."""

    def _keep(self, body: bytes) -> None:
        pass


@contextmanager
def endpoint(fault: str) -> Iterator[str]:
    """Give the address of a backend with this fault."""
    if fault == "down":
        yield f"http://127.0.0.1:{servers.free_port()}"
    elif fault == "name does not resolve":
        yield "http://collector.invalid:4318"
    else:
        backend = Receiver(tls=fault == "certificate not trusted")
        backend.answer = OK if fault in ("well", "certificate not trusted") else FAULTS[fault]
        try:
            yield f"{'https' if fault == 'certificate not trusted' else 'http'}://127.0.0.1:{backend.port}"
        finally:
            backend.close()


def block(connection: HTTPConnection) -> list[float]:
    """Return the durations of some requests in milliseconds, by the client's clock."""
    durations_ms = []
    for _ in range(REQUESTS_A_BLOCK):
        began = time.perf_counter()
        connection.request("GET", PATH)
        answer = connection.getresponse()
        answer.read()
        durations_ms.append((time.perf_counter() - began) * 1000)
        assert answer.status == 200
    return durations_ms


def compare(fault: str, folder: Path) -> str:
    """Return a line of the table."""
    durations: dict[int, list[float]] = {}
    with endpoint(fault) as url, servers.shop(folder) as alone:
        with servers.shop(folder, OTEL_EXPORTER_OTLP_ENDPOINT=url, **ENVIRONMENT) as exporting:
            connections = {port: HTTPConnection("127.0.0.1", port, timeout=30) for port in (alone, exporting)}
            for connection in connections.values():
                block(connection)
            for number in range(BLOCKS):
                for port in (alone, exporting) if number % 2 else (exporting, alone):
                    durations.setdefault(port, []).extend(block(connections[port]))
            for connection in connections.values():
                connection.close()
            began = time.perf_counter()
        ended_s = time.perf_counter() - began  # the web server's own half second included
    (p50, p95), (with_p50, with_p95) = (
        (statistics.median(durations[port]), statistics.quantiles(durations[port], n=100, method="inclusive")[94])
        for port in (alone, exporting)
    )
    return f"{fault:<26}{p50:>8.2f}{with_p50:>8.2f}{p95:>8.2f}{with_p95:>8.2f}{ended_s:>9.2f}"


@click.command()
def main() -> None:
    """Print what requests feel of a backend that is not well, fault by fault."""
    print(f"{BLOCKS * REQUESTS_A_BLOCK} requests of {PATH} (13 queries each) a side; milliseconds; the end in seconds")
    print(f"{'backend':<26}{'p50':>8}{'with':>8}{'p95':>8}{'with':>8}{'end':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for fault in ("well", "down", *FAULTS, "certificate not trusted", "name does not resolve"):
            print(compare(fault, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
