"""Settings of the video server: command line over environment over an optional TOML file.

A wrong value is one `SettingsError` that names the setting the way the user gave it, what it must be, and what it was.
The values of `LVS_TELEMETRY_*` belong to the telemetry and are left alone here.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from limits import parse as parse_limit
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from telemetry.settings import ENV_PREFIX as TELEMETRY_PREFIX
from telemetry.settings import TelemetrySettings

ENV_PREFIX = "LVS_"
_HOST_NAME = re.compile(
    r"\.?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.ASCII | re.IGNORECASE
)
CONFIG_VARIABLE = "LVS_CONFIG"


class SettingsError(Exception):
    """A setting that can't be used. Its text is one line for the user."""

    def __init__(self, setting: str, must_be: str, got: object) -> None:
        self.setting = setting
        self.must_be = must_be
        self.got = got
        super().__init__(f"{setting} must be {must_be}, got {got!r}")


class _UnfitError(ValueError):
    """A value that is unfit for a reason of its own; the text is what it must be."""


def _must_be(text: str) -> dict[str, Any]:
    return {"must_be": text}


class Settings(BaseSettings):
    """Everything that can be set. Relative paths count from the working directory."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    videos: Path = Field(
        default=Path("videos"), description="The folder of videos.", json_schema_extra=_must_be("a path to a folder")
    )
    data: Path = Field(
        default=Path("var/data"),
        description="The folder for the database and the thumbnails.",
        json_schema_extra=_must_be("a path to a folder"),
    )
    host: str = Field(
        default="127.0.0.1",
        description="The address to listen on; off loopback, the admin pages need the admin token.",
        json_schema_extra=_must_be("an IP address of this machine such as 127.0.0.1 or 0.0.0.0, or localhost"),
    )
    port: int = Field(
        default=5000,
        ge=0,
        le=65535,
        description="The port to listen on; 0 takes a free one.",
    )
    trusted_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Names that the server is known by beside IP addresses and the machine's own "
        "names; `.example.org` stands for all under it.",
        json_schema_extra=_must_be("host names without ports, with commas between them"),
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Addresses or networks of reverse proxies whose X-Forwarded-* headers count.",
        json_schema_extra=_must_be(
            "IP addresses or networks such as 127.0.0.1 or 10.0.0.0/8, with commas between them"
        ),
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="How many processes serve requests.",
    )
    threads: int = Field(
        default=4,
        ge=1,
        le=256,
        description="How many requests one worker answers at once, video transfers aside.",
    )
    streams: int = Field(
        default=32,
        ge=1,
        le=512,
        description="How many video transfers one worker carries at once, beside its other requests.",
    )
    page_size: int = Field(
        default=24,
        ge=1,
        le=200,
        description="How many videos a page lists.",
    )
    write_limit: str = Field(
        default="60/minute",
        description="How many writes (ratings, tags) a client may make, for each worker.",
        json_schema_extra=_must_be("a rate such as 60/minute or 5/second"),
    )
    thumbnail_width: int = Field(
        default=480,
        ge=64,
        le=1920,
        description="Width of a thumbnail in pixels.",
    )
    probe_threads: int = Field(
        default=2,
        ge=1,
        le=32,
        description="How many files are probed at once in the background.",
    )
    rescan_interval: float = Field(
        default=60.0,
        ge=1,
        le=86400,
        allow_inf_nan=False,
        description="Seconds between full looks at the folder, beside the notices of the operating system.",
        json_schema_extra=_must_be("a number of seconds from 1 to 86400"),
    )
    cache_entries: int = Field(
        default=4096,
        ge=16,
        le=1_000_000,
        description="How many entries each cache holds at most.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="The least important messages that are logged.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="How log lines are written, each with trace, span and X-Request-ID of the request that it belongs to.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # as the library calls it
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is given and no more: `load_settings` asks the sources one by one, to tell where a value came from."""
        return (init_settings,)

    @field_validator("*", mode="before")
    @classmethod
    def _no_blank_and_no_boolean(cls, value: object) -> object:
        # pydantic would read `true` as 1 and an empty path as the working directory.
        if isinstance(value, bool) or (isinstance(value, str) and not value.strip()):
            raise ValueError("blank or boolean")
        return value

    @field_validator("videos", "data")
    @classmethod
    def _no_nul(cls, value: Path) -> Path:
        if "\0" in str(value):
            raise ValueError("NUL in a path")
        return value

    @field_validator("data")
    @classmethod
    def _is_apart(cls, value: Path, info: ValidationInfo) -> Path:
        # Each write to the database would be a change in the folder that is watched.
        videos = info.data.get("videos")
        if videos is not None and os.path.realpath(value) == os.path.realpath(videos):
            raise _UnfitError("another folder than that of the videos")
        return value

    @field_validator("host")
    @classmethod
    def _address(cls, value: str) -> str:
        return "127.0.0.1" if value.lower() == "localhost" else str(ipaddress.ip_address(value))

    @field_validator("trusted_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _with_commas(cls, value: object) -> object:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("trusted_hosts")
    @classmethod
    def _host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_HOST_NAME.fullmatch(name) for name in value):
            raise ValueError("no host name")
        return tuple(name.lower() for name in value)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_network(network, strict=False)) for network in value)

    @property
    def is_on_loopback(self) -> bool:
        """Whether nobody but this machine can reach the server directly."""
        return ipaddress.ip_address(self.host).is_loopback

    @field_validator("write_limit")
    @classmethod
    def _rate(cls, value: str) -> str:
        if parse_limit(value).amount < 1:
            raise ValueError("a rate of none")
        return value


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, with where each came from (an option, a variable, a file, or `default`) and warnings for the user."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...]


