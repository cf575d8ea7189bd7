from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.text import fold, is_clean, revealed, title_of, words


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
        (" .mp4", ".mp4"),
        ("noext", "noext"),
        ("a.b.mkv", "a.b"),
    ],
)
def test_a_title_is_made_from_the_name(path, title):
    assert title_of(path) == title


def test_undecodable_text_is_not_clean():
    assert not any(map(is_clean, ["a\0b", "\ufffd", "\ud800"]))
    assert is_clean("tab\tand ümlaut 東京")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("evil\u202egpj.exe", "evil⟦U+202E⟧gpj.exe"),
        ("\u2066a\u2069 \u200f", "⟦U+2066⟧a⟦U+2069⟧ \u200f"),
        ("חופשה 2024", "חופשה 2024"),
        ("👩\u200d🚀", "👩\u200d🚀"),
    ],
)
def test_characters_of_direction_are_shown_and_others_stay(text, shown):
    assert revealed(text) == shown


@given(st.text(st.characters(categories=["Cf", "Lu"])))
def test_nothing_that_is_shown_changes_the_direction_unseen(text):
    kinds = {unicodedata.bidirectional(char) for char in revealed(text)}
    assert not kinds & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
