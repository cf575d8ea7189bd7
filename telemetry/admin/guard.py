"""Who may look at the admin pages: this machine alone, unless the app decides with a callable of its own."""

from __future__ import annotations

import functools
import ipaddress
import logging
import re
from collections.abc import Callable
from typing import Any, Final, cast

from flask import Response, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Request
from werkzeug.wrappers import Response as AnyResponse

from telemetry.admin import answers
from telemetry.instrumentation.capture import EXTENSION

_log = logging.getLogger(__name__)

Authorize = Callable[[], object]
"""Called in the context of a request for an admin page; a truthy answer lets it through. It may answer itself: by a response, or
by an exception of Werkzeug such as `abort(401)`. With a method `peek(environ)` that says the same of any request, at the price of
a comparison or two, the app's other answers can carry what they cost (`quick_check`)."""

_PROXY_HEADERS: Final = frozenset(
    {
        "HTTP_CF_CONNECTING_IP",
        "HTTP_CLIENT_IP",
        "HTTP_FASTLY_CLIENT_IP",
        "HTTP_FORWARDED",
        "HTTP_FORWARDED_FOR",
        "HTTP_TRUE_CLIENT_IP",
        "HTTP_VIA",
        "HTTP_X_CLIENT_IP",
        "HTTP_X_CLUSTER_CLIENT_IP",
        "HTTP_X_ORIGINAL_FORWARDED_FOR",
        "HTTP_X_ORIGINAL_HOST",
        "HTTP_X_REAL_IP",
        "HTTP_X_REMOTE_ADDR",
        "HTTP_X_REMOTE_IP",
    }
)
_HOST: Final = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
_OF_BROWSERS: Final = re.compile(r"HTTP/(?:1\.1|[23](?:\.0)?)")
_OF_EVENTLET: Final = "eventlet.input"
_AUTHORIZE: Final = "authorize= to telemetry.instrument(): a callable that says who may look."
_LOCALHOST: Final = re.compile(r"(?:[a-z0-9_-]+\.)*localhost", re.ASCII | re.IGNORECASE)


def require_admin() -> ResponseReturnValue | None:
    """Return `None` if the request may see admin pages, else the 403 to answer with.

    Made for `before_request` of any blueprint of an instrumented app. It asks the `authorize` that the app was
    instrumented with; an app that isn't instrumented lets nobody in.
    """
    state = current_app.extensions.get(EXTENSION)
    if state is None:
        return refusal("this app is not instrumented, so nothing says who may look", "Call telemetry.instrument(app).")
    return check(getattr(state, "authorize", None))


def check(authorize: Authorize | None) -> ResponseReturnValue | None:
    """Return `None` if `authorize`, or where it is `None` the rule for this machine, lets the current request in."""
    if authorize is not None:
        answer = _ask(authorize)
        if isinstance(answer, AnyResponse):
            return cast(Response, answer)
        if answer:
            return None
        return refusal("the app's authorize= said no", "Sign in as somebody whom the app lets see this page.")
    reason = why_not_local(request.environ)
    if reason is None:
        return None
    return refusal(reason, _how_to_get_in(request.environ))


def why_not_local(environ: dict[str, Any]) -> str | None:
    """Return why a request can't be trusted to come from this machine; `None` if it can.

    Judged by what the server itself saw, before any ProxyFix. Behind a reverse proxy everyone looks local, hence the
    search for its traces: HTTP/1.0 is what nginx speaks to its upstreams unless told otherwise, and no browser does. A
    proxy that leaves no trace at all can't be told apart; such an app must pass `authorize`.
    """
    seen = {**environ, **_before_proxy_fix(environ)}
    peer = str(seen.get("REMOTE_ADDR") or "")
    if not _is_loopback(peer):
        return f"the request came from {peer}" if peer else "the server doesn't know where the request came from"
    host = str(seen.get("HTTP_HOST") or "")
    if not _is_loopback_host(host):
        return f"the request was for the host {host}" if host else "the request names no host"
    for name in environ:
        if name in _PROXY_HEADERS or name.startswith("HTTP_X_FORWARDED"):
            header = name.removeprefix("HTTP_").replace("_", "-").title()
            return f"the request came through a proxy: it has the header {header}"
    protocol = str(environ.get("SERVER_PROTOCOL") or "")
    if _OF_EVENTLET in environ and protocol == "HTTP/1.0":
        return (
            "eventlet's server calls every request HTTP/1.0, as those of reverse proxies are: they can't be told apart"
        )
    if not _OF_BROWSERS.fullmatch(protocol):  # Granian says HTTP/1 for HTTP/1.0
        return f"the request came as {protocol or 'HTTP of no known version'}, as reverse proxies send it"
    return None


