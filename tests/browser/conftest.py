"""A browser, a fleet, and a tab in which nothing may go wrong."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.browser.fleet import CHROMIUM, TOKEN, Fleet, running
from tests.patience import patient

_WRONG = ("error", "warning", "assert")
expect.set_options(timeout=patient(15_000))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"needs a browser: {CHROMIUM} is missing (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def fleet(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """After the browser: without one it is not started."""
    with running(tmp_path_factory.mktemp("fleet"), DORY_OPERATOR_TOKEN=TOKEN) as started:
        yield started


_HEARD = """document.addEventListener("htmx:sseMessage", () => {
    document.documentElement.dataset.heard = "yes"
})"""
"""Once the stream has told something, the page can be asked so."""


@pytest.fixture
def open_tab(chromium: Browser, fleet: Fleet) -> Iterator[Callable[..., Page]]:
    """Opens the page, in a window of its own. What its console tells is wrong, unless it holds
    one of the texts in `expected`."""
    contexts, wrong = [], []

    def opened(path: str = "/", *, expected: tuple[str, ...] = (), **options: Any) -> Page:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        context.set_default_timeout(patient(15_000))
        page = context.new_page()
        page.add_init_script(_HEARD)

        def told(text: str) -> None:
            if not any(part in text for part in expected):
                wrong.append(text)

        page.on("console", lambda said: told(said.text) if said.type in _WRONG else None)
        page.on("pageerror", lambda error: told(f"error: {error}"))
        page.goto(fleet.url + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
