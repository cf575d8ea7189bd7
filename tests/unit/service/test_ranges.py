from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ranges import MAX_RANGES, MAX_SPECS, ByteRange, UnsatisfiableRangeError, parse_ranges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-", [(0, 100)]),
        ("bytes=90-200", [(90, 100)]),
        ("bytes=-1", [(99, 100)]),
        ("bytes=-200", [(0, 100)]),
        ("BYTES = 5-9", [(5, 10)]),
        ("bytes=50-59, 10-19", [(50, 60), (10, 20)]),
        ("bytes=10-19,15-29,40-49", [(10, 30), (40, 50)]),
        ("bytes=10-19,20-29", [(10, 30)]),
        ("bytes=0-4,200-300", [(0, 5)]),
        ("bytes=,0-4,", [(0, 5)]),
    ],
)
def test_ranges_are_read_clamped_and_merged(header, expected):
    assert [(piece.start, piece.stop) for piece in parse_ranges(header, 100)] == expected


@pytest.mark.parametrize(
    "header",
    ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-4", "bytes=1-2-3", "items=0-5", "bytes=0 - 5", "bytes=٣-٥",
     "bytes=" + "9" * 5000 + "-", "bytes=0-1;2-3"],
)  # fmt: skip
def test_a_malformed_header_is_ignored(header):
    assert parse_ranges(header, 100) is None


def test_a_number_has_as_many_digits_as_the_largest_file_needs():
    assert parse_ranges(f"bytes=0-{2**63 - 1}", 100) == [ByteRange(0, 100)]
    assert parse_ranges(f"bytes=-{2**63 - 1}", 100) == [ByteRange(0, 100)]
    assert parse_ranges(f"bytes=0-{10**19}", 100) is None
    assert parse_ranges(f"bytes=-{10**19}", 100) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200,300-", "bytes=-0"])
def test_ranges_past_the_end_carry_the_size_of_the_file(header):
    with pytest.raises(UnsatisfiableRangeError) as caught:
        parse_ranges(header, 100)
    assert caught.value.size_bytes == 100


def test_more_pieces_than_a_player_asks_for_mean_the_whole_file():
    assert len(parse_ranges("bytes=" + ",".join(f"{n * 2}-{n * 2}" for n in range(MAX_RANGES)), 100)) == MAX_RANGES
    assert parse_ranges("bytes=" + ",".join(f"{n * 2}-{n * 2}" for n in range(MAX_RANGES + 1)), 100) is None
    assert parse_ranges("bytes=" + ",".join(["0-0"] * (MAX_SPECS + 1)), 100) is None


spec = st.one_of(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted).map(lambda pair: f"{pair[0]}-{pair[1]}"),
    st.integers(0, 60).map(lambda first: f"{first}-"),
    st.integers(0, 60).map(lambda last: f"-{last}"),
)


def bytes_of(text: str, size: int) -> set[int]:
    """The oracle: the very positions that one spec names, by counting."""
    first, _, last = text.partition("-")
    if not first:
        return {position for position in range(size) if position >= size - int(last)}
    return {position for position in range(size) if int(first) <= position <= (int(last) if last else size)}


@given(st.lists(spec, min_size=1, max_size=10), st.integers(1, 50))
def test_the_ranges_hold_exactly_the_bytes_that_were_asked_for_each_once(specs, size):
    wanted = set().union(*(bytes_of(text, size) for text in specs))
    try:
        pieces = parse_ranges("bytes=" + ",".join(specs), size)
    except UnsatisfiableRangeError:
        assert wanted == set()
        return
    positions = [position for piece in pieces for position in range(piece.start, piece.stop)]
    assert len(positions) == len(set(positions))
    assert set(positions) == wanted


@given(st.text(max_size=40), st.integers(1, 1000))
def test_no_header_breaks_the_parser(text, size):
    for header in (text, "bytes=" + text):
        try:
            pieces = parse_ranges(header, size)
        except UnsatisfiableRangeError:
            continue
        assert pieces is None or all(0 <= piece.start < piece.stop <= size for piece in pieces)


positions = st.just("") | st.integers(0, 30).map(str)


@given(st.lists(st.tuples(positions, positions).map("-".join), max_size=5).map(",".join), st.integers(1, 20))
def test_pieces_are_of_the_file(specs, size):
    try:
        pieces = parse_ranges(f"bytes={specs}", size)
    except UnsatisfiableRangeError:
        return
    assert pieces is None or all(0 <= piece.start < piece.stop <= size for piece in pieces)


def test_a_range_knows_its_length_and_its_header():
    assert len(ByteRange(10, 20)) == 10
    assert ByteRange(10, 20).content_range(100) == "bytes 10-19/100"