def quick_check(authorize: Authorize | None) -> Callable[[dict[str, Any]], bool] | None:
    """Return a function that tells by its environment whether a request may see figures; `None` if only `authorize()` can.

    It is asked about every request, for what its response says of its cost. An `authorize` may log, count or ask a database,
    so it is left for the admin pages; its method `peek`, which takes the environment and only says so, quickly, is asked
    instead, if it has one. An exception in that means no.
    """
    if authorize is None:
        return is_local
    peek: Callable[[dict[str, Any]], object] | None = getattr(authorize, "peek", None)
    if peek is None:
        return None

    def may_look(environ: dict[str, Any]) -> bool:
        try:
            return peek(environ) is True
        except Exception:
            return False

    return may_look


def is_local(environ: dict[str, Any]) -> bool:
    """Tell whether a request comes from this machine, by `why_not_local`, and quickly where it is of a kind seen before."""
    get = environ.get
    if _is_usual(get("REMOTE_ADDR"), get("HTTP_HOST"), get("SERVER_PROTOCOL")) and environ.keys() <= _plain_names:
        return True
    if not _is_loopback(get("REMOTE_ADDR") or "") or why_not_local(environ) is not None:
        return False
    if "werkzeug.proxy_fix.orig" not in environ and len(_plain_names) < _MOST_NAMES:
        _plain_names.update(environ)
    return True


_plain_names: Final[set[str]] = set()
"""Names in environments of requests that came from this machine: none of them is a trace of a proxy."""
_MOST_NAMES: Final = 1000


@functools.lru_cache(maxsize=256)
def _is_usual(peer: str | None, host: str | None, protocol: str | None) -> bool:
    return protocol == "HTTP/1.1" and _is_loopback(peer or "") and _is_loopback_host(host or "")


def refusal(reason: str, remedy: str) -> Response:
    """Return a 403 that says what happened and what to do, as JSON where a program asks."""
    message = "These figures are open to the machine that serves them, and to nobody else unless the app says so."
    if answers.wants_json(request):
        return answers.json({"error": message, "reason": reason, "remedy": remedy}, 403)
    return answers.page("refused.html", 403, message=message, reason=reason, remedy=remedy)


def _ask(authorize: Authorize) -> object:
    try:
        return authorize()
    except HTTPException:
        raise
    except Exception:
        _log.exception("authorize= raised: the admin pages stay closed for this request")
        return False


def _how_to_get_in(environ: dict[str, Any]) -> str:
    only_host = current_app.config.get("SERVER_NAME") if current_app.subdomain_matching else None
    if _OF_EVENTLET in environ or (only_host and not _is_loopback_host(only_host)):
        return f"Pass {_AUTHORIZE}"  # the pages have no address that would do
    seen = {**environ, **_before_proxy_fix(environ)}
    port = str(seen.get("SERVER_PORT") or "")
    shown = f":{port}" if port.isascii() and port.isdecimal() and port != "80" else ""
    host = only_host or f"127.0.0.1{shown}"
    mount = Request(seen).script_root
    return f"On that machine, open http://{host}{mount}{request.path} directly. To let others in, pass {_AUTHORIZE}"


def _before_proxy_fix(environ: dict[str, Any]) -> dict[str, Any]:
    original = environ.get("werkzeug.proxy_fix.orig")
    return original if isinstance(original, dict) else {}


@functools.lru_cache(maxsize=256)
def _is_loopback(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_loopback_host(host: str) -> bool:
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match["name"]
    if name.startswith("["):
        return name == "[::1]"
    if _LOCALHOST.fullmatch(name):
        return True
    try:
        return ipaddress.IPv4Address(name).is_loopback
    except ValueError:
        return False
