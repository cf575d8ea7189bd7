"""The tables of the docs that the code already knows, and `docs/openapi.yaml`.

    python tools/doc_tables.py            rewrite them in README.md and docs/
    python tools/doc_tables.py --check    say which are out of date; exit status 1 if any

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml

from config.table import settings_table
from service.openapi import DOCUMENT
from telemetry.instruments import TABLE
from telemetry.settings import ENV_PREFIX, described

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = ROOT / "docs" / "openapi.yaml"
_BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def server_settings() -> str:
    """Return the settings of the video server."""
    return markdown(
        ("option", "environment", "default", "must be", "meaning"),
        (
            (f"`{row.option}`", f"`{row.env}`", f"`{row.default}`", row.must_be, row.description)
            for row in settings_table()
        ),
    )


def telemetry_settings() -> str:
    """Return the settings of `instrument(app)`."""
    return markdown(
        ("setting", "environment", "default", "must be", "meaning"),
        (
            (f"`{name}`", f"`{ENV_PREFIX}{name.upper()}`", f"`{default}`" if default else "–", must_be, meaning)
            for name, default, must_be, meaning in described()
        ),
    )


def instruments() -> str:
    """Return every OpenTelemetry instrument."""
    return markdown(
        ("instrument", "kind", "unit", "attributes", "meaning"),
        (
            (
                f"`{spec.name}`",
                spec.kind.replace("_", "-"),
                f"`{spec.unit}`",
                ", ".join(f"`{name}`" for name in spec.attributes) or "–",
                spec.description,
            )
            for spec in TABLE
        ),
    )


TABLES: dict[str, Callable[[], str]] = {
    "settings": server_settings,
    "telemetry-settings": telemetry_settings,
    "instruments": instruments,
}


def documents() -> list[Path]:
    """Return the files that may hold a table."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def refreshed(text: str) -> str:
    """Return `text` with each of its tables as the code has it."""
    return _BLOCK.sub(lambda match: match[1] + TABLES[match["name"]]() + match[3], text)


def contract() -> str:
    """Return the OpenAPI document as YAML."""
    head = "# Written from service/openapi.py by tools/doc_tables.py.\n"
    return head + yaml.dump(DOCUMENT, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice, without anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def main(check: bool) -> int:
    """Rewrite the tables, or only say which are out of date."""
    wanted = {path: refreshed(path.read_text("utf-8")) for path in documents()} | {CONTRACT: contract()}
    outdated = [path for path, text in wanted.items() if not path.exists() or text != path.read_text("utf-8")]
    for path in outdated:
        print(("out of date: " if check else "rewritten: ") + str(path.relative_to(ROOT)))
        if not check:
            path.write_text(wanted[path], "utf-8")
    return int(check and bool(outdated))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
