"""A client in a process of its own: `python -m benchmarks.client PORT PATH CONNECTIONS RATE SECONDS`.

Each connection sends at fixed times, so that a slow answer does not spare the server the requests behind it; an answer that
makes the next request late is counted against that one as well. Prints the latencies in nanoseconds as JSON.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
import threading
import time


class Connection(threading.Thread):
    """Sends requests over one connection that stays open."""

    def __init__(self, port: int, path: str, start_ns: int, interval_ns: int, requests: int) -> None:
        super().__init__(daemon=True)
        self.latencies_ns: list[int] = []
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._due_ns = [start_ns + number * interval_ns for number in range(requests)]

    def run(self) -> None:
        was_late = False
        for due_ns in self._due_ns:
            wait_ns = due_ns - time.perf_counter_ns()
            if wait_ns > 0:
                time.sleep(wait_ns / 1e9)
            started_ns = due_ns if was_late else time.perf_counter_ns()
            self._socket.sendall(self._request)
            self._read_answer()
            ended_ns = time.perf_counter_ns()
            self.latencies_ns.append(ended_ns - started_ns)
            was_late = ended_ns > due_ns + self._interval_ns

    @property
    def _interval_ns(self) -> int:
        return self._due_ns[1] - self._due_ns[0] if len(self._due_ns) > 1 else 0

    def _read_answer(self) -> None:
        got = self._socket.recv(65536)
        while b"\r\n\r\n" not in got:
            got += self._socket.recv(65536)
        head, _, body = got.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode("latin-1"))
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        left = length - len(body)
        while left > 0:
            left -= len(self._socket.recv(65536))


def main(port: int, path: str, connections: int, rate: float, seconds: float) -> None:
    """Send `rate` requests a second over all `connections`, and print how long each has taken."""
    interval_ns = int(connections * 1e9 / rate)
    start_ns = time.perf_counter_ns() + 50_000_000
    requests = max(2, int(seconds * rate / connections))
    threads = [
        Connection(port, path, start_ns + number * interval_ns // connections, interval_ns, requests)
        for number in range(connections)
    ]
    gc.disable()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps([latency for thread in threads for latency in thread.latencies_ns]))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
