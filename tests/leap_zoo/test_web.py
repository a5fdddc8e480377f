"""Which requests take the environment's proxy, and that no password of a URL is seen."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx
import pytest
from service_stand_in import Answer, StandIn, running, said

from leap_zoo.client import Client
from leap_zoo.errors import InvalidArgument, LeapZooError, masked, plain, short
from leap_zoo.web import goes_directly, open_http

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def service() -> Iterator[StandIn]:
    with running() as stand_in:
        stand_in.says(said({"data": []}))
        yield stand_in


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("http://[::1]:3000", "::1"),
        ("http://[::1]:3000", "localhost, [::1]"),
        ("http://[::1]:3000", "[::1]:3000"),
        ("http://[fd12::5]", "fd00::/8"),
        ("http://[0:0:0:0:0:0:0:1]", "::1"),
        ("http://10.1.2.3", "10.0.0.0/8"),
        ("http://10.1.2.3", "10.1.2.3/8"),
        ("http://10.1.2.3:80", "a.example, 10.1.2.3:80"),
        ("https://10.1.2.3", "10.1.2.3:443"),
        ("https://Zoo.example", "ZOO.example"),
        ("https://www.zoo.example", "zoo.example"),
        ("https://www.zoo.example", ".zoo.example"),
        ("https://anything", "*"),
        ("http://[::1]", "*"),
    ],
)
def test_no_proxy__lists(url: str, no_proxy: str) -> None:
    assert goes_directly(httpx.URL(url), no_proxy)


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("http://[::1]:3000", ""),
        ("http://[::1]:3000", "[::1]:80,::2,127.0.0.1,0.0.0.0/0,localhost"),
        ("http://[fd12::5]", "fe00::/8"),
        ("http://11.1.2.3", "10.0.0.0/8,::/0,1.1.2.3"),
        ("http://10.1.2.3", "10.0.0.0/99,10.0.0.0/x,[,],:,[::1]x,://,.,/"),
        ("http://zoo.example", "oo.example,www.zoo.example,https://zoo.example,zoo.example:81,10.0.0.0/8,.,,"),
    ],
)
def test_no_proxy__does_not_list(url: str, no_proxy: str) -> None:
    assert not goes_directly(httpx.URL(url), no_proxy)


@pytest.mark.parametrize("no_proxy", ["::1", "[::1]:3000,fd00::/8", "10.0.0.0/8,localhost:1", "[", "://", "é.example"])
def test_no_proxy__is_never_in_the_way(service: StandIn, monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    monkeypatch.setenv("no_proxy", no_proxy)
    with Client(service.url) as client:
        assert client.models() == []


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_proxy__is_asked_unless_no_proxy_lists_the_host(
    service: StandIn, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, service.url.removeprefix("http://"))
    with Client("http://service.invalid") as client:
        assert client.models() == []
    assert service.asked[0].path == "http://service.invalid/v1/models"
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "10.0.0.0/8,127.0.0.0/8,::1")
    with Client(service.url) as client:
        assert client.models() == []


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
@pytest.mark.parametrize("proxy", ["odd://me:hunter2@localhost", "http://me:hunt/er2@localhost", "http://host:port"])
def test_proxy__that_cannot_be_used_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, name: str, proxy: str
) -> None:
    monkeypatch.setenv(name, proxy)
    with pytest.raises(InvalidArgument, match="ALL_PROXY") as raised:
        open_http()
    assert not any(secret in str(raised.value) for secret in ("hunt", "me:"))
    assert raised.value.__cause__ is None


def test_login__of_a_url_is_sent_and_never_shown(service: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = service.url.replace("//", "//me:hunter%402@")
    with Client(url) as client:
        client.models()
        service.says(Answer(b"no", 500))
        with pytest.raises(LeapZooError) as raised:
            client.models()
        shown = repr(client) + str(raised.value) + caplog.text
    assert service.url in shown
    assert "hunter" not in shown
    assert service.asked[0].headers["authorization"].startswith("Basic ")


def test_login__and_key_at_once_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="not both") as raised:
        Client("http://me:hunter2@localhost", "a-secret-key")
    assert "hunter2" not in str(raised.value)


def test_login__of_where_a_service_has_moved_is_not_shown(service: StandIn) -> None:
    service.says(Answer(b"", 308, {"location": "https://me:hunter2@elsewhere.example/v1"}))
    with Client(service.url) as client, pytest.raises(LeapZooError, match=r"https://\*\*\*@elsewhere") as raised:
        client.models()
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["http://me:hunter2@", "http://me:hunter2@host:port", "http://me:hunt/er2@host", "ftp://me:hunter2@host"]
)
def test_login__of_a_wrong_url_is_not_shown(url: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        Client(url)
    assert "hunt" not in str(raised.value)
    assert "er2" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("from http://me:secret@host:80/x: no", "from http://***@host:80/x: no"),
        ("https://token@host", "https://***@host"),
        ("https://me:a@b:c@host", "https://***@host"),
        ("https://me:sec/ret@host", "https://***@host"),
        ("hf://org/repo@main", "hf://org/repo@main"),
        ("http://host:3000/a@b", "http://host:3000/a@b"),
        ("me@host, http://host", "me@host, http://host"),
    ],
)
def test_masked__hides_logins_only(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert short(text) == repr(shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b\u3000é 😀", "a b\u3000é 😀"),
        ("\x1b[2J\n\r\t\0", r"\x1b[2J\n\r\t\x00"),
        ("\x9b31m\u202e\ud800", r"\x9b31m\u202e\ud800"),
        (3, "3"),
    ],
)
def test_plain__leaves_nothing_that_a_terminal_obeys(text: object, shown: str) -> None:
    assert plain(text) == shown
