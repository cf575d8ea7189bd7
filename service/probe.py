"""What a file is: its content's hash, and what FFmpeg says about the video in it.

The formats and protocols that FFmpeg may use are listed: a playlist that calls itself `.mp4` would otherwise make it
open other files or addresses.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, cast

import av
import av.error
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

MIME_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".avi": "video/x-msvideo",
    ".ogv": "video/ogg",
    ".mpg": "video/mpeg",
    ".mpeg": "video/mpeg",
    ".ts": "video/mp2t",
    ".m2ts": "video/mp2t",
    ".flv": "video/x-flv",
    ".wmv": "video/x-ms-wmv",
    ".3gp": "video/3gpp",
}
MAX_PIXELS = 64_000_000
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}
_OF_DISK_OR_FILE = {errno.EACCES, errno.EIO, errno.EPERM}
"""What FFmpeg says of a disk that gives nothing out, and of a file that is cut off or damaged, too."""
HASH = re.compile(r"[0-9a-f]{32}")
"""What `media_hash` returns."""
_CHUNK_BYTES = 64 * 1024
_ENDS_BYTES = 1024 * 1024
_MAX_PACKETS = 100
_OPEN_OPTIONS = {
    "format_whitelist": "mov,mp4,matroska,webm,avi,ogg,mpeg,mpegvideo,mpegts,flv,asf",
    "protocol_whitelist": "file",
}
# PyAV 19, which needs Python 3.12, always keeps undecodable bytes as lone surrogates; before it has to be told.
_SURROGATES: Final[dict[str, Any]] = (
    {"metadata_errors": "surrogateescape"} if int(av.__version__.partition(".")[0]) < 19 else {}
)


DECODING_ERRORS = (av.error.FFmpegError, IndexError)
"""What comes of decoding what is damaged: PyAV has `IndexError` where streams appear while it reads."""


class ProbeError(Exception):
    """The file is no video that can be played; the text says why, for the admin page."""


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What is in a video. `width` and `height` are those of the picture as it is shown, upright; `title` is the one that the
    container carries, if any.
    """

    duration_s: float
    width: int
    height: int
    codec: str
    container: str
    title: str | None


def mime_type(path: str) -> str | None:
    """Return the MIME type of a video file by its extension, None for a file that can't be a video."""
    return MIME_TYPES.get(PurePosixPath(path).suffix.lower())


def media_hash(path: Path) -> str:
    """Return 32 hex digits that identify the content: blake2b over its size and its first, middle and last 64 KiB.

    It stays when the file is renamed or moved, and reading it costs the same for a clip and for a film. Raises
    `OSError`.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        for offset in sorted({0, max(0, (size - _CHUNK_BYTES) // 2), max(0, size - _CHUNK_BYTES)}):
            digest.update(_read_at(file, offset))
    return digest.hexdigest()


def _read_at(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.read(_CHUNK_BYTES)


def open_video(path: Path) -> InputContainer:
    """Open a file for reading with FFmpeg, local video formats only. Raises `av.error.FFmpegError`."""
    container: InputContainer = av.open(str(path), options=dict(_OPEN_OPTIONS), **_SURROGATES)
    return container


def video_stream(container: InputContainer) -> VideoStream:
    """Return the stream that holds the picture; cover art is none. Raises `ProbeError`."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise ProbeError("no video stream in it")


def quarter_turns(frame: VideoFrame) -> int:
    """Return how often a frame is to be turned by 90 degrees, counterclockwise, to be shown upright: 0 to 3."""
    return round(frame.rotation / 90) % 4


def probe(path: Path) -> MediaInfo:
    """Read the facts of a video file. Raises `ProbeError`, whatever is wrong with the file, and `OSError` where it is the disk or
    the system that does not give it out now.
    """
    if path.stat().st_size == 0:
        raise ProbeError("an empty file")
    try:
        with open_video(path) as container:
            return _read(container)
    except ProbeError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, ArithmeticError) as error:
        if isinstance(error, OSError) and error.errno in _PASSING:
            raise OSError(error.errno, os.strerror(error.errno)) from error
        if isinstance(error, OSError) and error.errno in _OF_DISK_OR_FILE:
            read_ends(path)
            raise ProbeError("not readable as a video: damaged, or cut off") from error
        raise ProbeError(_reason(error)) from error


def read_ends(path: Path) -> None:
    """Read the beginning and the end of a file. Raises `OSError` where the system does not give them out."""
    with path.open("rb") as file:
        file.read(_ENDS_BYTES)
        file.seek(max(0, os.fstat(file.fileno()).st_size - _ENDS_BYTES))
        file.read(_ENDS_BYTES)


def _read(container: InputContainer) -> MediaInfo:
    stream = video_stream(container)
    # PyAV's types promise a context; a stream of an unknown or damaged codec has none.
    context = cast("VideoCodecContext | None", stream.codec_context)
    if context is None:
        raise ProbeError("its codec is unknown or damaged")
    if not 0 < context.width * context.height <= MAX_PIXELS:
        raise ProbeError(
            f"a picture of {context.width} × {context.height} pixels; it may have from 1 to {MAX_PIXELS:,} of them"
        )
    width, height = context.width, context.height
    if _is_on_its_side(container, stream):
        width, height = height, width
    return MediaInfo(
        duration_s=_duration_s(container, stream),
        width=width,
        height=height,
        codec=context.name,
        container=container.format.name,
        title=_title(container),
    )


def _is_on_its_side(container: InputContainer, stream: VideoStream) -> bool:
    """Say whether the picture is shown turned by a quarter; PyAV tells of a frame alone how it is to be turned."""
    stream.thread_count = 1
    try:
        packets = islice(container.demux(stream), _MAX_PACKETS)
        frame = next((frame for packet in packets for frame in packet.decode()), None)
    except DECODING_ERRORS:
        return False
    return isinstance(frame, VideoFrame) and quarter_turns(frame) % 2 == 1


def _title(container: InputContainer) -> str | None:
    written = (container.metadata.get("title") or "").encode("utf-8", "surrogateescape")
    return written.decode("utf-8", "replace").strip()[:300] or None


def _duration_s(container: InputContainer, stream: VideoStream) -> float:
    if container.duration is not None:
        return max(0.0, container.duration / av.time_base)
    if stream.duration is not None and stream.time_base is not None:
        return max(0.0, float(stream.duration * stream.time_base))
    return 0.0


def _reason(error: Exception) -> str:
    return f"not readable as a video: {getattr(error, 'strerror', None) or error}"
