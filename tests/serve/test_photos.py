"""Photos in texts: whatever a client writes is either the photo's bytes or a refusal."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.photos import photo_of_text
from serve.problems import CODES, Refused


@given(st.binary(), st.sampled_from(["", "data:;base64,", "DATA:image/png;BASE64,", "data:image/svg+xml;x=1;base64,"]))
def test_photo_of_text__is_what_was_written(photo: bytes, prefix: str) -> None:
    assert photo_of_text(prefix + base64.b64encode(photo).decode(), 0) == photo


@given(st.sampled_from(["", "data:", "data:image/png;base64,", "http://", "AA=="]), st.text(), st.text())
def test_photo_of_text__refuses_everything_else(start: str, before: str, after: str) -> None:
    with pytest.raises(Refused) as caught:
        photo_of_text(start + before + "!" + after, 3)  # which base64 has not
    assert caught.value.index == 3
    assert CODES[caught.value.code][0] == caught.value.status


@pytest.mark.parametrize("text", ["AA==\n", "AA= =", "AA", "-_8=", "=", "A"])
def test_photo_of_text__is_strict_about_base64(text: str) -> None:
    with pytest.raises(Refused) as caught:
        photo_of_text(text, 0)
    assert caught.value.code == "broken_base64"
