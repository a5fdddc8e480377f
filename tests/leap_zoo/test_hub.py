"""`hf://`: huggingface_hub itself, against a small local stand-in for the hub."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from zoo_server import Handler, ZooServer, etag, serving

import leap_zoo
from leap_zoo.cli import main

pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")

TINY = "leap-tiny-test"
ROOT = Path(leap_zoo.__file__).parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(Handler):
    """What the hub says about a file before it is downloaded."""

    def do_HEAD(self) -> None:
        path = self.zoo.folder / self.path.lstrip("/")
        if path.is_file():
            data = path.read_bytes()
            claimed = self.zoo.sizes.get(self.path, len(data))
            self.head(200, content_length=claimed, etag=etag(data), x_repo_commit=COMMIT)
        elif self.path.startswith("/org/zoo/"):
            self.head(404, content_length=0, x_error_code="EntryNotFound", x_repo_commit=COMMIT)
        else:
            self.head(404, content_length=0, x_error_code="RepoNotFound")


@pytest.fixture
def hub(tiny_zoo: Path, tmp_path: Path) -> Iterator[ZooServer]:
    for revision in ("main", "v1"):
        shutil.copytree(tiny_zoo, tmp_path / "hub" / "org" / "zoo" / "resolve" / revision)
    with serving(tmp_path / "hub", kind=Hub) as started:
        yield started


def pull(hub: ZooServer, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    return subprocess.run(
        [sys.executable, "-m", "leap_zoo.cli", "pull", TINY, *arguments],
        cwd=ROOT,
        env=os.environ
        | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "LEAP_ZOO_HOME": str(home / "zoo"), "HF_TOKEN": ""}
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("source", ["hf://org/zoo", "hf://org/zoo@v1"])
def test_hub__zoo_in_a_repository(hub: ZooServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    done = pull(hub, tmp_path, "--from", source)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"from {source}" in done.stdout
    monkeypatch.setenv("LEAP_ZOO_HOME", str(tmp_path / "zoo"))
    assert leap_zoo.load(TINY).artifact.precision == "int8"


def test_hub__offline_takes_what_its_cache_has(hub: ZooServer, tmp_path: Path) -> None:
    nothing = pull(hub, tmp_path, "--from", "hf://org/zoo", HF_HUB_OFFLINE="1")
    assert nothing.returncode == 2
    assert "HF_HUB_OFFLINE" in nothing.stderr
    assert nothing.stderr.count("\n") == 1
    assert pull(hub, tmp_path, LEAP_ZOO_URL="hf://org/zoo").returncode == 0
    shutil.rmtree(tmp_path / "zoo")
    asked = len(hub.requests)
    done = pull(hub, tmp_path, "--from", "hf://org/zoo", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert len(hub.requests) == asked


def test_hub__hostile_files_are_refused(hub: ZooServer, tmp_path: Path) -> None:
    zoo = hub.folder / "org" / "zoo" / "resolve" / "main"
    hub.sizes[f"/org/zoo/resolve/main/{TINY}/model_int8.onnx"] = 10**12
    done = pull(hub, tmp_path, "--from", "hf://org/zoo")
    assert done.returncode == 2
    assert "model_int8.onnx has more than" in done.stderr
    hub.sizes.clear()
    data = bytearray((zoo / TINY / "model_int8.onnx").read_bytes())
    data[50] ^= 1
    (zoo / TINY / "model_int8.onnx").write_bytes(data)
    done = pull(hub, tmp_path, "--from", "hf://org/zoo")
    assert done.returncode == 2
    assert "expected sha256" in done.stderr
    assert not [path for path in (tmp_path / "zoo").rglob("*") if path.is_file()]


@pytest.mark.parametrize("source", ["hf://org/absent", "hf://org/zoo@v2"])
def test_hub__what_is_not_there_is_one_clear_error(hub: ZooServer, tmp_path: Path, source: str) -> None:
    done = pull(hub, tmp_path, "--from", source)
    assert done.returncode == 2
    assert done.stderr.startswith("leap-zoo: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("source", ["hf://org", "hf://org/zoo/folder", "hf://@org/zoo", "hf:///zoo"])
def test_hub__no_repository_is_refused(capsys: pytest.CaptureFixture[str], source: str) -> None:
    assert main(["pull", TINY, "--from", source]) == 2
    assert "hf://OWNER/NAME" in capsys.readouterr().err


def test_hub__without_the_extra_says_which(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["pull", TINY, "--from", "hf://org/zoo"]) == 2
    assert "leap-zoo[hub]" in capsys.readouterr().err
