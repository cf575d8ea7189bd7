"""The pictures of the README: `make screenshots`. It serves the sample clips, uses them for a while, and looks at two pages."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
VISITS = 400


def visit(address: str) -> None:
    """Use the server as people do, so that the dashboard has something to show."""
    page = urllib.request.urlopen(address + "/").read().decode()
    videos = sorted(set(re.findall(r'href="(/watch/[^"]+)"', page)))
    hashes = sorted(set(re.findall(r"/thumb/([\w-]+)\.jpg", page)))
    choose = random.Random(1)
    for _ in range(VISITS):
        path = choose.choice(
            ["/", "/?page=1", "/search?q=a", "/tag/sample", *videos, *(f"/api/ratings/{key}" for key in hashes)]
        )
        try:
            urllib.request.urlopen(address + path).read()
            if choose.random() < 0.1:
                body = b'{"value": %d}' % choose.randint(1, 5)
                target = f"{address}/api/ratings/{choose.choice(hashes)}"
                headers = {"Content-Type": "application/json"}
                urllib.request.urlopen(urllib.request.Request(target, body, headers)).read()
        except urllib.error.HTTPError as error:
            error.close()


def main() -> None:
    """Serve, visit, and take the pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    command = [str(Path(sys.executable).with_name("local-video-server")), "serve", "--samples", "--port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            address = next(match[0] for line in server.stdout if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme="light")
                page.goto(address)
                page.locator("img").nth(5).wait_for()
                page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth)")
                page.screenshot(path=IMAGES / "videos.png")
                visit(address)
                page.goto(address + "/admin/performance")
                page.locator("#chart canvas").wait_for()
                page.screenshot(path=IMAGES / "dashboard.png")
                browser.close()
        finally:
            server.terminate()
            server.wait(20)


if __name__ == "__main__":
    main()
