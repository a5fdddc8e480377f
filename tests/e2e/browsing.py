"""A real Chromium for tests of pages, cut off from every host but this machine."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

INSECURE = "zoo"
"""A name of this machine that a browser does not trust as it trusts localhost. The server answers for it."""

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {INSECURE} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]

if CHROMIUM is None:
    pytest.skip("chromium is not installed: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra: pip install leap-zoo[dev]")
expect = playwright.expect
expect.set_options(timeout=60_000)

DESK, PHONE = (1280, 900), (390, 844)
SIZES = pytest.mark.parametrize("size", [DESK, PHONE], ids=["desktop", "phone"])


@contextlib.contextmanager
def visiting(
    browser: Browser, url: str, size: tuple[int, int] = DESK, path: str = "/ui/", fails: str = "", **options: object
) -> Iterator[Page]:
    """The page at `path`. Afterwards: no request to another host, no answer that failed (but those whose address ends
    as `fails`, which must be asked for), nothing in the console, no sideways scrolling."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(60_000)
    page = context.new_page()
    foreign: list[str] = []
    wrong: list[str] = []
    failed = set()

    def note(address: str, what: str) -> None:
        if fails and address.endswith(fails):
            failed.add(fails)
        else:
            wrong.append(what)

    context.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else foreign.append(r.url))
    page.on("response", lambda r: note(r.url, f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("console", lambda said: note(said.location["url"], said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    try:
        page.goto(url + path)
        if path == "/ui/":
            expect(page.locator("#leap-photo input[type=file]")).to_be_attached()
        yield page
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert foreign == []
        assert wrong == []
        assert failed == ({fails} if fails else set())
    finally:
        context.close()


def open_tab(page: Page, name: str) -> None:
    """Go to a tab, which a narrow page keeps behind its button with three dots."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():
        page.locator("#leap-tabs .overflow-menu > button").click()
        tab = page.locator("#leap-tabs .overflow-dropdown button", has_text=name)
    tab.click()


def drop(page: Page, zone: str, photos: list[Path]) -> None:
    """Put photos into an input or a drop zone, as its file dialog would."""
    page.set_input_files(f"{zone} input[type=file]", photos)
