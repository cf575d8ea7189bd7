"""What the standard `OTEL_EXPORTER_OTLP_*` variables say, and whether that can be."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from telemetry.errors import SettingsError

if TYPE_CHECKING:
    from telemetry.exporters.status import Signal

PREFIX: Final = "OTEL_EXPORTER_OTLP_"
PROTOCOLS: Final = ("http/protobuf", "grpc")
_SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics")
_FILES: Final = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
_COMPRESSIONS: Final = ("none", "gzip", "deflate")
_GRPC_NAME: Final = re.compile(r"(dns|unix|unix-abstract|ipv4|ipv6|vsock):[^:]")
_UNFIT_FOR_HEADERS: Final = re.compile(r"[^\t\x20-\x7e\xa0-\xff]")


def is_set(signal: Signal, environment: Mapping[str, str]) -> bool:
    """Tell whether there is an endpoint for `signal`."""
    return bool(value("ENDPOINT", signal, environment)[1])


def protocol(signal: Signal, environment: Mapping[str, str]) -> str:
    """Return the protocol for `signal`, `http/protobuf` by default."""
    return value("PROTOCOL", signal, environment)[1] or PROTOCOLS[0]


def protocol_variable(signal: Signal, environment: Mapping[str, str]) -> str:
    """Return the variable that says the protocol for `signal`."""
    return value("PROTOCOL", signal, environment)[0]


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Raise `SettingsError` for the first variable that is wrong, naming it, what it must be and what it was."""
    for signal in _SIGNALS:
        variable, given = value("PROTOCOL", signal, environment)
        if given and given not in PROTOCOLS:
            raise SettingsError(f"{variable} must be {' or '.join(PROTOCOLS)}, got {given!r}")
        variable, given = value("ENDPOINT", signal, environment)
        if given and not is_address(given, may_lack_scheme=protocol(signal, environment) == "grpc"):
            raise SettingsError(f"{variable} must be an address such as http://127.0.0.1:4318, got {discreet(given)!r}")
        variable, given = value("COMPRESSION", signal, environment)
        if given and given.lower() not in _COMPRESSIONS:
            raise SettingsError(f"{variable} must be {' or '.join(_COMPRESSIONS)}, got {given!r}")
        variable, given = value("TIMEOUT", signal, environment)
        if given and not _is_positive(given):
            raise SettingsError(f"{variable} must be a number of seconds over 0, got {given!r}")
        variable, given = value("HEADERS", signal, environment)
        for header in given.split(","):
            key, equals, content = header.partition("=")
            if header.strip() and not equals:  # which may be a secret, and is not repeated here
                raise SettingsError(f"{variable} must be headers such as key=value,key2=value2, got one without '='")
            if _UNFIT_FOR_HEADERS.search(unquote(content).strip()):
                raise SettingsError(
                    f"{variable} must be headers such as key=value, without line breaks and what is beyond Latin-1: "
                    f"the value of {key.strip()!r} can't be sent"
                )
        for name in _FILES:
            variable, given = value(name, signal, environment)
            if given and not Path(given).is_file():
                raise SettingsError(f"{variable} must be a file that exists, got {given!r}")


def is_address(text: str, *, may_lack_scheme: bool = False) -> bool:
    """Tell whether `text` is an http(s) URL with a host; gRPC's addresses may lack the scheme, or have one of its resolvers."""
    if may_lack_scheme and _GRPC_NAME.match(text):
        return True
    try:
        parts = urlsplit(text if "//" in text or not may_lack_scheme else f"http://{text}")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def discreet(text: str) -> str:
    """Return what is given as an address, be it one or not, without a name and a password that may stand in it."""
    return f"…@{text.rpartition('@')[2]}" if "@" in text else text


def value(name: str, signal: Signal, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the variable that is in force for `signal`, and its value."""
    own, common = f"{PREFIX}{signal.upper()}_{name}", PREFIX + name
    given = environment.get(own, "").strip()
    return (own, given) if given else (common, environment.get(common, "").strip())


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
