"""Who may see the admin pages: this machine, or whoever has the admin token.

The token is made at the first start and kept in the data folder. A server that listens beyond loopback asks everybody for it; one
on loopback asks those who don't come straight from this machine, such as through a reverse proxy.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_plus, urlencode

from flask import Flask, Response, current_app, request
from flask.typing import ResponseReturnValue
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from werkzeug.exceptions import TooManyRequests

from service.errors import ServerError, TokenNeededError
from service.lock import FileLock
from telemetry.admin import answers
from telemetry.admin.guard import Authorize, check, is_local, quick_check, why_not_local

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger(__name__)
FILE: Final = "admin-token"
COOKIE: Final = "lvs_admin"
PARAMETER: Final = "token"
EXTENSION: Final = "local_video_server_admin"
WRONG_TOKENS: Final = "10/minute"  # a client; 43 characters of 64 can't be guessed at any speed, but why let it try
_OFFERED: Final = "local_video_server.admin_token"
_PREFIXES: Final = ("/admin", "/api/admin")
_LEAST_CHARACTERS: Final = 32
_PATIENCE_S: Final = 5.0
_COOKIE_AGE_S: Final = 30 * 24 * 3600


class TokenError(ServerError):
    """The token's file can't be used; the text is for the user."""


def load_token(data: Path) -> str:
    """Return the admin token of a data folder, made at the first call. Safe with several processes, and on file systems without
    hard links or modes. Raises `TokenError`.
    """
    path = data / FILE
    try:
        data.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_token(path)
        _close_to_others(path)
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenError(f"the admin token in {path} can't be read or made: {error}") from error
    if len(token) < _LEAST_CHARACTERS:
        raise TokenError(
            f"the admin token in {path} must have at least {_LEAST_CHARACTERS} characters, got {len(token)}; "
            "without the file, a new one is made"
        )
    return token


def kept_token(data: Path) -> str | None:
    """Return the admin token that is kept in a data folder, whatever it is like; None where none can be read."""
    try:
        return (data / FILE).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _make_token(path: Path) -> None:
    lock = FileLock(path.with_name(f"{FILE}.lock"))
    deadline = time.monotonic() + _PATIENCE_S
    while not lock.acquire():
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process holds {FILE}.lock")
        time.sleep(0.01)
    try:
        if path.exists():  # another process was first
            return
        # Written whole under another name: who finds the file finds all of it.
        draft = path.with_name(f".{FILE}-{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        try:
            path.hardlink_to(draft)  # the first one's stays, also where nothing can be locked
        except FileExistsError:
            pass
        except OSError:  # FAT has no links
            draft.replace(path)
        draft.unlink(missing_ok=True)
    finally:
        lock.release()


def _close_to_others(path: Path) -> None:
    if os.name == "posix" and path.stat().st_mode & 0o077:
        try:
            path.chmod(0o600)
        except PermissionError as error:  # FAT, for one, has one mode for all files
            _log.warning("others on this machine may read the admin token in %s: %s", path, error.strerror)


def url_with_token(url: str, token: str) -> str:
    """Return the address that opens the dashboard for the first time."""
    return f"{url}/admin/performance?{urlencode({PARAMETER: token})}"


class TokenParameter:
    """Takes the token out of the query string before anything else sees the request, whatever the path: no span, no log and no
    view of an app's gets it. `AdminGuard` finds it in the environment.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ.pop(_OFFERED, None)
        query = environ.get("QUERY_STRING", "")
        parts = query.split("&")
        rest = [part for part in parts if unquote_plus(part.partition("=")[0]) != PARAMETER]
        if len(rest) < len(parts):
            first = next(part for part in parts if unquote_plus(part.partition("=")[0]) == PARAMETER)
            environ[_OFFERED] = unquote_plus(first.partition("=")[2])
            environ["QUERY_STRING"] = "&".join(rest)
            for name in ("RAW_URI", "REQUEST_URI"):
                if name in environ:
                    environ[name] = environ[name].partition("?")[0] + ("?" if rest else "") + "&".join(rest)
        return self._app(environ, start_response)


