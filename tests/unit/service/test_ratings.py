from __future__ import annotations

import pytest

from service.errors import BadParameterError
from service.ratings import Rating, check_value, read_own, read_ratings, write_rating


@pytest.fixture
def connection(database):
    with database.connection() as connection:
        yield connection


@pytest.mark.parametrize("value", [1, 2, 3, 4, 5])
def test_whole_numbers_from_1_to_5_are_ratings(value):
    assert check_value("value", value) == value


@pytest.mark.parametrize("value", [0, 6, -1, 4.5, "4", True, None, [4], {}, float("nan"), 10**400])
def test_nothing_else_is_one(value):
    with pytest.raises(BadParameterError, match=r"^value must be a whole number from 1 to 5, got "):
        check_value("value", value)


def test_the_average_is_over_all_users_each_of_whom_counts_once(database, connection, add_video):
    media_hash = add_video(database, "a.mp4")
    for user, value in (("one", 1), ("one", 4), ("two", 5), ("three", 5)):
        write_rating(connection, media_hash, user, value)
    assert read_ratings(connection, [media_hash, "none"]) == {media_hash: Rating(4.67, 3), "none": Rating(0.0, 0)}
    assert read_own(connection, media_hash, "one") == 4
    assert read_own(connection, media_hash, "nobody") is None


def test_each_write_moves_the_counter(database, connection, add_video):
    media_hash = add_video(database, "a.mp4")
    first = write_rating(connection, media_hash, "one", 1)
    assert write_rating(connection, media_hash, "one", 1) == first + 1
    assert not connection.in_transaction
