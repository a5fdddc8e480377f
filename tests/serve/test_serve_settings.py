"""LEAP_ZOO_SERVE_*: typed values, and no name that is silently ignored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leap_zoo.errors import InvalidArgument
from leap_zoo.preprocess import Limits
from serve.settings import PHOTO, ServeSettings, read_serve_settings


def read(**variables: str) -> ServeSettings:
    return read_serve_settings({f"LEAP_ZOO_SERVE_{name}": value for name, value in variables.items()})


def test_settings__of_nothing_are_the_defaults() -> None:
    assert read_serve_settings({"LEAP_ZOO_THREADS": "2", "HOME": "x"}) == ServeSettings()
    assert read(MODEL="", KEYS_FILE="  ") == ServeSettings()


def test_settings__are_typed() -> None:
    settings = read(
        MODEL="m", MAX_BODY_MB="2", CONCURRENCY="7", TIMEOUT="1.5", SLOW_TIMEOUT="90", KEYS_FILE="keys", METRICS="key",
        CORS="https://a.example, http://localhost:8080", ZOO=os.pathsep.join(["one", "two"]),
        QDRANT="http://qdrant:6333", DATA="data",
    )  # fmt: skip
    assert (settings.model, settings.max_body_bytes, settings.concurrency, settings.timeout) == ("m", 2 << 20, 7, 1.5)
    assert settings.slow_timeout == 90
    assert (settings.keys_file, settings.metrics) == (Path("keys"), "key")
    assert settings.cors == ("https://a.example", "http://localhost:8080")
    assert settings.zoo == (Path("one"), Path("two"))
    assert (settings.qdrant, settings.data) == ("http://qdrant:6333", Path("data"))


def test_settings__of_photos_are_lower_than_the_librarys() -> None:
    assert ServeSettings().photo_limits == PHOTO == Limits(pixels=25_000_000, bytes=20 << 20)
    assert read(MAX_PHOTO_MB="3", MAX_MEGAPIXELS="60").photo_limits == Limits(pixels=60_000_000, bytes=3 << 20)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_PHOTO_MB", "0"),
        ("MAX_MEGAPIXELS", "1001"),
        ("MEMORY_MB", "0"),
        ("WORK_MEGAPIXELS", "1.5"),
        ("MAX_PHOTOS", "-1"),
        ("MAX_BODY_MB", "5000"),
        ("CONCURRENCY", "²"),
        ("TIMEOUT", "nan"),
        ("TIMEOUT", "inf"),
        ("TIMEOUT", "soon"),
        ("SLOW_TIMEOUT", "0"),
        ("METRICS", "closed"),
        ("CORS", "https://a.example/path"),
        ("CORS", "a.example"),
        ("QDRANT", "qdrant:6333"),
        ("UI", "maybe"),
    ],
)
def test_settings__refuse_values_and_name_the_variable(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=f"LEAP_ZOO_SERVE_{name}"):
        read(**{name: value})


def test_settings__name_the_nearest_for_an_unknown_one() -> None:
    with pytest.raises(InvalidArgument, match="did you mean 'LEAP_ZOO_SERVE_KEYS_FILE'"):
        read(KEY_FILE="keys")
    with pytest.raises(InvalidArgument, match="Known: LEAP_ZOO_SERVE_BROWSER"):
        read(QQQQQ="1")


def test_settings__a_password_in_a_url_is_not_shown() -> None:
    assert "secret" not in repr(read(QDRANT="https://user:secret@qdrant:6333"))


@pytest.mark.parametrize("path", ["leap", "/leap/", "/", "//leap", "/a b", "/leap?x"])
def test_root_path__invalid_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match="LEAP_ZOO_SERVE_ROOT_PATH"):
        read_serve_settings({"LEAP_ZOO_SERVE_ROOT_PATH": path})


@pytest.mark.parametrize(
    ("variables", "missing"),
    [({"WORKERS": "2"}, "UI=off"), ({"WORKERS": "2", "UI": "off"}, "DATA"), ({"WORKERS": "2", "DATA": "d"}, "UI=off")],
)
def test_workers__more_than_one_need_a_folder_and_no_demo(variables: dict[str, str], missing: str) -> None:
    with pytest.raises(InvalidArgument, match=f"LEAP_ZOO_SERVE_WORKERS: .*LEAP_ZOO_SERVE_{missing}"):
        read(**variables)
    assert read(WORKERS="2", UI="off", DATA="d").workers == 2
