from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.text import fold, is_clean, title_of, words


@pytest.mark.parametrize(
    ("one", "other"), [("STRASSE", "straße"), ("Zu\u0308rich", "ZÜRICH"), ("ﬁlm", "FILM"), ("Σας", "ΣΑΣ")]
)
def test_folding_makes_spellings_alike(one, other):
    assert fold(one) == fold(other)


@given(st.text())
def test_folding_twice_changes_nothing(text):
    assert fold(fold(text)) == fold(text)


def test_words_stand_between_spaces():
    assert words("My_clip.Part-2 (final)") == " my clip part 2 final "


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("a/b/My_clip_1.mp4", "My clip 1"),
        ("100% fun.webm", "100% fun"),
        ("___.mp4", "___"),
        ("noext", "noext"),
        ("a.b.mkv", "a.b"),
    ],
)
def test_a_title_is_made_from_the_name(path, title):
    assert title_of(path) == title


def test_undecodable_text_is_not_clean():
    assert not any(map(is_clean, ["a\0b", "\ufffd", "\ud800"]))
    assert is_clean("tab\tand ümlaut 東京")
