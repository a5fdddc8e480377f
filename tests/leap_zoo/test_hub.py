"""`hf://`: a repository of a hub, which here is a small local stand-in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from zoo_server import ZooServer, serve_until, serving

import leap_zoo
from leap_zoo import download
from leap_zoo.cli import main
from leap_zoo.pull import pull
from leap_zoo.web import Patience

TINY = "leap-tiny-test"
FILE = f"/org/zoo/resolve/main/{TINY}/model_int8.onnx"


@pytest.fixture
def hub(tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZooServer]:
    for revision in ("main", "v1", "refs/pr/1"):
        shutil.copytree(tiny_zoo, tmp_path / "hub" / "org" / "zoo" / "resolve" / revision.replace("/", "%2F"))
    with serving(tmp_path / "hub") as started:
        monkeypatch.setenv("HF_ENDPOINT", started.url + "/")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("LEAP_ZOO_HOME", str(tmp_path / "zoo"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(download, "PATIENCE", Patience(attempts=2, back_off=0.001))
        yield started


@pytest.mark.parametrize("source", ["hf://org/zoo", "hf://org/zoo@v1", "hf://org/zoo@refs/pr/1"])
def test_hub__zoo_in_a_repository(hub: ZooServer, capsys: pytest.CaptureFixture[str], source: str) -> None:
    assert main(["pull", TINY, "--from", source]) == 0
    said = capsys.readouterr()
    assert f"from {source}" in said.out
    assert said.err == ""
    assert leap_zoo.load(TINY).artifact.precision == "int8"
    assert set(hub.callers.values()) == {None}


def test_hub__download_goes_on_where_it_stopped(hub: ZooServer) -> None:
    half = (hub.folder / FILE[1:]).stat().st_size // 2
    hub.behaviours[FILE] = lambda handler, data: serve_until(handler, data, half)
    with pytest.raises(leap_zoo.DownloadFailed):
        pull(TINY, "hf://org/zoo")
    del hub.behaviours[FILE]
    assert pull(TINY, "hf://org/zoo").model == TINY
    assert hub.ranges(FILE)[-1] == f"bytes={half}-"


@pytest.mark.parametrize("written", [False, True])
def test_hub__token_is_for_the_hub_alone(
    hub: ZooServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    if written:
        (tmp_path / "hf").mkdir()
        (tmp_path / "hf" / "token").write_text("hf_secret\n")
    else:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
    elsewhere = hub.url.replace("127.0.0.1", "localhost") + FILE.replace("main", "v1")
    hub.behaviours[FILE] = lambda handler, data: handler.head(302, content_length=0, location=elsewhere)
    assert main(["pull", TINY, "--from", "hf://org/zoo"]) == 0
    assert hub.callers.pop(FILE.replace("main", "v1")) is None
    assert set(hub.callers.values()) == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_ENDPOINT", "http://[x"),
        ("HF_ENDPOINT", "hub"),
        ("HF_ENDPOINT", "hf://a/b"),
        ("HF_ENDPOINT", "http://h?q"),
        ("HF_TOKEN", "hf_sec\nret"),
        ("HF_TOKEN", "hf_secrét"),
        ("HF_TOKEN", "hf secret"),
    ],
)
def test_hub__environment_that_cannot_be_used_is_one_line(
    hub: ZooServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["pull", TINY, "--from", "hf://org/zoo"]) == 2
    error = capsys.readouterr().err
    assert name in error
    assert error.count("\n") == 1
    assert "sec" not in error
    assert hub.requests == []


def test_hub__offline_is_not_asked(
    hub: ZooServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["pull", TINY, "--from", "hf://org/zoo"]) == 2
    error = capsys.readouterr().err
    assert "HF_HUB_OFFLINE" in error
    assert error.count("\n") == 1
    assert hub.requests == []


def test_hub__hostile_files_are_refused(hub: ZooServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = hub.folder / FILE[1:]
    whole = file.read_bytes()
    for content, why in ((whole + b"x", "where its card says"), (b"x" + whole[1:], "expected sha256")):
        file.write_bytes(content)
        assert main(["pull", TINY, "--from", "hf://org/zoo"]) == 2
        assert why in capsys.readouterr().err
    assert not [path for path in (tmp_path / "zoo").rglob("*") if path.is_file()]


@pytest.mark.parametrize("source", ["hf://org/absent", "hf://org/zoo@v2"])
def test_hub__missing_repository_is_one_clear_error(
    hub: ZooServer, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    assert main(["pull", TINY, "--from", source]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"leap-zoo: '{source}' is not a zoo")
    assert error.count("\n") == 1


def test_hub__private_repository_names_the_token(hub: ZooServer, capsys: pytest.CaptureFixture[str]) -> None:
    hub.behaviours["/org/zoo/resolve/main/index.json"] = lambda handler, data: handler.head(401, content_length=0)
    assert main(["pull", TINY, "--from", "hf://org/zoo"]) == 2
    assert "HF_TOKEN" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["hf://org", "hf://org/zoo/folder", "hf://@org/zoo", "hf:///zoo"])
def test_hub__no_repository_is_refused(capsys: pytest.CaptureFixture[str], source: str) -> None:
    assert main(["pull", TINY, "--from", source]) == 2
    assert "hf://OWNER/NAME" in capsys.readouterr().err
