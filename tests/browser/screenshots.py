"""The pictures of the page in docs/images: a fleet whose edge node has died a moment ago.

python -m tests.browser.screenshots
"""

import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect, sync_playwright
from tests.browser.fleet import CHROMIUM, Fleet, running
from tests.patience import patient

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
    expect(page.locator("#moves tbody tr")).to_have_count(3, timeout=patient(40_000))
    expect(page.locator("#sentence")).to_contain_text(
        "All 8 processors run.", timeout=patient(40_000)
    )
    expect(page.locator(".word")).to_have_count(0)
    picture = _compressed(page.screenshot(full_page=True))
    (_IMAGES / name).write_bytes(picture)
    sys.stdout.write(f"{_IMAGES / name}: {len(picture) / 1000:.0f} kB\n")
    page.close()
    return len(picture)


def _compressed(png: bytes) -> bytes:
    """The same picture, smaller: of flat areas and text, rows as they are compress best."""
    chunks, data = [], b""
    for kind, body in _chunks(png):
        if kind == b"IDAT":
            data += body
        else:
            chunks.append((kind, body))
    width, _height, depth, colours = struct.unpack_from(">IIBB", chunks[0][1])
    assert (depth, colours) == (8, 2), "eight bits of red, green and blue each"
    rows = _unfiltered(zlib.decompress(data), width * 3)
    chunks.insert(-1, (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 9)))
    return png[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def _unfiltered(data: bytes, width: int) -> Iterator[bytes]:
    """Rows of so many bytes, three a pixel (PNG specification, section 9)."""
    above = bytes(width)
    for at in range(0, len(data), width + 1):
        kind, row = data[at], bytearray(data[at + 1 : at + 1 + width])
        if kind:
            for x in range(width):
                left, corner = (row[x - 3], above[x - 3]) if x >= 3 else (0, 0)
                row[x] = (row[x] + _guess(kind, left, above[x], corner)) & 0xFF
        above = bytes(row)
        yield above


def _guess(kind: int, left: int, above: int, corner: int) -> int:
    if kind < 3:
        return left if kind == 1 else above
    if kind == 3:
        return (left + above) // 2
    near = left + above - corner
    return min((left, above, corner), key=lambda one: abs(near - one))


if __name__ == "__main__":
    sys.exit(main())
