"""Which known name a message suggests for an unknown one."""

from __future__ import annotations

import pytest

from leap_zoo.errors import LeapZooError, ServiceRefused, masked, nearest, short

HEADS = ("imagenet1k", "imagenette")  # the default one first
MODELS = ("leap-micro", "leap-nano", "leap-tiny")


@pytest.mark.parametrize(
    ("name", "known", "suggested"),
    [
        ("imagenet", HEADS, "imagenet1k"),  # both begin so: the first
        ("imagenet", HEADS[::-1], "imagenette"),
        ("imagnet", HEADS, "imagenet1k"),  # spelt equally alike
        ("imagenete", HEADS, "imagenette"),
        ("nette", HEADS, "imagenette"),  # inside
        ("tiny", MODELS, "leap-tiny"),
        ("leap-tinny", MODELS, "leap-tiny"),
        ("LEAP-TINY", MODELS, "leap-tiny"),
        ("col", ("colours-of-things", "a-colour", "colours"), "colours"),  # the shortest that begins so
    ],
)
def test_nearest__suggests(name: str, known: tuple[str, ...], suggested: str) -> None:
    assert nearest(name, known) == f"; did you mean {suggested!r}? Known: {', '.join(sorted(known))}"


@pytest.mark.parametrize("name", ["", "l", "zebra", "x" * 10_000])
def test_nearest__suggests_nothing_far_off(name: str) -> None:
    assert nearest(name, MODELS) == ". Known: leap-micro, leap-nano, leap-tiny"


def test_nearest__of_many_lists_twelve() -> None:
    assert nearest("zebra", (f"model-{number:02}" for number in range(20))).endswith("model-11 and 8 more")
    assert nearest("zebra", ()) == ""


@pytest.mark.parametrize("kind", [LeapZooError, ServiceRefused])
def test_errors__are_one_line_that_does_nothing_to_a_terminal(kind: type[LeapZooError]) -> None:
    error = kind("a\x1b[2J\nb of https://me:secret@host")
    assert str(error) == r"a\x1b[2J\nb of https://***@host"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host/zoo", "http://***@host/zoo"),
        ("proxy URL('socks5://me:se@cret@host:1080') is odd", "proxy URL('socks5://***@host:1080') is odd"),
        ("https://me:se/cret#@host/zoo", "https://***@host/zoo"),
        ("https://token@host", "https://***@host"),
        ("hf://org/repo@v1 and https://host:8443/a@b", "hf://org/repo@v1 and https://host:8443/a@b"),
        ("a@b.example, C:\\x@y", "a@b.example, C:\\x@y"),
    ],
)
def test_masked__no_user_no_password(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert short(text) == repr(shown)


def test_short__no_password_with_a_space() -> None:
    assert short("http://me:se cr@et@host/zoo") == "'http://***@host/zoo'"
