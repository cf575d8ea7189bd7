"""What can be set about the telemetry, with its defaults, limits and environment variables."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from telemetry import meeting_place, tail
from telemetry.errors import SettingsError

ENV_PREFIX = "LVS_TELEMETRY_"
_DAY_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class TelemetrySettings:
    """Settings of one instrumented app, checked when it is made; `load()` reads `LVS_TELEMETRY_<NAME>` as well.

    Raises:
        SettingsError: in one line that names the setting, what it must be and what it was.
    """

    window: Annotated[
        int,
        Meta(ge=1, le=10_000, description="Samples a rolling window keeps for each series, the newest first to stay."),
    ] = 100
    max_routes: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Routes that may have a window; requests to more of them count in totals alone.",
        ),
    ] = 1000
    good_below_ms: Annotated[float, Meta(gt=0, le=_DAY_MS, description="A p95 under this reads good.")] = 50.0
    poor_above_ms: Annotated[
        float, Meta(gt=0, le=_DAY_MS, description="A p95 over this reads poor, between the two warning.")
    ] = 200.0
    fan_out_warning: Annotated[int, Meta(ge=1, description="Queries in one request that are worth a look.")] = 20
    repeats_warning: Annotated[
        int,
        Meta(
            ge=2,
            le=100_000,
            description="Runs of one statement from one line in one request that make a finding: N+1, duplicates, loop of "
            "writes.",
        ),
    ] = 5
    recent_requests: Annotated[
        int, Meta(ge=0, le=100_000, description="Newest requests that are kept with their queries.")
    ] = 200
    worst_requests: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="Requests kept of each route: so many of the slowest, of those with most queries, of the newest that "
            "failed.",
        ),
    ] = 10
    recent_bytes: Annotated[
        int,
        Meta(ge=65_536, le=2**32, description="Memory that the kept requests may take, in bytes."),
    ] = 8_388_608
    source_lines: Annotated[bool, Meta(description="Whether the line of the app's code is noted with each query.")] = (
        True
    )
    trace_url: Annotated[
        str,
        Meta(
            description="Address of a trace in your backend, with `{trace_id}` in it, for the links of the admin pages; "
            "Jaeger's is `http://127.0.0.1:16686/trace/{trace_id}`, which need not be set with the exporter `jaeger`.",
            extra={"must_be": "an http or https address with {trace_id} in it"},
        ),
    ] = ""
    server_timing: Annotated[
        bool,
        Meta(
            description="Whether responses to those who may see the admin pages carry `Server-Timing` and `traceparent`."
        ),
    ] = True
    cache_good_percent: Annotated[
        float, Meta(ge=0, le=100, description="A cache hit rate from here on reads good.")
    ] = 90.0
    excluded_routes: Annotated[
        tuple[str, ...],
        Meta(
            description="URL rules (JSON list, * is a wildcard) that the windows leave out, beside static files, admin pages "
            "and `/ping`.",
            examples=['["/health"]'],
        ),
    ] = ()
    workers_dir: Annotated[
        str,
        Meta(
            description="Folder in which the workers of one server meet, so that the admin pages show the figures of all; made "
            "if need be, writable by no other user. Not needed under gunicorn, "
            "uWSGI and Granian.",
            extra={
                "must_be": f"a folder whose whole path has {meeting_place.MOST_FOLDER_BYTES} bytes at most, for sockets"
            },
        ),
    ] = ""
    admin: Annotated[bool, Meta(description="Whether the app gets the admin pages and their JSON.")] = True
    monitor: Annotated[
        bool,
        Meta(description="Whether the diagnostic layer (`telemetry.monitor`) records; off, it costs next to nothing."),
    ] = True
    instrumentation: Annotated[
        Literal["own", "stock"],
        Meta(
            description="What captures requests and queries: `own`, or `stock`: OpenTelemetry's instrumentations "
            "(extra `stock`)."
        ),
    ] = "own"
    export: Annotated[
        str,
        Meta(
            description="Which requests an exporter gets: `all`, a share such as `1/10`, `notable` (slow, failing, many "
            "queries), or `notable+1/10` with a share of the rest.",
            extra={"must_be": tail.MUST_BE},
        ),
    ] = "all"

    exporters: Annotated[
        tuple[str, ...],
        Meta(
            description="Where spans and metrics go (JSON list): `otlp`, `jaeger`, `prometheus`, `console`, `jsonfile`, "
            "`none`, or the name of an installed exporter; with none named, as `OTEL_TRACES_EXPORTER` and "
            "`OTEL_METRICS_EXPORTER` say.",
            examples=['["otlp", "jsonfile"]'],
        ),
    ] = ()
    jsonfile_folder: Annotated[
        str, Meta(min_length=1, description="Where the exporter `jsonfile` writes `traces.jsonl` and `metrics.jsonl`.")
    ] = "telemetry-export"
    jsonfile_max_mb: Annotated[
        int, Meta(ge=1, le=1_000_000, description="What it keeps of each of the two, the older files included, in MiB.")
    ] = 100
    shutdown_timeout_s: Annotated[
        float,
        Meta(
            gt=0, le=600, description="How long the end of the process may wait for exporters to send what is queued."
        ),
    ] = 3.0

    def __post_init__(self) -> None:
        for name in _hints():
            object.__setattr__(self, name, self._checked(name, getattr(self, name), name))
        good_ms, poor_ms = self.good_below_ms, self.poor_above_ms
        if poor_ms < good_ms and poor_ms == TelemetrySettings.poor_above_ms:  # which nobody has set
            raise SettingsError(f"good_below_ms must be at most poor_above_ms ({poor_ms:g}), got {good_ms:g}")
        if poor_ms < good_ms:
            raise SettingsError(f"poor_above_ms must be at least good_below_ms ({good_ms:g}), got {poor_ms:g}")
        if self.trace_url and (
            "{trace_id}" not in self.trace_url or not self.trace_url.startswith(("http://", "https://"))
        ):
            self._refuse("trace_url")
        if self.workers_dir and len(os.fsencode(Path(self.workers_dir).absolute())) > meeting_place.MOST_FOLDER_BYTES:
            self._refuse("workers_dir")
        if self.export != "all":
            try:
                tail.parse(self.export)
            except ValueError as error:
                raise SettingsError(f"export {error}, got {self.export!r}") from error

    def _refuse(self, name: str) -> NoReturn:
        raise SettingsError(f"{name} must be {_must_be(_hints()[name])}, got {getattr(self, name)!r}")

    @classmethod
    def load(cls, **values: object) -> Self:
        """Return the settings from `values`, and from the environment what is not among them.

        Raises:
            SettingsError: naming the setting or its variable, what it must be and what it was.
        """
        hints = _hints()
        for name in values.keys() - hints.keys():
            raise SettingsError(f"{name} must be one of {', '.join(hints)}, got a setting of another name")
        read = {}
        for name in hints:
            variable = ENV_PREFIX + name.upper()
            if name not in values and variable in os.environ:
                read[name] = cls._checked(name, os.environ[variable], variable, is_text=True)
        try:
            return cls(**{**read, **values})
        except SettingsError as error:
            name, _, rest = str(error).partition(" ")
            raise SettingsError(f"{ENV_PREFIX}{name.upper()} {rest}" if name in read else str(error)) from error

    def called(self, name: str) -> str:
        """Return what a message calls a setting: by its variable, where that says what is in force."""
        variable = ENV_PREFIX + name.upper()
        try:
            read = self._checked(name, os.environ[variable], variable, is_text=True)
        except (KeyError, SettingsError):
            return name
        return variable if read == getattr(self, name) else name

    @staticmethod
    def _checked(name: str, value: Any, shown: str, *, is_text: bool = False) -> Any:
        """Return `value` as the type of the setting `name`; as text it comes from the environment."""
        hint = _hints()[name]
        try:
            if is_text and get_origin(get_args(hint)[0]) is tuple:
                found = msgspec.json.decode(value, type=hint)
            else:
                found = msgspec.convert(value, hint, strict=not is_text)
            if isinstance(found, float) and not math.isfinite(found):
                raise msgspec.ValidationError
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise SettingsError(f"{shown} must be {_must_be(hint)}, got {value!r}") from error
        return found


@functools.cache
def _hints() -> Mapping[str, Any]:
    hints = get_type_hints(TelemetrySettings, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(TelemetrySettings)}


def _must_be(hint: Any) -> str:
    """Return what a setting of this type must be, in words."""
    kind, meta = get_args(hint)
    if meta.extra:
        return str(meta.extra["must_be"])
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a JSON list of texts such as {meta.examples[0]}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[kind]
    if meta.min_length:
        return "a text that is not empty"
    limits = (("over", meta.gt), ("from", meta.ge), ("to", meta.le))
    return " ".join([words, *(f"{word} {limit}" for word, limit in limits if limit is not None)])


def described() -> list[tuple[str, str, str, str]]:
    """Return name, default, what it must be and meaning of each setting, as the docs show them."""
    return [
        (
            field.name,
            field.default if isinstance(field.default, str) else msgspec.json.encode(field.default).decode(),
            _must_be(_hints()[field.name]),
            get_args(_hints()[field.name])[1].description,
        )
        for field in dataclasses.fields(TelemetrySettings)
    ]
