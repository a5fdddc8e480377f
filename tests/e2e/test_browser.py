"""Every tab of the page in a real browser, at two widths, cut off from every host but the server."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import SIZES, drop, expect, open_tab, visiting

from leap_zoo.heads import decode_head

if TYPE_CHECKING:
    from conftest import Server
    from playwright.sync_api import Browser, FileChooser


@SIZES
def test_classify__names_what_is_on_a_photo(
    browser: Browser, server: Server, size: tuple[int, int], colour_photos: dict[str, Path]
) -> None:
    with visiting(browser, server.url, size) as page:
        expect(page.get_by_text("No photo yet").first).to_be_visible()
        drop(page, "#leap-photo", [colour_photos["red"]])
        result = page.locator("#leap-result")
        expect(result.locator(".leap-best")).to_have_text("red")
        expect(result.locator(".leap-bars li")).to_have_count(3)
        expect(result.locator(".leap-bars li").first).to_contain_text("fp32")
        widths = [bar.bounding_box()["width"] for bar in result.locator(".leap-track > span").all()]
        assert len(widths) == 6  # int8 and fp32 for each class
        assert widths[0] > 3 * widths[2] > 0
        assert widths[1] > 3 * widths[3] > 0
        chips = result.locator(".leap-chips span").all_inner_texts()
        assert [chip.split()[0] for chip in chips[:2]] == ["int8", "fp32"]
        assert all(chip.endswith(" ms") for chip in chips[:3])
        page.get_by_label("brightness").check()
        expect(result.locator(".leap-bars li")).to_have_count(2)
        page.locator("#leap-samples button").nth(5).click()  # a balloon in a blue sky
        page.get_by_label("colours").check()
        expect(result.locator(".leap-best")).to_have_text("blue")


def test_classify__explains_a_file_that_is_no_photo(
    browser: Browser, server: Server, tmp_path: Path, colour_photos: dict[str, Path]
) -> None:
    with visiting(browser, server.url) as page:
        drop(page, "#leap-photo", [colour_photos["green"]])
        expect(page.locator("#leap-result .leap-best")).to_have_text("green")
        page.get_by_role("button", name="Remove Image").click()
        expect(page.locator("#leap-result").get_by_text("No photo yet")).to_be_visible()
        lie = tmp_path / "lie.jpg"
        lie.write_bytes(b"I only say that I am a photo")
        drop(page, "#leap-photo", [lie])
        expect(page.get_by_text("This photo cannot be used")).to_be_visible()
        expect(page.get_by_text("Not a photo in a format that we read")).to_be_visible()
        expect(page.locator("#leap-result .leap-best")).to_have_count(0)
        assert str(tmp_path) not in page.content()


@SIZES
def test_tabs__are_all_in_sight(browser: Browser, server: Server, size: tuple[int, int]) -> None:
    with visiting(browser, server.url, size, color_scheme="dark") as page:
        for name in ("Classify", "Search", "Your classes", "Zoo", "How it learned"):
            expect(page.get_by_role("tab", name=name, exact=True)).to_be_visible()
            page.get_by_role("tab", name=name, exact=True).click()
            expect(page.get_by_role("tabpanel").filter(visible=True)).to_have_count(1)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name


@SIZES
def test_start_page__leads_on(browser: Browser, server: Server, size: tuple[int, int]) -> None:
    with visiting(browser, server.url, size, "/") as page:
        expect(page.get_by_text(f"curl -F image=@photo.jpg {server.url}/v1/classify")).to_be_visible()
        page.get_by_role("link", name="GET /docs").click()
        expect(page).to_have_url(server.url + "/docs")
        page.go_back()
        page.get_by_role("link", name="Try a photo in the browser").click()
        expect(page.get_by_role("tab", name="Classify")).to_be_visible()
        page.get_by_role("link", name="start page").click()
        expect(page).to_have_url(server.url + "/")


@SIZES
def test_docs__are_swagger_of_this_server_alone(browser: Browser, server: Server, size: tuple[int, int]) -> None:
    with visiting(browser, server.url, size, "/docs") as page:
        expect(page.get_by_text("/v1/classify", exact=True).first).to_be_visible(timeout=60_000)
        expect(page.get_by_text("unknown_gallery").first).to_be_visible()


@SIZES
def test_search__finds_the_nearest_in_either_gallery_and_space(
    browser: Browser, server: Server, size: tuple[int, int], tmp_path: Path, colour_photos: dict[str, Path]
) -> None:
    with visiting(browser, server.url, size) as page:
        open_tab(page, "Search")
        page.locator("#leap-wall button[aria-label='coffee 2']").click()
        found = page.locator("#leap-found")
        expect(found.locator("li")).to_have_count(6)
        expect(found.locator("li").first).to_contain_text("taxi 1")
        expect(page.locator("#leap-wall button[aria-pressed=true]")).to_have_attribute("aria-label", "coffee 2")
        scores = [float(text) for text in found.locator(".leap-score").all_inner_texts()]
        assert scores == sorted(scores, reverse=True)
        page.get_by_label("teacher space").check()
        expect(found).to_contain_text("12 numbers per photo")
        page.get_by_label("your photos").check()
        lie = tmp_path / "lie.png"
        lie.write_bytes(b"no photo")
        expect(page.locator("#leap-add input[type=file]")).to_be_attached()
        drop(page, "#leap-add", [*colour_photos.values(), lie])
        expect(page.locator("#leap-wall button")).to_have_count(3)
        expect(page.get_by_text("lie: Not a photo in a format that we read")).to_be_visible()
        expect(found).to_contain_text("Nearest to coffee 2")  # among the photos that have just come
        expect(found.locator("li")).to_have_count(3)
        page.locator("#leap-wall button[aria-label=red]").click()
        expect(found.locator("li")).to_have_count(2)
        drop(page, "#leap-query", [colour_photos["blue"]])
        expect(found.locator("li").first).to_contain_text("blue")
        page.locator("#leap-clear").click()
        expect(page.locator("#leap-wall button")).to_have_count(0)
        expect(page.locator("#leap-clear")).to_be_disabled()
        expect(found).to_contain_text("Nothing to search in")


@SIZES
def test_classes__are_fitted_tried_and_taken_home(
    browser: Browser, server: Server, size: tuple[int, int], colour_photos: dict[str, Path]
) -> None:
    with visiting(browser, server.url, size) as page:
        open_tab(page, "Your classes")
        page.locator("#leap-fit").click()
        expect(page.get_by_text("Two classes with a photo each are the least")).to_be_visible()
        page.locator("#leap-example").click()
        expect(page.locator("#leap-seen-3 img")).to_have_count(3)
        expect(page.locator("#leap-fitted").get_by_text("Nothing fitted yet")).to_be_visible()
        page.get_by_role("button", name="Take out pier 2").click()
        expect(page.locator("#leap-seen-3 img")).to_have_count(2)
        expect(page.get_by_role("button", name="Take out pier 2")).to_have_count(0)
        page.locator("#leap-more").click()
        page.locator("#leap-name-4 :is(input, textarea)").fill("pure red")
        drop(page, "#leap-drop-4", [colour_photos["red"]])
        expect(page.locator("#leap-seen-4 img")).to_have_count(1)
        page.locator("#leap-fit").click()
        fitted = page.locator("#leap-fitted")
        expect(fitted.locator(".leap-best")).to_contain_text("recognised")
        expect(fitted.locator("tbody tr")).to_have_count(4)
        link = fitted.locator("#leap-head-file").get_attribute("href")
        head = decode_head(base64.b64decode(link.partition("base64,")[2]))
        assert head.labels == ["coffee", "pier", "pure red", "taxi"]
        assert head.card.photos == [3, 2, 1, 3]
        drop(page, "#leap-try", [colour_photos["red"]])
        expect(page.locator("#leap-tried .leap-best")).to_have_text("pure red")
        open_tab(page, "Classify")
        page.get_by_label("your own").check()
        drop(page, "#leap-photo", [colour_photos["red"]])
        expect(page.locator("#leap-result .leap-best")).to_have_text("pure red")
        open_tab(page, "Your classes")
        page.locator("#leap-reset").click()
        expect(fitted.get_by_text("Nothing fitted yet")).to_be_visible()
        expect(page.locator("#leap-seen-1 img")).to_have_count(0)


@SIZES
def test_zoo__shows_the_card_and_hands_out_its_files(
    browser: Browser, server: Server, size: tuple[int, int], tmp_path: Path
) -> None:
    with visiting(browser, server.url, size) as page:
        open_tab(page, "Zoo")
        card = page.locator("#leap-zoo")
        for text in ("leap-tiny-test", "Apache-2.0", "int8 ONNX", "top1 (colours)", "30.0 % to 100.0 %"):
            expect(card.get_by_text(text).first).to_be_visible()
        expect(card.locator("svg circle")).to_have_count(3)
        row = card.locator(".leap-files li", has_text="model_int8.onnx")
        with page.expect_download() as download:
            row.get_by_role("link").click()
        download.value.save_as(tmp_path / "model")
        digest = hashlib.sha256((tmp_path / "model").read_bytes()).hexdigest()
        assert row.locator("code").inner_text() == f"sha256 {digest}"


@SIZES
def test_learned__steps_through_the_curriculum(browser: Browser, server: Server, size: tuple[int, int]) -> None:
    with visiting(browser, server.url, size) as page:
        open_tab(page, "How it learned")
        said = page.locator(".leap-said")
        expect(said).to_contain_text("Step 30: block 3 became the target, as the block before had had its time.")
        slider = page.get_by_label("Move of the curriculum")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        expect(said).to_contain_text("Step 10: block 2 became the target, as the student had become similar enough")
        expect(page.locator("#leap-curriculum [data-floor='2']")).to_have_class("is-target")
        expect(page.locator("#leap-curriculum g.is-ahead")).to_have_count(1)
        page.keyboard.press("Home")
        page.get_by_role("button", name="Play").click()
        expect(said).to_contain_text("Step 30")
        expect(page.get_by_role("button", name="Play")).to_be_visible()  # at the end it stops by itself


def test_page__works_by_keyboard(browser: Browser, server: Server, colour_photos: dict[str, Path]) -> None:
    with visiting(browser, server.url) as page:

        def tab_to(selector: str) -> None:
            for _ in range(24):
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
        expect(page.locator("#leap-result .leap-best")).to_have_text("blue")
        tab_to("#leap-samples button")
        page.keyboard.press("Enter")  # an elephant under palms
        expect(page.locator("#leap-result .leap-best")).to_have_text("red")
        tab_to("input[value=brightness]")
        page.keyboard.press("Space")
        expect(page.locator("#leap-result .leap-bars li")).to_have_count(2)
        page.get_by_role("tab", name="Classify").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#leap-wall button").first).to_be_visible()


def test_visitors__see_nothing_of_each_other(browser: Browser, server: Server, colour_photos: dict[str, Path]) -> None:
    with visiting(browser, server.url) as one, visiting(browser, server.url, color_scheme="dark") as other:
        for page in (one, other):
            open_tab(page, "Search")
            page.get_by_label("your photos").check()
            expect(page.get_by_text("Your gallery is empty")).to_be_visible()
        drop(one, "#leap-add", [colour_photos["red"], colour_photos["green"]])
        expect(one.locator("#leap-wall button")).to_have_count(2)
        drop(other, "#leap-add", [colour_photos["blue"]])
        expect(other.locator("#leap-wall button")).to_have_count(1)
        open_tab(one, "Your classes")
        one.locator("#leap-example").click()
        expect(one.locator("#leap-seen-3 img")).to_have_count(4)
        one.locator("#leap-fit").click()
        expect(one.locator("#leap-fitted .leap-best")).to_be_visible()
        open_tab(other, "Your classes")
        expect(other.locator("#leap-seen-1 img")).to_have_count(0)
        other.locator("#leap-fit").click()
        expect(other.get_by_text("Two classes with a photo each are the least")).to_be_visible()
        open_tab(other, "Classify")
        expect(other.get_by_label("your own")).to_have_count(0)
