from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from config import Settings, markdown_table, settings_table

ROOT = Path(__file__).parents[3]


def test_every_setting_has_one_row_with_a_description():
    rows = settings_table()
    assert [row.field for row in rows] == [*Settings.model_fields, ""]
    assert all(row.description.endswith(".") for row in rows)


def test_a_row_names_option_variable_and_default():
    row = next(row for row in settings_table() if row.field == "page_size")
    assert (row.option, row.env, row.default) == ("--page-size", "LVS_PAGE_SIZE", "24")


def test_every_setting_says_what_it_must_be():
    assert all("must_be" in info.json_schema_extra for info in Settings.model_fields.values())


def test_the_table_is_printed_as_markdown_by_the_module():
    command = [sys.executable, "-m", "config"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert printed == markdown_table()
    assert printed.startswith(
        "| option | environment | default | must be | meaning |\n|---|---|---|---|---|\n| `--videos` |"
    )
