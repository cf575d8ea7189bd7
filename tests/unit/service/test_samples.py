from __future__ import annotations

import pytest

from service import samples
from service.probe import probe
from service.samples import SAMPLES, Sample, is_unfinished, make_clip, make_samples


def test_the_samples_are_of_several_kinds_and_hard_names():
    paths = [sample.path for sample in SAMPLES]
    assert {path.rpartition(".")[2] for path in paths} == {"mp4", "webm", "mkv"}
    assert any("/" in path for path in paths)
    assert any("%" in path for path in paths)
    assert any(not path.isascii() for path in paths)


def test_samples_that_are_there_are_not_made_again(tmp_path):
    for sample in SAMPLES:
        (tmp_path / sample.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / sample.path).write_bytes(b"mine")
    told = []
    paths = make_samples(tmp_path, told.append)
    assert told == [sample.path for sample in SAMPLES]
    assert all(path.read_bytes() == b"mine" for path in paths)


def test_a_clip_is_real_and_leaves_no_draft(tmp_path):
    make_clip(tmp_path / "in" / "50%.mp4", Sample("in/50%.mp4", 96, 64, 0.5, 10, 440, 12))
    info = probe(tmp_path / "in" / "50%.mp4")
    assert (info.width, info.height) == (96, 64)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["50%.mp4"]


def test_what_is_interrupted_leaves_no_draft_and_is_known_to_be_unfinished(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    few = (Sample("one.mp4", 64, 64, 0.25, 10, 440, 12), Sample("two.mkv", 64, 64, 0.25, 10, 440, 12))
    monkeypatch.setattr(samples, "SAMPLES", few)
    with monkeypatch.context() as patch:
        patch.setattr(samples, "_tone", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_samples(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]  # the mark
    assert is_unfinished(tmp_path)
    make_samples(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.mp4", "two.mkv"]
    assert not is_unfinished(tmp_path)
