"""/browser in a real Chromium: the published file in onnxruntime-web answers as it does in Python."""

from __future__ import annotations

import base64
import http.server
import io
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from browsing import INSECURE, PHONE, expect, open_tab, visiting
from PIL import Image

import leap_zoo
from leap_zoo import preprocess
from leap_zoo.card import Preprocessing
from leap_zoo.store import BUNDLED, default_model

if TYPE_CHECKING:
    from conftest import Server
    from playwright.sync_api import Browser, Page, Route

PAGE = f"/browser/?model={default_model()}"
DOC = Path(__file__).parents[2] / "docs" / "browser.md"
SAMPLES = Path(__file__).parents[2] / "serve" / "demo" / "samples"
KEY = "a-key-of-this-test-only"
SCORE = 1e-2  # int8 and float round elsewhere
Photos = dict[str, bytes]


@pytest.fixture(scope="module")
def runtime(browser_runtime: Path) -> Path:
    """The folder with onnxruntime-web, fetched as `make browser` does."""
    command = ["make", "browser", f"RUNTIME={browser_runtime}"]
    made = subprocess.run(command, cwd=DOC.parents[1], capture_output=True, text=True)
    said = made.stdout + made.stderr
    if "npm is missing" in said or "npm error" in said:
        pytest.skip(f"onnxruntime-web is not to be had: {said}")
    assert made.returncode == 0, said
    return browser_runtime


@pytest.fixture(scope="module")
def bundled(bundled_server: Server, runtime: Path) -> Server:
    """The server with the bundled models, and with onnxruntime-web."""
    return bundled_server


@pytest.fixture(scope="module")
def page(browser: Browser, bundled: Server) -> Iterator[Page]:
    """The page, with the model loaded; for what changes nothing there."""
    with visiting(browser, bundled.url, path=PAGE) as page:
        expect(page.locator(".best")).to_have_text("cab")
        yield page


