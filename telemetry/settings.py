"""What can be set about the telemetry, with its defaults, limits and environment variables."""

from __future__ import annotations

import os
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableError

from telemetry.errors import SettingsError
from telemetry.exporters import tail

ENV_PREFIX = "LVS_TELEMETRY_"


class TelemetrySettings(BaseSettings):
    """Settings of one instrumented app; each is read from `LVS_TELEMETRY_<NAME>` unless it is passed.

    Use `load()` to turn a wrong value into a `SettingsError` of one line.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", validate_default=True)

    window: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="Samples a rolling window keeps for each series, the newest first to stay.",
    )
    max_routes: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Routes that may have a window; requests of later ones are counted only.",
    )
    good_below_ms: float = Field(default=50.0, gt=0, allow_inf_nan=False, description="A p95 under this reads good.")
    poor_above_ms: float = Field(
        default=200.0, gt=0, allow_inf_nan=False, description="A p95 over this reads poor, between the two warning."
    )
    fan_out_warning: int = Field(default=20, ge=1, description="Queries in one request that are worth a look.")
    cache_good_percent: float = Field(
        default=90.0, ge=0, le=100, description="A cache hit rate from here on reads good."
    )
    excluded_routes: tuple[str, ...] = Field(
        default=("/ping",),
        description="URL rules (JSON list, * is a wildcard) that the windows leave out, beside static files and admin pages.",
    )
    admin: bool = Field(default=True, description="Whether the app gets the admin pages and their JSON.")
    instrumentation: Literal["own", "stock"] = Field(
        default="own",
        description="What captures requests and queries: `own`, or `stock`: OpenTelemetry's instrumentations (extra `stock`).",
    )

    export: str = Field(
        default="all",
        description="Which requests an exporter gets: `all`, a share such as `1/10`, `notable` (slow, failing, many queries), "
        "or `notable+1/10` with a share of the rest.",
    )

    @field_validator("export")
    @classmethod
    def _export_can_be_read(cls, text: str) -> str:
        if text != "all":
            tail.parse(text)
        return text

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> Self:
        if self.poor_above_ms < self.good_below_ms:
            raise ValueError(
                f"poor_above_ms must be at least good_below_ms ({self.good_below_ms:g}), got {self.poor_above_ms:g}"
            )
        return self

    @classmethod
    def load(cls, **values: object) -> Self:
        """Return the settings from `values` and the environment.

        Raises:
            SettingsError: naming the setting, what it must be and what it was.
        """
        try:
            return cls(**values)  # type: ignore[arg-type]  # pydantic validates what is passed
        except ValidationError as error:
            raise SettingsError(_one_line(error, set(values))) from error
        except UnreadableError as error:  # what should be JSON is not
            name = next((name for name in cls.model_fields if f'"{name}"' in str(error)), "")
            variable = ENV_PREFIX + name.upper()
            raise SettingsError(f"{variable} must be JSON, got {os.environ.get(variable, '')!r}") from error


def _one_line(error: ValidationError, passed: set[str]) -> str:
    problems = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        if not name:
            problems.append(str(problem["msg"]).removeprefix("Value error, "))
            continue
        shown = name if name in passed else ENV_PREFIX + name.upper()
        said = str(problem["msg"])
        said = said.removeprefix("Value error, ") if problem["type"] == "value_error" else said.lower()
        problems.append(f"{shown}: {said}, got {problem['input']!r}")
    return "; ".join(problems)
