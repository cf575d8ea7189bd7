"""Reading the JSON of a running server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from time import monotonic
from typing import Any, Final, NoReturn, Self
from urllib.parse import parse_qs, urlsplit

from service.errors import ServerError, why
from telemetry.exporters.endpoints import is_address

_TIMEOUT_S: Final = 10.0
_MOST_BYTES: Final = 64 * 1024 * 1024
_PAGES: Final = ("/admin/performance/json", "/admin/performance.json", "/admin/performance")
_MUST_BE: Final = "the address of a server, such as http://127.0.0.1:5000"


class FetchError(ServerError):
    """The server can't be asked, or answers something else; the text is for the user."""


class WrongURLError(FetchError):
    """What was given is no address."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and the admin token to show it."""

    scheme: str
    host: str
    port: int
    path: str
    token: str | None

    @classmethod
    def parse(cls, url: str, token: str | None = None) -> Self:
        """Return the server of `url`: its root, or its performance page, with `?token=` as the start line prints it.

        Raises:
            WrongURLError: `url` is none.
        """
        if not (is_address(url) and url.isascii() and url.isprintable()):
            raise WrongURLError(f"--url must be {_MUST_BE}, got {url!r}")
        parts = urlsplit(url)
        path = parts.path.rstrip("/")
        for page in _PAGES:
            path = path.removesuffix(page)
        given = parse_qs(parts.query).get("token", [token])[0]
        return cls(
            parts.scheme, str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80), path, given
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def refusal(self, what: str, status: int) -> FetchError:
        """Return what to say of an answer 401, 403 or 429 to who asked for `what`."""
        remedy = "give --url the address with ?token=… that it printed at its start"
        if status == 429:
            remedy = "there were too many wrong tokens, try again in a minute"
        elif status == 403:
            remedy = f"ask on the machine that runs it, or {remedy}"
        elif self.token:
            remedy = f"the token is not its admin token, {remedy}"
        else:
            remedy = f"it wants its admin token, {remedy}"
        return FetchError(f"{self} does not show its {what} here (status {status}): {remedy}")

    def get(self, path: str) -> tuple[int, Any]:
        """Return the status and the JSON of `path`, `None` where the answer is none. Redirects are not followed.

        Raises:
            FetchError: nothing answers, or no HTTP.
        """
        kind = HTTPSConnection if self.scheme == "https" else HTTPConnection
        connection = kind(self.host, self.port, timeout=_TIMEOUT_S)
        headers: Mapping[str, str] = {"Accept": "application/json"}
        if self.token:
            headers = {**headers, "Authorization": f"Bearer {self.token}"}
        try:
            connection.request("GET", (self.path + path).replace(" ", "%20"), headers=dict(headers))
            answer = connection.getresponse()
            body = _read(answer)
        except (OSError, UnicodeError) as error:
            reason = why(error)
            hint = "'local-video-server serve' starts one, --url asks another"
            raise FetchError(f"no server answers at {self}: {reason}; {hint}") from error
        except (HTTPException, ValueError) as error:
            raise FetchError(f"what answers at {self} is no web server: {type(error).__name__}") from error
        finally:
            connection.close()
        try:
            return answer.status, json.loads(body, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return answer.status, None


def _read(answer: HTTPResponse) -> bytes:
    """Return the body, cut off at `_MOST_BYTES`. Raises `TimeoutError` if it takes longer than `_TIMEOUT_S`."""
    until, body = monotonic() + _TIMEOUT_S, bytearray()
    while len(body) < _MOST_BYTES and (part := answer.read1(_MOST_BYTES - len(body))):
        body += part
        if monotonic() > until:
            raise TimeoutError("timed out")
    return bytes(body)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
