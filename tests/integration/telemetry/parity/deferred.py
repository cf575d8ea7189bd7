"""What can be compared while no span processor listens: our capture then makes no span that nobody looks at."""

from __future__ import annotations

from typing import Any

from tests.integration.telemetry.parity.record import Outcome
from tests.integration.telemetry.parity.traffic import SPAN_ID, TRACE_ID


def only_what_apps_see(outcome: Outcome) -> None:
    """Leave in `outcome` what app code has seen, with ids replaced by the order in which they first appear.

    Of the sampler's questions, those about the app's own spans stay. Exemplars go: a span that nobody has looked at has no
    sampling decision yet, and so no exemplar.
    """
    names = {int(TRACE_ID, 16): "trace of the caller", int(SPAN_ID, 16): "span of the caller", 0: "none"}
    outcome.seen = [_named(seen, names) for seen in outcome.seen]
    outcome.log = [_named(entry, names) for entry in outcome.log if entry["role"] == "user"]
    for point in outcome.metrics:
        point.pop("exemplars", None)


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
