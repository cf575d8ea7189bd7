from __future__ import annotations

import random

import pytest

from service.cache import KINDS, CacheManager


class Counts:
    def __init__(self):
        self.hits = 0
        self.misses = 0

    def record_cache_hit(self, lookups):
        self.hits += lookups

    def record_cache_miss(self, lookups):
        self.misses += lookups


ZERO = dict.fromkeys(KINDS, 0)


@pytest.fixture
def counts():
    return Counts()


@pytest.fixture
def cache(counts):
    return CacheManager(counts, 3)


def test_a_value_is_loaded_once_and_each_lookup_is_counted(cache, counts):
    loads = []
    view = cache.view(ZERO)
    assert [view.get("library", "a", lambda: loads.append(1) or "value") for _ in range(3)] == ["value"] * 3
    assert loads == [1]
    assert cache.status()["hits"] == 2
    view.close()
    view.close()
    assert (counts.hits, counts.misses) == (2, 1)
    assert cache.status()["hit_rate"] == 66.667


def test_none_is_a_value(cache):
    view = cache.view(ZERO)
    assert view.get("library", "a", lambda: None) is None
    assert view.get("library", "a", lambda: "loaded again") is None


def test_many_keys_are_loaded_in_one_call_and_only_those_that_are_missing(cache):
    view = cache.view(ZERO)
    view.get("ratings", "a", lambda: 1)
    asked = []
    found = view.get_many("ratings", ["a", "b", "b", "c"], lambda keys: asked.append(keys) or dict.fromkeys(keys, 2))
    assert found == {"a": 1, "b": 2, "c": 2}
    assert asked == [["b", "c"]]


def test_each_kind_is_bounded(cache):
    view = cache.view(ZERO)
    for number in range(50):
        view.get("library", number, lambda: 0)
    assert cache.status()["caches"]["library"] == {"entries": 3, "max_entries": 3}


def test_a_counter_that_is_ahead_drops_its_kind_alone(cache):
    view = cache.view(ZERO)
    view.get("library", "a", lambda: "old")
    view.get("ratings", "a", lambda: "old")
    later = cache.view({**ZERO, "ratings": 1})
    assert later.get("ratings", "a", lambda: "new") == "new"
    assert later.get("library", "a", lambda: "new") == "old"


def test_an_own_write_drops_what_it_touched_and_nothing_else(cache):
    view = cache.view(ZERO)
    view.get("ratings", "a", lambda: "old")
    view.get("ratings", "b", lambda: "old")
    view.wrote("ratings", 1, ["a"])
    assert view.get("ratings", "a", lambda: "new") == "new"
    assert view.get("ratings", "b", lambda: "new") == "old"
    assert cache.view({**ZERO, "ratings": 1}).get("ratings", "b", lambda: "new") == "old"


def test_an_own_write_after_one_from_elsewhere_drops_the_kind(cache):
    view = cache.view(ZERO)
    view.get("ratings", "b", lambda: "old")
    view.wrote("ratings", 2, ["a"])
    assert view.get("ratings", "b", lambda: "new") == "new"


def test_a_value_that_was_read_before_a_write_is_not_kept_after_it(cache):
    slow, writer = cache.view(ZERO), cache.view(ZERO)

    def load_while_somebody_writes():
        writer.wrote("ratings", 1, ["a"])
        return "old"

    assert slow.get("ratings", "a", load_while_somebody_writes) == "old"
    assert writer.get("ratings", "a", lambda: "new") == "new"


def test_a_request_with_older_counters_neither_reads_nor_keeps(cache):
    cache.view({**ZERO, "tags": 5}).get("tags", "a", lambda: "new")
    old = cache.view({**ZERO, "tags": 4})
    assert old.get("tags", "a", lambda: "loaded") == "loaded"
    assert cache.view({**ZERO, "tags": 5}).get("tags", "a", lambda: "again") == "new"


def test_clearing_says_how_many_entries_went(cache):
    view = cache.view(ZERO)
    view.get("library", "a", lambda: 1)
    view.get("tags", "a", lambda: 1)
    assert cache.clear() == 2
    assert cache.clear() == 0


def test_without_a_lookup_the_hit_rate_is_zero(cache):
    assert cache.status()["hit_rate"] == 0.0


def test_two_workers_never_see_a_value_older_than_the_counters_they_have_read():
    """Two caches over one store, as two processes over one database, in a random order of reads and writes."""
    order = random.Random(3)
    store, counter = {"a": 0, "b": 0}, 0
    caches = [CacheManager(Counts(), 8), CacheManager(Counts(), 8)]
    for step in range(1, 2000):
        worker, key = order.choice(caches), order.choice("ab")
        view = worker.view({**ZERO, "ratings": counter})
        if order.random() < 0.3:
            store[key], counter = step, counter + 1
            view.wrote("ratings", counter, [key])
        assert view.get("ratings", key, lambda key=key: store[key]) == store[key]
