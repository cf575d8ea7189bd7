from __future__ import annotations

import pytest

from service.filters import duration, isolated


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "–"), (0.2, "0:01"), (4.4, "0:04"), (59.6, "1:00"), (605, "10:05"), (3723, "1:02:03")]
)
def test_durations_read_like_a_clock(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("סרטים/חופשה.mp4", "<bdi>סרטים</bdi>/<bdi>חופשה.mp4</bdi>"),
        ("a\u202eb.mp4", "<bdi>a⟦U+202E⟧b.mp4</bdi>"),
        ("<b>/'&'.mp4", "<bdi>&lt;b&gt;</bdi>/<bdi>&#39;&amp;&#39;.mp4</bdi>"),
    ],
)
def test_the_parts_of_a_path_stand_by_themselves_and_are_text(path, shown):
    assert isolated(path) == shown
