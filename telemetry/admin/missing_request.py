"""What is answered where a request that was asked for can't be shown, as JSON or as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flask import Response, request

from telemetry.admin import answers

if TYPE_CHECKING:
    from telemetry.admin.routes import Admin

RETRY_AFTER_S: Final = "5"
_MOST_CHARACTERS: Final = 64


class MissingRequestError(Exception):
    """A request is not kept, or where `is_silent`, the worker that keeps it, or may keep it, does not answer."""

    def __init__(self, request_id: str, *, is_silent: bool = False) -> None:
        super().__init__(request_id)
        self.request_id = request_id
        self.is_silent = is_silent

    def answer(self, admin: Admin) -> Response:
        """Return the 404 or 503 of this error."""
        status = 503 if self.is_silent else 404
        if answers.wants_json(request):
            response = answers.json({"error": self._text()}, status)
        else:
            response = answers.page("request_gone.html", status, **self._shown(admin))
        if self.is_silent:
            response.headers["Retry-After"] = RETRY_AFTER_S
        return response

    def _text(self) -> str:
        if self.is_silent:
            return "a worker of the server that may keep this request does not answer: try again"
        shown = self.request_id
        if len(shown) > _MOST_CHARACTERS:
            shown = shown[: _MOST_CHARACTERS - 1] + "…"
        why = "kept are the newest requests and the worst of each route; this one is not, or not any more"
        return f"no request with the id {shown!r}: {why}"

    def _shown(self, admin: Admin) -> dict[str, Any]:
        from telemetry.admin.pages import common
        from telemetry.admin.requests_pages import ListState

        query = ListState.parse(request.args).query()
        shown = {"is_silent": self.is_silent, "request_id": self.request_id[:_MOST_CHARACTERS], "list_query": query}
        return common(admin) | shown
