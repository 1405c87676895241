"""The pictures of the page in docs/images: a fleet whose edge node has died a moment ago.

python -m tests.browser.screenshots
"""

import struct
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect, sync_playwright
from tests.browser.fleet import CHROMIUM, Fleet, running

_IMAGES = Path(__file__).parents[2] / "docs" / "images"
_BYTES_MAX = 150_000
_ARGUMENTS = ["--no-sandbox", "--disable-lcd-text"]
_DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
_PHONE: dict[str, Any] = {"viewport": {"width": 375, "height": 812}}
_SHOTS: dict[str, dict[str, Any]] = {
    "page.png": _DESKTOP,
    "page-dark.png": {**_DESKTOP, "color_scheme": "dark"},
    "page-phone.png": _PHONE,
}


def main() -> int:
    """Returns the exit code: 1 when a picture is too large."""
    if not CHROMIUM.exists():
        sys.stderr.write(f"needs a browser: {CHROMIUM} is missing\n")
        return 1
    _IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="dory-shots-") as folder,
        running(Path(folder)) as fleet,
        sync_playwright() as playwright,
    ):
        fleet.hurt("crash-node", "edge-1")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        sizes = [_take(browser, fleet, name, options) for name, options in _SHOTS.items()]
        browser.close()
    return 0 if max(sizes) <= _BYTES_MAX else 1


def _take(browser: Browser, fleet: Fleet, name: str, options: dict[str, Any]) -> int:
    page = browser.new_page(**options)
    page.goto(fleet.url)
    expect(page.locator("#moves tbody tr")).to_have_count(3, timeout=40_000)
    expect(page.locator("#sentence")).to_contain_text("All 8 processors run.", timeout=40_000)
    expect(page.locator(".word")).to_have_count(0)
    picture = _compressed(page.screenshot(full_page=True))
    (_IMAGES / name).write_bytes(picture)
    sys.stdout.write(f"{_IMAGES / name}: {len(picture) / 1000:.0f} kB\n")
    page.close()
    return len(picture)


def _compressed(png: bytes) -> bytes:
    """The same picture, smaller: the browser is in a hurry when it writes one."""
    chunks, at, data = [], 8, b""
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length
        if kind == b"IDAT":
            data += body
        else:
            chunks.append((kind, body))
    chunks.insert(-1, (b"IDAT", zlib.compress(zlib.decompress(data), 9)))
    return png[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


if __name__ == "__main__":
    sys.exit(main())
