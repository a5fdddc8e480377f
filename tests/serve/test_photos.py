"""Photos in texts: whatever a client writes is either the photo's bytes or a refusal."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.photos import photo_of_text
from serve.problems import CODES, Refused

CASES = Path(__file__).parents[2].parent / "shared" / "cases"


@given(st.binary(), st.sampled_from(["", "data:;base64,", "DATA:image/png;BASE64,", "data:image/svg+xml;x=1;base64,"]))
def test_photo_of_text__round_trips(photo: bytes, prefix: str) -> None:
    assert photo_of_text(prefix + base64.b64encode(photo).decode(), 0) == photo


@given(st.sampled_from(["", "data:", "data:image/png;base64,", "http://", "AA=="]), st.text(), st.text())
def test_photo_of_text__refuses_other_texts(start: str, before: str, after: str) -> None:
    with pytest.raises(Refused) as caught:
        photo_of_text(start + before + "!" + after, 3)  # which base64 has not
    assert caught.value.index == 3
    assert CODES[caught.value.code][0] == caught.value.status


@given(st.binary(min_size=1), st.sampled_from([64, 76]), st.sampled_from(["\n", "\r\n", "\n  "]), st.booleans())
def test_photo_of_text__wrapped_url_safe_and_without_padding(photo: bytes, width: int, end: str, padded: bool) -> None:
    text = base64.urlsafe_b64encode(photo).decode()
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    wrapped = end.join(lines) + end
    assert photo_of_text(wrapped if padded else wrapped.replace("=", ""), 0) == photo
    assert photo_of_text("data:image/png;base64," + text.replace("=", ""), 0) == photo


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not on this machine")
@pytest.mark.parametrize("name", ["b64_wrapped.json", "b64_urlsafe.json"])
def test_photo_of_text__cases_from_the_field(name: str) -> None:
    [text] = json.loads((CASES / name).read_text())["images"]
    assert photo_of_text(text, 0) == (CASES / "small.jpg").read_bytes()


@pytest.mark.parametrize("text", ["AA= =", "A A==", "AA=A", "=", "A", "AA==\x00", "AA.="])
def test_photo_of_text__is_strict_about_base64(text: str) -> None:
    with pytest.raises(Refused) as caught:
        photo_of_text(text, 0)
    assert caught.value.code == "broken_base64"
