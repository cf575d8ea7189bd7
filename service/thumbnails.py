"""Thumbnails: one JPEG for each content, made in the background and kept in the data folder."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from service.probe import DECODING_ERRORS, ProbeError, open_video, quarter_turns, video_stream

_log = logging.getLogger(__name__)
_DRAFT = ".tmp"
_POSITIONS = (0.1, 0.35, 0.6)
_DARK_LUMA = 24
_MAX_FRAMES = 60
_SECOND = Fraction(1, 1)


class Thumbnails:
    """The folder of thumbnails, `width_px` wide. Safe to use from several threads and processes."""

    def __init__(self, folder: Path, width_px: int = 480) -> None:
        self.folder = folder
        self.width_px = width_px
        self._failed: set[str] = set()
        self._told: set[str] = set()

    def path(self, media_hash: str) -> Path:
        """Return where the thumbnail of a content lies, or will lie."""
        return self.folder / media_hash[:2] / f"{media_hash}.jpg"

    def is_missing(self, media_hash: str) -> bool:
        """Say whether the thumbnail is gone and making it again may help."""
        return media_hash not in self._failed and not self.path(media_hash).exists()

    def make(self, video: Path, media_hash: str, duration_s: float) -> bool:
        """Make the thumbnail unless it is there; return whether there is one now.

        Raises `ProbeError` if not one frame of the video can be decoded. What else goes wrong is logged: the video
        lives without.
        """
        target = self.path(media_hash)
        if target.exists():
            return True
        try:
            picture = draw(video, duration_s, self.width_px)
        except (av.error.FFmpegError, OSError, ValueError, ArithmeticError) as error:
            self._failed.add(media_hash)
            _log.warning("no thumbnail for %s: %s", video.name, error)
            return False
        try:
            _replace(target, picture)
        except OSError as error:  # of the disk, which the next look may find well again
            if media_hash not in self._told:
                self._told.add(media_hash)
                _log.warning("the thumbnail of %s can't be kept now: %s", video.name, error)
            return False
        return True

    def remove_drafts(self) -> None:
        """Remove what a process that has died was writing. Nobody else may be writing."""
        with suppress(OSError):
            for draft in self.folder.glob(f"*/*{_DRAFT}"):
                draft.unlink(missing_ok=True)


def draw(video: Path, duration_s: float, width_px: int) -> bytes:
    """Return the thumbnail of a video as a JPEG. Raises `ProbeError` if not one frame can be decoded, and what FFmpeg and the
    system raise.
    """
    return _jpeg(_picture(video, duration_s), width_px)


def _replace(target: Path, content: bytes) -> None:
    """Put the file in place in one step: a request never sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(f".{os.getpid()}-{threading.get_ident()}{_DRAFT}")
    try:
        draft.write_bytes(content)
        draft.replace(target)
    except BaseException:  # a full disk has room for nothing else while half of a picture lies there
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def _picture(video: Path, duration_s: float) -> VideoFrame:
    """Return the first frame that isn't near black among a few from over the length of the video."""
    frame: VideoFrame | None = None
    with open_video(video) as container:
        stream = video_stream(container)
        stream.thread_count = 1
        start_s = (container.start_time or 0) / av.time_base
        for position in _POSITIONS:
            found = _frame_at(container, stream, start_s + position * duration_s)
            if found is not None:
                frame = found
            if found is not None and _luma(found) > _DARK_LUMA:
                break
    if frame is None:
        # A transport stream may be past its only key frame wherever it is sought; where it opens, it has one.
        with open_video(video) as container:
            stream = video_stream(container)
            stream.thread_count = 1
            frame = _decoded(container, stream, 0.0)
    if frame is None:
        raise ProbeError("no frame could be decoded")
    return frame


def _frame_at(container: InputContainer, stream: VideoStream, at_s: float) -> VideoFrame | None:
    """Return the frame at `at_s`, or the last one before it that decodes within reason."""
    try:
        container.seek(int(at_s * av.time_base))
    except av.error.FFmpegError as error:
        _log.debug("can't seek to %.1f s: %s", at_s, error)
        return None
    return _decoded(container, stream, at_s)


def _decoded(container: InputContainer, stream: VideoStream, until_s: float) -> VideoFrame | None:
    frame = None
    try:
        for count, frame in enumerate(container.decode(stream)):
            if frame.pts is None or frame.time >= until_s or count >= _MAX_FRAMES:
                break
    except DECODING_ERRORS as error:
        _log.debug("no frame at %.1f s: %s", until_s, error)
    return frame


def _luma(frame: VideoFrame) -> float:
    sample = bytes(frame.reformat(width=32, height=18, format="gray").planes[0])
    return sum(sample) / len(sample)


def _jpeg(frame: VideoFrame, width_px: int) -> bytes:
    turns = quarter_turns(frame)
    shown = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
    width = min(width_px, shown[0]) // 2 * 2 or 2
    height = max(2, round(shown[1] * width / shown[0]) // 2 * 2)
    across, down = (height, width) if turns % 2 else (width, height)
    picture = _turned(frame.reformat(width=across, height=down, format="yuvj420p"), turns)
    encoder = av.CodecContext.create("mjpeg", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base = _SECOND
    encoder.options = {"qmin": "3", "qmax": "6"}
    picture.pts = 0
    picture.time_base = _SECOND
    return b"".join(bytes(packet) for packet in [*encoder.encode(picture), *encoder.encode(None)])


def _turned(picture: VideoFrame, quarters: int) -> VideoFrame:
    """Return `picture` turned counterclockwise."""
    if not quarters:
        return picture
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(width=picture.width, height=picture.height, format=picture.format, time_base=_SECOND),
        *(graph.add("transpose", "cclock") for _ in range(quarters)),
        graph.add("buffersink"),
    ).configure()
    graph.vpush(picture)
    return graph.vpull()
