from __future__ import annotations

from config import Settings, settings_table


def test_every_setting_has_one_row_with_a_description():
    rows = settings_table()
    assert [row.field for row in rows] == [*Settings.model_fields, ""]
    assert all(row.description.endswith(".") for row in rows)


def test_a_row_names_option_variable_and_default():
    row = next(row for row in settings_table() if row.field == "page_size")
    assert (row.option, row.env, row.default) == ("--page-size", "LVS_PAGE_SIZE", "24")


def test_every_setting_says_what_it_must_be():
    assert all(row.must_be for row in settings_table())
