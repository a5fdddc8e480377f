"""Where models come from, and the chain index -> card -> file."""

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import leap_zoo
from export.zoo import publish
from leap_zoo import store
from leap_zoo.documents import read_card, read_index, write_card
from leap_zoo.errors import ArtifactCorrupt, InvalidArgument, InvalidCard, UnknownModel
from leap_zoo.files import sync_folder

TINY = "leap-tiny-test"


def flip(path: Path, position: int = 100) -> None:
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_find__unknown_model_names_nearest(tiny_zoo: Path) -> None:
    with pytest.raises(UnknownModel, match=f"'leap-tiny'; did you mean '{TINY}'"):
        store.find("leap-tiny", tiny_zoo)


@given(st.text(max_size=100) | st.sampled_from(["../" + TINY, TINY + "/", TINY + "\0", TINY.upper(), "."]))
def test_find__any_other_name_is_unknown(tiny_zoo: Path, name: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        store.find(name, tiny_zoo)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_find__environment_comes_before_bundled(
    tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUNDLED", tmp_path / "absent")
    monkeypatch.delenv("LEAP_ZOO_URL", raising=False)
    with pytest.raises(UnknownModel, match="no bundled model"):
        store.find(TINY)
    monkeypatch.setenv("LEAP_ZOO_URL", tiny_zoo.as_uri())
    assert store.find(TINY)[0].folder == tiny_zoo
    monkeypatch.setattr(store, "BUNDLED", tiny_zoo)
    monkeypatch.delenv("LEAP_ZOO_URL")
    assert store.find(TINY)[0].folder == tiny_zoo


def test_find__given_zoo_is_the_only_one(tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAP_ZOO_URL", str(tiny_zoo))
    (tmp_path / "index.json").write_text('{"schema": 1, "models": []}')
    with pytest.raises(UnknownModel):
        store.find(TINY, tmp_path)


@pytest.mark.parametrize("location", ["file://elsewhere/zoo", "ftp://localhost/zoo", "http://", "http://[/zoo", "a\0b"])
def test_zoo__that_is_nowhere_is_refused(location: str) -> None:
    with pytest.raises(InvalidArgument, match=r"give|check"):
        leap_zoo.models(location)


@pytest.mark.parametrize("location", ["http://localhost/zoo", "https://localhost/zoo", "hf://org/zoo"])
def test_zoo__on_a_server_is_pulled_first(location: str) -> None:
    with pytest.raises(InvalidArgument, match="leap-zoo pull MODEL --from URL"):
        leap_zoo.models(location)


def test_find__of_a_server_says_pull_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAP_ZOO_URL", "http://127.0.0.1:9/zoo")
    with pytest.raises(UnknownModel, match=r"leap-zoo pull MODEL --from http://127\.0\.0\.1:9/zoo"):
        store.find(TINY)


def test_load__link_that_leads_out_of_the_zoo_is_refused(zoo_copy: Path, tmp_path: Path) -> None:
    path = zoo_copy / TINY / "model_int8.onnx"
    path.rename(tmp_path / "elsewhere.onnx")
    path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ArtifactCorrupt, match="is a link to outside its folder"):
        leap_zoo.load(TINY, zoo=zoo_copy)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(ArtifactCorrupt, match=r"is a link to outside its folder|cannot be read"):
        leap_zoo.load(TINY, zoo=zoo_copy)


def test_load__link_inside_the_zoo_is_followed(zoo_copy: Path) -> None:
    path = zoo_copy / TINY / "model_int8.onnx"
    path.rename(zoo_copy / "shared.onnx")
    path.symlink_to("../shared.onnx")
    assert leap_zoo.load(TINY, zoo=zoo_copy).artifact.precision == "int8"


@pytest.mark.parametrize("name", ["index.json", f"{TINY}/card.json", f"{TINY}/model_int8.onnx"])
def test_load__pipe_in_place_of_a_file_is_refused(zoo_copy: Path, name: str) -> None:
    (zoo_copy / name).unlink()
    os.mkfifo(zoo_copy / name)
    with pytest.raises(leap_zoo.LeapZooError):
        leap_zoo.load(TINY, zoo=zoo_copy)


def test_zoo__folder_without_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"index\.json"):
        leap_zoo.models(tmp_path)


def test_models__lists_cards(tiny_zoo: Path) -> None:
    assert [card.id for card in leap_zoo.models(tiny_zoo)] == [TINY]


@pytest.mark.parametrize("file", ["model.onnx", "model_int8.onnx"])
def test_load__flipped_byte_names_both_digests_and_the_mend(zoo_copy: Path, file: str) -> None:
    card = leap_zoo.models(zoo_copy)[0]
    artifact = next(artifact for artifact in card.artifacts if artifact.file == file)
    flip(zoo_copy / TINY / file)
    with pytest.raises(
        ArtifactCorrupt, match=rf"{file} .* expected sha256 {artifact.sha256}, found [0-9a-f]{{64}}: .*copy"
    ):
        leap_zoo.load(TINY, zoo=zoo_copy, precision=artifact.precision)


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1], lambda _: b""])
def test_load__wrong_size_is_corrupt(zoo_copy: Path, change) -> None:
    path = zoo_copy / TINY / "model_int8.onnx"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ArtifactCorrupt, match=f"found {path.stat().st_size}: copy|larger than 2355 bytes: copy"):
        leap_zoo.load(TINY, zoo=zoo_copy)


