"""The cache manager: metadata, ratings and tags in memory, bounded, never stale, and counted.

Staleness is ruled out by change counters that live in the database (`changes`). A request reads them once, and asks
the cache through a `CacheView` that holds them. A counter ahead of the cache's own means that somebody else has
written: that kind is dropped. A worker's own write moves the counter by one and drops only what it touched. A value
that was read before a write is never stored after it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from cachetools import LRUCache

from telemetry.document import rounded

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

KINDS = ("library", "ratings", "tags")


class CacheMetrics(Protocol):
    """Where lookups are counted: telemetry's `PerformanceMetrics` is one."""

    def record_cache_hit(self, lookups: int) -> None: ...

    def record_cache_miss(self, lookups: int) -> None: ...


class CacheManager:
    """One bounded LRU cache for each of `KINDS`. Thread-safe."""

    def __init__(self, metrics: CacheMetrics, entries: int = 4096) -> None:
        self._metrics = metrics
        self._entries = entries
        self._lock = threading.Lock()
        self._caches: dict[str, LRUCache[Hashable, Any]] = {kind: LRUCache(entries) for kind in KINDS}
        self._known = dict.fromkeys(KINDS, -1)
        self._hits = 0
        self._misses = 0

    def view(self, counters: Mapping[str, int]) -> CacheView:
        """Return the cache as a request may see it that has read these change counters."""
        return CacheView(self, dict(counters))

    def clear(self) -> int:
        """Drop everything; return how many entries went."""
        with self._lock:
            dropped = sum(len(cache) for cache in self._caches.values())
            for cache in self._caches.values():
                cache.clear()
        return dropped

    def status(self) -> dict[str, Any]:
        """Return entries and bounds for each kind, and lookups of this worker since its start."""
        with self._lock:
            caches = {
                kind: {"entries": len(cache), "max_entries": self._entries} for kind, cache in self._caches.items()
            }
            hits, misses = self._hits, self._misses
        lookups = hits + misses
        rate = rounded(100 * hits / lookups) if lookups else 0.0
        return {"caches": caches, "hits": hits, "misses": misses, "hit_rate": rate}

    def _report(self, hits: int, misses: int) -> None:
        if hits:
            self._metrics.record_cache_hit(hits)
        if misses:
            self._metrics.record_cache_miss(misses)

    def _lookup(self, kind: str, counter: int, keys: Iterable[K]) -> tuple[dict[K, Any], list[K]]:
        found: dict[K, Any] = {}
        missing: list[K] = []
        with self._lock:
            current = self._current(kind, counter)
            for key in keys:
                if current and key in self._caches[kind]:
                    found[key] = self._caches[kind][key]
                else:
                    missing.append(key)
            self._hits += len(found)
            self._misses += len(missing)
        return found, missing

    def _current(self, kind: str, counter: int) -> bool:
        """Follow `counter` when it is ahead; say whether its reader may use this cache."""
        if counter > self._known[kind]:
            self._caches[kind].clear()
            self._known[kind] = counter
        return counter == self._known[kind]

    def _store(self, kind: str, counter: int, values: Mapping[K, Any]) -> None:
        with self._lock:
            if counter == self._known[kind]:
                for key, value in values.items():
                    self._caches[kind][key] = value

    def _wrote(self, kind: str, counter: int, keys: Iterable[Hashable] | None) -> None:
        with self._lock:
            if keys is None or counter != self._known[kind] + 1:
                self._caches[kind].clear()
            else:
                for key in keys:
                    self._caches[kind].pop(key, None)
            self._known[kind] = max(counter, self._known[kind])


class CacheView:
    """The cache at the change counters that one request has read. Not shared between threads.

    Its lookups are counted in the metrics when it is closed, together.
    """

    def __init__(self, manager: CacheManager, counters: dict[str, int]) -> None:
        self._manager = manager
        self._counters = counters
        self._hits = 0
        self._misses = 0

    def close(self) -> None:
        """Count the lookups since the last call."""
        hits, misses = self._hits, self._misses
        self._hits = self._misses = 0
        self._manager._report(hits, misses)

    def get(self, kind: str, key: Hashable, load: Callable[[], V]) -> V:
        """Return the value of `key`, from the cache or from `load`. `None` is a value."""
        return self.get_many(kind, [key], lambda _: {key: load()})[key]  # type: ignore[no-any-return]

    def get_many(self, kind: str, keys: Iterable[K], load: Callable[[list[K]], Mapping[K, Any]]) -> dict[K, Any]:
        """Return the values of `keys`; those that are missing are loaded in one call, which must return every one of
        them.
        """
        counter = self._counters[kind]
        found, missing = self._manager._lookup(kind, counter, dict.fromkeys(keys))
        self._hits += len(found)
        self._misses += len(missing)
        if missing:
            loaded = load(missing)
            self._manager._store(kind, counter, loaded)
            found.update(loaded)
        return found

    def wrote(self, kind: str, counter: int, keys: Iterable[Hashable] | None = None) -> None:
        """Tell of this request's own committed write, which moved the counter to `counter`. No keys: all keys."""
        self._manager._wrote(kind, counter, keys)
        self._counters[kind] = counter
