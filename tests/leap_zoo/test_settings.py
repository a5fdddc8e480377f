"""Environment variables: typed, validated, near-misses refused."""

from pathlib import Path

import pytest

from leap_zoo.errors import InvalidArgument
from leap_zoo.settings import Settings, read_settings


def test_settings__unset_or_empty_is_the_default() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({"LEAP_ZOO_URL": "", "LEAP_ZOO_THREADS": ""}) == Settings()


def test_settings__values() -> None:
    assert read_settings({"LEAP_ZOO_URL": "zoo", "LEAP_ZOO_THREADS": "4"}) == Settings(Path("zoo"), 4)
    assert read_settings({"LEAP_ZOO_URL": "file:///srv/my%20zoo"}).zoo == Path("/srv/my zoo")


@pytest.mark.parametrize("threads", ["0", "-2", "four", "1.5", "1025"])
def test_settings__bad_threads(threads: str) -> None:
    with pytest.raises(InvalidArgument, match="LEAP_ZOO_THREADS"):
        read_settings({"LEAP_ZOO_THREADS": threads})


@pytest.mark.parametrize("url", ["https://localhost/zoo", "http://localhost:8000", "hf://org/repo"])
def test_settings__url_of_a_server_is_not_a_folder(url: str) -> None:
    settings = read_settings({"LEAP_ZOO_URL": url + "/"})
    assert (settings.zoo, settings.url) == (None, url)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://localhost/zoo",
        "https://",
        "https://localhost/zoo?version=1",
        "http://[x",
        "http://h/\udcff",
        "http://h/a b",
    ],
)
def test_settings__url_of_no_zoo_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="LEAP_ZOO_URL"):
        read_settings({"LEAP_ZOO_URL": url})


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@[x",
        "ftp://me:secret@h/z",
        "http://me:secret@h/z?q",
        "http://me:se/cret@h",
        "http://h:0x",
        "http://me:se cret@h",
    ],
)
def test_settings__no_password_in_a_refusal(url: str) -> None:
    with pytest.raises(InvalidArgument, match="LEAP_ZOO_URL") as caught:
        read_settings({"LEAP_ZOO_URL": url})
    assert "cret" not in str(caught.value)


def test_settings__home_and_offline() -> None:
    assert read_settings({"LEAP_ZOO_HOME": "/srv/zoo", "XDG_CACHE_HOME": "/x"}).home == Path("/srv/zoo")
    assert read_settings({"XDG_CACHE_HOME": "/x"}).home == Path("/x/leap-zoo")
    assert read_settings({"LEAP_ZOO_OFFLINE": "1"}).offline
    assert not read_settings({"LEAP_ZOO_OFFLINE": "0"}).offline
    with pytest.raises(InvalidArgument, match="LEAP_ZOO_OFFLINE must be 0 or 1"):
        read_settings({"LEAP_ZOO_OFFLINE": "yes"})


def test_settings__misspelt_name_names_nearest() -> None:
    with pytest.raises(InvalidArgument, match="did you mean LEAP_ZOO_THREADS"):
        read_settings({"LEAP_ZOO_THREAD": "4"})


def test_settings__variables_of_others_are_left_alone() -> None:
    assert read_settings({"LEAP_ZOO_SERVE_MODEL": "x", "LEAP_ZOO_MAX_BODY": "1", "PATH": "/"}) == Settings()
