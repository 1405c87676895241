"""The page in a real browser, before a real fleet that is hurt. In this order: what is broken
stays broken."""

import re
import signal

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, expect
from tests.browser.fleet import TOKEN, Fleet, wait_for
from tests.patience import patient

pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]

PHONE = {
    "viewport": {"width": 375, "height": 812},
    "has_touch": True,
    "is_mobile": True,
    "reduced_motion": "reduce",
}


BROKEN = ("htmx:sseError", "[object Event]", "ERR_", "Failed to load")
"""What the browser and the library say of a stream that breaks."""


def assert_accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def width_of(page: Page) -> tuple[int, int]:
    """Of what is there, and of what is seen."""
    found = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    return found[0], found[1]


def live(page: Page) -> None:
    """Wait until the stream has told something."""
    expect(page.locator("html")).to_have_attribute("data-heard", "yes")
    expect(page.locator("#stream")).to_be_hidden()


def test_everything_stands_there(open_tab, fleet: Fleet) -> None:
    page = open_tab()
    expect(page.locator("#sentence")).to_contain_text("All 8 processors run.")
    expect(page.locator("#strip")).to_contain_text("✓ database")
    expect(page.locator("article.node")).to_have_count(4)
    expect(page.locator("table.processors tbody tr")).to_have_count(8)
    live(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(open_tab, scheme: str) -> None:
    page = open_tab(color_scheme=scheme, reduced_motion="reduce")
    live(page)
    assert_accessible(page)
    page.locator("#map h4 a").first.click()
    expect(page.locator("#details-title")).to_be_focused()
    assert_accessible(page)


def test_dark_is_dark(open_tab) -> None:
    def ground(scheme: str) -> int:
        page = open_tab(color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert ground("dark") < 150 < 600 < ground("light")


def test_on_a_phone_nothing_stands_beside_the_screen(open_tab) -> None:
    page = open_tab(**PHONE)
    live(page)
    seen, screen = width_of(page)
    assert seen <= screen == 375
    page.locator("#map h4 a").first.tap()
    expect(page.locator("#details")).to_be_visible()
    assert width_of(page)[0] <= 375
    box = page.locator("#details").bounding_box()
    assert box is not None
    assert (box["x"], box["width"]) == (0, 375)


def test_by_keyboard_alone(open_tab, fleet: Fleet) -> None:
    page = open_tab()
    key = fleet.processors()["counter-lagos"]["id"]
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    target = page.locator(f"#p-{key}")
    for _ in range(40):
        page.keyboard.press("Tab")
        if target.evaluate("one => one === document.activeElement"):
            break
    expect(target).to_be_focused()
    # It is drawn anew all the while.
    beat = page.locator("article.node .facts .age").first
    expect(beat).not_to_have_attribute("data-at", beat.get_attribute("data-at") or "")
    expect(target).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#details-title")).to_be_focused()
    expect(page.locator("#details")).to_contain_text("create")
    page.keyboard.press("Escape")
    expect(page.locator("#details")).to_be_hidden()
    expect(target).to_be_focused()


def test_without_scripts_each_link_is_a_page(open_tab) -> None:
    page = open_tab(java_script_enabled=False)
    page.locator("#map h4 a", has_text="edge-1").click()
    expect(page.locator("h1")).to_have_text("edge-1")
    page.locator("text=All of the fleet").click()
    expect(page.locator("#sentence")).to_be_visible()


def test_logging_in_and_deciding(open_tab, fleet: Fleet) -> None:
    page = open_tab(expected=("401 (Unauthorized)", "400 (Bad Request)"))
    page.locator("#map h4 a", has_text="edge-2").click()
    expect(page.locator("#details")).to_contain_text("You only look.")
    expect(page.locator("#details .button")).to_have_count(0)
    page.locator("#details >> text=Log in").click()
    page.get_by_label("Operators' token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("[role=alert]")).to_contain_text("not the operators' token")
    page.get_by_label("Operators' token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
    cookie = page.context.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")

    page.locator("#map h4 a", has_text="edge-2").click()
    page.locator("#details >> text=Cordon…").click()
    page.get_by_label("Why").fill("a new disk")
    page.get_by_label("Who decides").fill("eva")
    page.get_by_role("button", name="Cordon the node").click()
    expect(page.locator("#details")).to_contain_text("edge-2 gets no new work")
    page.locator("#details >> text=Back to the fleet").click()
    card = page.locator("article.node", has_text="edge-2").first
    expect(card).to_contain_text("cordoned")
    (event,) = fleet.get("/api/v1/fleet/events?kind=cordon")["events"]
    assert event["detail"] == "by eva: a new disk"

    # Who decides is remembered.
    card.locator("h4 a").click()
    page.locator("#details >> text=Uncordon…").click()
    expect(page.get_by_label("Who decides")).to_have_value("eva")
    page.get_by_role("button", name="Uncordon the node").click()
    expect(page.locator("#details")).to_contain_text("edge-2 gets work again")
    page.keyboard.press("Escape")
    expect(card).not_to_contain_text("cordoned")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("link", name="Log in to decide")).to_be_visible()


def test_a_dead_pod_shows_without_a_reload(open_tab, fleet: Fleet) -> None:
    page = open_tab()
    live(page)
    victim = fleet.processors()["counter-lagos"]
    row = page.locator(f"#p-{victim['id']}")
    expect(row.locator(".word")).to_have_count(0)
    # After the first time it is back within a second, which may be between two looks.
    fleet.hurt("crash-pod", victim["pod_name"])
    wait_for(lambda: fleet.processors()["counter-lagos"]["restart_count"] == 1, 10)
    fleet.hurt("crash-pod", victim["pod_name"])
    expect(row.locator(".word")).to_be_visible()
    expect(page.locator("#sentence")).to_contain_text("7 of 8 processors run")
    expect(row.locator(".word")).to_have_count(0, timeout=patient(30_000))


def test_a_dead_node_shows_without_a_reload(open_tab, fleet: Fleet) -> None:
    page = open_tab()
    live(page)
    key = fleet.processors()["counter-berlin"]["id"]
    fleet.hurt("crash-node", "edge-1")
    expect(page.locator("#sentence")).to_contain_text("suspect: edge-1")
    expect(page.locator("#sentence")).to_contain_text(
        re.compile(r"All 8 processors run\. 1 edge node is dead: edge-1\. 3 live away from home"),
        timeout=patient(30_000),
    )
    rows = page.locator("#moves tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text(re.compile(r"lost at most [\d.]+ s of state, away [\d.]+ s"))
    expect(rows.first.locator("svg rect.b-suspect")).to_have_count(1)
    # Where it lives, where its home is, and at its home where it is.
    expect(page.locator(f"#p-{key}")).to_be_visible()
    expect(page.locator("tr", has=page.locator(f"#p-{key}"))).to_contain_text("edge-1")
    expect(page.locator("tr", has=page.locator(f"#h-{key}"))).to_contain_text("→ cloud-")

    rows.first.locator("th a").click()
    expect(page.locator("#details")).to_contain_text("State that it went on with")
    expect(page.locator("#details")).to_contain_text("s without it")
    assert_accessible(page)
    page.keyboard.press("Escape")
    assert_accessible(page)


def test_why_and_what_next(open_tab, fleet: Fleet) -> None:
    page = open_tab()
    key = fleet.processors()["counter-berlin"]["id"]
    page.locator(f"#p-{key}").click()
    details = page.locator("#details")
    expect(details).to_contain_text("Does it live away from its home?")
    expect(details).to_contain_text("Because of node edge-1: offline")
    assert_accessible(page)
    # The decision that moved it, with its numbers.
    failover = details.locator("ol.events li", has=page.locator("b", has_text="failover")).first
    failover.locator("summary", has_text="Why").first.click()
    expect(failover).to_contain_text("Is its node in trouble?")
    expect(failover).to_contain_text("✓ chosen")
    page.keyboard.press("Escape")

    page.locator("#strip a", has_text="plan").click()
    expect(details).to_contain_text("Nothing is to be done now")
    page.keyboard.press("Escape")
    page.locator("#map h4 a", has_text="edge-2").first.click()
    page.locator("#details >> text=What if it died now?").click()
    expect(details).to_contain_text("Safe: 3 would move")
    expect(details).to_contain_text("move to cloud-")


def test_everything_is_paused_and_goes_on(open_tab, fleet: Fleet) -> None:
    page = open_tab(expected=("401 (Unauthorized)",))
    page.get_by_role("link", name="Log in to decide").click()
    page.get_by_label("Operators' token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    page.locator("#strip a", has_text="none").click()
    page.locator("#details >> text=Pause everything…").click()
    page.get_by_label("Why").fill("look first")
    page.get_by_label("Who decides").fill("eva")
    page.get_by_role("button", name="Pause everything").click()
    expect(page.locator("#details")).to_contain_text("Heartbeats go on")
    page.keyboard.press("Escape")
    expect(page.locator("#sentence")).to_contain_text("by eva: nothing is created or moved")
    page.locator("#strip a", has_text="paused").click()
    page.locator("#details >> text=End the pause…").click()
    page.get_by_role("button", name="End the pause").click()
    expect(page.locator("#details")).to_contain_text("The pause has ended")
    page.keyboard.press("Escape")
    expect(page.locator("#sentence")).not_to_contain_text("Paused")


def test_moves_are_filtered_and_stay_live(open_tab, fleet: Fleet) -> None:
    page = open_tab()
    page.get_by_label("Kind").select_option("failover")
    page.get_by_label("Processor").fill("roof-berlin")
    with page.expect_request("**/page/moves?kind=failover&processor=roof-berlin"):
        page.get_by_role("button", name="Filter").click()
    expect(page.locator("#moves tbody tr")).to_have_count(1)
    page.get_by_role("link", name="All moves").click()
    expect(page.locator("#moves tbody tr")).to_have_count(3)


def test_a_move_on_a_phone(open_tab) -> None:
    page = open_tab(**PHONE)
    expect(page.locator("#moves tbody tr").first).to_contain_text("lost at most")
    assert width_of(page)[0] <= 375


def test_a_stream_that_breaks_and_comes_back(open_tab, fleet: Fleet) -> None:
    page = open_tab(expected=BROKEN)
    live(page)
    fleet.signal_api(signal.SIGKILL)
    expect(page.locator("#stream")).to_contain_text("The connection broke at")
    expect(page.locator("#stream")).to_contain_text(
        "The connection is back", timeout=patient(30_000)
    )
    expect(page.locator("#sentence")).to_contain_text("All 8 processors run.")


def test_the_end_of_the_service_is_told_and_waits_for_nobody(open_tab, fleet: Fleet) -> None:
    page = open_tab(expected=BROKEN)
    live(page)
    assert fleet.stop() < 10
    expect(page.locator("#stream")).to_contain_text("The connection broke at")
    assert page.title().startswith("…")
