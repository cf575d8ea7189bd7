from __future__ import annotations

import os
import re
import sqlite3
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import local_video_server
from config import settings_table
from service import cli, samples


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("LVS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture
def served(monkeypatch):
    """Take the place of the server and keep what it would have served."""
    from service import server

    calls = []

    def run(settings, on_listening):
        calls.append(settings)
        on_listening()

    monkeypatch.setattr(server, "run", run)
    return calls


@pytest.fixture
def few_samples(monkeypatch):
    few = (samples.Sample("one 1%.mp4", 64, 64, 0.25, 10, 440, 12),)
    monkeypatch.setattr(samples, "SAMPLES", few)
    monkeypatch.setattr(cli, "SAMPLES", few)


def test_every_setting_is_an_option_of_serve(run):
    text = run("serve", "--help").output
    assert all(row.option in text for row in settings_table())


def test_the_urls_are_printed_once_they_can_be_opened(run, served, tmp_path):
    (tmp_path / "[bold]films").mkdir()
    result = run("serve", "--videos", "[bold]films", "--port", "0", "--workers", "2")
    assert result.exit_code == 0, result.output
    port = served[0].port
    assert f"http://127.0.0.1:{port}/\n" in result.output
    assert f"http://127.0.0.1:{port}/admin/performance\n" in result.output
    assert str(tmp_path / "[bold]films") in result.output
    assert "2 workers" in result.output


def test_a_wrong_setting_is_one_line_on_stderr_and_2(run, served):
    result = run("serve", "--port", "x")
    assert result.exit_code == 2
    assert result.stderr == "local-video-server: --port must be a whole number from 0 to 65535, got 'x'\n"
    assert served == []


def test_a_folder_that_is_not_there_is_one_line_and_2(run, served):
    result = run("serve")
    assert result.exit_code == 2
    assert result.stderr == (
        "local-video-server: --videos must be a folder that exists, got 'videos'; --samples makes it, with a few clips\n"
    )


def test_no_folder_is_made_of_a_typing_error(run, served, tmp_path):
    result = run("serve", "--samples", "--videos", "none/of/these")
    assert result.exit_code == 2
    assert result.stderr == "local-video-server: --videos must be a folder that exists, got 'none/of/these'\n"
    assert not (tmp_path / "none").exists()


def test_a_file_in_place_of_the_folder_is_one_line_and_2(run, served, tmp_path, monkeypatch):
    (tmp_path / "videos").write_bytes(b"a file")
    for arguments, name in ((("--samples",), "--videos"), (("--config", "server.toml"), "videos in server.toml")):
        (tmp_path / "server.toml").write_text("videos = 'videos'\n")
        result = run("serve", *arguments)
        assert result.exit_code == 2
        assert result.stderr == f"local-video-server: {name} must be a folder, got the file 'videos'\n"
    assert served == []


@pytest.mark.parametrize(
    ("data", "why"),
    [("file", "File exists"), ("file/data", "Not a directory")],
)
def test_a_data_folder_that_cannot_be_is_one_line_and_2(run, served, tmp_path, monkeypatch, data, why):
    (tmp_path / "videos").mkdir()
    (tmp_path / "file").write_bytes(b"a file")
    must_be = "must be a folder that can be made and written"
    result = run("serve", "--data", data)
    assert result.exit_code == 2
    assert result.stderr == f"local-video-server: --data {must_be}, got '{data}': {why}\n"
    monkeypatch.setenv("LVS_DATA", data)
    assert run("serve").stderr == f"local-video-server: LVS_DATA {must_be}, got '{data}': {why}\n"


def test_a_data_folder_that_cannot_be_written_is_one_line_and_2(run, served, unprivileged):
    (unprivileged / "videos").mkdir()
    (unprivileged / "data").mkdir(0o555)
    result = run("serve", "--videos", unprivileged / "videos", "--data", unprivileged / "data")
    assert result.exit_code == 2
    assert f"must be a folder that can be made and written, got '{unprivileged / 'data'}': " in result.stderr


def test_a_wrong_setting_of_the_telemetry_is_one_line_and_2(run, served, tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    monkeypatch.setenv("LVS_TELEMETRY_WINDOW", "many")
    result = run("serve", "--port", "0")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "LVS_TELEMETRY_WINDOW" in result.stderr


@pytest.mark.parametrize("variable", ["OTEL_METRICS_EXEMPLAR_FILTER", "OTEL_ATTRIBUTE_COUNT_LIMIT"])
def test_a_variable_that_the_sdk_cannot_use_is_one_line_and_2(run, served, tmp_path, monkeypatch, variable):
    (tmp_path / "videos").mkdir()
    monkeypatch.setenv(variable, "foo")
    result = run("serve", "--port", "0")
    assert (result.exit_code, served) == (2, [])
    assert re.fullmatch(rf"local-video-server: {variable} .*foo.*\n", result.stderr)
    assert f"■ telemetry: {variable}" in run("doctor").output


def test_a_ctrl_c_ends_the_command_quietly_also_while_it_is_being_imported(run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load", interrupt)
    result = run("config")
    assert (result.exit_code, result.output) == (130, "")
    monkeypatch.delitem(sys.modules, "service.cli")
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=interrupt), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        local_video_server.main()
    assert ended.value.code == 130


def test_a_database_of_a_later_program_is_one_line_and_1(run, served, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "var" / "data").mkdir(parents=True)
    connection = sqlite3.connect(tmp_path / "var" / "data" / "library.sqlite3")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    result = run("serve", "--port", "0")
    assert result.exit_code == 1
    assert "use the newer program" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_database_that_is_none_is_one_line_and_1(run, served, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "var" / "data").mkdir(parents=True)
    path = tmp_path / "var" / "data" / "library.sqlite3"
    path.write_bytes(b"no database" * 500)
    result = run("serve", "--port", "0")
    assert result.exit_code == 1
    assert result.stderr == (
        f"local-video-server: the database {path} can't be used: file is not a database; put a backup in its place or move it"
        " away; 'local-video-server doctor' says more\n"
    )


def test_samples_are_made_for_a_folder_without_videos(run, served, few_samples, tmp_path):
    assert run("serve", "--samples", "--port", "0").exit_code == 0
    assert (tmp_path / "videos" / "one 1%.mp4").stat().st_size > 0
    assert len(served) == 1


def test_samples_are_not_mixed_into_somebodys_videos(run, served, few_samples, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "mine.mkv").write_bytes(b"mine")
    assert run("serve", "--samples", "--port", "0").exit_code == 0
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["mine.mkv"]


@pytest.mark.parametrize(("own", "made"), [((), 2), (("mine.mkv",), 1)])
def test_samples_that_were_begun_are_completed_unless_there_are_other_videos(
    run, served, tmp_path, monkeypatch, own, made
):
    few = tuple(samples.Sample(name, 64, 64, 0.25, 10, 440, 12) for name in ("one.mp4", "two.mp4"))
    monkeypatch.setattr(samples, "SAMPLES", few)
    monkeypatch.setattr(cli, "SAMPLES", few)
    make_clip = samples.make_clip

    def interrupted(target, sample):
        make_clip(target, sample)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(samples, "make_clip", interrupted)
        assert run("serve", "--samples", "--port", "0").exit_code == 130
    assert served == []
    for name in own:
        (tmp_path / "videos" / name).write_bytes(b"mine")
    assert run("serve", "--samples", "--port", "0").exit_code == 0
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == made


def test_samples_that_cannot_be_made_are_one_line_and_1(run, served, few_samples, tmp_path):
    (tmp_path / "file").write_bytes(b"a file")
    result = run("make-samples", "file/videos")
    assert result.exit_code == 1
    assert result.stderr == "local-video-server: can't make the sample clips in 'file/videos': Not a directory\n"


def test_samples_can_be_made_alone(run, few_samples, tmp_path):
    result = run("make-samples", "clips")
    assert result.exit_code == 0
    assert "1 clips in clips" in result.output
    assert (tmp_path / "clips" / "one 1%.mp4").exists()


def test_the_settings_in_force_are_shown_with_their_origin(run, monkeypatch, tmp_path):
    monkeypatch.setenv("LVS_WORKERS", "3")
    (tmp_path / "server.toml").write_text("page_size = 48\n")
    lines = [line.split() for line in run("config", "--port", "5005", "--config", "server.toml").output.splitlines()]
    assert ["port", "5005", "command", "line"] in lines
    assert ["workers", "3", "LVS_WORKERS"] in lines
    assert ["page_size", "48", "server.toml"] in lines
    assert ["threads", "4", "default"] in lines
    assert ["trusted_hosts", "none", "default"] in lines


def test_a_list_of_settings_is_shown_as_it_is_written(run):
    output = run("config", "--trusted-hosts", "videos.lan,.example.org").output
    assert ["trusted_hosts", "videos.lan,.example.org", "command", "line"] in [
        line.split() for line in output.splitlines()
    ]


def test_an_unknown_variable_is_a_warning_and_no_more(run, monkeypatch):
    monkeypatch.setenv("LVS_PROT", "1")
    result = run("config")
    assert result.exit_code == 0
    assert result.stderr == "local-video-server: warning: LVS_PROT is not a setting; did you mean LVS_PORT?\n"
