"""The port to listen on, and where measurements are sent."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from errno import EADDRINUSE
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from service.doctor.finding import Finding
from service.errors import why
from telemetry.exporters import endpoints
from telemetry.exporters.choice import JAEGER_ENDPOINT
from telemetry.exporters.endpoints import discreet, is_address
from telemetry.exporters.registry import is_switched_off

if TYPE_CHECKING:
    from telemetry.exporters.status import Signal

_TIMEOUT_S: Final = 3.0
_SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics")
_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_DEFAULT_ADDRESS: Final = JAEGER_ENDPOINT  # of `otlp` as well, where it is named without one
_BY_OTLP: Final = ("otlp", "jaeger")  # exporters


def check_port(host: str, port: int) -> Iterator[Finding]:
    """Look whether the server could listen on `host` and `port`, or does already."""
    from service.server import CannotListenError, address, pick_port, reachable

    try:
        found = pick_port(host, port)
    except CannotListenError as error:
        url = address(reachable(host), port)
        if is_ours(reachable(host), port):
            remedy = "Open it, or start another one beside it with --port 0."
            yield Finding("note", "port", f"a video server is running at {url} already.", remedy)
            return
        cause = error.__cause__
        if isinstance(cause, PermissionError):
            remedy = "Take a port from 1024 on with --port (LVS_PORT)."
        else:
            remedy = "Stop the program that has it, or take another port with --port (LVS_PORT); 0 takes a free one."
        reason = "it is taken by another program" if _is_taken(cause) else why(cause)
        yield Finding("problem", "port", f"{host} port {port} can't be listened on: {reason}.", remedy)
    else:
        chosen = f"port {port} is free" if port else f"a free port is taken, such as {found}"
        yield Finding("ok", "port", f"on {host}, {chosen}.")


def _is_taken(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and (error.errno == EADDRINUSE or getattr(error, "winerror", 0) in (10013, 10048))


def is_ours(host: str, port: int) -> bool:
    """Return whether what listens there answers as a video server does."""
    connection = HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/ping")
        answer = connection.getresponse()
        return answer.status == 200 and json.loads(answer.read1(1000)) == {"status": "ok"}
    except (OSError, HTTPException, ValueError, RecursionError):
        return False
    finally:
        connection.close()


def check_exporter(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look whether what takes OTLP answers, by sending it an export of nothing as the exporters would."""
    if is_switched_off(environment):
        yield Finding("note", "exporter", "OTEL_SDK_DISABLED is true: nothing is measured or sent.", "Unset it.")
        return
    asked: dict[str, tuple[str, Signal]] = {}
    wrong: dict[str, str] = {}
    others = False
    for signal in _SIGNALS:
        names = _names(signal, environment)
        if names and not any(name in names for name in _BY_OTLP):
            others = True  # that is another check's to tell
            continue
        variable, given = endpoints.value("ENDPOINT", signal, environment)
        if endpoints.protocol(signal, environment) == "grpc":
            if given:
                yield _ask_grpc(given, variable)
            others = others or bool(given or names)
        elif not given:
            if names:
                asked.setdefault(_DEFAULT_ADDRESS, (variable, signal))
        elif is_address(given):
            url = given.rstrip("/") + f"/v1/{signal}" if variable == _ENDPOINT else given
            asked[url] = variable, signal
        else:
            wrong[variable] = given
    if not (asked or wrong or others):
        yield Finding("ok", "exporter", f"{_ENDPOINT} is not set here: a server started like this sends nothing.")
    for variable, given in wrong.items():
        text = f"{variable} must be an address such as http://127.0.0.1:4318, got {discreet(given)!r}."
        yield Finding("problem", "exporter", text, "Correct it, or unset it.")
    for url, (variable, signal) in asked.items():
        yield _ask_exporter(url, variable, signal, environment)


def _names(signal: Signal, environment: Mapping[str, str]) -> list[str]:
    """Return the names of exporters that are chosen for `signal`, if any are."""
    chosen = environment.get("LVS_TELEMETRY_EXPORTERS", "").strip()
    text = chosen or environment.get(f"OTEL_{signal.upper()}_EXPORTER", "")
    return re.findall(r"[\w-]+", text)  # a JSON list, or names with commas between them


def _ask_grpc(url: str, variable: str) -> Finding:
    """Look whether anybody listens there; to speak gRPC is the exporter's."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    try:
        host, port = parts.hostname or "", parts.port or 4317
        socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        remedy = f"Start the collector, correct {variable}, or unset it; requests are served as ever meanwhile."
        return Finding("problem", "exporter", f"nobody listens at {discreet(parts.netloc)}: {why(error)}.", remedy)
    return Finding("ok", "exporter", f"{host} port {port} is open (gRPC).")


def _ask_exporter(url: str, variable: str, signal: Signal, environment: Mapping[str, str]) -> Finding:
    from telemetry.exporters.answer import NO_OTLP

    meanwhile = "requests are served as ever meanwhile, what can't be sent is tried again until the queue is full"
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    shown = f"{parts.scheme}://{host}:{port}{parts.path}"  # without a password that may stand in it
    headers_variable, given = endpoints.value("HEADERS", signal, environment)
    headers = {"Content-Type": "application/x-protobuf", **parse_env_headers(given, liberal=True)}
    connection = HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        if parts.scheme == "https":
            connection = HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=_tls(signal, environment))
        connection.request("POST", parts.path or "/", b"", headers)
        answer = connection.getresponse()
        status, kind = answer.status, (answer.headers["Content-Type"] or "").lower()
    except (OSError, UnicodeError) as error:
        remedy = f"Start the collector, correct {variable}, or unset it; {meanwhile}."
        return Finding("problem", "exporter", f"{shown} does not answer: {why(error)}.", remedy)
    except (HTTPException, ValueError) as error:
        remedy = (
            f"OTLP is sent over HTTP here; a collector takes that on port 4318, and gRPC on 4317. Correct {variable}."
        )
        return Finding("problem", "exporter", f"{shown} does not speak HTTP ({type(error).__name__}).", remedy)
    finally:
        connection.close()
    remedy = f"Check that {variable} is a collector's OTLP/HTTP address, usually port 4318; {meanwhile}."
    if 200 <= status < 300:
        if kind.startswith(NO_OTLP):
            return Finding("problem", "exporter", f"{shown} answers, but is no OTLP receiver: it sends {kind}.", remedy)
        return Finding("ok", "exporter", f"{shown} takes what is sent.")
    if status in (401, 403):
        remedy = f"Check {headers_variable}."
    return Finding("problem", "exporter", f"{shown} answers with status {status}.", remedy)


def _tls(signal: Signal, environment: Mapping[str, str]) -> ssl.SSLContext:
    """Return how a backend is trusted, and how the exporter says who it is."""
    authority, certificate, key = (
        endpoints.value(name, signal, environment)[1] or None
        for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
    )
    context = ssl.create_default_context(cafile=authority)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