def saved(picture: Image.Image, kind: str = "PNG", orientation: int | None = None, **options: object) -> bytes:
    """The bytes of a picture as a file."""
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
        options["exif"] = exif
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    """The hardest picture to resize alike: every pixel by itself."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, shape, dtype=np.uint8))


def taxi() -> Image.Image:
    """A taxi, 256 x 256."""
    return Image.open(SAMPLES / "taxi-1.jpg").convert("RGB")


def lossless() -> Photos:
    """Files whose pixels every decoder agrees on."""
    picture = taxi()
    fading = picture.convert("RGBA")
    fading.putalpha(Image.fromarray(np.indices(fading.size)[1].astype(np.uint8)))
    odd = noise(301, 203)
    photos = {
        "odd sides": saved(noise(333, 257)),
        "portrait": saved(noise(201, 777)),
        "smaller than the crop": saved(noise(60, 45)),
        "a strip": saved(noise(1, 900)),
        "the crop itself": saved(noise(160, 160)),
        "large": saved(noise(900, 1100)),
        "grey": saved(picture.convert("L")),
        "1 bit": saved(picture.convert("1")),
        "palette": saved(picture.quantize(64)),
        "palette, one colour transparent": saved(picture.quantize(64), transparency=3),
        "alpha": saved(fading),
        "alpha of noise": saved(noise(301, 203, 4)),
        "grey with alpha": saved(noise(301, 203, 2)),
        "BMP": saved(picture, "BMP"),
        "GIF": saved(picture, "GIF"),
        "WebP with alpha": saved(fading, "WEBP", lossless=True),
    }
    photos |= {f"PNG turned {turn}": saved(odd, orientation=turn) for turn in (3, 6, 8)}
    photos |= {f"WebP turned {turn}": saved(odd, "WEBP", turn, lossless=True) for turn in range(2, 9)}
    return photos


def jpegs() -> dict[str, tuple[bytes, int]]:
    """JPEG files, and how many levels at most a pixel may differ. Python reads large ones at a part of their size."""
    picture = taxi()
    photos = {
        f"chroma {sampling}": (saved(picture, "JPEG", quality=90, subsampling=sampling), 1) for sampling in range(3)
    }
    photos |= {f"turned {turn}": (saved(picture, "JPEG", turn, quality=90), 1) for turn in range(2, 9)}
    return photos | {
        "grey": (saved(picture.convert("L"), "JPEG"), 1),
        "CMYK": (saved(picture.convert("CMYK"), "JPEG"), 1),
        "progressive": (saved(noise(333, 257), "JPEG", progressive=True), 1),
        "large": (saved(picture.resize((2560, 1920), Image.Resampling.BICUBIC), "JPEG"), 3),
        "large, of noise": (saved(noise(1600, 1200), "JPEG"), 12),
    }


LOSSLESS, JPEGS = lossless(), jpegs()

TO_PIXELS = """async ([photo, spec]) => {
  const { toTensor } = await import(new URL("preprocess.js", location.href));
  const pixels = await toTensor(new Blob([Uint8Array.from(atob(photo), (c) => c.charCodeAt(0))]), spec);
  return btoa(Array.from(pixels, (level) => String.fromCharCode(level)).join(""));
}"""


def exact(model: str) -> leap_zoo.Model:
    """The bundled file, computed in float where it is int8, as exactly as WebAssembly does.

    The native kernels for int8 saturate on an x86 processor without VNNI.
    """
    options = onnxruntime.SessionOptions

    def unfused() -> onnxruntime.SessionOptions:
        found = options()
        found.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", unfused)
        return leap_zoo.load(model, zoo=BUNDLED, threads=1)


def furthest(page: Page, photo: bytes, spec: Preprocessing) -> int:
    """By how many levels a pixel differs at most between the page and Python."""
    given = {"size": spec.size, "short_side": spec.short_side, "filter": spec.filter}
    answer = page.evaluate(TO_PIXELS, [base64.b64encode(photo).decode(), given])
    there = np.frombuffer(base64.b64decode(answer), np.uint8).astype(int)
    return int(np.abs(there - preprocess.to_tensor(photo, spec).ravel()).max())


@pytest.mark.parametrize("name", LOSSLESS)
def test_pixels__are_those_of_python(page: Page, name: str) -> None:
    assert furthest(page, LOSSLESS[name], Preprocessing(size=160, short_side=176)) <= 1


@pytest.mark.parametrize("name", JPEGS)
def test_pixels__of_a_jpeg_are_nearly_those_of_python(page: Page, name: str) -> None:
    photo, levels = JPEGS[name]
    assert furthest(page, photo, Preprocessing(size=160, short_side=176)) <= levels


@pytest.mark.parametrize(
    "spec",
    [
        Preprocessing(size=224, short_side=224, filter="bilinear"),
        Preprocessing(size=32, short_side=36),
        Preprocessing(size=128, short_side=146),
    ],
)
def test_pixels__follow_the_card(page: Page, spec: Preprocessing) -> None:
    assert furthest(page, LOSSLESS["odd sides"], spec) <= 1


def test_zoo_tab__leads_to_the_model_in_this_browser(browser: Browser, bundled: Server) -> None:
    with visiting(browser, bundled.url, PHONE, color_scheme="dark") as page:
        open_tab(page, "Zoo")
        with page.expect_popup() as opened:
            page.get_by_role("link", name="Run it in this browser").click()
        page = opened.value
        expect(page).to_have_url(bundled.url + PAGE)
        expect(page.locator(".best")).to_have_text("cab")
        expect(page.locator("ol li")).to_have_count(5)
        facts = page.locator("#facts")
        for text in ("sha256", ", checked", "As published", "onnxruntime-web 1.30.0 (license: MIT)", "1 thread"):
            expect(facts).to_contain_text(text)
        expect(facts.locator(".bad")).to_have_count(0)
        expect(page.locator(".times")).to_contain_text("median of")
        page.get_by_role("button", name="Balloon").click()
        expect(page.locator(".best")).to_have_text("balloon")


def test_answers__are_those_of_python(browser: Browser, bundled: Server, tmp_path: Path) -> None:
    model = exact(default_model())
    with visiting(browser, bundled.url, path=PAGE) as page:
        expect(page.locator(".best")).to_be_visible()
        for kind in ("PNG", "JPEG"):
            photo = tmp_path / kind
            photo.write_bytes(saved(taxi().rotate(20), kind))
            page.set_input_files("#file", photo)
            for head in model.card.heads:
                page.get_by_role("radio", name=f"{head.name} (").check()
                expected = {one.label: one.score for one in model.classify(photo, head=head.name, top=len(head.labels))}
                best = max(expected, key=lambda label: expected[label])
                expect(page.locator(".best")).to_have_text(best)
                rows = page.locator("ol li").all()
                assert len(rows) == 5
                for row in rows:
                    label, score = row.locator("span").nth(0).inner_text(), row.locator("span").nth(1).inner_text()
                    assert float(score.rstrip(" %")) / 100 == pytest.approx(expected[label], abs=5 * SCORE)


def test_embeddings__are_those_of_python(page: Page) -> None:
    photo = saved(taxi())
    model = exact(default_model())
    ours = page.evaluate(EMBED, base64.b64encode(photo).decode())
    for space in ("student", "teacher"):
        assert float(np.array(ours[space]) @ model.embed(photo, space=space)) > 1 - SCORE


EMBED = """async (encoded) => {
  const { loadModel } = await import(new URL("model.js", location.href));
  const model = await loadModel("leap-tiny", { zoo: "../zoo", runtime: "runtime" });
  const photo = new Blob([Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0))]);
  const found = {};
  for (const space of ["student", "teacher"]) found[space] = Array.from(await model.embed(photo, { space }));
  return found;
}"""


def test_file__that_was_changed_on_the_way_is_refused(browser: Browser, bundled: Server) -> None:
    def tampered(route: Route) -> None:
        answer = route.fetch()
        body = bytearray(answer.body())
        body[len(body) // 2] ^= 1
        route.fulfill(response=answer, body=bytes(body))

    with visiting(browser, bundled.url, path="/browser/page.css") as page:
        page.route("**/model_int8.onnx", tampered)
        page.goto(bundled.url + PAGE)
        expect(page.get_by_role("alert")).to_contain_text("model_int8.onnx differs from its card")
        expect(page.locator(".best")).to_have_count(0)
        page.unroute_all()
        page.reload()
        expect(page.locator(".best")).to_have_text("cab")


def test_digest__that_cannot_be_computed_is_said_plainly(browser: Browser, bundled: Server) -> None:
    # Chromium complains of a header that it heeds on https and localhost only.
    with visiting(browser, f"http://{INSECURE}:{bundled.port}", path=PAGE, fails=PAGE) as page:
        expect(page.locator("#facts .bad")).to_contain_text("NOT checked")
        expect(page.locator(".best")).to_have_text("cab")


def test_runtime__that_is_missing_is_named_with_the_mend(browser: Browser, bundled: Server, runtime: Path) -> None:
    away = runtime.rename(runtime.with_name("away"))
    try:
        with visiting(browser, bundled.url, path=PAGE, fails="ort-wasm-simd-threaded.wasm.gz") as page:
            expect(page.get_by_role("alert")).to_contain_text("make browser")
            expect(page.get_by_role("alert")).to_contain_text("onnxruntime-web")
    finally:
        away.rename(runtime)


def test_troubles__are_words_and_pass(browser: Browser, bundled: Server, tmp_path: Path) -> None:
    lie = tmp_path / "lie.png"
    lie.write_bytes(b"no photo")
    with visiting(browser, bundled.url, path="/browser/?model=leap-huge") as page:
        expect(page.get_by_role("alert")).to_contain_text("This server has no model leap-huge")
        page.get_by_label("Model", exact=True).select_option(default_model())
        expect(page.locator(".best")).to_have_text("cab")
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page).to_have_url(bundled.url + PAGE)
        page.set_input_files("#file", lie)
        expect(page.get_by_role("alert")).to_contain_text("cannot read the file as a photo")
        expect(page.locator(".best")).to_have_count(0)
        page.get_by_role("button", name="Turtle").click()
        expect(page.locator(".best")).to_have_text("box turtle")
        expect(page.get_by_role("alert")).to_be_hidden()


def test_key__is_asked_for_where_one_is_needed(browser: Browser, bundled: Server) -> None:
    def guarded(route: Route) -> None:
        if route.request.headers.get("x-api-key") == KEY:
            route.continue_()
        else:
            route.fulfill(status=401)

    with visiting(browser, bundled.url, path="/browser/page.css", fails="/zoo/index.json") as page:
        page.route("**/zoo/**", guarded)
        page.goto(bundled.url + PAGE)
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_role("alert")).to_contain_text("requires an API key")
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator(".best")).to_have_text("cab")
        expect(page.get_by_label("API key")).to_be_hidden()


def test_page__works_by_keyboard(browser: Browser, bundled: Server) -> None:
    with visiting(browser, bundled.url, path="/browser/") as page:
        expect(page.locator(".best")).to_have_text("cab")
        expect(page.get_by_label("Model", exact=True)).to_have_value(default_model())
        reached = []
        for _ in range(8):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.photo || ''"))
            if reached[-1] == "balloon-1.jpg":
                page.keyboard.press("Enter")
                expect(page.locator(".best")).to_have_text("balloon")
        assert reached[:5] == ["model", "file", "taxi-1.jpg", "balloon-1.jpg", "turtle-1.jpg"]
        page.get_by_role("radio", name="imagenet1k").focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("radio", name="imagenette")).to_be_checked()
        expect(page.locator(".times")).to_be_visible()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda golden: b"",
    "no zip": lambda golden: b"PK" * 100,
    "cut off": lambda golden: golden[: len(golden) // 2],
    "other names": lambda golden: golden.replace(b"model_int8", b"model_int4"),
    "garbage inside": lambda golden: golden[:200] + bytes(2000) + golden[2200:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_golden__that_is_broken_is_refused(page: Page, damage: str) -> None:
    golden = DAMAGES[damage]((BUNDLED / default_model() / "golden.npz").read_bytes())
    said = page.evaluate(VERIFY, base64.b64encode(golden).decode())
    assert said.startswith("LeapZooError: The golden file")
    assert said.endswith("exported again.")


VERIFY = """async (golden) => {
  const { verify } = await import(new URL("golden.js", location.href));
  const { loadModel } = await import(new URL("model.js", location.href));
  const model = await loadModel("leap-tiny", { zoo: "../zoo", runtime: "runtime" });
  model.zoo.file = async () => Uint8Array.from(atob(golden), (c) => c.charCodeAt(0));
  return await verify(model).then(String, String);
}"""


def example(kind: str) -> str:
    """The example of docs/browser.md that is marked so."""
    fence = re.search(rf"<!-- browser: {kind} -->\n```\w+\n(.*?)\n```", DOC.read_text(), re.DOTALL)
    assert fence is not None
    return fence[1]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A static host that writes no log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def test_docs__the_page_of_your_own_works(browser: Browser, runtime: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    copied = [line.split()[2:] for line in example("site").splitlines() if line.startswith("cp ")]
    assert len(copied) == 2
    for source, target in copied:
        shutil.copytree(DOC.parents[1] / source, tmp_path / target)
    assert "make browser RUNTIME=site/leap-zoo/runtime" in example("site")
    shutil.copytree(runtime, site / "leap-zoo" / "runtime")
    (site / "index.html").write_text(example("page"))
    (site / "favicon.ico").touch()
    photo = tmp_path / "ball.jpg"
    photo.write_bytes((SAMPLES / "taxi-3.jpg").read_bytes())
    (best, *_) = exact(default_model()).classify(photo)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with visiting(browser, f"http://127.0.0.1:{server.server_port}", path="/index.html") as page:
                page.set_input_files("input", photo)
                expect(page.locator("pre")).to_have_text(re.compile(f"^{best.label} "))
                assert float(page.locator("pre").inner_text().removeprefix(best.label).split()[0]) == pytest.approx(
                    best.score, abs=SCORE
                )
        finally:
            server.shutdown()
