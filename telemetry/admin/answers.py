"""How the admin pages answer: JSON and HTML that owe nothing to the settings, templates and hooks of the app around."""

from __future__ import annotations

import json as _json
from pathlib import Path
from typing import Any, Final

import msgspec
from flask import Request, Response, url_for
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from telemetry import figures

FOLDER: Final = Path(__file__).parent
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_environment = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals["url_for"] = url_for
_environment.globals["figures"] = figures


def json(body: object, status: int = 200) -> Response:
    """Return `body` as JSON, never with NaN in it, whatever JSON provider the app has.

    Raises:
        ValueError: a number in it is NaN or infinite.
        TypeError: something in it is nothing that JSON has.
    """
    text = msgspec.json.encode(body, enc_hook=plain)
    if b"null" in text:  # it may be NaN, which the standard library tells from None; that takes six times as long
        text = _json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    return _finish(Response(text + b"\n", status, mimetype="application/json"))


def plain(value: object) -> str:
    """Return a string of a class of its own, such as a statement that an app has put together, as a plain one."""
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


def page(template: str, status: int = 200, **values: Any) -> Response:
    """Return a template of `templates/telemetry_admin/` as HTML, rendered apart from the app's Jinja environment."""
    text = _environment.get_template(f"telemetry_admin/{template}").render(values)
    return _finish(Response(text, status, mimetype="text/html"))


def style() -> Markup:
    """Return the style sheet of the pages, for a file that has to bring its own."""
    return Markup((FOLDER / "static" / "admin.css").read_text("utf-8"))  # noqa: S704  # our own file


def wants_json(request: Request) -> bool:
    """Return whether an error should be told as JSON: by the path, the method, or what the client accepts."""
    path = request.path.rstrip("/")
    if path.startswith("/api/") or path.endswith(("/json", ".json")) or request.method not in {"GET", "HEAD"}:
        return True
    accepted = request.accept_mimetypes
    return accepted["application/json"] > accepted["text/html"]


def harden(response: Response, *, is_static: bool = False) -> None:
    """Set the security and cache headers of an admin answer over what the app has set."""
    response.headers.update(HEADERS)
    response.headers["Cache-Control"] = "no-cache" if is_static else "no-store"
    response.headers.pop("Expires", None)
    response.headers.pop("Pragma", None)


def _finish(response: Response) -> Response:
    harden(response)
    return response
