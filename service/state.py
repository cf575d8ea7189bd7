"""What one running server is made of, and how a request reaches it."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flask import Response, current_app, g, request

from config import Settings
from service.cache import CacheManager, CacheMetrics, CacheView
from service.db import DATABASE_FILE, Database
from service.errors import NotFoundError
from service.indexer import Indexer
from service.library import Video, find_video, is_known
from service.probe import HASH
from service.ratings import Rating, read_own, read_ratings
from service.readable import Readable
from service.security import WriteLimiter, is_servable
from service.streaming import Slots
from service.tags import read_tags
from service.thumbnails import Thumbnails
from service.watcher import Watcher

EXTENSION = "local_video_server"
USER_COOKIE = "lvs_user"
_FIVE_YEARS_S = 5 * 365 * 24 * 3600


@dataclass
class Server:
    """The parts of one server. `close` may be called more than once."""

    settings: Settings
    videos: Path
    readable: Readable
    database: Database
    cache: CacheManager
    thumbnails: Thumbnails
    indexer: Indexer
    watcher: Watcher
    limiter: WriteLimiter
    slots: Slots
    on_close: list[Callable[[], object]] = field(default_factory=list)

    @classmethod
    def build(cls, settings: Settings, metrics: CacheMetrics) -> Server:
        """Open the database and put the parts together. Starts no thread. Raises what `Database` does."""
        videos, data = settings.videos.resolve(), settings.data.resolve()
        database = Database(data / DATABASE_FILE)
        thumbnails = Thumbnails(data / f"thumbnails-{settings.thumbnail_width}", settings.thumbnail_width)
        indexer = Indexer(database, videos, thumbnails, threads=settings.probe_threads)
        return cls(
            settings=settings,
            videos=videos,
            readable=Readable(videos),
            database=database,
            cache=CacheManager(metrics, settings.cache_entries),
            thumbnails=thumbnails,
            indexer=indexer,
            watcher=Watcher(indexer, videos, data, interval_s=settings.rescan_interval),
            limiter=WriteLimiter(settings.write_limit),
            slots=Slots(settings.streams),
        )

    def close(self) -> None:
        """Stop the threads, close the database, and undo the instrumentation."""
        self.watcher.close()
        self.database.close()
        while self.on_close:
            self.on_close.pop()()


def server() -> Server:
    """Return the server of the current app."""
    found: Server = current_app.extensions[EXTENSION]
    return found


def connection() -> sqlite3.Connection:
    """Return the connection of the current request, the same one each time; `end_request` gives it back."""
    if "connection" not in g:
        g.database = server().database
        g.connection = g.database.borrow()
    borrowed: sqlite3.Connection = g.connection
    return borrowed


def cache() -> CacheView:
    """Return the cache as this request may see it; the change counters are read once a request."""
    if "cache_view" not in g:
        counters = {row[0]: row[1] for row in connection().execute("SELECT kind, value FROM changes")}
        g.cache_view = server().cache.view(counters)
    view: CacheView = g.cache_view
    return view


def end_request(_error: BaseException | None = None) -> None:
    """Count the request's lookups and give its connection back; a `teardown_appcontext` function."""
    try:
        if "cache_view" in g:
            g.cache_view.close()
    finally:
        if "connection" in g:
            g.pop("database").give_back(g.pop("connection"))


def video_at(path: str) -> Video:
    """Return the indexed video at `path`. Raises `NotFoundError`."""
    if not is_servable(path):
        raise NotFoundError("there is no such video in the library")
    video = cache().get("library", ("video", path), lambda: find_video(connection(), path))
    if video is None:
        raise NotFoundError("there is no such video in the library")
    return video


def require_known(media_hash: str) -> None:
    """Raise `NotFoundError` unless a file with this content is in the library."""
    if not HASH.fullmatch(media_hash) or not cache().get(
        "library", ("known", media_hash), lambda: is_known(connection(), media_hash)
    ):
        raise NotFoundError("there is no video with this hash in the library")


def ratings_of(hashes: list[str]) -> dict[str, Rating]:
    """Return the ratings of each of `hashes`, also of those that nobody has rated, out of the cache or by one query."""
    return cache().get_many("ratings", hashes, lambda missing: read_ratings(connection(), missing))


def tags_of(hashes: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the tags of each of `hashes`, also of those that have none, out of the cache or by one query."""
    return cache().get_many("tags", hashes, lambda missing: read_tags(connection(), missing))


def own_rating(media_hash: str) -> int | None:
    """Return what the client of this request has rated, or None."""
    user_id = user_of_request()
    if user_id is None:
        return None
    return cache().get("ratings", (media_hash, user_id), lambda: read_own(connection(), media_hash, user_id))


def user_of_request() -> str | None:
    """Return the user id of the request's cookie, or None if it has none that we gave."""
    value = request.cookies.get(USER_COOKIE, "")
    return value if len(value) == 32 and all(char in "0123456789abcdef" for char in value) else None


def ensure_user() -> str:
    """Return the user id of the request, a new random one if it has none."""
    if "user_id" not in g:
        g.user_id = user_of_request() or secrets.token_hex(16)
    user_id: str = g.user_id
    return user_id


def remember_user(response: Response) -> Response:
    """Set the cookie of the user that this request has written for."""
    response.set_cookie(USER_COOKIE, ensure_user(), max_age=_FIVE_YEARS_S, httponly=True, samesite="Lax", path="/")
    return response
