"""Random requests: what is sent, and what the app does while it serves them."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Literal

Phase = Literal["before", "view", "after", "teardown", "app teardown", "body"]
Steps = tuple["Step", ...]


@dataclass(frozen=True)
class Query:
    """A query through a cursor, by `executemany` where there are `rows`; a failure is caught."""

    sql: str
    parameters: tuple[object, ...] = ()
    rows: tuple[tuple[object, ...], ...] | None = None
    by: Literal["cursor", "connection", "script"] = "cursor"


@dataclass(frozen=True)
class Child:
    """A span of the app's own, with steps in it; one that `raises` ends by an exception, which the app catches."""

    name: str
    steps: Steps = ()
    raises: bool = False
    current: bool = True
    linked: bool = False


@dataclass(frozen=True)
class Touch:
    """A call on the current span."""

    how: Literal["attribute", "attributes", "name", "event", "exception", "error", "ok", "link"]
    value: str = "value"


@dataclass(frozen=True)
class Look:
    """Note what app code sees: current span, baggage, outgoing headers."""


@dataclass(frozen=True)
class Log:
    """Write to the app's log, whose handler notes trace and span as log correlation does."""


@dataclass(frozen=True)
class Baggage:
    """Steps with one more entry of baggage."""

    value: str
    steps: Steps


@dataclass(frozen=True)
class Nested:
    """A request that the app makes to itself while it serves this one."""

    request: Request


Step = Query | Child | Touch | Look | Log | Baggage | Nested

End = Literal[
    "text",
    "status",
    "json",
    "abort",
    "redirect",
    "handled",
    "unhandled",
    "exit",
    "stream",
    "stream with context",
    "stream fails",
]


@dataclass(frozen=True)
class Request:
    """One request."""

    method: str = "GET"
    path: str = "/"
    query: str = ""
    script_name: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    environ: tuple[tuple[str, str], ...] = ()
    steps: dict[Phase, Steps] = field(default_factory=dict)
    end: End = "text"
    status: int = 200
    raises_in: Phase | None = None
    answers_before: bool = False
    inside_a_span: bool = False


TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01", f"00-{TRACE_ID}-{SPAN_ID}-00"
_TRACEPARENTS = (
    SAMPLED,
    SAMPLED,
    UNSAMPLED,
    f"00-{TRACE_ID}-{SPAN_ID}-03",
    f"cc-{TRACE_ID}-{SPAN_ID}-01-later",
    f"00-{'0' * 32}-{SPAN_ID}-01",
    "00-short-b7ad6b7169203331-01",
    "",
)
QUERIES = (
    Query("SELECT title FROM videos WHERE id = ?", (1,)),
    Query("SELECT v.id, v.title FROM videos v ORDER BY v.id LIMIT 3"),
    Query("INSERT INTO videos (title) VALUES (?)", ("new",)),
    Query("INSERT INTO videos (title) VALUES (?)", rows=(("one",), ("two",))),
    Query("UPDATE videos SET title = 'seen' WHERE id = ?", (1,)),
    Query("DELETE FROM videos WHERE id > 50"),
    Query("select 1"),
    Query("PRAGMA user_version"),
    Query("WITH one AS (SELECT 1) SELECT * FROM one"),
    Query("/* why */ SELECT 1"),
    Query("\n  SELECT\n1"),
    Query(""),
)
FAILING = (
    Query("SELECT * FROM missing"),
    Query("SELEC 1"),
    Query("INSERT INTO videos (id, title) VALUES (1, 'again')"),
    Query("SELECT ?", (1, 2)),
)
PATHS = (
    ("/", ("GET",)),
    ("/item/7", ("GET", "POST", "PUT")),
    ("/files/a/b.mp4", ("GET",)),
    ("/b/kind", ("GET", "PATCH")),
    ("/shop/boots", ("GET", "DELETE")),
    ("/shop/", ("GET", "POST")),
    ("/only-post", ("POST",)),
    ("/folder/", ("GET",)),
)
_ENDS: tuple[tuple[End, int], ...] = (
    ("text", 30),
    ("status", 10),
    ("json", 8),
    ("abort", 10),
    ("redirect", 5),
    ("handled", 7),
    ("unhandled", 10),
    ("exit", 1),
    ("stream", 5),
    ("stream with context", 5),
)
_STATUSES = (200, 201, 204, 301, 304, 400, 403, 404, 418, 429, 500, 503)


