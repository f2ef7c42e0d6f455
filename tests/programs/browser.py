"""A browser without a screen (Chromium) that loads one page and tells what became of it.

The pages are files that the tests made; as root Chromium runs only without its sandbox.
"""

import struct
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path

LOADING = 120  # seconds


def _chromium(profile: Path, page: Path, *options: str) -> bytes:
    words = (
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-crash-reporter",
        "--disable-background-networking",
        "--no-first-run",
        "--hide-scrollbars",
        "--window-size=1200,900",
        f"--user-data-dir={profile}",
        *options,
        page.as_uri(),
    )
    return subprocess.run(words, capture_output=True, check=True, timeout=LOADING).stdout


class Page(HTMLParser):
    """A page after its scripts have run: what <html> has as data-…, elements by name, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.data: dict[str, str] = {}
        self.count: dict[str, int] = {}
        self.text = text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag == "html":
            self.data = {name[5:]: value or "" for name, value in attrs if name[:5] == "data-"}


# Paints at once: the browser dumps a page when it is loaded, and waits for no frame.
AT_ONCE = "window.requestAnimationFrame = (paint) => { paint(); return 1; };"


def load(page: Path, script: str = "") -> Page:
    """Load a page, run a script of the test's own at its end, and return what is there then."""
    copy = page.with_name("with-a-script.html")
    text = page.read_text().replace("<head>", f"<head><script>{AT_ONCE}</script>", 1)
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    return Page(_chromium(page.with_name("profile"), copy, "--dump-dom").decode())


def picture(page: Path, settings: str = "") -> bytes:
    """Return a picture of a page, 1200 by 900, as PNG; settings are Chromium's own."""
    target = page.with_name("picture.png")
    options = [f"--blink-settings={settings}"] if settings else []
    _chromium(page.with_name("profile"), page, *options, f"--screenshot={target}")
    return target.read_bytes()


def rows(png: bytes) -> tuple[int, int, list[bytes]]:
    """Return width, height and the rows of a PNG, filtered as they are: equal ones are blank."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    at, data = 8, b""
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    raw = zlib.decompress(data)
    size = len(raw) // height
    return width, height, [raw[n * size : (n + 1) * size] for n in range(height)]