def option_name(field: str) -> str:
    return "--" + field.replace("_", "-")


def env_name(field: str) -> str:
    return ENV_PREFIX + field.upper()


def must_be(field: str) -> str:
    """Return what the value of a setting must be, in words."""
    info = Settings.model_fields[field]
    if isinstance(info.json_schema_extra, dict):
        return str(info.json_schema_extra["must_be"])
    if get_origin(info.annotation) is Literal:
        return " or ".join(get_args(info.annotation))
    least = next(each.ge for each in info.metadata if hasattr(each, "ge"))
    most = next(each.le for each in info.metadata if hasattr(each, "le"))
    return f"a whole number from {least} to {most}"


def load_settings(options: Mapping[str, object] | None = None, config_file: Path | None = None) -> Loaded:
    """Merge the sources and check them. `options` are the fields given on the command line.

    Raises `SettingsError` for a wrong value, an unknown TOML key, and a file that can't be read.
    """
    given = dict(options or {})
    in_environment = EnvSettingsSource(Settings)()
    file_values, file_label = _read_file(config_file)
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    names: dict[str, str] = {}
    for field in Settings.model_fields:
        variable = env_name(field)
        sources = (
            (given.get(field), option_name(field), "command line"),
            (in_environment.get(field), variable, variable),
            (file_values.get(field), f"{field} in {file_label}", file_label),
        )
        found = next((source for source in sources if source[0] is not None), None)
        origins[field] = found[2] if found else "default"
        if found:
            values[field], names[field] = found[0], found[1]
    try:
        settings = Settings(**values)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        raise _first_error(error, values, names) from error
    return Loaded(settings, origins, _unknown_variables())


def _first_error(error: ValidationError, values: Mapping[str, object], names: Mapping[str, str]) -> SettingsError:
    first = error.errors()[0]
    field, raised = str(first["loc"][0]), first.get("ctx", {}).get("error")
    words = str(raised) if isinstance(raised, _UnfitError) else must_be(field)
    got = values.get(field, Settings.model_fields[field].default)
    return SettingsError(names.get(field, option_name(field)), words, str(got) if isinstance(got, Path) else got)


def _read_file(config_file: Path | None) -> tuple[dict[str, object], str]:
    name = "--config"
    if config_file is None and CONFIG_VARIABLE in os.environ:
        name, config_file = CONFIG_VARIABLE, Path(os.environ[CONFIG_VARIABLE])
    if config_file is None:
        return {}, ""
    try:
        values = tomllib.loads(config_file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(name, f"a readable TOML file ({reason})", str(config_file)) from error
    for key in values:
        if key not in Settings.model_fields:
            raise SettingsError(f"a key in {config_file}", "the name of a setting" + _hint(key), key)
    return values, str(config_file)


def _hint(key: str) -> str:
    near = get_close_matches(key.lower(), Settings.model_fields, n=1, cutoff=0.5)
    return f" (the nearest is {near[0]})" if near else ""


def _unknown_variables() -> tuple[str, ...]:
    ours = {CONFIG_VARIABLE.removeprefix(ENV_PREFIX), *map(str.upper, Settings.model_fields)}
    theirs = {field.name.upper() for field in dataclasses.fields(TelemetrySettings)}
    warnings = []
    for name in sorted(os.environ):
        if not name.upper().startswith(ENV_PREFIX):
            continue
        is_theirs = name.upper().startswith(TELEMETRY_PREFIX)
        prefix, known = (TELEMETRY_PREFIX, theirs) if is_theirs else (ENV_PREFIX, ours)
        rest = name.upper().removeprefix(prefix)
        if rest not in known:
            near = get_close_matches(rest, known, n=1, cutoff=0.5)
            warnings.append(f"{name} is not a setting" + (f"; did you mean {prefix}{near[0]}?" if near else ""))
    return tuple(warnings)