class Traffic:
    """Draws requests from a seeded generator: all that the two sides can be compared in."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def chance(self, percent: float) -> bool:
        """Return true in so many cases of a hundred."""
        return self._random.random() * 100 < percent

    def request(self, depth: int = 0) -> Request:
        """Return one request; those inside another (`depth` 1) are simple in what they do."""
        random = self._random
        path, methods = random.choice(PATHS)
        method = random.choice(methods)
        if self.chance(6):
            path = random.choice(("/nothing", "/item/no-number", "/folder", "/shop/a/b/c"))
        elif self.chance(10):
            method = random.choice(("HEAD", "OPTIONS", "DELETE", "TRACE"))
        end = random.choices([end for end, _ in _ENDS], [weight for _, weight in _ENDS])[0]
        phases: tuple[Phase, ...] = ("before", "after", *(() if end == "stream with context" else ("teardown",)))
        steps: dict[Phase, Steps] = {phase: self.steps(depth, 1) for phase in phases if self.chance(15)}
        steps["view"] = self.steps(depth, 3)
        return Request(
            method=method,
            path=path,
            query=random.choice(("", "", "", "token=secret&a=1")),
            script_name="/mounted" if self.chance(15) else "",
            headers=self.headers(),
            environ=self.environ(),
            steps=steps,
            end=end,
            status=random.choice(_STATUSES if end != "abort" else _STATUSES[5:]),
            raises_in=random.choice(("before", "after")) if self.chance(4) else None,
            answers_before=self.chance(4),
            inside_a_span=depth == 0 and self.chance(5),
        )

    def headers(self) -> tuple[tuple[str, str], ...]:
        random = self._random
        drawn: list[tuple[str, str]] = []
        if self.chance(40):
            drawn.append(("traceparent", random.choice(_TRACEPARENTS)))
            if self.chance(50):
                drawn.append(("tracestate", random.choice(("vendor=1,other=a:b", "not a list", ""))))
        if self.chance(25):
            drawn.append(("baggage", random.choice(("user=7,shop=b%20c", "user=1;property", "=,;", ""))))
        if self.chance(30):
            drawn.append(("User-Agent", random.choice(("curl/8.1", "Mozilla/5.0 (X11)", "alwayson-bot"))))
        return tuple(drawn)

    def environ(self) -> tuple[tuple[str, str], ...]:
        random = self._random
        drawn: list[tuple[str, str]] = []
        if self.chance(20):
            drawn.append(("wsgi.url_scheme", "https"))
        if self.chance(20):
            drawn.append(("HTTP_HOST", random.choice(("videos.local:8443", "[::1]:5000", "example.org"))))
        if self.chance(20):
            drawn.append(("SERVER_PROTOCOL", random.choice(("HTTP/1.0", "HTTP/2", ""))))
        if self.chance(20):
            drawn.append(("REMOTE_PORT", "40312"))
        if self.chance(50):
            drawn.append(("RAW_URI", "/as/the/server/names/it"))
        return tuple(drawn)

    def steps(self, depth: int, most: int) -> Steps:
        return tuple(self.step(depth) for _ in range(self._random.randint(0, most)))

    def step(self, depth: int) -> Step:
        random = self._random
        drawn = random.random() * 100
        if drawn < 30:
            return random.choice(QUERIES)
        if drawn < 38:
            return random.choice(FAILING)
        if drawn < 58:
            return Look()
        if drawn < 62:
            return Log()
        if drawn < 82:
            how = random.choice(("attribute", "attributes", "name", "event", "exception", "error", "ok", "link"))
            return Touch(how, random.choice(("a", "b")))
        if depth > 1:
            return Look()
        if drawn < 92:
            return Child(
                f"user.{random.choice('abc')}",
                self.steps(depth + 1, 2),
                self.chance(20),
                self.chance(80),
                self.chance(10),
            )
        if drawn < 96:
            return Baggage(random.choice(("x", "y")), self.steps(depth + 1, 2))
        return Nested(self.request(depth + 1)) if depth == 0 else Log()
