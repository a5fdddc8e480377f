"""API keys: the file, who a key belongs to, and what a request shows."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leap_zoo.errors import InvalidArgument
from serve.keys import Keys, parse_keys, presented_key

KEY = "k" * 16
OTHER = "Zz09._~+/=-aaaaaaaaaaa"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\nalice:{hashlib.sha256(KEY.encode()).hexdigest()}\nbob:{OTHER}\n{'p' * 20}\n")
    return path


def test_keys__know_whose_they_are(file: Path) -> None:
    keys = Keys(file)
    assert keys.name_of(KEY) == "alice"
    assert keys.name_of(OTHER) == "bob"
    assert keys.name_of("p" * 20) == "line-5"


@pytest.mark.parametrize(
    "wrong", [None, "", KEY[:-1], KEY + " ", hashlib.sha256(KEY.encode()).hexdigest(), "x" * 9999, "ä" * 16]
)
def test_keys__refuse_everything_else(file: Path, wrong: str | None) -> None:
    assert Keys(file).name_of(wrong) is None


@pytest.mark.parametrize("text", ["", "# none\n", "short\n", "a b c d e f g h i j k l\n", f"{KEY}\n{KEY}\n", "a:\n"])
def test_keys__a_broken_file_is_refused_without_its_keys(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(InvalidArgument) as refused:
        Keys(path)
    assert KEY not in str(refused.value)


def test_keys__a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="LEAP_ZOO_SERVE_KEYS_FILE"):
        Keys(tmp_path / "none")


def test_keys__follow_the_file(file: Path) -> None:
    keys = Keys(file)
    replaced = file.with_name("new")
    replaced.write_text("carol:" + "c" * 16)
    os.replace(replaced, file)
    assert keys.name_of("c" * 16) == "carol"
    assert keys.name_of(KEY) is None
    file.write_text("broken")
    assert keys.name_of("c" * 16) == "carol"  # nobody is locked out, or let in, by a slip of the pen
    file.unlink()
    assert keys.name_of("c" * 16) == "carol"


@given(st.text())
def test_parse_keys__gives_names_or_refuses(text: str) -> None:
    try:
        keys = parse_keys(text, "it")
    except InvalidArgument:
        return
    assert keys
    assert all(len(digest) == 32 and name for digest, name in keys.items())


def basic(text: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Basic " + base64.b64encode(text.encode())}


def test_presented_key__of_a_request() -> None:
    assert presented_key({b"authorization": b"Bearer abc"}) == "abc"
    assert presented_key({b"authorization": b"bearer  abc "}) == "abc"
    assert presented_key({b"x-api-key": b"abc"}) == "abc"
    assert presented_key({}) is None
    assert presented_key({b"authorization": b"Digest abc"}) is None


def test_presented_key__is_a_password_for_pages_only() -> None:
    assert presented_key(basic("any:abc"), password=True) == "abc"
    assert presented_key(basic("any:abc")) is None
    assert presented_key({b"authorization": b"Basic !!"}, password=True) is None
