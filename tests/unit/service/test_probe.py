from __future__ import annotations

import errno
import shutil

import av
import pytest

import service.probe
from service.probe import ProbeError, media_hash, mime_type, probe


@pytest.mark.parametrize(
    ("name", "codecs", "width", "seconds"),
    [
        ("red.mp4", {"h264", "mpeg4"}, 160, 1.0),
        ("blue.webm", {"vp9", "vp8"}, 160, 1.5),
        ("green.mkv", {"h264", "mpeg4"}, 120, 2.0),
    ],
)
def test_a_real_clip_tells_its_length_size_and_codec(clips, name, codecs, width, seconds):
    info = probe(clips / name)
    assert info.codec in codecs
    assert (info.width, info.height) == (width, 90)
    assert info.duration_s == pytest.approx(seconds, abs=0.15)
    assert info.title is None


@pytest.mark.parametrize(("rotation", "size"), [(90, (90, 160)), (-90, (90, 160)), (180, (160, 90)), (0, (160, 90))])
def test_a_picture_is_as_wide_and_high_as_it_is_shown(film, rotation, size):
    info = probe(film("phone.mp4", [(16, 235)] * 3, rotation=rotation))
    assert (info.width, info.height) == size


@pytest.mark.parametrize(
    ("written", "shown"), [(b"Caf\xc3\xa9", "Café"), (b"Caf\xe9!", "Caf\ufffd!"), (b"    \n", None)]
)
def test_a_title_in_the_container_is_shown_whatever_its_encoding(clips, tmp_path, written, shown):
    path = tmp_path / "titled.mkv"
    with av.open(str(clips / "green.mkv")) as source, av.open(str(path), "w") as target:
        target.metadata["title"] = "TITLE"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path.write_bytes(path.read_bytes().replace(b"TITLE", written))
    assert probe(path).title == shown


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.mp4", b"", "an empty file"),
        ("text.mp4", b"hello, world\n" * 100, "not readable as a video"),
        ("zeros.mkv", bytes(5000), "not readable as a video"),
        (
            "playlist.mp4",
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n",
            "not readable as a video",
        ),
        ("picture.mp4", b"\x89PNG\r\n\x1a\n" + bytes(100), "not readable as a video"),
    ],
)
def test_a_file_that_is_no_video_says_why(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ProbeError, match=reason):
        probe(path)


def test_a_file_cut_off_before_its_index_is_no_video(clips, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes((clips / "red.mp4").read_bytes()[:400])
    with pytest.raises(ProbeError):
        probe(path)


def test_a_picture_that_is_too_large_tells_the_limit(clips, monkeypatch):
    monkeypatch.setattr(service.probe, "MAX_PIXELS", 14_399)
    with pytest.raises(ProbeError, match="a picture of 160 × 90 pixels; it may have from 1 to 14,399 of them"):
        probe(clips / "red.mp4")


def test_the_hash_follows_the_content_and_not_the_name(clips, tmp_path):
    copy = tmp_path / "another name.mp4"
    shutil.copy(clips / "red.mp4", copy)
    assert media_hash(copy) == media_hash(clips / "red.mp4")
    assert media_hash(copy) != media_hash(clips / "blue.webm")
    assert len(media_hash(copy)) == 32


@pytest.mark.parametrize("at", [0, 150_000, 299_999])
def test_a_change_at_the_beginning_the_middle_or_the_end_changes_the_hash(tmp_path, at):
    path, content = tmp_path / "a.mp4", bytearray(300_000)
    path.write_bytes(content)
    before = media_hash(path)
    content[at] = 1
    path.write_bytes(content)
    assert media_hash(path) != before


def test_an_empty_file_has_a_hash_too(tmp_path):
    (tmp_path / "a.mp4").touch()
    assert len(media_hash(tmp_path / "a.mp4")) == 32


@pytest.mark.parametrize(
    ("path", "mime"), [("a/B.MP4", "video/mp4"), ("a.mkv", "video/x-matroska"), ("a.srt", None), ("mp4", None)]
)
def test_the_mime_type_follows_the_extension(path, mime):
    assert mime_type(path) == mime


@pytest.mark.parametrize(
    ("number", "is_of_disk", "kind"),
    [
        (errno.EIO, True, OSError),
        (errno.EIO, False, ProbeError),
        (errno.EPERM, False, ProbeError),
        (errno.EMFILE, False, OSError),
        (errno.EINVAL, False, ProbeError),
    ],
)
def test_what_the_disk_does_not_give_out_now_is_no_fault_of_the_file(number, is_of_disk, kind, clips, monkeypatch):
    def fail(path):
        raise OSError(number, "told by FFmpeg")

    monkeypatch.setattr(service.probe, "open_video", fail)
    if is_of_disk:
        monkeypatch.setattr(service.probe, "read_ends", fail)
    with pytest.raises(kind):
        probe(clips / "red.mp4")


@pytest.mark.parametrize("name", ["cut.mkv", "cut.webm"])
def test_a_file_that_is_cut_off_is_damaged_and_not_the_disk(name, clips, tmp_path):
    whole = clips / ("green.mkv" if name.endswith("mkv") else "blue.webm")
    (tmp_path / name).write_bytes(whole.read_bytes()[:200])
    with pytest.raises(ProbeError, match="damaged, or cut off"):
        probe(tmp_path / name)


def test_a_stream_that_appears_while_it_is_read_costs_nothing_but_itself(clips, monkeypatch):
    def demux(*_):
        raise IndexError("list index out of range")

    monkeypatch.setattr(service.probe, "islice", demux)
    assert probe(clips / "red.mp4").width == 160
