"""The contract against the running server: what Schemathesis makes of it, allowed and not, over thousands of requests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.conftest import Running, clips, folder, start

__all__ = ["clips", "folder", "start"]

EXAMPLES = 500  # an operation and a phase: more than 5,000 in all
TAGS = "/api/tags/{media_hash}"


@pytest.fixture
def served(start, folder: Path) -> Running:
    server = start("serve", "--port", "0", "--host", "0.0.0.0", "--write-limit", "1000000/minute")
    server.wait_until("/", lambda page: b"2 videos" in page)
    return server


def test_no_request_breaks_the_contract(served: Running, folder: Path) -> None:
    media_hash = re.search(rb"/thumb/([0-9a-f]+)\.jpg", served.request("/")[2])
    assert media_hash is not None
    (folder / "schemathesis.toml").write_text(f'[parameters]\nmedia_hash = "{media_hash[1].decode()}"\n')
    generated = checked(served, folder, "--exclude-path", TAGS)
    # Which characters a tag may have (printable ones, folded) is more than a schema says.
    generated += checked(served, folder, "--include-path", TAGS, "--exclude-checks", "positive_data_acceptance")
    assert generated >= 5000
    assert "Traceback" not in served.output
    assert served.request("/ping")[0] == 200


def checked(served: Running, folder: Path, *options: str) -> int:
    """Run Schemathesis with all its checks; return how many requests it has made of the contract."""
    token = (folder / "var" / "data" / "admin-token").read_text().strip()
    address = f"http://127.0.0.1:{served.port}/api/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run", address, *options]
    command += ["--max-examples", str(EXAMPLES), "--no-color", "-H", f"Authorization: Bearer {token}"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    found = re.search(r"(\d[\d,]*) generated", ran.stdout)
    assert found is not None, ran.stdout[-2000:]
    return int(found[1].replace(",", ""))
