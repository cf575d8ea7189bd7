from __future__ import annotations

import pytest

from service.library import SORTS, find_video, is_known, list_problems, list_videos, related_videos, totals
from service.ratings import read_ratings, write_rating


@pytest.fixture
def connection(database):
    with database.connection() as connection:
        yield connection


@pytest.fixture
def shelf(database, add_video):
    hashes = {}
    for number, (path, tags) in enumerate(
        [("b.mp4", ["sea"]), ("x/a.mp4", ["sea", "sun"]), ("x/C.mp4", []), ("y/d.mp4", ["sun"])]
    ):
        hashes[path] = add_video(
            database,
            path,
            tags=tags,
            media_hash=f"{number:032x}",
            duration_s=10.0 * number,
            added_at=number,
            size=100 - number,
        )
    return hashes


def listed(connection, sort, **options):
    return [video.path for video in list_videos(connection, sort, 10, 0, **options).videos]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("new", ["y/d.mp4", "x/C.mp4", "x/a.mp4", "b.mp4"]),
        ("title", ["x/a.mp4", "b.mp4", "x/C.mp4", "y/d.mp4"]),
        ("longest", ["y/d.mp4", "x/C.mp4", "x/a.mp4", "b.mp4"]),
        ("shortest", ["x/a.mp4", "x/C.mp4", "y/d.mp4", "b.mp4"]),  # the last one does not say how long it is
        ("size", ["b.mp4", "x/a.mp4", "x/C.mp4", "y/d.mp4"]),
    ],
)
def test_videos_come_in_the_order_that_is_asked_for(connection, shelf, sort, expected):
    assert listed(connection, sort) == expected


def test_the_best_rated_come_first(connection, shelf):
    write_rating(connection, shelf["x/C.mp4"], "one", 4)
    write_rating(connection, shelf["b.mp4"], "one", 5)
    write_rating(connection, shelf["b.mp4"], "two", 2)
    assert listed(connection, "rating") == ["x/C.mp4", "b.mp4", "x/a.mp4", "y/d.mp4"]


@pytest.mark.parametrize("sort", SORTS)
def test_a_tag_narrows_every_order(connection, shelf, sort):
    assert set(listed(connection, sort, tag="sea")) == {"b.mp4", "x/a.mp4"}


def test_pages_are_cut_and_the_total_counts_all(connection, shelf):
    listing = list_videos(connection, "title", 2, 2)
    assert ([video.path for video in listing.videos], listing.total) == (["x/C.mp4", "y/d.mp4"], 4)


def test_a_video_is_found_by_its_path_exactly(connection, shelf):
    assert find_video(connection, "x/C.mp4").title == "C"
    assert find_video(connection, "x/c.mp4") is None
    assert is_known(connection, shelf["b.mp4"])
    assert not is_known(connection, "f" * 32)


def test_videos_with_common_tags_then_of_the_same_folder_come_as_related(connection, shelf):
    related = related_videos(connection, find_video(connection, "x/a.mp4"))
    assert [video.path for video in related] == ["b.mp4", "y/d.mp4", "x/C.mp4"]


def test_a_copy_of_the_same_content_is_not_related_to_itself(database, connection, add_video, shelf):
    add_video(database, "copy.mp4", media_hash=shelf["b.mp4"])
    assert "copy.mp4" not in [video.path for video in related_videos(connection, find_video(connection, "b.mp4"))]


def test_a_copy_shares_the_rating_and_both_are_listed(database, connection, add_video, shelf):
    add_video(database, "copy.mp4", media_hash=shelf["b.mp4"])
    write_rating(connection, shelf["b.mp4"], "one", 5)
    assert listed(connection, "rating")[:2] == ["b.mp4", "copy.mp4"]
    assert read_ratings(connection, [shelf["b.mp4"]])[shelf["b.mp4"]].count == 1


def test_problems_and_totals_are_counted_apart(connection, shelf):
    with connection:
        connection.execute(
            "INSERT INTO files VALUES ('n.txt', '', 1, 1, NULL, 'not a video file (.txt)', 'n', 'n', 'n', 'n')"
        )
        connection.execute("INSERT INTO files VALUES ('z.mp4', '', 1, 1, NULL, 'an empty file', 'z', 'z', 'z', 'z')")
    problems, number = list_problems(connection)
    assert ([problem.path for problem in problems], number) == (["z.mp4", "n.txt"], 2)
    assert len(list_problems(connection, limit=1)[0]) == 1
    assert totals(connection) == (4, 60.0, 394)
