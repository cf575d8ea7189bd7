"""Reading the JSON bodies and the forms of writes."""

from __future__ import annotations

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from service.errors import BadParameterError, NotFoundError
from service.state import server, video_at


def json_object(*fields: str) -> dict[str, object]:
    """Return the JSON object of the request's body, which has `fields`. Raises `BadParameterError`."""
    must_be = "a JSON object with " + " and ".join(fields)
    try:
        body = request.get_json(force=True)
    except (BadRequest, RecursionError) as error:
        raise BadParameterError("body", must_be, request.get_data(as_text=True)) from error
    if not isinstance(body, dict):
        raise BadParameterError("body", must_be, body)
    return body


def limit_write() -> None:
    """Count a write of the request's client. Raises `TooManyWritesError` past the limit."""
    server().limiter.check(request.remote_addr or "unknown")


def back_to_video() -> ResponseReturnValue:
    """Return to the page of the video that a form names, or to the library if there is no such video."""
    try:
        video = video_at(request.form.get("path", ""))
    except NotFoundError:
        return redirect(url_for("main.index"), 303)
    return redirect(url_for("main.watch", filename=video.path), 303)
