"""The parts that the OpenAPI document is put together of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]

NUMBER: Final[Schema] = {"type": "number", "minimum": 0}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
PERCENT: Final[Schema] = {"type": "number", "minimum": 0, "maximum": 100}
TEXT: Final[Schema] = {"type": "string"}
STARS: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 5}


def exactly(properties: dict[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    """Return an object with these properties and no others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


ERRORS: Final = {
    400: "A parameter, the body or the `Host` can't be used; the answer says which, what it must be and what it was.",
    401: "The admin token is missing or wrong.",
    403: "A write from another site.",
    404: "There is no such video, tag or path.",
    405: "The path has no such method.",
    413: "The body is too large.",
    429: "Past the write limit, or too many wrong tokens; `Retry-After` says when to come again.",
    503: "Too many requests are being received, or another process holds the database; `Retry-After` says when to come again.",
    507: "The database can't be written: its disk is full, say, or read-only.",
}


def answers(
    status: int, description: str, schema: Schema, *errors: int, words: Mapping[int, str] = ERRORS
) -> dict[str, Any]:
    """Return the responses of an operation: the good one, and the errors that it may answer with, in `words`."""
    content = {"application/json": {"schema": schema}}
    good = {str(status): {"description": description, "content": content}}
    bad = {"application/json": {"schema": reference("Error")}}
    return good | {str(code): {"description": words[code], "content": bad} for code in (400, *errors)}


def operation(summary: str, responses: dict[str, Any], *, admin: bool = False, **more: Any) -> dict[str, Any]:
    """Return an operation; an admin one needs the token where the server asks for it, and too many wrong ones end in 429."""
    if admin:
        bad = {"application/json": {"schema": reference("Error")}}
        responses = responses | {"429": {"description": ERRORS[429], "content": bad}}
    return {"summary": summary, **more, "responses": responses} | (
        {"security": SECURITY} if admin else {"security": []}
    )


def body(properties: dict[str, Schema], example: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def parameter(name: str, where: str, schema: Schema, description: str) -> dict[str, Any]:
    required = {"required": True} if where == "path" else {}
    return {"name": name, "in": where, "description": description, "schema": schema, **required}


SECURITY: Final[list[Schema]] = [{"bearer": []}, {"cookie": []}]
