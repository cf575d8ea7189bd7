from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadParameterError
from service.tags import MAX_TAGS, add_tag, normalise, popular_tags, read_tags, remove_tag


@pytest.fixture
def connection(database):
    with database.connection() as connection:
        yield connection


@pytest.mark.parametrize(
    ("value", "tag"),
    [("Summer", "summer"), ("  #Two   Words ", "two words"), ("# #foo", "foo"), ("STRASSE", "strasse"), ("ÉTÉ", "été")],
)
def test_a_tag_has_one_spelling(value, tag):
    assert normalise(value) == tag


@pytest.mark.parametrize(
    "value", ["", "  ", "#", "a/b", "a\\b", ".", "..", "x" * 41, "x" * 10_000, "a\0", "\u200b", 5, None, True, ["a"]]
)
def test_what_is_no_short_word_is_no_tag(value):
    with pytest.raises(BadParameterError, match="tag must be 1 to 40 printable characters without /"):
        normalise(value)


@given(st.text() | st.text("# ab"))
def test_a_normalised_tag_stays_as_it_is(value):
    try:
        tag = normalise(value)
    except BadParameterError:
        return
    assert normalise(tag) == tag


def test_tags_are_added_once_read_in_order_and_removed(database, connection, add_video):
    one, two = add_video(database, "a.mp4"), add_video(database, "b.mp4", tags=["sun"])
    for tag in ("sun", "moon", "sun"):
        add_tag(connection, one, tag)
    assert read_tags(connection, [one, two]) == {one: ("moon", "sun"), two: ("sun",)}
    assert remove_tag(connection, one, "sun") is not None
    assert remove_tag(connection, one, "sun") is None
    assert read_tags(connection, [one]) == {one: ("moon",)}


def test_the_most_used_tags_come_first_and_those_of_removed_files_not_at_all(database, connection, add_video):
    add_video(database, "a.mp4", tags=["sun", "sea"])
    add_video(database, "b.mp4", tags=["sea"])
    add_video(database, "c.mp4", tags=["gone"])
    with connection:
        connection.execute("DELETE FROM files WHERE path = 'c.mp4'")
    assert popular_tags(connection) == (("sea", 2), ("sun", 1))


def test_a_video_takes_so_many_tags_and_no_more(database, connection, add_video):
    media_hash = add_video(database, "a.mp4")
    for number in range(MAX_TAGS):
        add_tag(connection, media_hash, f"tag {number}")
    with pytest.raises(BadParameterError, match="at most 32 on a video"):
        add_tag(connection, media_hash, "one more")
    assert len(read_tags(connection, [media_hash])[media_hash]) == MAX_TAGS
