from __future__ import annotations

import os
from pathlib import Path

import pytest

from config import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("LVS_")]:
        monkeypatch.delenv(name)


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "server.toml"
    path.write_text(text, "utf-8")
    return path


def test_without_any_source_the_defaults_hold():
    loaded = load_settings()
    assert loaded.settings.port == 5000
    assert loaded.settings.host == "127.0.0.1"
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.warnings == ()


def test_variables_are_told_whatever_their_case_and_read_nowhere_else(monkeypatch):
    monkeypatch.setenv("lvs_port", "7003")
    loaded = load_settings()
    assert (loaded.settings.port, loaded.origins["port"], loaded.warnings) == (7003, "LVS_PORT", ())
    assert Settings().port == 5000


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("LVS_PORT", "7001")
    monkeypatch.setenv("LVS_WORKERS", "2")
    path = toml(tmp_path, 'port = 7002\nworkers = 3\npage_size = 48\nvideos = "films"\n')
    loaded = load_settings({"port": "7000", "workers": None}, path)
    assert (loaded.settings.port, loaded.settings.workers, loaded.settings.page_size) == (7000, 2, 48)
    assert loaded.settings.videos == Path("films")
    assert loaded.origins["port"] == "command line"
    assert loaded.origins["workers"] == "LVS_WORKERS"
    assert loaded.origins["page_size"] == str(path)


def test_the_file_can_be_named_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LVS_CONFIG", str(toml(tmp_path, "port = 7002\n")))
    assert load_settings().settings.port == 7002


@pytest.mark.parametrize(
    ("field", "value", "must_be"),
    [
        ("port", "70000", "a whole number from 0 to 65535"),
        ("port", "http", "a whole number from 0 to 65535"),
        ("port", "", "a whole number from 0 to 65535"),
        ("workers", "0", "a whole number from 1 to 64"),
        ("threads", "4.5", "a whole number from 1 to 256"),
        ("videos", " ", "a path to a folder"),
        ("write_limit", "often", "a rate such as 60/minute or 5/second"),
        ("write_limit", "0/minute", "a rate such as 60/minute or 5/second"),
        ("rescan_interval", "nan", "a number of seconds from 1 to 86400"),
        ("log_level", "loud", "debug or info or warning or error"),
    ],
)
def test_a_wrong_option_is_one_line_with_its_name_what_it_must_be_and_what_it_was(field, value, must_be):
    with pytest.raises(SettingsError) as caught:
        load_settings({field: value})
    option = "--" + field.replace("_", "-")
    assert str(caught.value) == f"{option} must be {must_be}, got {value!r}"
    assert (caught.value.setting, caught.value.must_be, caught.value.got) == (option, must_be, value)


def test_the_data_folder_is_another_one_than_that_of_the_videos(tmp_path, monkeypatch):
    monkeypatch.setenv("LVS_VIDEOS", str(tmp_path))
    given = tmp_path / "inner" / ".."
    with pytest.raises(SettingsError, match=r"^--data must be another folder than that of the videos, got ") as error:
        load_settings({"data": str(given)})
    assert error.value.got == str(given)
    monkeypatch.setenv("LVS_VIDEOS", "var/data")
    with pytest.raises(SettingsError, match=r"^--data must be another folder than that of the videos, got 'var/data'$"):
        load_settings()
    assert load_settings({"data": str(tmp_path / "inner")}).settings.data == tmp_path / "inner"


def test_a_wrong_variable_is_named_as_the_variable(monkeypatch):
    monkeypatch.setenv("LVS_PAGE_SIZE", "many")
    with pytest.raises(SettingsError, match=r"^LVS_PAGE_SIZE must be a whole number from 1 to 200, got 'many'$"):
        load_settings()


def test_a_wrong_key_of_the_file_is_named_with_the_file(tmp_path):
    with pytest.raises(SettingsError, match=r"^port in .*server\.toml must be a whole number .*, got True$"):
        load_settings(config_file=toml(tmp_path, "port = true\n"))


def test_an_unknown_key_of_the_file_is_an_error_that_names_the_nearest(tmp_path):
    with pytest.raises(SettingsError, match=r"the name of a setting \(the nearest is page_size\), got 'page-size'"):
        load_settings(config_file=toml(tmp_path, "page-size = 4\n"))


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"port = 1\nport = 2\n"])
def test_a_file_that_is_no_toml_is_an_error(tmp_path, content):
    path = tmp_path / "server.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="--config must be a readable TOML file"):
        load_settings(config_file=path)


def test_a_missing_file_is_an_error_in_the_name_of_the_variable_that_gave_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LVS_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match=r"^LVS_CONFIG must be a readable TOML file \(No such file or directory\)"):
        load_settings()


@pytest.mark.parametrize(
    ("host", "is_on_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
    ],
)
def test_any_address_may_be_listened_on(host, is_on_loopback):
    settings = load_settings({"host": host}).settings
    assert (settings.host, settings.is_on_loopback) == (host, is_on_loopback)


def test_localhost_means_the_address(monkeypatch):
    assert load_settings({"host": "LocalHost"}).settings.host == "127.0.0.1"


@pytest.mark.parametrize("host", ["example.com", "127.0.0.1:80", "1.2.3", "[::1]"])
def test_what_is_no_address_is_refused(host):
    with pytest.raises(SettingsError, match="--host must be an IP address of this machine"):
        load_settings({"host": host})


def test_lists_have_commas_in_the_environment_and_brackets_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("LVS_TRUSTED_HOSTS", "Videos.lan, .example.org")
    file = toml(tmp_path, 'trusted_proxies = ["10.1.2.3", "10.0.0.7/8", "::1"]\n')
    settings = load_settings(config_file=file).settings
    assert settings.trusted_hosts == ("videos.lan", ".example.org")
    assert settings.trusted_proxies == ("10.1.2.3/32", "10.0.0.0/8", "::1/128")


@pytest.mark.parametrize(
    "names", ["a b", "host:80", "http://host", "*.example.org", "a,,b", "-a", "..", "é.org", "a/b"]
)
def test_a_trusted_host_is_a_name_without_port_or_wildcard(names):
    with pytest.raises(
        SettingsError, match="--trusted-hosts must be host names without ports, with commas between them"
    ):
        load_settings({"trusted_hosts": names})


@pytest.mark.parametrize("networks", ["proxy", "10.0.0.0/33", "10.0.0.1,", "1.2.3"])
def test_a_trusted_proxy_is_an_address_or_a_network(networks):
    with pytest.raises(SettingsError, match="--trusted-proxies must be IP addresses or networks"):
        load_settings({"trusted_proxies": networks})


def test_an_unknown_variable_is_a_warning_that_names_the_nearest(monkeypatch):
    monkeypatch.setenv("LVS_PROT", "5001")
    monkeypatch.setenv("LVS_XYZZY", "1")
    monkeypatch.setenv("LVS_TELEMETRY_NOSUCH", "0")
    monkeypatch.setenv("LVS_TELEMETRY_WINDOWS", "50")
    assert load_settings().warnings == (
        "LVS_PROT is not a setting; did you mean LVS_PORT?",
        "LVS_TELEMETRY_NOSUCH is not a setting",
        "LVS_TELEMETRY_WINDOWS is not a setting; did you mean LVS_TELEMETRY_WINDOW?",
        "LVS_XYZZY is not a setting",
    )


def test_the_variables_of_the_telemetry_are_left_alone(monkeypatch):
    monkeypatch.setenv("LVS_TELEMETRY_WINDOW", "50")
    assert load_settings().warnings == ()


def test_settings_can_be_made_directly_and_do_not_change():
    settings = Settings(port=0)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
