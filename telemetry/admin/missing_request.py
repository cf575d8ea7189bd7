"""The one exception of what reads kept requests."""

from __future__ import annotations


class MissingRequestError(Exception):
    """A request is not kept, or where `is_silent`, the worker that keeps it, or may keep it, does not answer."""

    def __init__(self, request_id: str, *, is_silent: bool = False) -> None:
        super().__init__(request_id)
        self.request_id = request_id
        self.is_silent = is_silent
