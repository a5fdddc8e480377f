"""Every tab of the page in a real browser, at two widths, cut off from every host but the server."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import DESK, PHONE, SIZES, drop, expect, open_tab, visiting

from leap_zoo.heads import decode_head

if TYPE_CHECKING:
    from conftest import Server
    from playwright.sync_api import Browser, FileChooser


@SIZES
def test_classify__names_what_is_on_a_photo(
    browser: Browser, server: Server, size: tuple[int, int], colour_photos: dict[str, Path]
) -> None:
    with visiting(browser, server.url, size) as page:
        expect(page.locator("#leap-note")).to_contain_text("Drop a photo")
        drop(page, "#leap-photo", [colour_photos["red"]])
        label = page.locator("#leap-label")
        expect(label.get_by_test_id("label-output-value")).to_have_text("red")
        expect(label.locator(".confidence-set")).to_have_count(3)
        expect(page.locator("#leap-note")).to_contain_text(" ms")
        page.get_by_label("brightness").check()
        expect(label.locator(".confidence-set")).to_have_count(2)
        page.get_by_label("colours").check()
        page.locator("#leap-samples button").nth(4).click()  # an elephant
        expect(page.locator("#leap-photo img[src*=elephant]")).to_be_visible()


def test_classify__explains_a_file_that_is_not_a_photo(
    browser: Browser, server: Server, tmp_path: Path, colour_photos: dict[str, Path]
) -> None:
    with visiting(browser, server.url) as page:
        drop(page, "#leap-photo", [colour_photos["green"]])
        expect(page.get_by_test_id("label-output-value").first).to_have_text("green")
        page.get_by_role("button", name="Remove Image").click()
        expect(page.locator("#leap-note")).to_contain_text("Drop a photo")
        lie = tmp_path / "lie.jpg"
        lie.write_bytes(b"I only say that I am a photo")
        drop(page, "#leap-photo", [lie])
        expect(page.locator("#leap-note")).to_contain_text(
            "This photo cannot be used. Not a photo in a supported format"
        )
        expect(page.locator("#leap-label .confidence-set")).to_have_count(0)
        assert str(tmp_path) not in page.content()


@SIZES
def test_tabs__are_all_reachable(browser: Browser, server: Server, size: tuple[int, int]) -> None:
    with visiting(browser, server.url, size, color_scheme="dark") as page:
        for name in ("Search", "Your classes", "Zoo", "Classify"):
            open_tab(page, name)
            expect(page.get_by_role("tabpanel").filter(visible=True)).to_have_count(1)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name


def test_start_page__leads_on(browser: Browser, server: Server) -> None:
    with visiting(browser, server.url, PHONE, "/") as page:
        expect(page.get_by_text(f"curl -F image=@photo.jpg {server.url}/v1/classify")).to_be_visible()
        page.get_by_role("link", name="GET /docs").click()
        expect(page).to_have_url(server.url + "/docs")
        page.go_back()
        page.get_by_role("link", name="Try a photo in the browser").click()
        expect(page.get_by_role("tab", name="Classify")).to_be_visible()
        page.get_by_role("link", name="Start page").click()
        expect(page).to_have_url(server.url + "/")


def test_pages__behind_nginx_lead_on(browser: Browser, proxied: str, colour_photos: dict[str, Path]) -> None:
    with visiting(browser, proxied, DESK, "/") as page:
        expect(page.get_by_text(f"curl -F image=@photo.jpg {proxied}/v1/classify")).to_be_visible()
        page.get_by_role("link", name="GET /docs").click()
        expect(page).to_have_url(proxied + "/docs")
        page.go_back()
        page.get_by_role("link", name="Try a photo in the browser").click()
        drop(page, "#leap-photo", [colour_photos["blue"]])
        expect(page.locator("#leap-label").get_by_test_id("label-output-value")).to_have_text("blue")
        page.get_by_role("link", name="Start page").click()
        expect(page).to_have_url(proxied + "/")


def test_docs__are_swagger_of_this_server_alone(browser: Browser, server: Server) -> None:
    with visiting(browser, server.url, path="/docs") as page:  # Swagger's own page is not made for phones
        expect(page.get_by_text("/v1/classify", exact=True).first).to_be_visible(timeout=60_000)
        expect(page.get_by_text("unknown_gallery").first).to_be_visible()


def test_search__finds_the_nearest_in_either_gallery(
    browser: Browser, server: Server, tmp_path: Path, colour_photos: dict[str, Path]
) -> None:
    with visiting(browser, server.url, PHONE) as page:
        open_tab(page, "Search")
        page.locator("#leap-wall button").nth(4).click()
        found = page.locator("#leap-found .caption-label")
        expect(found).to_have_count(6)
        scores = [float(text.split()[0]) for text in found.all_inner_texts()]
        assert scores == sorted(scores, reverse=True)
        lie = tmp_path / "lie.png"
        lie.write_bytes(b"no photo")
        drop(page, "#leap-add", [*colour_photos.values(), lie])
        expect(page.locator("#leap-wall img")).to_have_count(3)
        expect(page.get_by_text("lie: Not a photo in a supported format")).to_be_visible()
        expect(page.get_by_label("your photos")).to_be_checked()
        expect(found).to_have_count(3)  # the query is still the sample
        page.locator("#leap-wall button", has_text="red").click()
        expect(found).to_have_count(2)
        drop(page, "#leap-query", [colour_photos["blue"]])
        expect(found.first).to_contain_text("1.00 blue")
        page.locator("#leap-clear").click()
        expect(page.locator("#leap-wall img")).to_have_count(0)
        expect(page.locator("#leap-found-note")).to_contain_text("Your gallery is empty")


def test_classes__are_fitted_tried_and_taken_home(
    browser: Browser, server: Server, tmp_path: Path, colour_photos: dict[str, Path]
) -> None:
    with visiting(browser, server.url, PHONE) as page:
        open_tab(page, "Your classes")
        page.locator("#leap-fit").click()
        expect(page.get_by_text("A head needs at least two classes with a photo each")).to_be_visible()
        drop(page, "#leap-drop", [colour_photos["red"]])
        expect(page.get_by_text("Name the class first")).to_be_visible()
        page.locator("#leap-example").click()
        members = page.locator("#leap-members img")
        expect(members).to_have_count(9)
        page.locator("#leap-members button", has_text="coffee").nth(1).click()
        expect(members).to_have_count(8)
        page.locator("#leap-name :is(input, textarea)").fill("pure red")
        drop(page, "#leap-drop", [colour_photos["red"]])
        expect(members).to_have_count(9)
        page.locator("#leap-fit").click()
        expect(page.locator("#leap-report")).to_contain_text("recognized")
        expect(page.locator("#leap-by-class")).to_contain_text("pure red")
        with page.expect_download() as download:
            page.locator("#leap-head-file").click()
        download.value.save_as(tmp_path / "head")
        head = decode_head((tmp_path / "head").read_bytes())
        assert head.labels == ["coffee", "pier", "pure red", "taxi"]
        assert head.card.photos == [2, 3, 1, 3]
        drop(page, "#leap-try", [colour_photos["red"]])
        expect(page.locator("#leap-tried").get_by_text("pure red").first).to_be_visible()
        open_tab(page, "Classify")
        page.get_by_label("your own").check()
        drop(page, "#leap-photo", [colour_photos["red"]])
        expect(page.locator("#leap-label").get_by_text("pure red").first).to_be_visible()
        open_tab(page, "Your classes")
        page.locator("#leap-reset").click()
        expect(page.locator("#leap-report")).to_contain_text("No head has been fitted yet")
        expect(members).to_have_count(0)


def test_zoo__shows_the_card_and_hands_out_its_files(browser: Browser, server: Server, tmp_path: Path) -> None:
    with visiting(browser, server.url, PHONE) as page:
        open_tab(page, "Zoo")
        expect(page.locator("#leap-card")).to_contain_text("leap-zoo pull leap-tiny-test")
        expect(page.locator("#leap-card")).to_contain_text("top1 (colours)")
        card = page.locator("#leap-card")
        expect(card).to_contain_text("Apache-2.0")
        file = card.get_by_role("link", name="model_int8.onnx")
        answer = page.request.get(page.evaluate("a => a.href", file.element_handle()))
        digest = hashlib.sha256(answer.body()).hexdigest()
        expect(card).to_contain_text(f"sha256 {digest}")


def test_page__works_by_keyboard(browser: Browser, server: Server, colour_photos: dict[str, Path]) -> None:
    with visiting(browser, server.url) as page:

        def tab_to(selector: str) -> None:
            for _ in range(24):
                page.keyboard.press("Tab")
                if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                    return
            pytest.fail(f"the Tab key does not reach {selector}")

        best = page.locator("#leap-label").get_by_test_id("label-output-value")
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
        expect(best).to_have_text("blue")
        tab_to("input[value=brightness]")
        page.keyboard.press("Space")
        expect(page.locator("#leap-label .confidence-set")).to_have_count(2)
        tab_to("#leap-samples button")
        page.keyboard.press("Enter")
        expect(page.locator("#leap-photo img[src*=balloon]")).to_be_visible()
        page.get_by_role("tab", name="Classify").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#leap-wall button").first).to_be_visible()


def test_visitors__are_isolated_from_each_other(
    browser: Browser, server: Server, colour_photos: dict[str, Path]
) -> None:
    with visiting(browser, server.url) as one, visiting(browser, server.url, color_scheme="dark") as other:
        for page, names in ((one, ["red", "green"]), (other, ["blue"])):
            open_tab(page, "Search")
            page.get_by_label("your photos").check()
            expect(page.locator("#leap-wall img")).to_have_count(0)
            drop(page, "#leap-add", [colour_photos[name] for name in names])
            expect(page.locator("#leap-wall img")).to_have_count(len(names))
        open_tab(one, "Your classes")
        one.locator("#leap-example").click()
        expect(one.locator("#leap-members img")).to_have_count(9)
        one.locator("#leap-fit").click()
        expect(one.locator("#leap-report")).to_contain_text("recognized")
        open_tab(other, "Your classes")
        other.locator("#leap-fit").click()
        expect(other.get_by_text("A head needs at least two classes with a photo each")).to_be_visible()
        open_tab(other, "Classify")
        expect(other.get_by_label("your own")).to_have_count(0)
