from __future__ import annotations

import logging
from pathlib import Path

import av
import pytest

from service.probe import ProbeError
from service.samples import Sample, make_clip
from service.thumbnails import Thumbnails


def size_of(path):
    with av.open(str(path)) as container:
        return container.streams.video[0].width, container.streams.video[0].height


def test_a_thumbnail_is_a_jpeg_of_the_width_that_was_asked_for(clips, tmp_path):
    thumbnails = Thumbnails(tmp_path / "thumbs", 80)
    assert thumbnails.is_missing("ab" * 16)
    assert thumbnails.make(clips / "red.mp4", "ab" * 16, 1.0)
    path = thumbnails.path("ab" * 16)
    assert path.read_bytes().startswith(b"\xff\xd8\xff")
    assert size_of(path) == (80, 44)
    assert not thumbnails.is_missing("ab" * 16)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_small_picture_is_not_blown_up(clips, tmp_path):
    thumbnails = Thumbnails(tmp_path, 480)
    assert thumbnails.make(clips / "blue.webm", "cd" * 16, 1.5)
    assert size_of(thumbnails.path("cd" * 16)) == (160, 90)


def test_a_thumbnail_that_is_there_is_not_made_again(clips, tmp_path):
    thumbnails = Thumbnails(tmp_path)
    thumbnails.make(clips / "red.mp4", "ab" * 16, 1.0)
    assert thumbnails.make(tmp_path / "gone.mp4", "ab" * 16, 1.0)


def test_a_video_of_one_frame_has_a_thumbnail(tmp_path):
    make_clip(tmp_path / "one.mp4", Sample("one.mp4", 64, 64, 1 / 12, 10, 440, 12))
    assert Thumbnails(tmp_path / "thumbs").make(tmp_path / "one.mp4", "ab" * 16, 0.08)


@pytest.mark.parametrize(
    ("rotation", "size", "bright", "dark"),
    [
        (90, (90, 160), (45, 20), (45, 140)),
        (-90, (90, 160), (45, 140), (45, 20)),
        (180, (160, 90), (20, 45), (140, 45)),
        (0, (160, 90), (140, 45), (20, 45)),
    ],
)
def test_a_video_that_a_phone_took_upright_has_its_thumbnail_upright(film, tmp_path, rotation, size, bright, dark):
    thumbnails = Thumbnails(tmp_path / "thumbs")
    thumbnails.make(film("phone.mp4", [(16, 235)] * 24, rotation=rotation), "ab" * 16, 1.0)
    assert size_of(thumbnails.path("ab" * 16)) == size
    with av.open(str(thumbnails.path("ab" * 16))) as container:
        plane = next(container.decode(video=0)).planes[0]
    at_bright, at_dark = (bytes(plane)[row * plane.line_size + column] for column, row in (bright, dark))
    assert at_bright > 150 > 80 > at_dark


def test_a_transport_stream_with_one_key_frame_has_a_thumbnail(film, tmp_path):
    assert Thumbnails(tmp_path / "thumbs").make(film("one.ts", [(200, 200)] * 24), "ab" * 16, 1.0)


def test_a_stream_that_starts_late_is_looked_at_over_its_length_all_the_same(film, tmp_path):
    dark_at_first = [(16, 16)] * 120 + [(200, 200)] * 120
    thumbnails = Thumbnails(tmp_path / "thumbs")
    thumbnails.make(film("late.ts", dark_at_first, start_s=50_000, gop=12), "ab" * 16, 10.0)
    with av.open(str(thumbnails.path("ab" * 16))) as container:
        assert bytes(next(container.decode(video=0)).planes[0])[0] > 150


def test_a_video_without_a_frame_that_decodes_is_told_from_the_rest(clips, tmp_path):
    cut = tmp_path / "cut.mkv"
    cut.write_bytes((clips / "green.mkv").read_bytes()[:900])
    with pytest.raises(ProbeError, match="no frame could be decoded"):
        Thumbnails(tmp_path / "thumbs").make(cut, "ef" * 16, 2.0)


def test_a_folder_that_takes_no_file_costs_the_thumbnail_and_nothing_else(clips, tmp_path, caplog):
    (tmp_path / "thumbs").write_bytes(b"a file where the folder should be")
    thumbnails = Thumbnails(tmp_path / "thumbs")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert not thumbnails.make(clips / "red.mp4", "ab" * 16, 1.0)
    assert caplog.text.count("the thumbnail of red.mp4 can't be kept now") == 1
    (tmp_path / "thumbs").unlink()
    assert thumbnails.is_missing("ab" * 16), "a later look tries again"
    assert thumbnails.make(clips / "red.mp4", "ab" * 16, 1.0)


def test_a_disk_that_is_full_keeps_no_half_of_a_picture(clips, tmp_path, monkeypatch):
    def half(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    thumbnails = Thumbnails(tmp_path / "thumbs")
    assert not thumbnails.make(clips / "red.mp4", "ab" * 16, 1.0)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []


def test_what_a_process_that_has_died_was_writing_is_removed(clips, tmp_path):
    thumbnails = Thumbnails(tmp_path / "thumbs")
    assert thumbnails.make(clips / "red.mp4", "ab" * 16, 1.0)
    draft = thumbnails.path("ab" * 16).with_suffix(".4711-1.tmp")
    draft.write_bytes(b"half")
    thumbnails.remove_drafts()
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == ["ab" * 16 + ".jpg"]
