"""Downloading a student is the product: list, show, pull and load, from a server, a folder and a hub alike."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from zoo_server import FILE, SIZE, TINY, ZooServer, make_big, serve_until, serving, start_of

import leap_zoo
from export.zoo import publish
from leap_zoo import store
from leap_zoo.card import File
from leap_zoo.cli import main
from leap_zoo.documents import index_entry, read_card, write_card
from leap_zoo.errors import ArtifactCorrupt, DownloadFailed, InvalidArgument, UnknownModel
from leap_zoo.loading import open_artifact
from leap_zoo.pull import pull
from leap_zoo.store import ModelFolder

CARD_FILES = {"card.json", "golden.npz"}
BUNDLED = [card.id for card in store.models(store.BUNDLED)]


@contextlib.contextmanager
def hub_of(folder: Path, home: Path) -> Iterator[str]:
    """The folder as a repository of a hub."""
    shutil.copytree(folder, home / "hub" / "org" / "one" / "resolve" / "main")
    with serving(home / "hub") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.url)
        yield "hf://org/one"


@contextlib.contextmanager
def server_of(folder: Path, home: Path) -> Iterator[str]:
    with serving(folder) as server:
        yield server.url


@contextlib.contextmanager
def folder_of(folder: Path, home: Path) -> Iterator[str]:
    yield str(folder)


Serve = Callable[[Path, Path], contextlib.AbstractContextManager[str]]
EVERYWHERE = pytest.mark.parametrize("serve", [server_of, folder_of, hub_of])
ONE_MODEL = pytest.mark.parametrize("lone", [False, True], ids=["zoo", "one model"])


@pytest.fixture
def whole_zoo(zoo_copy: Path) -> Path:
    """With all that a model's folder may hold."""
    home = zoo_copy / TINY
    (home / "README.md").write_text("# Tiny")
    (home / "curriculum.svg").write_text("<svg/>")
    (home / "model.sig").write_text("{}")
    (home / "config.json").write_text('{"architecture": "vit"}')
    (home / "model.safetensors").write_bytes(bytes(500))
    card = read_card(home / "card.json")
    files = [
        File(file=name, bytes=len(data), sha256=store.hashlib.sha256(data).hexdigest())
        for name in ("config.json", "model.safetensors")
        for data in [(home / name).read_bytes()]
    ]
    publish(zoo_copy, msgspec.structs.replace(card, timm=files))
    (home / "model.sig").write_text("{}")
    return zoo_copy


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@EVERYWHERE
@ONE_MODEL
def test_journey__list_show_pull_to_and_load_each_file(
    whole_zoo: Path,
    tmp_path: Path,
    no_pulled_models: Path,
    capsys: pytest.CaptureFixture[str],
    colour_photos: dict[str, Path],
    serve: Serve,
    lone: bool,
) -> None:
    with serve(whole_zoo / TINY if lone else whole_zoo, tmp_path) as source:
        assert main(["list", "--from", source]) == 0
        out = capsys.readouterr().out
        card = read_card(whole_zoo / TINY / "card.json")
        for artifact in card.artifacts:
            assert f"{artifact.file}  onnx {artifact.precision}  {artifact.bytes / 1e3:.1f} kB  (not here)" in out
        assert main(["show", TINY, "--from", source, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["id"] == TINY
        to = tmp_path / "models"
        for more in (["--precision", "fp32"], ["--precision", "int8"], ["--format", "timm"]):
            assert main(["pull", TINY, "--from", source, "--to", str(to), *more]) == 0
    assert names(to / TINY) == names(whole_zoo / TINY)
    assert all((to / TINY / name).read_bytes() == (whole_zoo / TINY / name).read_bytes() for name in names(to / TINY))
    assert not no_pulled_models.exists()
    assert {path.name for path in to.iterdir()} == {TINY}
    place = ModelFolder(Path(shutil.move(to / TINY, tmp_path / "anywhere")))
    card = place.card(place.index().models[0])
    for artifact in card.artifacts:
        assert open_artifact(place, card, artifact).classify(colour_photos["green"])[0].label == "green"


@EVERYWHERE
@ONE_MODEL
def test_journey__pull_then_load_and_verify(
    whole_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: Serve, lone: bool
) -> None:
    with serve(whole_zoo / TINY if lone else whole_zoo, tmp_path) as source:
        assert main(["pull", "--from", source]) == 0  # the only model that is there
        assert main(["list", "--from", source, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.partition("\n[")[2].join(["[", ""]))
    assert [(one["file"], one["here"]) for one in rows[0]["artifacts"]] == [
        ("model.onnx", False),
        ("model_int8.onnx", True),
        ("model.safetensors", False),
    ]
    assert leap_zoo.load(TINY).artifact.file == "model_int8.onnx"
    assert main(["verify", TINY]) == 0


@pytest.mark.parametrize(
    ("choice", "arrives"),
    [
        ({}, {"model_int8.onnx"}),
        ({"precision": "fp32"}, {"model.onnx"}),
        ({"format": "timm"}, {"config.json", "model.safetensors"}),
        ({"everything": True}, {"model.onnx", "model_int8.onnx", "config.json", "model.safetensors"}),
    ],
)
def test_pull_to__the_files_that_were_chosen(
    whole_zoo: Path, tmp_path: Path, choice: dict[str, Any], arrives: set[str]
) -> None:
    pulled = pull(TINY, whole_zoo, to=tmp_path / "to", **choice)
    assert names(tmp_path / "to" / TINY) == CARD_FILES | arrives | {"README.md", "curriculum.svg", "model.sig"}
    assert {file.file for file in pulled.files} == CARD_FILES | arrives
    for file in pulled.files:
        assert Path(file.path).stat().st_size == file.bytes


def test_pull__from_a_folder_with_some_files_takes_what_is_there(whole_zoo: Path, tmp_path: Path) -> None:
    pull(TINY, whole_zoo, to=tmp_path / "stick", precision="fp32")
    assert {file.file for file in pull(None, tmp_path / "stick" / TINY).files} == CARD_FILES | {"model.onnx"}
    with pytest.raises(ArtifactCorrupt, match="cannot be read"):
        pull(TINY, tmp_path / "stick" / TINY, precision="int8")


def test_pull_to__timm_of_a_model_that_has_no_such_files_is_refused(zoo_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no files for timm"):
        pull(TINY, zoo_copy, to=tmp_path / "to", format="timm")
    assert not (tmp_path / "to").exists()


def test_pull_to__newer_revision_takes_the_older_away(whole_zoo: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    pull(TINY, whole_zoo, to=to, everything=True)
    (to / TINY / "notes.txt").write_text("mine")
    make_big(whole_zoo)
    (whole_zoo / TINY / "README.md").unlink()
    pull(TINY, whole_zoo, to=to, precision="fp32")
    assert names(to / TINY) == CARD_FILES | {
        "model.onnx", "config.json", "model.safetensors", "curriculum.svg", "notes.txt"
    }  # fmt: skip


def test_pull_to__something_else_is_left_alone(
    zoo_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / TINY).mkdir()
    (tmp_path / TINY / "thesis.tex").write_text("years of work")
    assert main(["pull", TINY, "--from", str(zoo_copy), "--to", str(tmp_path)]) == 2
    assert "is not a model's folder" in capsys.readouterr().err
    assert names(tmp_path / TINY) == {"thesis.tex"}
    for odd in ("a", "b"):
        (tmp_path / odd).mkdir()
    (tmp_path / "a" / TINY).write_text("years of work")
    (tmp_path / "b" / TINY).symlink_to("nowhere")
    for odd in ("a", "b"):
        assert main(["pull", TINY, "--from", str(zoo_copy), "--to", str(tmp_path / odd)]) == 2
        assert "is not a model's folder" in capsys.readouterr().err
        assert os.listdir(tmp_path / odd) == [TINY]
    (tmp_path / "file").write_text("")
    assert main(["pull", TINY, "--from", str(zoo_copy), "--to", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_pull_to__that_fails_leaves_nothing(server: ZooServer, tmp_path: Path, no_pulled_models: Path) -> None:
    server.behaviours[FILE] = lambda handler, data: (
        handler.head(200, content_length=len(data)),
        handler.body(data[:-1] + b"x"),
    )[1]
    with pytest.raises(ArtifactCorrupt):
        pull(TINY, server.url, to=tmp_path / "to")
    server.behaviours[FILE] = lambda handler, data: handler.head(403, content_length=0)
    with pytest.raises(DownloadFailed):
        pull(TINY, server.url, to=tmp_path / "to")
    assert not (tmp_path / "to").exists()
    assert not names(no_pulled_models)


def test_pull_to__of_what_is_pulled_asks_for_no_file_and_keeps_the_cache(server: ZooServer, tmp_path: Path) -> None:
    pull(TINY, server.url)
    pull(TINY, server.url, to=tmp_path / "to")
    assert len(server.ranges(FILE)) == 1
    assert leap_zoo.load(TINY).artifact.precision == "int8"


def test_pull_to__writes_that_folder_only(server: ZooServer, tmp_path: Path, no_pulled_models: Path) -> None:
    pull(TINY, server.url, to=tmp_path / "some" / "where")
    assert os.listdir(tmp_path / "some" / "where") == [TINY]
    assert not no_pulled_models.exists()


def test_pull_to__needs_no_cache(server: ZooServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEAP_ZOO_HOME", str(tmp_path / "file" / "cache"))
    assert pull(TINY, server.url, to=tmp_path / "to").files[1].downloaded


def test_pull_to__interrupted_goes_on_there(server: ZooServer, tmp_path: Path, no_pulled_models: Path) -> None:
    make_big(server.folder)
    server.behaviours[FILE] = lambda handler, data: serve_until(handler, data, max(start_of(handler, data), SIZE // 2))
    with pytest.raises(DownloadFailed, match="the part that arrived is kept"):
        pull(TINY, server.url, to=tmp_path / "to")
    assert names(tmp_path / "to") != set()
    del server.behaviours[FILE]
    server.served.clear()
    pull(TINY, server.url, to=tmp_path / "to")
    assert server.served[FILE] == SIZE - SIZE // 2
    assert os.listdir(tmp_path / "to") == [TINY]
    assert not no_pulled_models.exists()


def test_pull__of_a_bundled_model_has_nothing_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, no_pulled_models: Path
) -> None:
    assert main(["pull", "leap-nano"]) == 0
    out = capsys.readouterr().out
    assert "from the bundled zoo" in out
    assert "nothing to pull, all files are here; to write them to a folder: leap-zoo pull leap-nano --to DIR" in out
    assert main(["pull", "leap-nano", "--to", str(tmp_path)]) == 0
    assert names(tmp_path / "leap-nano") == names(store.BUNDLED / "leap-nano")
    assert not no_pulled_models.exists()


def test_pull__of_a_bundled_model_that_lacks_the_file_says_from_where(
    zoo_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "BUNDLED", zoo_copy)
    assert main(["pull", TINY, "--format", "openvino"]) == 2
    assert "give --from URL_OR_FOLDER or set LEAP_ZOO_URL" in capsys.readouterr().err
    assert main(["pull", "leap-tin"]) == 2
    assert f"did you mean '{TINY}'" in capsys.readouterr().err


def test_list__says_which_files_are_here(
    server: ZooServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(TINY, server.url)
    capsys.readouterr()
    assert main(["list", "--json"]) == 0
    row = next(row for row in json.loads(capsys.readouterr().out) if row["id"] == TINY)
    assert (row["files"], row["precisions"]) == (["model_int8.onnx"], ["int8"])
    assert main(["show", TINY]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "sha256" in line]
    assert [("model.onnx" in line, "(not here)" in line) for line in lines] == [(True, True), (False, False)]
    shutil.rmtree(server.folder / TINY / "..", ignore_errors=True)
    monkeypatch.setenv("LEAP_ZOO_URL", server.url)
    monkeypatch.setenv("LEAP_ZOO_OFFLINE", "1")
    assert main(["list"]) == 0  # of what is here


def test_list_and_show__ask_the_server_of_the_environment(
    server: ZooServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAP_ZOO_URL", server.url.replace("http://", "http://me:secret@"))
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert TINY in out
    assert "leap-nano" in out
    assert main(["show", TINY]) == 0
    assert "(not here)" in capsys.readouterr().out
    asked = len(server.requests)
    assert main(["show", "leap-nano"]) == 0  # which is here
    assert len(server.requests) == asked
    with pytest.raises(UnknownModel) as caught:
        leap_zoo.load(TINY)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("LEAP_ZOO_URL", "http://127.0.0.1:9")
    capsys.readouterr()
    assert main(["list"]) == 2
    said = capsys.readouterr()
    assert "leap-nano" in said.out
    assert "no connection" in said.err


def test_list__a_hostile_description_does_nothing_to_the_terminal(
    zoo_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = read_card(zoo_copy / TINY / "card.json")
    publish(zoo_copy, msgspec.structs.replace(card, description="\x1b[2Jgone\nleap-evil"))
    assert main(["list", "--from", str(zoo_copy)]) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


def test_list__from_and_zoo_exclude_one_another(tiny_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--from", str(tiny_zoo), "--zoo", str(tiny_zoo)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_cache__rm_removes_a_model_and_nothing_else(
    whole_zoo: Path, tmp_path: Path, no_pulled_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(whole_zoo, tmp_path / "other"))
    make_big(other)
    card = msgspec.structs.replace(read_card(other / TINY / "card.json"), id="another")
    (other / TINY).rename(other / "another")
    write_card(other / "another" / "card.json", card)
    pull(TINY, whole_zoo)
    pull("another", other / "another", everything=True)
    before = names(no_pulled_models)
    capsys.readouterr()
    assert main(["cache", "rm", "another", "unknown"]) == 2
    assert "'unknown' was not pulled: nothing was removed" in capsys.readouterr().err
    assert names(no_pulled_models) == before
    assert main(["cache", "rm", "another", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in answer["models"]] == [TINY]
    assert answer["freed_bytes"] > SIZE
    assert leap_zoo.load(TINY).artifact.precision == "int8"
    assert len(names(no_pulled_models)) == len(before) - 2  # its card and its int8 file; the others are TINY's too
    assert main(["cache", "rm", TINY]) == 0
    assert names(no_pulled_models) == {"index.json"}
    assert main(["cache", "rm", TINY]) == 2
    assert "was not pulled" in capsys.readouterr().err


def test_cache__rm_and_prune_remove_a_damaged_model(zoo_copy: Path, no_pulled_models: Path) -> None:
    card = next(file for file in pull(TINY, zoo_copy).files if file.file == "card.json")
    Path(card.path).write_text("{")
    assert main(["cache", "rm", TINY]) == 0
    assert main(["cache", "prune"]) == 0
    assert names(no_pulled_models) == {"index.json"}


def test_list_and_cache__a_damaged_model_hides_no_other(
    zoo_copy: Path, no_pulled_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = next(file for file in pull(TINY, zoo_copy).files if file.file == "card.json")
    Path(card.path).write_text("{")
    (zoo_copy / TINY / "card.json").unlink()
    capsys.readouterr()
    for command in (["list"], ["list", "--from", str(zoo_copy)], ["cache"]):
        assert main([*command, "--json"]) == 2
        said = capsys.readouterr()
        listed = json.loads(said.out)
        assert [one["id"] for one in listed] == BUNDLED if command == ["list"] else TINY not in said.out
        assert said.err.splitlines()[-1].startswith(f"leap-zoo: card.json of {TINY} ")
    assert leap_zoo.load(BUNDLED[0]).verified  # nor does it hide the bundled models from `load`


@pytest.mark.parametrize("arguments", [["rm"], ["list", "x"], ["prune", "x"], ["remove"]])
def test_cache__wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        assert main(["cache", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_load__of_a_hub_pulls_first(
    tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colour_photos: dict[str, Path]
) -> None:
    with hub_of(tiny_zoo / TINY, tmp_path) as url:
        assert leap_zoo.load(url).classify(colour_photos["blue"])[0].label == "blue"
        assert leap_zoo.load(url, precision="fp32").artifact.file == "model.onnx"
        with pytest.raises(InvalidArgument, match="leave zoo out"):
            leap_zoo.load(url, zoo=tiny_zoo)
    assert leap_zoo.load(TINY).card.id == TINY


def test_hub__refused_connection_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://me:secret@127.0.0.1:9")
    assert main(["pull", "--from", "hf://org/one"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("leap-zoo: hf://org/one/index.json: ")
    assert "secret" not in error


def test_zoo__that_is_a_copied_cache(zoo_copy: Path, tmp_path: Path, no_pulled_models: Path) -> None:
    pull(TINY, zoo_copy)
    copied = shutil.copytree(no_pulled_models, tmp_path / "stick")
    assert leap_zoo.load(TINY, zoo=copied).artifact.precision == "int8"


def test_model_folder__holds_what_is_there(zoo_copy: Path) -> None:
    (zoo_copy / TINY / "model_int8.onnx").unlink()
    place = ModelFolder(zoo_copy / TINY)
    card = place.card(place.index().models[0])
    assert [place.holds(card, artifact) for artifact in card.artifacts] == [True, False]
    assert place.index().models == [index_entry(card, (zoo_copy / TINY / "card.json").read_bytes())]
    with pytest.raises(InvalidArgument, match=r"card\.json"):
        ModelFolder(zoo_copy).index()


@pytest.mark.skipif(os.name == "nt", reason="umask")
def test_pull_to__others_may_read_it(zoo_copy: Path, tmp_path: Path) -> None:
    pull(TINY, zoo_copy, to=tmp_path / "to")
    assert (tmp_path / "to" / TINY).stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("command", [["list"], ["show", TINY]])
def test_offline__makes_no_request(
    server: ZooServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.setenv("LEAP_ZOO_OFFLINE", "1")
    assert main([*command, "--from", server.url]) == 2
    assert "LEAP_ZOO_OFFLINE is 1" in capsys.readouterr().err
    assert not server.requests


@pytest.mark.parametrize("to", ["/dev/null", "x" * 5000, "a\0", 5, b"to"])
def test_pull_to__of_a_bundled_model_says_what_is_wrong_with_the_folder(to: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"cannot write|null character|str or a Path|path of bytes"):
        pull("leap-nano", to=to)


@pytest.mark.parametrize("options", [{"name": 5}, {"name": ["x"]}])
def test_pull__names_of_a_wrong_type(zoo_copy: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="must be a string"):
        pull(source=zoo_copy, **options)
