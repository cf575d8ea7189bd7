"""What can go wrong, and how it is told: one root, and one place that turns errors into HTTP answers."""

from __future__ import annotations

import logging
import math
import sqlite3

from flask import Flask, Response, jsonify, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import BadHost, HTTPException, InternalServerError, Unauthorized

from telemetry.admin.answers import wants_json

_log = logging.getLogger(__name__)
_JSON_PREFIXES = ("/api/", "/admin/cache/")
_JSON_PATHS = {"/rate", "/ping"}
_TITLES = {
    400: "That request doesn't add up",
    401: "Not without signing in",
    403: "Not from there",
    404: "Nothing here",
    405: "Not that way",
    413: "Too much at once",
    429: "Too fast",
    500: "Something broke",
    503: "Busy",
    507: "Not saved",
}
_MAY_WRITE = "give the user who runs the server the right to write it and its folder"
_REMEDIES = {
    "READONLY": _MAY_WRITE,
    "CANTOPEN": _MAY_WRITE,
    "PERM": _MAY_WRITE,
    "BUSY": "stop what else uses it",
    "FULL": "make room on its disk",
    "IOERR": "look whether its disk is sound and has room",
}
_UNWRITABLE = {"READONLY", "FULL"}


class ServerError(Exception):
    """Root of what this package raises. `status` is the HTTP status it becomes."""

    status = 500


class BadParameterError(ServerError):
    """A parameter that can't be used: its name, what it must be, and what it was."""

    status = 400

    def __init__(self, parameter: str, must_be: str, got: object) -> None:
        self.parameter = parameter
        self.must_be = must_be
        self.got = got
        super().__init__(f"{parameter} must be {must_be}, got {shown(got)}")


class NotFoundError(ServerError):
    """Something that the index doesn't know."""

    status = 404


class RefusedError(ServerError):
    """A request from a place that may not make it."""

    status = 403


class TooManyWritesError(ServerError):
    """Past the write limit; `retry_after_s` is a whole number of seconds from 1."""

    status = 429

    def __init__(self, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"too many writes, try again in {retry_after_s} s")


class TokenNeededError(Unauthorized):
    """The admin token is missing or wrong: `why`, and `how` to send it. A page has a field for it instead of `how`."""

    def __init__(self, why: str, how: str) -> None:
        self.why = why
        super().__init__(f"{why} {how}", www_authenticate=WWWAuthenticate("bearer", {"realm": "admin"}))


class BusyError(ServerError):
    """Something is in use to its limit, which passes: a slot, the database."""

    status = 503
    retry_after_s = 2


class StorageError(ServerError):
    """The file system keeps the database from being written; the text is for visitors too."""

    status = 507


def sqlite_kind(error: sqlite3.Error) -> str:
    """Return SQLite's primary name of an error without its prefix, such as `BUSY`; empty for one that isn't SQLite's own."""
    return str(getattr(error, "sqlite_errorname", "")).removeprefix("SQLITE_").partition("_")[0]


def sqlite_remedy(error: sqlite3.Error) -> str | None:
    """Return what to do about an error that comes from outside of the database; `None` for other ones."""
    return _REMEDIES.get(sqlite_kind(error))


def shown(value: object) -> str:
    """Return `value` for a message, at most 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else text[:99] + "…"


def why(error: BaseException | None) -> str:
    """Return what went wrong, as the operating system says it."""
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return text[:1].lower() + text[1:]


def install(app: Flask) -> None:
    """Turn errors of this package and of werkzeug into JSON under the JSON routes and into a page elsewhere."""
    app.register_error_handler(ServerError, _answer_ours)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(sqlite3.OperationalError, _answer_sqlite)


def _answer_ours(error: Exception) -> ResponseReturnValue:
    assert isinstance(error, ServerError)
    response = _answer(error.status, str(error), _details(error))
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(retry_after_s)
    return response


def _answer_sqlite(error: Exception) -> ResponseReturnValue:
    assert isinstance(error, sqlite3.OperationalError)
    kind = sqlite_kind(error)
    if kind == "BUSY":
        return _answer_ours(BusyError("another process holds the database, try again in a moment"))
    if kind not in _UNWRITABLE:
        raise error
    _log.warning("the database can't be written: %s; %s", error, sqlite_remedy(error))
    return _answer_ours(StorageError(f"the server's database can't be written: {error}"))


def _answer_http(error: Exception) -> ResponseReturnValue:
    assert isinstance(error, HTTPException)
    if error.response is not None or error.code is None or error.code < 400:
        return error.get_response(request.environ)
    message = error.description or error.name
    if isinstance(error, InternalServerError):
        message = "The server failed to answer this. Its log says why."
    response = _answer(error.code, message, {}, error.why if isinstance(error, TokenNeededError) else "")
    for name, value in error.get_headers(request.environ):
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


def _details(error: ServerError) -> dict[str, object]:
    if isinstance(error, BadParameterError):
        return {"parameter": error.parameter, "must_be": error.must_be, "got": _plain(error.got)}
    return {}


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return shown(value).strip("'")  # also for NaN and Infinity, which JSON has none of


def _is_for_a_program() -> bool:
    return request.path.startswith("/admin/") and wants_json(request)


def _video_of_form() -> str:
    """Return the path of the video whose page sent the form that is refused, empty where that is not known."""
    try:
        return request.form.get("path", "") if request.method == "POST" else ""
    except HTTPException:  # too large to be read
        return ""


def _answer(status: int, message: str, details: dict[str, object], why_a_token: str = "") -> Response:
    if request.path in _JSON_PATHS or request.path.startswith(_JSON_PREFIXES) or _is_for_a_program():
        response = jsonify({"error": message, **details})
    elif isinstance(request.routing_exception, BadHost):  # without a host there are no links that a page could have
        response = Response(f"{message}\n", mimetype="text/plain")
    else:
        page = render_template(
            "error.html",
            status=status,
            heading="This page asks for the admin token" if why_a_token else _TITLES.get(status, "That didn't work"),
            message=why_a_token or message,
            asks_for_token=bool(why_a_token),
            video=_video_of_form(),
        )
        response = Response(page, mimetype="text/html")
    response.status_code = status
    return response
