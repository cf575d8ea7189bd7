from __future__ import annotations

import os
import subprocess

import pytest

from service.trial import Notes, what_kills

DYING = "import signal, av\nav.open = lambda path, **named: signal.raise_signal(signal.{})\n"


@pytest.fixture
def notes(tmp_path):
    return Notes(tmp_path / "data" / "being-read")


def test_a_note_is_there_while_a_file_is_read_and_left_by_who_dies(notes, tmp_path):
    video = tmp_path / os.fsdecode(b"f\xffilm.mp4")
    with notes.reading(video):
        assert notes.take_left() == [str(video)]
    assert notes.take_left() == []
    with pytest.raises(ValueError, match="odd"), notes.reading(video):
        raise ValueError("odd")
    assert notes.take_left() == []


def test_where_no_note_can_be_kept_files_are_read_all_the_same(tmp_path):
    (tmp_path / "being-read").write_text("a file where the folder would be")
    notes = Notes(tmp_path / "being-read")
    with notes.reading(tmp_path / "film.mp4"):
        pass
    assert notes.take_left() == []


@pytest.mark.parametrize("name", ["red.mp4", "none.mp4", "-c"])
def test_a_file_that_is_read_or_refused_kills_nobody(clips, name):
    assert what_kills(clips / name, 80) is None


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(
    ("signal", "said"),
    [("SIGSEGV", "Segmentation fault"), ("SIGKILL", "Killed"), ("SIGINT", None), ("SIGTERM", None)],
)
def test_what_kills_the_process_that_reads_is_named_but_for_what_ends_a_server(
    clips, tmp_path, monkeypatch, signal, said
):
    (tmp_path / "sitecustomize.py").write_text(DYING.format(signal))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert what_kills(clips / "red.mp4", 80) == said


@pytest.mark.parametrize(
    ("code", "said"), [(0xC0000005, "0xc0000005"), (0xC000013A, None), (1, None)], ids=["fault", "Ctrl-C", "error"]
)
def test_what_kills_a_process_on_windows_is_named_by_its_number(clips, monkeypatch, code, said):
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, code))
    assert what_kills(clips / "red.mp4", 80) == said


def test_who_takes_too_long_has_lived(clips):
    assert what_kills(clips / "red.mp4", 80, patience_s=0.001) is None
