from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.db import Database
from service.errors import BadParameterError
from service.search import MAX_QUERY_CHARACTERS, MAX_TOKENS, search_videos, tokens_of
from service.text import fold

SHELF = {
    "holiday/Zürich by night.mp4": ["city", "straße"],
    "holiday/100% sun_shine.mp4": ["summer"],
    "Night train.webm": ["city"],
    "music/ΣΊΣΥΦΟΣ.mkv": ["night shift"],
    "a'b\"c;--.mp4": ["_", "%"],
}


@pytest.fixture(scope="module")
def connection(tmp_path_factory, request):
    database = Database(tmp_path_factory.mktemp("search") / "library.sqlite3")
    from service.text import words

    with database.connection() as connection:
        with connection:
            for number, (path, tags) in enumerate(SHELF.items()):
                key = f"{number:032x}"
                title = path.rpartition("/")[2].rpartition(".")[0].replace("_", " ")
                connection.execute("INSERT INTO media VALUES (?, 1, 1, 1, 'c', 'f', NULL, 0)", (key,))
                row = (path, "", 1, 1, key, title, fold(title), words(f"{title} {path}"), fold(path))
                connection.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, NULL, ?, ?, ?, ?)", row)
                connection.executemany("INSERT INTO tags VALUES (?, ?)", [(key, fold(tag)) for tag in tags])
        yield connection
    database.close()


def found(connection, query):
    return [video.path for video in search_videos(connection, tokens_of(query), 100, 0).videos]


def test_all_words_must_be_found_in_any_case(connection):
    assert found(connection, "NIGHT zürich") == ["holiday/Zürich by night.mp4"]
    assert found(connection, "night nowhere") == []


def test_case_means_every_alphabet(connection):
    assert found(connection, "σίσυφος") == ["music/ΣΊΣΥΦΟΣ.mkv"]
    assert found(connection, "STRASSE") == ["holiday/Zürich by night.mp4"]
    assert found(connection, "zu\u0308RICH") == ["holiday/Zürich by night.mp4"]


def test_the_words_may_be_in_name_title_and_tag(connection):
    assert found(connection, "holiday shine summer") == ["holiday/100% sun_shine.mp4"]
    assert found(connection, "sun shine") == ["holiday/100% sun_shine.mp4"]


def test_signs_of_sql_are_plain_letters(connection):
    assert found(connection, "%") == ["a'b\"c;--.mp4", "holiday/100% sun_shine.mp4"]
    assert found(connection, "'b\"c;--") == ["a'b\"c;--.mp4"]


def test_a_tag_counts_most_then_a_whole_word_then_its_beginning(connection):
    assert found(connection, "city")[0] == "Night train.webm"
    assert found(connection, "nig")[:2] == ["Night train.webm", "holiday/Zürich by night.mp4"]
    assert found(connection, "ght") == ["Night train.webm", "holiday/Zürich by night.mp4", "music/ΣΊΣΥΦΟΣ.mkv"]


def test_what_a_word_is_found_in_says_how_high_its_video_comes(database, add_video):
    add_video(database, "mustard/a.mp4", title="apple")  # in a name
    add_video(database, "b.mp4", title="custard")  # in a title
    add_video(database, "starlight/c.mp4", title="zebra")  # at the beginning of a word
    add_video(database, "star/d.mp4", title="zoo")  # a word
    add_video(database, "e.mp4", title="zz", tags=["star"])  # a tag
    with database.connection() as connection:
        assert found(connection, "star") == ["e.mp4", "star/d.mp4", "starlight/c.mp4", "b.mp4", "mustard/a.mp4"]


def test_what_matches_alike_comes_by_title_then_by_path(database, add_video):
    for path, title in (("a.mp4", "film of you"), ("c.mp4", "Film of me"), ("b.mp4", "film of me")):
        add_video(database, path, title=title)
    with database.connection() as connection:
        assert found(connection, "film") == ["b.mp4", "c.mp4", "a.mp4"]


def test_nothing_asked_finds_nothing(connection):
    assert search_videos(connection, tokens_of("  "), 10, 0).total == 0


def test_results_come_in_pages_and_the_total_counts_all(connection):
    listing = search_videos(connection, ["night"], 1, 1)
    assert (len(listing.videos), listing.total) == (1, 3)


@pytest.mark.parametrize(
    "query", ["a\0b", "\ufffd", "x" * (MAX_QUERY_CHARACTERS + 1), " ".join(map(str, range(MAX_TOKENS + 1)))]
)
def test_a_query_that_is_too_much_or_no_text_is_refused(query):
    with pytest.raises(BadParameterError, match=r"^q must be "):
        tokens_of(query)


def test_a_word_said_twice_counts_once():
    assert tokens_of("Night night NIGHT day") == ["night", "day"]


letters = st.sampled_from(sorted(set("".join(SHELF)) | {" ", "ß", "S", "I", "ı"}))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(letters, min_size=1, max_size=8))
def test_what_is_found_is_what_a_plain_comparison_finds(connection, query):
    tokens = tokens_of(query)
    expected = {
        path
        for path, tags in SHELF.items()
        if tokens
        and all(
            token in fold(path)
            or token in fold(path.rpartition("/")[2].rpartition(".")[0].replace("_", " "))
            or any(token in fold(tag) for tag in tags)
            for token in tokens
        )
    }
    assert set(found(connection, query)) == expected
