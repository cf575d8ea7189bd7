"""Listing pages make a constant number of queries, however many videos, tags and ratings there are."""

from __future__ import annotations

from itertools import count

import pytest

from telemetry.testing import assert_constant_queries, assert_max_queries

LISTINGS = {
    "/": 6,
    "/?sort=title": 6,
    "/?sort=rating": 6,
    "/tag/even": 6,
    "/search?q=clip": 6,
    "/admin/library": 6,
}


@pytest.fixture
def add_rows(server, add_video):
    """Add so many videos with tags to the library."""
    numbers = count()

    def add(rows: int) -> None:
        for number in (next(numbers) for _ in range(rows)):
            add_video(server.database, f"clip {number}.mp4", title=f"Clip {number}", tags=["even", f"tag {number}"])

    return add


@pytest.mark.parametrize("path", LISTINGS)
def test_a_listing_makes_as_many_queries_for_many_videos_as_for_one(path, client, add_rows):
    assert_constant_queries(add_rows, lambda: client.get(path), steps=(1, 4, 15))


@pytest.mark.parametrize(("path", "most"), LISTINGS.items())
def test_a_listing_keeps_its_budget(path, most, client, add_rows):
    add_rows(3)
    with assert_max_queries(most):
        assert client.get(path).status_code == 200


def test_a_watch_page_makes_as_many_queries_for_many_videos_as_for_one(client, add_rows):
    add_rows(1)
    assert_constant_queries(add_rows, lambda: client.get("/watch/clip%200.mp4"), steps=(1, 4, 15))
