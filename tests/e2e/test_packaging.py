"""The wheel in clean environments: the base for a foreign app, and the whole server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LVS_", "COVERAGE"))}


def run(*command: str | Path, cwd: Path, timeout_s: float = 300) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", target, ROOT, cwd=target)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def lock() -> Path:
    return ROOT / "requirements" / "server.lock"


def environment(folder: Path, wheel: Path, extra: str, lock: Path) -> Path:
    """Make a clean environment with the wheel in it, and return its folder of commands."""
    venv.create(folder, with_pip=True)
    commands = folder / SCRIPTS
    constraints = folder / "constraints.txt"
    pins = re.findall(r"^([\w.-]+==\S+(?: ; [^\\\n]+)?)", lock.read_text("utf-8"), re.MULTILINE)
    constraints.write_text("\n".join(pins), "utf-8")
    run(commands / "python", "-m", "pip", "install", "-q", "-c", constraints, f"{wheel}{extra}", cwd=folder)
    return commands


def test_the_wheel_holds_templates_static_files_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert top == {"telemetry", "local_video_server", f"local_video_server-{wheel.name.split('-')[1]}.dist-info"}
    for wanted in (
        r"telemetry/py\.typed",
        r"telemetry/admin/templates/.+\.html",
        r"telemetry/admin/static/.+\.css",
        r"telemetry/admin/static/vendor/htmx.*\.js",
        r"telemetry/admin/static/vendor/.*LICENSE.*",
        r"local_video_server/_packages/service/templates/.+\.html",
        r"local_video_server/_packages/service/static/.+\.css",
        r"local_video_server/_packages/config/settings\.py",
        r".+\.dist-info/licenses/LICENSE",
    ):
        assert any(re.fullmatch(wanted, name) for name in names), wanted
    assert not any("__pycache__" in name or name.startswith("tests/") for name in names)


def test_the_base_install_serves_an_app_whose_modules_have_our_names(wheel: Path, lock: Path, tmp_path: Path) -> None:
    commands = environment(tmp_path / "environment", wheel, "", lock)
    app = tmp_path / "app"
    for name in ("config", "service", "tests"):  # namespace packages, which any installed package would hide
        (app / name).mkdir(parents=True)
        (app / name / "own.py").write_text(f"NAME = {name!r}")
    (app / "main.py").write_text(
        "import json\n"
        "from flask import Flask\n"
        "from telemetry import instrument\n"
        "import config.own, service.own, tests.own\n"
        "app = instrument(Flask(__name__))\n"
        "app.add_url_rule('/', 'index', lambda: 'ok')\n"
        "client = app.test_client()\n"
        "client.get('/')\n"
        "figures = client.get('/admin/performance/json').json\n"
        "page = client.get('/admin/performance')\n"
        "print(json.dumps([config.own.NAME, service.own.NAME, tests.own.NAME, list(figures['endpoints']), page.status_code]))\n"
    )
    found = json.loads(run(commands / "python", "main.py", cwd=app))
    assert found == ["config", "service", "tests", ["GET /"], 200]
    installed = run(commands / "python", "-m", "pip", "list", "--format=json", cwd=app)
    assert not {"av", "granian", "rich", "watchfiles"} & {package["name"] for package in json.loads(installed)}
    refused = subprocess.run([commands / "local-video-server"], cwd=app, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "needs the [server] extra" in refused.stderr


def fetch(url: str, within_s: float = 30) -> str:
    """Return the body; wait for a server that is still starting."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=within_s) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise


def test_the_server_install_runs_the_whole_server(wheel: Path, lock: Path, tmp_path: Path) -> None:
    commands = environment(tmp_path / "environment", wheel, "[server]", lock)
    command = commands / "local-video-server"
    assert "serve" in run(command, "--help", cwd=tmp_path)
    server = subprocess.Popen(
        [command, "serve", "--samples", "--port", "0"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout is not None
        address = next(match[0] for line in server.stdout if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
        for path, wanted in (
            ("/", "<title"),
            ("/ping", "ok"),
            ("/admin/performance", "<title"),
            ("/admin/performance.json", "{"),
        ):
            assert wanted in fetch(address + path)
    finally:
        server.terminate()
        server.communicate(timeout=20)
