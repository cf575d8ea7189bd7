"""The port to listen on, and where measurements are sent."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from errno import EADDRINUSE
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import urlsplit

from service.doctor.finding import Finding, why
from telemetry.exporters.choice import JAEGER_ENDPOINT
from telemetry.exporters.endpoints import discreet, is_address

_TIMEOUT_S: Final = 3.0
_SIGNALS: Final = (("TRACES", "/v1/traces"), ("METRICS", "/v1/metrics"))
_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_DEFAULT_ADDRESS: Final = JAEGER_ENDPOINT  # of `otlp` as well, where it is named without one
_NAMING: Final = ("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "LVS_TELEMETRY_EXPORTERS")
_PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"


def check_port(host: str, port: int) -> Iterator[Finding]:
    """Look whether the server could listen on `host` and `port`, or does already."""
    from service.server import CannotListenError, address, pick_port, reachable

    try:
        found = pick_port(host, port)
    except CannotListenError as error:
        url = address(reachable(host), port)
        if _is_ours(reachable(host), port):
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


def _is_ours(host: str, port: int) -> bool:
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
    """Look whether the OTLP endpoints that are set answer, by sending them an export of nothing."""
    base = environment.get(_ENDPOINT, "").strip()
    asked: dict[str, str] = {}
    wrong: dict[str, str] = {}
    is_grpc = False
    for signal, path in _SIGNALS:
        variable = f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"
        own = environment.get(variable, "").strip()
        if not own and not base:
            continue
        if "grpc" in (environment.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"), environment.get(_PROTOCOL)):
            is_grpc = True
            yield _ask_grpc(own or base, variable if own else _ENDPOINT)
            continue
        name, given = (variable, own) if own else (_ENDPOINT, base)
        if is_address(given):
            asked[own or base.rstrip("/") + path] = name
        else:
            wrong[name] = given
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield Finding("note", "exporter", "OTEL_SDK_DISABLED is true: nothing is measured or sent.", "Unset it.")
        return
    if not asked and not wrong:
        named = " ".join(environment.get(variable, "") for variable in _NAMING)
        if ("otlp" in named or "jaeger" in named) and not is_grpc and environment.get(_PROTOCOL) != "grpc":
            asked[_DEFAULT_ADDRESS] = _ENDPOINT
        elif is_grpc or named.replace("none", "").strip():
            return  # what is named there is another check's to tell
    if not asked and not wrong:
        yield Finding("ok", "exporter", f"{_ENDPOINT} is not set here: a server started like this sends nothing.")
        return
    for variable, given in wrong.items():
        text = f"{variable} must be an address such as http://127.0.0.1:4318, got {discreet(given)!r}."
        yield Finding("problem", "exporter", text, "Correct it, or unset it.")
    for url, variable in asked.items():
        yield _ask_exporter(url, variable, environment)


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


def _ask_exporter(url: str, variable: str, environment: Mapping[str, str]) -> Finding:
    meanwhile = "requests are served as ever meanwhile, what can't be sent is tried again until the queue is full"
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    shown = f"{parts.scheme}://{host}:{port}{parts.path}"  # without a password that may stand in it
    connection = (HTTPSConnection if parts.scheme == "https" else HTTPConnection)(host, port, timeout=_TIMEOUT_S)
    headers = {"Content-Type": "application/x-protobuf", **_headers(environment)}
    try:
        connection.request("POST", parts.path or "/", b"", headers)
        status = connection.getresponse().status
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
    if 200 <= status < 300:
        return Finding("ok", "exporter", f"{shown} takes what is sent.")
    remedy = {401: "Check OTEL_EXPORTER_OTLP_HEADERS.", 403: "Check OTEL_EXPORTER_OTLP_HEADERS."}.get(
        status, f"Check that {variable} is a collector's OTLP/HTTP address, usually port 4318; {meanwhile}."
    )
    return Finding("problem", "exporter", f"{shown} answers with status {status}.", remedy)


def _headers(environment: Mapping[str, str]) -> dict[str, str]:
    from opentelemetry.util.re import parse_env_headers

    return dict(parse_env_headers(environment.get("OTEL_EXPORTER_OTLP_HEADERS", ""), liberal=True))
