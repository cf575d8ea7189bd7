"""The pages: the library, one video, a tag, a search; and the sign of life."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, jsonify, render_template, request
from flask.typing import ResponseReturnValue

from service.errors import BadParameterError, NotFoundError
from service.library import DEFAULT_SORT, SORTS, Listing, list_videos, related_videos
from service.probe import mime_type
from service.search import search_videos, tokens_of
from service.state import cache, connection, own_rating, ratings_of, server, tags_of, video_at
from service.tags import normalise, popular_tags

blueprint = Blueprint("main", __name__)
MAX_PAGE = 1_000_000


@dataclass(frozen=True, slots=True)
class Pager:
    """Which page of how many."""

    number: int
    pages: int

    @property
    def offered(self) -> tuple[int | None, ...]:
        """Return the pages to link to: the first, those around this one, the last. None stands for two pages or more."""
        middle = min(max(self.number, 3), self.pages - 2)
        offered: list[int | None] = []
        before = 0
        for page in sorted({1, middle - 1, middle, middle + 1, self.pages}):
            if not 1 <= page <= self.pages:
                continue
            if page > before + 1:
                offered.append(before + 1 if page == before + 2 else None)
            offered.append(page)
            before = page
        return tuple(offered)


@blueprint.get("/")
def index() -> ResponseReturnValue:
    """Show the whole library."""
    number, sort, size = _page_number(), _sort(), server().settings.page_size

    def load() -> Listing:
        return list_videos(connection(), sort, size, (number - 1) * size)

    # The order by rating changes with every rating: it is not kept.
    listing = load() if sort == "rating" else cache().get("library", ("page", sort, number), load)
    popular = cache().get("tags", "popular", lambda: popular_tags(connection()))
    return _grid(listing, number, heading="Library", sort=sort, popular=popular)


@blueprint.get("/tag/<tag>")
def tag(tag: str) -> ResponseReturnValue:
    """Show the videos with a tag."""
    name = normalise(tag)
    number, sort, size = _page_number(), _sort(), server().settings.page_size
    listing = list_videos(connection(), sort, size, (number - 1) * size, name)
    return _grid(listing, number, heading=f"#{name}", sort=sort, tag=name)


@blueprint.get("/search")
def search() -> ResponseReturnValue:
    """Show what a search finds."""
    query = request.args.get("q", "")
    tokens = tokens_of(query)
    number, size = _page_number(), server().settings.page_size
    listing = search_videos(connection(), tokens, size, (number - 1) * size)
    return _grid(listing, number, heading="Search", query=query.strip())


@blueprint.get("/watch/<path:filename>")
def watch(filename: str) -> ResponseReturnValue:
    """Show one video with its player."""
    video = video_at(filename)
    related = cache().get("tags", ("related", video.path), lambda: related_videos(connection(), video))
    hashes = [video.media_hash, *(other.media_hash for other in related)]
    return render_template(
        "watch.html",
        video=video,
        mime=mime_type(video.path),
        related=related,
        ratings=ratings_of(hashes),
        tags=tags_of([video.media_hash])[video.media_hash],
        own=own_rating(video.media_hash),
    )


@blueprint.get("/ping")
def ping() -> ResponseReturnValue:
    """Answer that the server is there."""
    return jsonify({"status": "ok"})


def _grid(listing: Listing, number: int, **values: object) -> str:
    pages = max(1, -(-listing.total // server().settings.page_size))
    if number > pages:
        raise NotFoundError(f"there is no page {number}, the last one is {pages}")
    hashes = [video.media_hash for video in listing.videos]
    return render_template(
        "grid.html",
        listing=listing,
        pager=Pager(number, pages),
        ratings=ratings_of(hashes),
        sorts=SORTS,
        folder=server().videos,
        **values,
    )


def _page_number() -> int:
    text = request.args.get("page", "1")
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MAX_PAGE):
        raise BadParameterError("page", f"a whole number from 1 to {MAX_PAGE}", text)
    return int(text)


def _sort() -> str:
    sort = request.args.get("sort", DEFAULT_SORT)
    if sort not in SORTS:
        raise BadParameterError("sort", "one of " + ", ".join(SORTS), sort)
    return sort
