"""The page in a real browser: a photo goes in, a label comes out, and nothing is asked of another host."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FileChooser, Page

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

if CHROMIUM is None:
    pytest.skip("chromium is not installed: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra: pip install leap-zoo[dev]")
expect = playwright.expect
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser, server) -> Iterator[Page]:
    """The page at /ui at two widths. Afterwards: no request to another host, no answer that failed."""
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(60_000)
    page = context.new_page()
    foreign: list[str] = []
    failed: list[str] = []
    page.on("request", lambda r: None if r.url.startswith((server.url, "data:", "blob:")) else foreign.append(r.url))
    page.on("response", lambda r: failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.goto(server.url + "/ui/")
    expect(page.locator("#leap-photo input[type=file]")).to_be_attached()
    yield page
    context.close()
    assert foreign == []
    assert failed == []


def test_page__names_what_is_on_a_photo(page: Page, colour_photos: dict[str, Path]) -> None:
    expect(page.get_by_text("No photo yet")).to_be_visible()
    page.set_input_files("#leap-photo input[type=file]", colour_photos["red"])
    expect(page.locator(".leap-best")).to_have_text("red")
    bars = page.locator(".leap-bars li")
    expect(bars).to_have_count(3)
    expect(bars.first).to_contain_text("red")
    widths = [bar.bounding_box()["width"] for bar in page.locator(".leap-track span").all()]
    assert widths[0] > 3 * widths[1] > 0
    assert page.locator("#leap-result .leap-chips span").first.inner_text().endswith(" ms")
    page.get_by_label("brightness").check()
    expect(page.locator(".leap-bars li")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_page__explains_a_file_that_is_no_photo(page: Page, tmp_path: Path, colour_photos: dict[str, Path]) -> None:
    page.set_input_files("#leap-photo input[type=file]", colour_photos["green"])
    expect(page.locator(".leap-best")).to_have_text("green")
    page.get_by_role("button", name="Remove Image").click()
    expect(page.get_by_text("No photo yet")).to_be_visible()
    lie = tmp_path / "lie.jpg"
    lie.write_bytes(b"I only say that I am a photo")
    page.set_input_files("#leap-photo input[type=file]", lie)
    expect(page.get_by_text("This photo cannot be used")).to_be_visible()
    expect(page.get_by_text("These bytes are no photo that we read")).to_be_visible()
    expect(page.locator(".leap-best")).to_have_count(0)
    assert str(tmp_path) not in page.content()


def test_page__shows_the_card(page: Page) -> None:
    card = page.locator(".leap-card")
    for text in ("Model card: leap-tiny-test", "Apache-2.0", "int8", "top1 (colours)", "30.0 % to 100.0 %"):
        expect(card.get_by_text(text).first).to_be_visible()


def test_page__works_by_keyboard(page: Page, colour_photos: dict[str, Path]) -> None:
    def tab_to(selector: str) -> None:
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        pytest.fail(f"the Tab key does not reach {selector}")

    expect(page.locator("#leap-photo button").first).to_be_visible()
    tab_to("#leap-photo button")
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    for _ in range(10):  # Gradio shows the button a little before it listens to it, as a busy machine lets us see
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        if choosers:
            break
    choosers[0].set_files(colour_photos["blue"])
    expect(page.locator(".leap-best")).to_have_text("blue")
    tab_to("input[value=brightness]")
    page.keyboard.press("Space")
    expect(page.locator(".leap-bars li")).to_have_count(2)
