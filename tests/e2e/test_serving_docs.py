"""docs/serving.md: its examples are run as they stand there, and its tables are what the server says of itself."""

from __future__ import annotations

import dataclasses
import doctest
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import drawn
import httpx
import pytest

from serve import budget, problems, rules, settings
from serve.api.galleries import MAX_K
from serve.stores import HELD_BYTES, Limits

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "serving.md").read_text()
ADDRESS = "localhost:3000"
NOT_RUN = 3  # two that start a server, one that needs the openai package
RUNNABLE = ("sh", "python", "js", "html")

_FENCE = re.compile(r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)\n```", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """An example: what it is written in, the mark before it, and what is shown to come out (None: nothing is)."""

    kind: str
    mark: str
    text: str
    shown: str | None


def blocks_of(text: str) -> list[Block]:
    """The examples in `text`; a `text` fence is the outcome of the one before it."""
    blocks: list[Block] = []
    for fence in _FENCE.finditer(text):
        if fence["kind"] == "text":
            blocks[-1] = dataclasses.replace(blocks[-1], shown=fence["text"])
        else:
            assert fence["kind"] in RUNNABLE, fence["kind"]
            blocks.append(Block(fence["kind"], fence["mark"] or "", fence["text"], None))
    return blocks


SECTIONS = {
    section.partition("\n")[0]: [block for block in blocks_of(section) if not block.mark.startswith("not run: ")]
    for section in DOC.split("\n## ")[1:]
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the photos that the examples name."""
    folder = tmp_path_factory.mktemp("documented")
    for seed, name in ((3, "photo"), (4, "a"), (5, "b")):
        drawn.golf_ball(seed).save(folder / f"{name}.jpg", quality=90)
    ball = drawn.golf_ball()
    lawn = ball.crop((0, 0, 180, 130))
    for number in (1, 2):
        ball.crop((170 + number, 110, 480, 420)).save(folder / f"cat{number}.jpg", quality=90)
        lawn.crop((number, 0, 150 + number, 130)).save(folder / f"dog{number}.jpg", quality=90)
    return folder


@pytest.mark.parametrize("section", [name for name, blocks in SECTIONS.items() if blocks])
def test_example__does_what_it_shows(
    section: str, bundled_server, keyed_server, key: str, photos: Path, tmp_path: Path, torchless
) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    environment = torchless | {"KEY": key}
    for block in SECTIONS[section]:
        server = keyed_server if block.mark == "server: keys" else bundled_server
        text = block.text.replace(ADDRESS, f"127.0.0.1:{server.port}")
        printed = _in_a_browser(text, tmp_path) if block.kind == "html" else _run(block, text, tmp_path, environment)
        assert ("/docs#" in printed) == ("/docs#" in (block.shown or "")), printed  # curl succeeds with a problem, too
        if block.shown is not None:
            _compare(block, printed)


def test_examples__that_are_not_run_are_few() -> None:
    every = blocks_of(DOC)
    assert len([block for block in every if block.mark.startswith("not run: ")]) == NOT_RUN
    marks = {block.mark for block in every if not block.mark.startswith("not run: ")}
    assert marks == {"", "server: keys", "server: cors"}
    assert {block.kind for block in every} == set(RUNNABLE)


def test_settings__are_those_of_the_code_with_their_ranges_and_defaults() -> None:
    shown = DOC.partition("<!-- settings:begin")[2].partition("<!-- settings:end")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines() if line[:1] == "|"][2:]
    schemas = settings.ServeSettings.model_json_schema()["properties"]
    assert [name for name, *_ in rows] == [f"{settings.PREFIX}{name.upper()}" for name in schemas]
    for (name, value, meaning), schema in zip(rows, schemas.values(), strict=True):
        if "minimum" in schema:
            assert value == f"{schema['minimum']:g}..{schema['maximum']:.10g}", name
        if "enum" in schema:
            assert set(re.split(r", | or ", value)) == set(schema["enum"]), name
        if "minimum" in schema or "enum" in schema:
            default = schema["default"]
            assert re.search(rf"default {default if isinstance(default, str) else format(default, 'g')}\b", meaning), (
                name
            )


def test_routes__are_those_of_the_server(bundled_server) -> None:
    table = DOC.partition("## Routes")[2].partition("\n## ")[0]
    listed = {
        (method, path)
        for methods, path in re.findall(r"`((?:[A-Z]+, )*[A-Z]+) (/[^`]+)`", table)
        for method in methods.split(", ")
    }
    schema = httpx.get(bundled_server.url + "/openapi.json", timeout=60).json()
    described = {(method.upper(), path) for path, one in schema["paths"].items() for method in one if method != "head"}
    assert described <= listed
    for method, path in listed - described - {("POST", path) for path in rules.NATIVE_PATHS}:
        answer = httpx.get(bundled_server.url + path, follow_redirects=True, timeout=60)
        assert (method, answer.status_code) == ("GET", 200)
    assert {path for _, path in listed} >= rules.HEALTH_PATHS | rules.NATIVE_PATHS


def test_metrics__are_those_of_the_server(bundled_server) -> None:
    text = httpx.get(bundled_server.url + "/metrics", timeout=60).text
    ours = set(re.findall(r"^# TYPE (leap_zoo_\w+) ", text, re.MULTILINE))
    assert set(re.findall(r"^\| `(leap_zoo_\w+)` \|", DOC, re.MULTILINE)) == ours


def test_limits__are_those_of_the_code() -> None:
    kept, mebi = Limits(), 2**20
    for line in (
        f"of a head: {kept.fit_photos} |",
        f"within {budget.READ_SECONDS:.0f} s |",
        f", {settings.PHOTO.bytes // mebi} MiB; `LEAP_ZOO_SERVE_MAX_MEGAPIXELS`, "
        f"{settings.PHOTO.pixels * 2 // 10**6} million pixels of a JPEG, "
        f"{settings.PHOTO.pixels // 10**6} million of others",
        f"| galleries | {kept.galleries}, with {kept.items} items each and {kept.gallery_bytes // 2**30} GiB together; "
        f"{MAX_K} hits per photo |",
        f"| heads | {kept.heads}, with {kept.head_bytes // mebi} MiB each; {HELD_BYTES // mebi} MiB of them stay",
        f"| refusals | {budget.REFUSALS:.0f} in a second are sent at once; those beyond wait for their turn, at most "
        f"{budget.PATIENCE_SECONDS:.0f} s.",
    ):
        assert line in DOC


def test_statuses__are_all_in_the_table() -> None:
    table = DOC.partition("## When it refuses")[2].partition("\n## ")[0]
    told = {int(status) for row in re.findall(r"^\| ([0-9, ]+) \|", table, re.MULTILINE) for status in row.split(", ")}
    assert told == {status for status, _ in problems.CODES.values()} - {416}  # which only who asks for a Range meets


def test_links__lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", DOC):
        assert (ROOT / "docs" / link).is_file()
    headings = {re.sub(r"[^a-z ]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in DOC.splitlines()}
    assert set(re.findall(r"\]\(#([^)]+)\)", DOC)) <= headings


def _run(block: Block, text: str, folder: Path, env: dict[str, str]) -> str:
    """What the example prints. Fails when it fails."""
    commands = folder / "commands"  # `leap-zoo` of this checkout
    commands.mkdir(exist_ok=True)
    (commands / "leap-zoo").write_text(f'#!/bin/sh\nexec {sys.executable} -m leap_zoo.cli "$@"\n')
    (commands / "leap-zoo").chmod(0o755)
    script = folder / {"sh": "example.sh", "python": "example.py", "js": "example.mjs"}[block.kind]
    script.write_text(text)
    command = {"sh": ["bash", "-euo", "pipefail"], "python": [sys.executable], "js": ["node"]}[block.kind]
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        [*command, str(script)],
        cwd=folder,
        env=env
        | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{env['PYTHONPATH']}",
            "PATH": f"{commands}{os.pathsep}{env['PATH']}",
            "LEAP_ZOO_HOME": str(folder / "home"),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _compare(block: Block, printed: str) -> None:
    """Whether what came out is what the page shows, where `...` is anything."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    example = doctest.Example(block.text, f"{block.shown}\n")
    checker = doctest.OutputChecker()
    got = f"{printed.strip()}\n"
    assert checker.check_output(example.want, got, flags), checker.output_difference(example, got, flags)


def _in_a_browser(page: str, folder: Path) -> str:
    """What the page says to photo.jpg; it comes from another origin than the server's."""
    browsers = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    (folder / "page.html").write_text(f"<!doctype html>\n<title>Example</title>\n{page}")
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder)))
    threading.Thread(target=site.serve_forever, daemon=True).start()
    try:
        with browsers.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            tab = browser.new_page()
            tab.goto(f"http://127.0.0.1:{site.server_port}/page.html")
            tab.set_input_files("#file", folder / "photo.jpg")
            browsers.expect(tab.locator("#label")).not_to_be_empty(timeout=30_000)
            label = tab.locator("#label").text_content()
            browser.close()
            return str(label)
    finally:
        site.shutdown()
        site.server_close()
