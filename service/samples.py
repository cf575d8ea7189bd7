"""A few short clips of our own making, for a first look at the server without any video at hand."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.audio.frame import AudioFrame
from av.container import OutputContainer
from av.video.frame import VideoFrame

RATE_HZ = 48_000
_MARK = ".samples.part"  # hidden and temporary: none of the library's


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip: where, how large, how long, which colours (`hue`, 0-255) and how high its tone is."""

    path: str
    width: int
    height: int
    seconds: float
    hue: int
    tone_hz: int
    fps: int = 24


SAMPLES = (
    Sample("Morning waves.mp4", 640, 360, 8, 110, 330),
    Sample("Tall picture.mp4", 360, 640, 5, 30, 262),
    Sample("Night lights.webm", 640, 360, 6, 210, 440),
    Sample("Old film.mkv", 480, 360, 7, 60, 220),
    Sample("holiday/Day 1 – Zürich & Łódź.mp4", 640, 360, 6, 160, 392),
    Sample("holiday/100% sunshine.mp4", 854, 480, 4, 85, 523),
    Sample("holiday/beach/slow_tide.webm", 426, 240, 10, 130, 294),
    Sample("music/test_pattern_four.mp4", 640, 360, 12, 240, 349),
)


def make_samples(folder: Path, progress: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Make the clips that `folder` doesn't have yet and return all of them; `progress` gets the path of each clip."""
    mark = folder / _MARK
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    paths = []
    for sample in SAMPLES:
        progress(sample.path)
        target = folder / sample.path
        if not target.exists():
            make_clip(target, sample)
        paths.append(target)
    mark.unlink()
    return paths


def is_unfinished(folder: Path) -> bool:
    """Say whether `make_samples` has begun in `folder` and come to no end."""
    return (folder / _MARK).exists()


def make_clip(target: Path, sample: Sample) -> None:
    """Encode one clip. It appears under its name when it is whole, and leaves nothing behind when it never is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.part")
    webm = target.suffix == ".webm"
    kind = {".webm": "webm", ".mkv": "matroska"}.get(target.suffix, "mp4")
    try:
        with av.open(
            str(draft), "w", format=kind, options={} if kind != "mp4" else {"movflags": "+faststart"}
        ) as container:
            _encode(container, sample, webm)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _encode(container: OutputContainer, sample: Sample, webm: bool) -> None:
    names = ("libvpx-vp9", "libvpx") if webm else ("libx264", "mpeg4")
    video = container.add_stream(_first_codec(names), rate=sample.fps)
    assert isinstance(video, av.VideoStream)
    video.width, video.height, video.pix_fmt = sample.width, sample.height, "yuv420p"
    video.codec_context.options = _speed(video.codec_context.name)
    video.codec_context.gop_size = sample.fps
    audio = container.add_stream(_first_codec(("libopus",) if webm else ("aac",)), rate=RATE_HZ)
    assert isinstance(audio, av.AudioStream)
    audio.layout = "mono"
    for number in range(round(sample.seconds * sample.fps)):
        container.mux(video.encode(_picture(sample, number)))
        container.mux(audio.encode(_tone(sample, number)))
    container.mux(video.encode(None))
    container.mux(audio.encode(None))


def _first_codec(names: tuple[str, ...]) -> str:
    return next((name for name in names if name in av.codecs_available), names[-1])


def _speed(codec: str) -> dict[str, str]:
    return {
        "libx264": {"preset": "ultrafast", "crf": "26"},
        "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "36", "b": "0"},
        "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    }.get(codec, {})


def _picture(sample: Sample, number: int) -> VideoFrame:
    """Draw a frame: a gradient that rolls sideways under a bright bar that crosses the picture once."""
    width, height = sample.width, sample.height
    frame = VideoFrame(width, height, "yuv420p")
    shift = number * 3
    wave = bytes(48 + int(70 * (1 + math.sin((column + shift) * math.tau / 180))) for column in range(width + 180))
    bar = min(width - 8, int(number / (sample.seconds * sample.fps) * width))
    rows = []
    for row in range(height):
        start = (row // 3) % 180
        line = wave[start : start + width]
        rows.append(line[:bar] + b"\xeb" * 8 + line[bar + 8 :] if row % 64 < 48 else line)
    _fill(frame, 0, rows)
    angle = sample.hue * math.tau / 256
    u_base, v_base = 128 + int(34 * math.cos(angle)), 128 + int(34 * math.sin(angle))
    half = range(width // 2)
    chroma_u = bytes(max(16, min(240, u_base + (column * 24) // width - 12)) for column in half)
    chroma_v = bytes(max(16, min(240, v_base + ((column + shift) % width * 24) // width - 12)) for column in half)
    _fill(frame, 1, [chroma_u] * (height // 2))
    _fill(frame, 2, [chroma_v] * (height // 2))
    frame.pts, frame.time_base = number, Fraction(1, sample.fps)
    return frame


def _fill(frame: VideoFrame, plane: int, rows: list[bytes]) -> None:
    padding = frame.planes[plane].line_size - len(rows[0])
    frame.planes[plane].update(b"".join(row + bytes(padding) for row in rows))


def _tone(sample: Sample, number: int) -> AudioFrame:
    """Return the sound of one picture's time: a soft sine that goes on where the last frame left off."""
    count = RATE_HZ // sample.fps
    start = number * count
    step = math.tau * sample.tone_hz / RATE_HZ
    values = array("h", (int(4000 * math.sin((start + index) * step)) for index in range(count)))
    frame = AudioFrame(format="s16", layout="mono", samples=count)
    content = values.tobytes()
    frame.planes[0].update(content + bytes(frame.planes[0].buffer_size - len(content)))
    frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, start, Fraction(1, RATE_HZ)
    return frame
