"""Apps of the video server for tests: private metrics, no background threads, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.video.frame import VideoFrame
from flask.testing import FlaskClient
from opentelemetry.sdk.trace import TracerProvider

from config import Settings
from service import create_app
from service.db import Database
from service.samples import Sample, make_clip
from service.text import fold, words
from telemetry import PerformanceMetrics, TelemetrySettings

CLIPS = (
    Sample("red.mp4", 160, 90, 1.0, 10, 440, 12),
    Sample("blue.webm", 160, 90, 1.5, 120, 330, 12),
    Sample("green.mkv", 120, 90, 2.0, 200, 220, 12),
)


class BufferedClient(FlaskClient):
    """Reads and closes every answer, as a server does."""

    def open(self, *args, buffered=True, **options):
        return super().open(*args, buffered=buffered, **options)


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """A folder with three real clips, made once. Tests copy from it."""
    folder = tmp_path_factory.mktemp("clips")
    for sample in CLIPS:
        make_clip(folder / sample.path, sample)
    return folder


@pytest.fixture
def film(tmp_path):
    """Make a video without sound, `film(name, shades, rotation=…, start_s=…)`: each shade is how bright the left and the right
    half of a frame are, 24 frames a second, with one key frame.
    """

    def make(name, shades, *, rotation=0, start_s=0, gop=1000):
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=24)
            stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
            stream.codec_context.gop_size = gop
            if rotation:
                stream.set_display_rotation(rotation)
            for number, (left, right) in enumerate(shades):
                frame = VideoFrame(160, 90, "yuv420p")
                stride = frame.planes[0].line_size
                line = bytes([left] * 80 + [right] * 80)
                frame.planes[0].update((line + bytes(stride - 160)) * 90)
                for plane in frame.planes[1:]:
                    plane.update(b"\x80" * plane.buffer_size)
                frame.pts, frame.time_base = number + start_s * 24, Fraction(1, 24)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "library.sqlite3")
    yield database
    database.close()


@pytest.fixture
def make_app(tmp_path):
    apps = []

    def make(**options):
        videos = options.pop("videos", tmp_path / "videos")
        videos.mkdir(exist_ok=True)
        background = options.pop("background", False)
        authorize = options.pop("authorize", None)
        metrics = PerformanceMetrics()
        tracer_provider = TracerProvider(shutdown_on_exit=False)
        settings = Settings(**{"videos": videos, "data": tmp_path / "data", "write_limit": "1000/minute", **options})
        app = create_app(
            settings,
            metrics=metrics,
            telemetry_settings=TelemetrySettings(),
            tracer_provider=tracer_provider,
            authorize=authorize,
            background=background,
        )
        app.test_client_class = BufferedClient
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.extensions["local_video_server"].close()


@pytest.fixture
def app(make_app):
    return make_app()


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def server(app):
    return app.extensions["local_video_server"]


@pytest.fixture
def add_video():
    """Put a video into the index without a file: `add_video(database, path, ...)` returns its hash."""

    def add(
        database: Database, path: str, *, media_hash=None, title=None, tags=(), duration_s=60.0, added_at=1.0, size=1
    ):
        media_hash = media_hash or f"{abs(hash(path)):032x}"[-32:]
        title = title or path.rpartition("/")[2].rpartition(".")[0]
        with database.connection() as connection, connection:
            connection.execute(
                "INSERT OR IGNORE INTO media VALUES (?, ?, 640, 360, 'h264', 'mp4', NULL, ?)",
                (media_hash, duration_s, added_at),
            )
            folder = path.rpartition("/")[0]
            connection.execute(
                "INSERT INTO files VALUES (?, ?, ?, 1, ?, NULL, ?, ?, ?, ?)",
                (path, folder, size, media_hash, title, fold(title), words(f"{title} {path}"), fold(path)),
            )
            connection.executemany("INSERT INTO tags VALUES (?, ?)", [(media_hash, tag) for tag in tags])
            connection.execute("UPDATE changes SET value = value + 1")
        return media_hash

    return add


@pytest.fixture
def query():
    """Run one statement on a database and return all rows as tuples."""

    def run(database: Database, sql: str, values=()):
        with database.connection() as connection:
            return [tuple(row) for row in connection.execute(sql, values)]

    return run


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder in which the test is a user whom rights apply to, also where it is root that runs it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o777)
        shutil.rmtree(folder)
