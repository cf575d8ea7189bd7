"""The tags API, and its form for pages without JavaScript."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from service.errors import BadParameterError, NotFoundError, shown
from service.routes.body import back_to_video, json_object, limit_write
from service.state import cache, connection, require_known, tags_of
from service.tags import add_tag, normalise, remove_tag

blueprint = Blueprint("tags", __name__)


@blueprint.get("/api/tags/<media_hash>")
def show(media_hash: str) -> ResponseReturnValue:
    """Return the tags of a video."""
    require_known(media_hash)
    return _tags(media_hash)


@blueprint.post("/api/tags/<media_hash>")
def add(media_hash: str) -> ResponseReturnValue:
    """Add a tag: `{"tag": "summer"}`."""
    limit_write()
    require_known(media_hash)
    _add(media_hash, normalise(json_object("tag").get("tag")))
    return _tags(media_hash), 201


@blueprint.delete("/api/tags/<media_hash>/<tag>")
def remove(media_hash: str, tag: str) -> ResponseReturnValue:
    """Remove a tag."""
    limit_write()
    require_known(media_hash)
    try:
        name = normalise(tag)
    except BadParameterError as error:  # what can't be a tag is none of this video
        raise NotFoundError(f"the video has no tag {shown(tag)}") from error
    if not _remove(media_hash, name):
        raise NotFoundError(f"the video has no tag {name!r}")
    return _tags(media_hash)


@blueprint.post("/tags/<media_hash>")
def submit(media_hash: str) -> ResponseReturnValue:
    """Add or remove a tag from a form, and go back to the video."""
    limit_write()
    require_known(media_hash)
    action = request.form.get("action")
    if action not in {"add", "remove"}:
        raise BadParameterError("action", "add or remove", action)
    name = normalise(request.form.get("tag"))
    if action == "add":
        _add(media_hash, name)
    else:
        _remove(media_hash, name)
    return back_to_video()


def _add(media_hash: str, tag: str) -> None:
    view = cache()
    view.wrote("tags", add_tag(connection(), media_hash, tag))


def _remove(media_hash: str, tag: str) -> bool:
    view = cache()
    counter = remove_tag(connection(), media_hash, tag)
    if counter is not None:
        view.wrote("tags", counter)
    return counter is not None


def _tags(media_hash: str) -> Response:
    return jsonify({"tags": list(tags_of([media_hash])[media_hash])})
