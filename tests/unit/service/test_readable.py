from __future__ import annotations

import os
import threading

import pytest

from service.readable import Readable


def test_a_folder_that_can_be_read_is_no_trouble(tmp_path):
    assert Readable(tmp_path).trouble() is None


def test_what_is_away_or_no_folder_is_told_and_so_is_that_it_is_back(tmp_path):
    readable = Readable(tmp_path / "disk")
    assert readable.trouble() == "no such file or directory"
    (tmp_path / "disk").write_text("a file")
    assert readable.trouble() == "not a directory"
    (tmp_path / "disk").unlink()
    (tmp_path / "disk").mkdir()
    assert readable.trouble() is None


def test_a_disk_that_does_not_answer_is_not_waited_for_and_keeps_one_thread(tmp_path, monkeypatch):
    answers, scandir, asked = threading.Event(), os.scandir, []

    def hanging(folder):
        asked.append(folder)
        assert answers.wait(10)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", hanging)
    readable = Readable(tmp_path, patience_s=0.01)
    try:
        assert [readable.trouble() for _ in range(3)] == ["it does not answer"] * 3
        assert len(asked) == 1
    finally:
        answers.set()
    readable._look.join(10)
    monkeypatch.undo()
    assert Readable(tmp_path).trouble() is None


@pytest.mark.parametrize("hangs", [True, False])
def test_the_status_page_tells_what_is_known_meanwhile(make_app, monkeypatch, hangs):
    app = make_app()
    server = app.extensions["local_video_server"]
    monkeypatch.setattr(server.readable, "trouble", lambda: "it does not answer" if hangs else None)
    page = app.test_client().get("/admin/library").text
    assert ("The folder can't be read: it does not answer." in page) is hangs
