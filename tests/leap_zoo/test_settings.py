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


def test_settings__url_of_a_server_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="LEAP_ZOO_URL"):
        read_settings({"LEAP_ZOO_URL": "https://localhost/zoo"})


def test_settings__misspelt_name_names_nearest() -> None:
    with pytest.raises(InvalidArgument, match="did you mean LEAP_ZOO_THREADS"):
        read_settings({"LEAP_ZOO_THREAD": "4"})


def test_settings__variables_of_others_are_left_alone() -> None:
    assert read_settings({"LEAP_ZOO_SERVE_MODEL": "x", "LEAP_ZOO_MAX_BODY": "1", "PATH": "/"}) == Settings()
