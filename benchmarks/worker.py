"""One variant of the measured app, in a process of its own: `python -m benchmarks.worker VARIANT`.

It reads lines `QUERIES REQUESTS` and answers each with a line of JSON: the CPU time it took, in nanoseconds a request.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from io import BytesIO
from typing import Any

from benchmarks.apps import LOAD_VARIABLE, LostSpansError, Measured, UnavailableError
from benchmarks.variants import VARIANTS


def environ_of(path: str) -> dict[str, Any]:
    """Return a WSGI environment as a server on this machine makes it."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def serve(measured: Measured, path: str, requests: int) -> None:
    """Have `path` answered so many times, as a WSGI server would."""
    environ = environ_of(path) | measured.of_requests
    app = measured.wsgi
    status = ""

    def start_response(got: str, *_: Any) -> Any:
        nonlocal status
        status = got

    for _ in range(requests):
        body = app(dict(environ), start_response)
        for _ in body:
            pass
        close = getattr(body, "close", None)
        if close is not None:
            close()
    if requests and not status.startswith(str(measured.status)):
        raise RuntimeError(f"{path} answered {status}")


def measure(measured: Measured, queries: int, requests: int) -> float:
    """Return the CPU time of one request in nanoseconds, over all threads of the process, with what it leaves for later.

    Raises:
        LostSpansError: fewer spans have come out than requests and queries have made.
    """
    gc.collect()
    started = time.process_time_ns()
    serve(measured, f"/queries/{queries}", requests)
    measured.flush()
    took = time.process_time_ns() - started
    if measured.received is not None:
        wanted, received = requests * (1 + queries + measured.more_spans), measured.received()
        if received != wanted:
            raise LostSpansError(f"{wanted} spans were to come out, {received} did")
    return took / requests


def main(variant: str) -> None:
    """Answer requests for measurements until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a peer prints is no answer
    try:
        measured = VARIANTS[variant].make()
        if LOAD_VARIABLE in os.environ:
            from benchmarks.load_apps import LOADS

            load = LOADS[os.environ[LOAD_VARIABLE]]
            measured.of_requests.update(load.environ)
            measured.more_spans, measured.status = load.more_spans, load.status
        measure(measured, 1, 1)  # which also makes the table, in a query of its own
    except LostSpansError:
        pass
    except (UnavailableError, ImportError) as error:
        print(json.dumps({"unavailable": str(error)}), file=answers)
        return
    except Exception as error:
        print(json.dumps({"unavailable": f"{type(error).__name__}: {error}"}), file=answers)
        return
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        queries, requests = map(int, line.split())
        try:
            answer = {"ns": measure(measured, queries, requests)}
        except LostSpansError as error:
            print(json.dumps({"lost": str(error)}), file=answers)
            return
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main(sys.argv[1])
