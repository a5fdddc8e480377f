"""`python -m tools.axe http://localhost:3000 site`: check pages with axe-core, at two widths, in light and dark.

An argument is a running service, or the folder of the built website. Prints every violation of WCAG 2.2, level A or AA,
and exits with 1 if there is one. `npm` fetches axe-core.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tools.screenshots import open_tab

AXE = "axe-core@4.14.1"
WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "resultTypes": ["violations"]}
SERVICE = ("", "ui/", "browser/")  # the page at /docs is Swagger UI's
TABS = ("Classify", "Search", "Your classes", "Zoo")


def main(places: list[str]) -> int:
    """Check each place; return 1 if there is a violation."""
    found = 0
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        npm = ["npm", "install", AXE, "--no-save", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(npm, cwd=work, check=True, stdout=subprocess.DEVNULL)
        script = Path(work, "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for place, width, scheme in product(places, WIDTHS, SCHEMES):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            for name in _states(page, place):
                page.evaluate(script)
                for violation in page.evaluate("rules => axe.run(rules)", RULES)["violations"]:
                    print(f"{name} ({width} px, {scheme}): {_described(violation)}", flush=True)
                    found += 1
            page.close()
    print(f"{found} violations")
    return 1 if found else 0


def _states(page: Page, place: str) -> Iterator[str]:
    """Show every page, and every tab of the demo, one after the other; yields what is shown."""
    if "://" not in place:
        yield from _site(page, Path(place))
        return
    for path in SERVICE:
        address = f"{place.rstrip('/')}/{path}"
        page.goto(address, wait_until="networkidle" if path != "ui/" else "load")
        if path != "ui/":
            yield address
            continue
        page.locator("#leap-photo input[type=file]").wait_for(state="attached")
        for tab in TABS:
            open_tab(page, tab)
            page.wait_for_timeout(1000)
            yield f"{address} {tab}"


def _site(page: Page, folder: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for path in sorted(folder.rglob("*.html")):
            page.goto(f"http://127.0.0.1:{server.server_port}/{path.relative_to(folder)}")
            yield str(path)
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def _described(violation: dict[str, Any]) -> str:
    first = violation["nodes"][0]
    return f"{violation['id']} x{len(violation['nodes'])}: {first['html'][:160]} | {first['failureSummary'][:300]!r}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
