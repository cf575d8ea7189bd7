"""The bytes: videos with ranges, and thumbnails."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request, send_file
from flask.typing import ResponseReturnValue

from service.errors import NotFoundError
from service.probe import HASH, mime_type
from service.security import confined
from service.state import require_known, server, video_at
from service.streaming import send_file as send_video_file

blueprint = Blueprint("media", __name__)
_DAY_S = 24 * 3600


@blueprint.get("/video/<path:filename>")
def video(filename: str) -> ResponseReturnValue:
    """Send a video file that the index knows, whole or in ranges."""
    found = video_at(filename)
    path = confined(server().videos, found.path)
    if path is None:
        raise NotFoundError("the file has gone since the last look at the folder")
    try:
        return send_video_file(path, mime_type(found.path) or "application/octet-stream", request, server().slots)
    except OSError as error:
        raise NotFoundError("the file can't be read") from error


@blueprint.get("/thumb/<media_hash>.jpg")
def thumbnail(media_hash: str) -> ResponseReturnValue:
    """Send a thumbnail; a drawing that isn't kept stands in while there is none."""
    if not HASH.fullmatch(media_hash):
        raise NotFoundError("there is no such thumbnail")
    path = server().thumbnails.path(media_hash)
    if path.is_file():
        return send_file(path, mimetype="image/jpeg", max_age=_DAY_S)
    require_known(media_hash)
    response: Response = current_app.send_static_file("placeholder.svg")
    response.headers["Cache-Control"] = "no-store"
    response.headers.pop("ETag", None)
    response.headers.pop("Last-Modified", None)
    return response