@pytest.mark.parametrize(
    ("name", "error", "fix"),
    [
        ("zoo", UnknownModel, r"for the folder give \./zoo"),
        ("zoo/leap-tiny-test/golden.npz", InvalidArgument, "it is a file: give its folder, or a file that ends in"),
        ("./zoo", InvalidArgument, "it is a zoo, so give a model's id and zoo=FOLDER"),
    ],
)
def test_load__of_a_path_that_is_no_model_says_what_to_give(
    zoo_copy: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], fix: str
) -> None:
    monkeypatch.chdir(zoo_copy.parent)
    with pytest.raises(error, match=fix):
        leap_zoo.load(name)


def test_load__missing_file_is_corrupt(zoo_copy: Path) -> None:
    (zoo_copy / TINY / "model_int8.onnx").unlink()
    with pytest.raises(ArtifactCorrupt, match="cannot be read"):
        leap_zoo.load(TINY, zoo=zoo_copy)
    assert leap_zoo.load(TINY, zoo=zoo_copy, precision="fp32").artifact.precision == "fp32"


def test_load__tampered_card_is_noticed(zoo_copy: Path) -> None:
    path = zoo_copy / TINY / "card.json"
    path.write_bytes(path.read_bytes().replace(b'"red"', b'"rad"'))
    with pytest.raises(ArtifactCorrupt, match=r"card\.json"):
        leap_zoo.load(TINY, zoo=zoo_copy)
    path.unlink()
    with pytest.raises(ArtifactCorrupt, match="cannot be read"):
        leap_zoo.load(TINY, zoo=zoo_copy)


def test_load__index_that_disagrees_with_the_card_is_refused(zoo_copy: Path) -> None:
    path = zoo_copy / "index.json"
    index = json.loads(path.read_bytes())
    index["models"][0]["revision"] = "2"
    path.write_text(json.dumps(index))
    with pytest.raises(InvalidCard, match="the card says"):
        leap_zoo.load(TINY, zoo=zoo_copy)


def test_publish__refuses_a_card_whose_file_differs(zoo_copy: Path) -> None:
    before = (zoo_copy / "index.json").read_bytes()
    flip(zoo_copy / TINY / "golden.npz")
    with pytest.raises(ArtifactCorrupt, match=r"golden\.npz"):
        publish(zoo_copy, read_card(zoo_copy / TINY / "card.json"))
    assert (zoo_copy / "index.json").read_bytes() == before


def test_publish__keeps_other_models_and_replaces_its_own(zoo_copy: Path) -> None:
    card = read_card(zoo_copy / TINY / "card.json")
    (zoo_copy / TINY).rename(zoo_copy / "another")
    publish(zoo_copy, msgspec.structs.replace(card, id="another"))
    assert [entry.id for entry in read_index(zoo_copy / "index.json").models] == ["another", TINY]
    publish(zoo_copy, msgspec.structs.replace(card, id="another", revision="2"))
    assert [(entry.id, entry.revision) for entry in read_index(zoo_copy / "index.json").models] == [
        ("another", "2"),
        (TINY, "1"),
    ]
    assert leap_zoo.load("another", zoo=zoo_copy).card.revision == "2"


def test_publish__same_model_gives_the_same_bytes(zoo_copy: Path) -> None:
    before = [(zoo_copy / name).read_bytes() for name in ("index.json", f"{TINY}/card.json")]
    publish(zoo_copy, read_card(zoo_copy / TINY / "card.json"))
    assert [(zoo_copy / name).read_bytes() for name in ("index.json", f"{TINY}/card.json")] == before


def test_load__file_that_is_not_the_cards_graph_is_refused(zoo_copy: Path) -> None:
    card = read_card(zoo_copy / TINY / "card.json")
    dims = msgspec.structs.replace(card.embedding_dims, student=9)
    publish(zoo_copy, msgspec.structs.replace(card, embedding_dims=dims))
    with pytest.raises(InvalidCard, match="'embedding'"):
        leap_zoo.load(TINY, zoo=zoo_copy)


def test_load__newer_minimum_runtime_says_update(zoo_copy: Path) -> None:
    card = read_card(zoo_copy / TINY / "card.json")
    artifacts = [msgspec.structs.replace(artifact, minimum_runtime="99.1") for artifact in card.artifacts]
    publish(zoo_copy, msgspec.structs.replace(card, artifacts=artifacts))
    with pytest.raises(leap_zoo.ArtifactRefused, match=r"needs ONNX Runtime 99\.1.*pip install"):
        leap_zoo.load(TINY, zoo=zoo_copy)


def test_load__published_file_that_is_not_a_graph_is_refused(zoo_copy: Path) -> None:
    data = b"this is no ONNX file, but its sha256 is the published one"
    (zoo_copy / TINY / "model_int8.onnx").write_bytes(data)
    card = read_card(zoo_copy / TINY / "card.json")
    digest = hashlib.sha256(data).hexdigest()
    artifacts = [
        msgspec.structs.replace(artifact, bytes=len(data), sha256=digest) if artifact.precision == "int8" else artifact
        for artifact in card.artifacts
    ]
    publish(zoo_copy, msgspec.structs.replace(card, artifacts=artifacts))
    with pytest.raises(leap_zoo.ArtifactRefused, match="cannot load"):
        leap_zoo.load(TINY, zoo=zoo_copy)


def test_write_card__alone_is_noticed_by_the_index(zoo_copy: Path) -> None:
    card = read_card(zoo_copy / TINY / "card.json")
    write_card(zoo_copy / TINY / "card.json", msgspec.structs.replace(card, description="another"))
    with pytest.raises(ArtifactCorrupt):
        leap_zoo.models(zoo_copy)


def test_sync_folder__opens_nothing_on_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(sync_folder.__globals__, "os", SimpleNamespace(name="nt", open=refuse, O_RDONLY=0))
    sync_folder(tmp_path)
