"""`pull`: which files arrive, from where, and what keeps them from it."""

import hashlib
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from zoo_server import FILE, TINY, Handler, ZooServer, make_big, serve, serving

import leap_zoo
from leap_zoo import download, store
from leap_zoo.cli import main
from leap_zoo.errors import CacheUnusable, DownloadFailed, InvalidArgument, NotPulled, UnknownModel
from leap_zoo.pull import pull
from leap_zoo.store import Cache
from leap_zoo.web import Patience, retry_after


def files_of(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_pull__then_load_without_the_server(server: ZooServer, colour_photos: dict[str, Path]) -> None:
    pulled = pull(TINY, server.url)
    assert {file.file for file in pulled.files} == {"card.json", "model_int8.onnx", "golden.npz"}
    for file in pulled.files:
        data = Path(file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)
    asked = len(server.requests)
    model = leap_zoo.load(TINY)
    assert model.artifact.precision == "int8"
    assert model.classify(colour_photos["red"])[0].label == "red"
    assert len(server.requests) == asked


@pytest.mark.parametrize("as_url", [True, False])
def test_pull__from_a_folder(zoo_copy: Path, as_url: bool, no_pulled_models: Path) -> None:
    pull(TINY, zoo_copy.as_uri() if as_url else zoo_copy)
    assert leap_zoo.load(TINY).artifact.precision == "int8"
    assert len(files_of(no_pulled_models)) == 4


def test_pull__from_the_environment(server: ZooServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownModel, match="give --from URL_OR_FOLDER or set LEAP_ZOO_URL"):
        pull(TINY)
    monkeypatch.setenv("LEAP_ZOO_URL", server.url + "/")
    pull(TINY)
    assert leap_zoo.load(TINY).card.id == TINY


def test_pull__other_artifacts(server: ZooServer) -> None:
    pull(TINY, server.url, precision="fp32")
    assert leap_zoo.load(TINY).artifact.precision == "fp32"  # of what is here
    with pytest.raises(NotPulled, match=f"leap-zoo pull {TINY} --precision int8 --format onnx"):
        leap_zoo.load(TINY, precision="int8")
    pull(TINY, server.url, precision="int8")
    assert leap_zoo.load(TINY).artifact.precision == "int8"
    assert server.ranges("/index.json") == [None, None]
    assert len(server.ranges(f"/{TINY}/golden.npz")) == 1
    with pytest.raises(InvalidArgument, match="no 'openvino' file"):
        pull(TINY, server.url, format="openvino")


def test_pull__everything(server: ZooServer) -> None:
    assert len(pull(TINY, server.url, everything=True).files) == 4


def test_verify__of_a_pulled_model_skips_what_was_not_pulled(server: ZooServer) -> None:
    from leap_zoo.verify import verify

    pull(TINY, server.url)
    report = verify(TINY)
    assert report.ok
    assert [(one.file, one.ok, one.skipped) for one in report.artifacts] == [
        ("model.onnx", False, True),
        ("model_int8.onnx", True, False),
    ]


@pytest.mark.parametrize("choices", [{"precision": "fp32", "everything": True}, {"format": "onnx", "everything": True}])
def test_pull__choices_that_exclude_one_another_are_refused(zoo_copy: Path, choices: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="or all"):
        pull(TINY, zoo_copy, **choices)


def test_pull__unknown_model_names_nearest(server: ZooServer) -> None:
    with pytest.raises(UnknownModel, match=f"did you mean '{TINY}'"):
        pull("leap-tiny", server.url)


def test_pull__again_downloads_no_file(server: ZooServer) -> None:
    pull(TINY, server.url)
    again = pull(TINY, server.url)
    assert [file.downloaded for file in again.files] == [False, False, False]
    assert len(server.ranges(FILE)) == 1


def test_pull__repairs_corrupt_files(server: ZooServer) -> None:
    path = Path(next(file for file in pull(TINY, server.url).files if file.file == "model_int8.onnx").path)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(leap_zoo.ArtifactCorrupt, match=f"leap-zoo pull {TINY}"):
        leap_zoo.load(TINY)
    pull(TINY, server.url)
    assert leap_zoo.load(TINY).card.id == TINY


def test_pull__newer_revision_replaces_and_prune_forgets(server: ZooServer, no_pulled_models: Path) -> None:
    pull(TINY, server.url)
    make_big(server.folder)
    old = set(files_of(no_pulled_models))
    assert pull(TINY, server.url).revision == "big0"
    assert leap_zoo.models()[0].revision == "big0"
    assert old <= set(files_of(no_pulled_models))
    (no_pulled_models / "partial" / ("0" * 64)).write_bytes(b"begun long ago")
    assert Cache(no_pulled_models).prune() > 0
    assert len(files_of(no_pulled_models)) == 4
    assert [one.revision for one in leap_zoo.models() if one.id == TINY] == ["big0"]


def test_pull__offline_uses_local_files(server: ZooServer, zoo_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAP_ZOO_OFFLINE", "1")
    with pytest.raises(DownloadFailed, match="LEAP_ZOO_OFFLINE"):
        pull(TINY, server.url)
    assert server.requests == []
    pull(TINY, zoo_copy)  # a folder is no network
    assert pull(TINY, server.url).model == TINY
    with pytest.raises(DownloadFailed, match="LEAP_ZOO_OFFLINE"):
        pull(TINY, server.url, precision="fp32")
    with pytest.raises(DownloadFailed, match="name the model"):
        pull(None, server.url)
    assert server.requests == []


def test_pull_command__says_where_and_what(server: ZooServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", TINY, "--from", server.url, "--precision", "fp32"]) == 0
    assert f"leap-zoo verify {TINY}" in capsys.readouterr().out
    assert main(["pull", TINY, "--from", server.url, "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert main(["pull", TINY, "--from", server.url]) == 0
    out = capsys.readouterr().out
    for file in files:
        assert file["sha256"] in out
        assert file["path"] in out
    assert f"leap-zoo pull {TINY} --to DIR" in out
    assert main(["cache"]) == 0
    assert "model_int8.onnx" in capsys.readouterr().out


def test_pull__follows_redirects_on_the_web(server: ZooServer) -> None:
    with serving(server.folder) as mirror:

        def elsewhere(handler: Handler, data: bytes) -> None:
            handler.head(302, content_length=0, location=mirror.url + handler.path)

        server.behaviours |= {FILE: elsewhere, "/index.json": elsewhere}
        pull(TINY, server.url)
        assert len(mirror.requests) == 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_pull__tries_again_when_the_server_is_busy(server: ZooServer, status: int) -> None:
    busy = {"/index.json": 2, FILE: 2}

    def sometimes(handler: Handler, data: bytes) -> None:
        busy[handler.path] -= 1
        if busy[handler.path] >= 0:
            return handler.head(status, content_length=0, retry_after=86400)
        return serve(handler, data)

    server.behaviours |= {"/index.json": sometimes, FILE: sometimes}
    pull(TINY, server.url)
    assert len(server.ranges(FILE)) == 3


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("5", 5), ("Mon, 01 Jan 2001 00:00:00 GMT", 0), (None, None), ("soon", None), ("-5", None), ("²", None)],
)
def test_retry_after__number_date_or_nothing(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_pull__silent_server_is_given_up(server: ZooServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PATIENCE", Patience(silence=0.1, attempts=2, back_off=0.01))
    server.behaviours[FILE] = lambda handler, data: time.sleep(1)
    with pytest.raises(DownloadFailed, match=r"model_int8\.onnx: .*, 2 times: try again later"):
        pull(TINY, server.url)
    assert len(server.ranges(FILE)) == 2


def test_pull__through_the_proxy_of_the_environment(zoo_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(zoo_copy) as proxy:

        def forwarded(handler: Handler, data: bytes) -> None:
            handler.path = handler.path.removeprefix("http://zoo.invalid")
            serve(
                handler, (zoo_copy / handler.path[1:]).read_bytes() if (zoo_copy / handler.path[1:]).exists() else b""
            )

        for name in ("index.json", *(f"{TINY}/{name}" for name in ("card.json", "model.sig", "golden.npz"))):
            proxy.behaviours[f"http://zoo.invalid/{name}"] = forwarded
        proxy.behaviours[f"http://zoo.invalid{FILE}"] = forwarded
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        pull(TINY, "http://zoo.invalid")
        assert leap_zoo.load(TINY).card.id == TINY


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALL_PROXY", "socks9://localhost"), ("HTTPS_PROXY", "odd://localhost"), ("SSL_CERT_FILE", f"{__file__}.absent")],
)
def test_pull__environment_that_cannot_be_used_is_one_clear_error(
    server: ZooServer, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidArgument, match=name):
        pull(TINY, server.url)


def test_pull__home_that_is_not_a_folder_is_one_clear_error(
    server: ZooServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEAP_ZOO_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(CacheUnusable, match="set LEAP_ZOO_HOME to a folder that you may write"):
        pull(TINY, server.url)
    assert leap_zoo.load("leap-nano").card.id == "leap-nano"


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write everywhere")
def test_pull__read_only_home_is_one_clear_error(server: ZooServer, no_pulled_models: Path) -> None:
    no_pulled_models.mkdir(mode=0o555)
    with pytest.raises(CacheUnusable, match="set LEAP_ZOO_HOME"):
        pull(TINY, server.url)


def test_pull__full_disk_is_one_clear_error_and_goes_on_later(
    big_server: ZooServer, monkeypatch: pytest.MonkeyPatch, no_pulled_models: Path
) -> None:
    import errno

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("leap_zoo.download.os.replace", full)
        with pytest.raises(CacheUnusable, match="free space"):
            pull(TINY, big_server.url)
    assert "index.json" not in files_of(no_pulled_models)
    pull(TINY, big_server.url)
    assert leap_zoo.models()[0].id == TINY


def test_pull__too_little_room_is_known_before(
    server: ZooServer, monkeypatch: pytest.MonkeyPatch, no_pulled_models: Path
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(CacheUnusable, match=r"10 are free.*free space"):
        pull(TINY, server.url)
    assert not server.ranges(FILE)


def test_cache__broken_index_says_how_to_fix_it(server: ZooServer, no_pulled_models: Path) -> None:
    pull(TINY, server.url)
    (no_pulled_models / "index.json").write_text("{")
    with pytest.raises(leap_zoo.InvalidCard, match=r"remove .* and pull again"):
        leap_zoo.load(TINY)


def test_load__a_file_that_was_not_pulled_may_be_in_the_bundled_zoo(
    server: ZooServer, zoo_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(TINY, server.url, precision="fp32")
    monkeypatch.setattr(store, "BUNDLED", zoo_copy)
    assert leap_zoo.load(TINY).artifact.precision == "fp32"  # what was pulled comes first
    assert leap_zoo.load(TINY, precision="int8").artifact.file == "model_int8.onnx"
