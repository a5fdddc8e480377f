"""Takes the pictures of the demo in docs/images: `python -m tools.screenshots http://127.0.0.1:3000`.

The service must run already: `make serve`.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = Path(__file__).parents[1] / "docs" / "images"
DESK, PHONE = (1120, 800), (390, 844)
TALLEST = 1300  # pixels; cards are long
SCALE = 0.72  # of each picture, to stay below 100 KB


def main() -> None:
    """One picture per tab, and one of three tabs on a phone."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = _open(browser.new_page(viewport={"width": DESK[0], "height": DESK[1]}))
        for name, show in (
            ("demo", classify),
            ("demo-search", search),
            ("demo-classes", classes),
            ("demo-zoo", zoo),
        ):
            _save(_shot(page, show, TALLEST), name)
        page = _open(browser.new_page(viewport={"width": PHONE[0], "height": PHONE[1]}, color_scheme="dark"))
        phones = [_shot(page, show, PHONE[1]) for show in (classify, search, classes)]
        row = Image.new("RGB", ((PHONE[0] + 16) * len(phones) - 16, PHONE[1]), "white")
        for number, phone in enumerate(phones):
            row.paste(phone, (number * (PHONE[0] + 16), 0))
        _save(row, "demo-phone")
        browser.close()


def classify(page: Page) -> None:
    """A sample photo, named."""
    open_tab(page, "Classify")
    page.locator("#leap-samples button").nth(4).click()
    page.wait_for_selector("#leap-label .confidence-set")


def search(page: Page) -> None:
    """What looks like a taxi?"""
    open_tab(page, "Search")
    page.locator("#leap-wall button").nth(8).click()
    page.wait_for_selector("#leap-found img")


def classes(page: Page) -> None:
    """Three classes of samples, fitted."""
    open_tab(page, "Your classes")
    page.click("#leap-example")
    page.wait_for_selector("#leap-members img")
    page.click("#leap-fit")
    page.wait_for_selector("#leap-report p")
    page.wait_for_selector("#leap-head-file")


def zoo(page: Page) -> None:
    """The models, and a card."""
    open_tab(page, "Zoo")


def _open(page: Page) -> Page:
    page.goto(sys.argv[1].rstrip("/") + "/ui/")
    page.wait_for_selector("#leap-photo input[type=file]", state="attached")
    return page


def open_tab(page: Page, name: str) -> None:
    """Open a tab of the demo; a narrow page keeps some behind a menu."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():
        page.locator("#leap-tabs .overflow-menu > button").click()
        tab = page.locator("#leap-tabs .overflow-dropdown button", has_text=name)
    tab.click()


def _shot(page: Page, show: Callable[[Page], None], tallest: int) -> Image.Image:
    show(page)
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # until animations have ended
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    return picture.crop((0, 0, picture.width, min(picture.height, tallest)))


def _save(picture: Image.Image, name: str) -> None:
    size = (round(picture.width * SCALE), round(picture.height * SCALE))
    small = picture.resize(size, Image.Resampling.LANCZOS)
    small = small.quantize(128, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    small.save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
