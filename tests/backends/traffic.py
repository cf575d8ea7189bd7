"""Requests to the shop, and the client's own log of them."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.backends.servers import fetch
from tests.backends.shop import ITEMS


@dataclass(frozen=True)
class Kind:
    """A sort of request, and what it must lead to."""

    path: str
    route: str
    """As the admin JSON calls it."""
    rule: str
    """As spans and metrics call it."""
    status: int
    spans: tuple[str, ...]
    """The names of its query spans, in order."""
    error: str | None = None
    statements: int = 1
    """How many different statements those are."""
    verdict: str = "ok"
    """What its queries come to."""


KINDS = (
    Kind("/items", "GET /items", "/items", 200, ("SELECT item",)),
    Kind("/items/4", "GET /items/<item>", "/items/<int:item>", 200, ("SELECT item",)),
    Kind("/items/6", "GET /items/<item>", "/items/<int:item>", 200, ("SELECT item",)),
    Kind("/items/999", "GET /items/<item>", "/items/<int:item>", 404, ("SELECT item",)),
    Kind("/tagged", "GET /tagged", "/tagged", 200, ("SELECT item", *("SELECT tag",) * ITEMS), None, 2, "n_plus_one"),
    Kind("/fails", "GET /fails", "/fails", 500, ("SELECT item",), "sqlite3.OperationalError"),
    Kind("/stream", "GET /stream", "/stream", 200, ("SELECT item",) * 3),
)


@dataclass(frozen=True)
class Sent:
    """A request that was answered."""

    kind: Kind
    trace_id: str
    parent_id: str
    status: int


def send(port: int, number: int, seed: int = 7, clients: int = 4) -> list[Sent]:
    """Send so many requests, each with a `traceparent` of its own, several at once; return the client's log."""
    chance = random.Random(seed)
    plan = [
        (KINDS[n % len(KINDS)], f"{chance.getrandbits(128) | 1:032x}", f"{chance.getrandbits(64) | 1:016x}")
        for n in range(number)
    ]
    chance.shuffle(plan)

    def one(planned: tuple[Kind, str, str]) -> Sent:
        kind, trace_id, parent_id = planned
        status, _ = fetch(port, kind.path, {"traceparent": f"00-{trace_id}-{parent_id}-01"})
        return Sent(kind, trace_id, parent_id, status)

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, plan))


def span_count(log: list[Sent]) -> int:
    """Return how many spans the requests must make."""
    return sum(1 + len(sent.kind.spans) for sent in log)


def by_route(log: list[Sent]) -> Counter[str]:
    """Return how many requests each route had."""
    return Counter(sent.kind.route for sent in log)
