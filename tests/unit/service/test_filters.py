from __future__ import annotations

import pytest

from service.filters import duration


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "–"), (0.2, "0:01"), (4.4, "0:04"), (59.6, "1:00"), (605, "10:05"), (3723, "1:02:03")]
)
def test_durations_read_like_a_clock(seconds, shown):
    assert duration(seconds) == shown
