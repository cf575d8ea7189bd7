"""The pictures of the README: `make screenshots`.

It serves the sample clips, uses them for a while, and looks at two pages; and at a request of an app that has an N+1.
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from flask import Flask, g
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.progress import track
from werkzeug.serving import make_server

from telemetry import instrument

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
VISITS = 1000
VISITS_PER_S = 7


def visit(address: str) -> None:
    """Use the server as people do, so that the dashboard has something to show."""
    page = urllib.request.urlopen(address + "/").read().decode()
    videos = sorted(set(re.findall(r'href="(/watch/[^"]+)"', page)))
    hashes = sorted(set(re.findall(r"/thumb/([\w-]+)\.jpg", page)))
    choose = random.Random(1)
    for _ in track(range(VISITS), "using the server", console=Console(stderr=True)):
        time.sleep(choose.expovariate(VISITS_PER_S))
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


def shelf(database: Path) -> Flask:
    """Return a small app that asks for the tags of each video by itself, on a table without an index."""
    app = Flask("shelf")

    def connection() -> sqlite3.Connection:
        if "connection" not in g:
            g.connection = sqlite3.connect(database)
        made: sqlite3.Connection = g.connection
        return made

    @app.get("/tag/<tag>")
    def tagged(tag: str) -> str:
        videos = connection().execute("SELECT id, title FROM videos WHERE tag = ? LIMIT 50", (tag,)).fetchall()
        return str([(title, tags_of(video)) for video, title in videos])

    def tags_of(video: int) -> list[str]:
        return connection().execute("SELECT name FROM tags WHERE video_id = ?", (video,)).fetchall()

    with contextlib.closing(sqlite3.connect(database)) as made:
        made.executescript(
            "CREATE TABLE videos (id INTEGER PRIMARY KEY, title, tag); CREATE TABLE tags (video_id, name)"
        )
        made.executemany("INSERT INTO videos (title, tag) VALUES (?, 'sea')", [(f"Video {n}",) for n in range(60)])
        made.executemany("INSERT INTO tags VALUES (?, ?)", [(n % 60 + 1, f"tag {n}") for n in range(30_000)])
        made.commit()
    return instrument(app)


def picture_of_a_request(browser: Browser, folder: Path) -> None:
    """Take the picture of one request with an N+1."""
    server = make_server("127.0.0.1", 0, shelf(folder / "shelf.sqlite3"), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        answer = urllib.request.urlopen(f"{address}/tag/sea")
        answer.read()
        page = browser.new_page(viewport={"width": 1280, "height": 700}, color_scheme="light")
        page.goto(f"{address}/admin/performance/requests/{answer.headers['traceparent'].split('-')[1]}")
        page.screenshot(path=IMAGES / "request.png")
    finally:
        server.shutdown()
        thread.join()


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
                picture_of_a_request(browser, Path(folder))
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
