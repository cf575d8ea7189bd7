"""The command of the benchmarks works; what it measures is not under test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from benchmarks.servers import VideoServerLoader, serving

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    # Without the coverage tracer, which would measure itself.
    left_out = ("OTEL_", "LVS_", "COVERAGE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--no-peers", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def test_cpu_of_all_variants_is_measured_and_no_span_is_lost(tmp_path: Path) -> None:
    done = bench("cpu", "--markdown", "--json", str(tmp_path / "samples.json"))

    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stdout
    assert "| instrument(app), two readers, 50 queries: at most 1/15 of stock OpenTelemetry |" in done.stdout
    samples = json.loads((tmp_path / "samples.json").read_text("utf-8"))["CPU of a request"]
    assert {sample["variant"] for sample in samples} >= {"bare Flask", "stock OpenTelemetry, OTLP"}


def test_loads_of_every_kind_are_measured_and_no_span_is_lost() -> None:
    done = bench("loads", "--rounds", "1", "--markdown", timeout_s=240)

    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stdout
    assert "| queries in a span of the app's own |" in done.stdout


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("pieces", "a span as OTLP"),
        ("memory", "no growth over 2,000 requests"),
        ("startup", "importing telemetry and instrument(app): at most 150 ms"),
        ("snapshot", "every window has changed: under 5 ms CPU"),
        ("verdicts", "| precision 1.0: no false alarm | 1.000 | holds |"),
    ],
)
def test_each_benchmark_tells_its_figures(name: str, figure: str) -> None:
    done = bench(name, "--rounds", "1", "--markdown")

    assert done.returncode == 0, done.stderr
    assert figure in done.stdout


@pytest.mark.parametrize("telemetry", [True, False])
def test_video_servers_whose_throughput_is_compared_answer_alike(tmp_path: Path, telemetry: bool) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()

    with (
        serving(VideoServerLoader(str(videos), str(tmp_path / "data"), telemetry), "/ping", is_ready="ok") as port,
        urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer,
    ):
        page = answer.read().decode()

    assert "No videos yet" in page
    assert 'href="/admin/performance"' in page
    assert ("Server-Timing" in answer.headers) is telemetry


def test_an_unknown_benchmark_is_named() -> None:
    done = bench("speed")

    assert done.returncode == 2
    assert "'speed' is not one of" in done.stderr
