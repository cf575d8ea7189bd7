"""What can be compared while our capture makes spans late, or not at all: their ids and their order are others."""

from __future__ import annotations

from typing import Any

from tests.integration.telemetry.parity.record import Outcome
from tests.integration.telemetry.parity.traffic import SPAN_ID, TRACE_ID


def only_what_apps_see(outcome: Outcome) -> None:
    """Leave in `outcome` what app code has seen, with ids replaced by the order in which they first appear.

    Exemplars go: a span that nobody has looked at has no sampling decision yet, and so no exemplar.
    """
    names = {int(TRACE_ID, 16): "trace of the caller", int(SPAN_ID, 16): "span of the caller", 0: "none"}
    outcome.seen = [_named(seen, names) for seen in outcome.seen]
    outcome.log.clear()
    for point in outcome.metrics:
        point.pop("exemplars", None)


def as_trees(outcome: Outcome) -> None:
    """Put the exported spans of `outcome` in the order in which they began, and name each span's ancestors instead of ids."""
    names = {int(TRACE_ID, 16): "trace of the caller", int(SPAN_ID, 16): "span of the caller", 0: "none"}
    outcome.seen = [_named(seen, names) for seen in outcome.seen]
    by_id = {entry["id"]["span_id"]: entry for entry in outcome.log}
    outcome.log.sort(key=lambda entry: (entry["role"], entry["began"]))
    for entry, ancestors in [(entry, _ancestors(entry, by_id)) for entry in outcome.log]:
        entry["parent"] = ancestors
        entry["id"] = {key: value for key, value in entry["id"].items() if key not in ("trace_id", "span_id")}
        entry["links"] = [attributes for _, attributes in entry["links"]]
    for entry in outcome.log:
        entry["began"] = None  # seen behind the request; the times are nobody's
    for point in outcome.metrics:
        point.pop("exemplars", None)


def _ancestors(entry: dict[str, Any], by_id: dict[int, dict[str, Any]]) -> list[Any]:
    """Return role and name of all spans above `entry`, and the ids of the one above that is the caller's."""
    found: list[Any] = []
    while entry["parent"] is not None:
        above = by_id.get(entry["parent"]["span_id"])
        if above is None:
            return [*found, entry["parent"]]
        assert above["id"]["trace_id"] == entry["id"]["trace_id"]
        found.append((above["role"], above["attributes"].get("http.route"), above["began"] <= entry["began"]))
        entry = above
    return found


def _named(value: Any, names: dict[int, str]) -> Any:
    if isinstance(value, list | tuple):
        return [_named(inner, names) for inner in value]
    if not isinstance(value, dict):
        return value
    found = {key: _named(inner, names) for key, inner in value.items()}
    for key in ("trace_id", "span_id"):
        if key in found:
            found[key] = names.setdefault(found[key], f"{key} {len(names)}")
    if "traceparent" in found:
        version, trace_id, span_id, flags = found["traceparent"].split("-")
        found["traceparent"] = [version, *(names.get(int(part, 16), "unknown") for part in (trace_id, span_id)), flags]
    return found
