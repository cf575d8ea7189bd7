"""The ratings API, its form for pages without JavaScript, and the legacy `/rate`."""

from __future__ import annotations

from flask import Blueprint, jsonify, make_response, request
from flask.typing import ResponseReturnValue

from service.errors import BadParameterError
from service.ratings import check_value, write_rating
from service.routes.body import back_to_video, json_object, limit_write
from service.state import (
    cache,
    connection,
    ensure_user,
    own_rating,
    ratings_of,
    remember_user,
    require_known,
    video_at,
)

blueprint = Blueprint("ratings", __name__)


@blueprint.get("/api/ratings/<media_hash>")
def show(media_hash: str) -> ResponseReturnValue:
    """Return average, count and the client's own rating."""
    require_known(media_hash)
    return jsonify(_summary(media_hash, own_rating(media_hash)))


@blueprint.post("/api/ratings/<media_hash>")
def rate(media_hash: str) -> ResponseReturnValue:
    """Set the client's own rating: `{"value": 4}`."""
    limit_write()
    require_known(media_hash)
    value = check_value("value", json_object("value").get("value"))
    _write(media_hash, value)
    return remember_user(make_response(jsonify(_summary(media_hash, value)), 201))


@blueprint.post("/ratings/<media_hash>")
def submit(media_hash: str) -> ResponseReturnValue:
    """Set the client's own rating from a form, and go back to the video."""
    limit_write()
    require_known(media_hash)
    text = request.form.get("value")
    _write(media_hash, check_value("value", int(text) if text in {"1", "2", "3", "4", "5"} else text))
    return remember_user(make_response(back_to_video()))


@blueprint.post("/rate")
def legacy() -> ResponseReturnValue:
    """Set a rating by file name: `{"filename": "a.mp4", "rating": 4}`."""
    limit_write()
    body = json_object("filename", "rating")
    filename = body.get("filename")
    if not isinstance(filename, str) or not filename:
        raise BadParameterError("filename", "the path of a video inside the folder", filename)
    value = check_value("rating", body.get("rating"))
    _write(video_at(filename).media_hash, value)
    return remember_user(make_response(jsonify({"success": True, "rating": value})))


def _write(media_hash: str, value: int) -> None:
    user_id, view = ensure_user(), cache()
    counter = write_rating(connection(), media_hash, user_id, value)
    view.wrote("ratings", counter, [media_hash, (media_hash, user_id)])


def _summary(media_hash: str, own: int | None) -> dict[str, object]:
    rating = ratings_of([media_hash])[media_hash]
    return {"average": rating.average, "count": rating.count, "user": None if own is None else {"value": own}}
