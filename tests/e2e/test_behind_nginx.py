"""The service under a path of nginx, with the configuration of docs/deploy/nginx.conf."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from leap_zoo.client import Client

LINKS = re.compile(r'(?:href|src)="([^"#{]+)"')


@pytest.fixture(scope="module")
def http(proxied: str):
    with httpx.Client(base_url=proxied, timeout=120, follow_redirects=True) as client:
        yield client


@pytest.mark.parametrize("page", ["", "docs", "browser/", "ui/"])
def test_page__its_links_lead_to_the_service(http: httpx.Client, proxied: str, page: str) -> None:
    answer = http.get(f"{proxied}/{page}")
    assert answer.status_code == 200
    links = {urljoin(str(answer.url), link) for link in LINKS.findall(answer.text) if not link.startswith("data:")}
    ours = {link for link in links if urlsplit(link).netloc == urlsplit(proxied).netloc}
    # Gradio's template names the manifest absolutely; nobody clicks on that one.
    ours = {link for link in ours if urlsplit(link).path != "/manifest.json"}
    assert ours
    for link in ours:
        assert urlsplit(link).path.startswith("/leap/"), link
        assert http.get(link).status_code == 200, link


def test_page__is_found_without_its_slash(http: httpx.Client, proxied: str) -> None:
    for path in ("", "/ui", "/browser"):
        assert str(http.get(proxied + path).url) == f"{proxied}{path}/"


def test_demo__gets_its_own_address(http: httpx.Client, proxied: str) -> None:
    assert http.get(f"{proxied}/ui/config").json()["root"] == f"{proxied}/ui"


def test_api__answers_under_the_path(http: httpx.Client, proxied: str, colour_photos: dict[str, Path]) -> None:
    with Client(proxied) as client:
        assert client.classify(colour_photos["red"])[0].label == "red"
        client.add("behind", ["a"], [colour_photos["red"]])
        assert client.search(colour_photos["red"], "behind", k=1)[0].id == "a"
        client.delete("behind")
    red = colour_photos["red"].read_bytes()
    assert http.post(f"{proxied}/classify", files={"image": red}).json()["predictions"][0]["label"] == "red"
    assert http.get(f"{proxied}/openapi.json").json()["servers"] == [{"url": "/leap"}]
    assert http.get(f"{proxied}/v1/nothing").json()["code"] == "unknown_path"
    assert http.post(f"{proxied}/v1/embeddings", json={}).json()["error"]["code"] == "invalid_body"
    own = {"origin": proxied.removesuffix("/leap")}  # a page of the site
    assert http.post(f"{proxied}/v1/classify", files={"image": red}, headers=own).status_code == 200


def test_service__answers_without_the_proxy(proxied_server) -> None:
    """Probes do not come through it."""
    for path in ("/readyz", "/metrics", "/v1/models", "/leap/v1/models", "/leap/readyz"):
        assert httpx.get(proxied_server.url + path, timeout=120).status_code == 200
