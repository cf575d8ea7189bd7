from __future__ import annotations

import pytest

from service.filters import duration, file_size


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "–"), (0.2, "0:01"), (4.4, "0:04"), (59.6, "1:00"), (605, "10:05"), (3723, "1:02:03")]
)
def test_durations_read_like_a_clock(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (345_002, "345 kB"), (1.5e9, "1.5 GB"), (2e13, "20.0 TB")],
)
def test_sizes_have_three_digits_at_most(number, shown):
    assert file_size(int(number)) == shown