class AdminGuard:
    """The `authorize` of the video server. Thread-safe; each worker counts wrong tokens by itself."""

    def __init__(self, token: str, *, trusts_this_machine: bool) -> None:
        self._token = token.encode()
        self._cookie = hmac.new(self._token, b"cookie", hashlib.sha256).hexdigest().encode()
        self._trusts_this_machine = trusts_this_machine
        self._wrong = MovingWindowRateLimiter(MemoryStorage())
        self._limit = parse(WRONG_TOKENS)

    def __call__(self) -> bool | Response:
        """Let the current request in, or answer it: 303 to the same page with the cookie, 401, or 429.

        A token in the address is taken out of it at once, so that it stays in no history and no referrer.
        """
        came_with_token = _OFFERED in request.environ and "text/html" in request.headers.get("Accept", "")  # a browser
        cookie = request.cookies.get(COOKIE, "")
        is_local = self._trusts_this_machine and why_not_local(request.environ) is None
        if is_local or self._is(self._cookie, cookie):
            return self._to_clean_address() if came_with_token else True
        offered = self._offered()
        if offered is None and not cookie:
            raise self._unauthorized("These pages need the admin token.")
        # Apart, so that a page with a stale cookie, which refreshes itself, does not shut out the right token.
        guesser = (request.remote_addr or "unknown", "cookie" if offered is None else "token")
        if not self._wrong.test(self._limit, *guesser):
            raise TooManyRequests("Too many wrong tokens. Try again in a minute.", retry_after=60)
        if offered is None or not self._is(self._token, offered):
            self._wrong.hit(self._limit, *guesser)
            raise self._unauthorized("That is not the admin token.")
        return self._welcome() if came_with_token else True

    def peek(self, environ: WSGIEnvironment) -> bool:
        """Tell whether the current request, of `environ`, is let in, without counting or answering."""
        if self._trusts_this_machine and is_local(environ):
            return True
        if self._is(self._cookie, request.cookies.get(COOKIE, "")):
            return True
        authorization = request.authorization
        return authorization is not None and self._is(self._token, authorization.token or "")

    @staticmethod
    def _is(expected: bytes, offered: str) -> bool:
        return hmac.compare_digest(expected, offered.encode("utf-8", "surrogatepass"))

    @staticmethod
    def _offered() -> str | None:
        if _OFFERED in request.environ:
            return str(request.environ[_OFFERED]).strip()
        authorization = request.authorization
        if authorization is None:
            return None
        return authorization.token if authorization.type == "bearer" else ""

    @staticmethod
    def _unauthorized(why: str) -> TokenNeededError:
        return TokenNeededError(
            f"{why} The line that the server printed at its start has it; so has the file {FILE} in its data folder.",
            f"Open the page with ?{PARAMETER}=… once, or send it as a bearer token.",
        )

    def _to_clean_address(self) -> Response:
        rest = list(request.args.items(multi=True))
        target = f"{request.script_root}{request.path}" + (f"?{urlencode(rest)}" if rest else "")
        response = Response(status=303, headers={"Location": target})
        answers.harden(response)
        return response

    def _welcome(self) -> Response:
        response = self._to_clean_address()
        response.set_cookie(
            COOKIE,
            self._cookie.decode(),
            max_age=_COOKIE_AGE_S,
            httponly=True,
            samesite="Strict",
            secure=request.is_secure,
            path="/",
        )
        return response


def install(app: Flask, guard: Authorize) -> None:
    """Ask `guard` before anything under the admin paths, whether there is a page or not: a new one can't be forgotten.

    Templates have `may_see_figures()`, which tells whether the current request would be let in; where nothing can tell, not.
    """
    may_look = quick_check(guard) or (lambda _: False)
    app.jinja_env.globals["may_see_figures"] = lambda: may_look(request.environ)
    app.extensions[EXTENSION] = guard
    app.before_request(_check_path)


def _check_path() -> ResponseReturnValue | None:
    path = "/" + "/".join(part for part in request.path.casefold().split("/") if part)
    if not any(path == prefix or path.startswith(prefix + "/") for prefix in _PREFIXES):
        return None
    return check(current_app.extensions[EXTENSION])
