"""`python -m export.zoo add` and `index`: from a model's folder, or a part of it, into a zoo."""

import os
from pathlib import Path

import msgspec
import pytest

import leap_zoo
from export.zoo import add, main, reindex
from leap_zoo.documents import read_card, write_card
from leap_zoo.errors import InvalidArgument
from leap_zoo.verify import verify

TINY = "leap-tiny-test"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_publish__into_a_new_zoo(tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", str(tiny_zoo / TINY), "--zoo", str(tmp_path / "zoo")]) == 0
    assert f"{TINY} 1: 3 files" in capsys.readouterr().out
    assert tree(tmp_path / "zoo") == tree(tiny_zoo)
    assert leap_zoo.load(TINY, zoo=tmp_path / "zoo").card.id == TINY


def test_publish__in_place(zoo_copy: Path) -> None:
    before = tree(zoo_copy)
    (zoo_copy / "index.json").unlink()
    assert main(["add", str(zoo_copy / TINY), "--zoo", str(zoo_copy)]) == 0
    assert tree(zoo_copy) == before


def test_publish__newer_revision_takes_the_files_of_the_older_away(zoo_copy: Path, tmp_path: Path) -> None:
    zoo = tmp_path / "published"
    (zoo_copy / TINY / "README.md").write_text("1")
    assert main(["add", str(zoo_copy / TINY), "--zoo", str(zoo)]) == 0
    card = read_card(zoo_copy / TINY / "card.json")
    write_card(zoo_copy / TINY / "card.json", msgspec.structs.replace(card, revision="2", artifacts=card.artifacts[:1]))
    (zoo_copy / TINY / "README.md").unlink()
    assert main(["add", str(zoo_copy / TINY), "--zoo", str(zoo)]) == 0
    assert set(tree(zoo / TINY)) == {"card.json", "golden.npz", "model.onnx"}
    assert leap_zoo.load(TINY, zoo=zoo).card.revision == "2"


def test_publish__what_its_card_does_not_describe_is_refused(
    zoo_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (zoo_copy / TINY / "model.onnx").write_bytes(b"x")
    assert main(["add", str(zoo_copy / TINY), "--zoo", str(tmp_path / "new")]) == 2
    assert "model.onnx" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_publish__nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", str(tmp_path / "absent"), "--zoo", str(tmp_path / "zoo")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_reindex__lists_every_model_folder(zoo_copy: Path) -> None:
    before = tree(zoo_copy)
    (zoo_copy / "index.json").write_text("lost")
    assert main(["index", "--zoo", str(zoo_copy)]) == 0
    assert tree(zoo_copy) == before


def test_reindex__of_a_folder_without_models_is_refused(zoo_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(leap_zoo.InvalidArgument, match="no model folders"):
        reindex(tmp_path / "absent")
    (zoo_copy / TINY).rename(zoo_copy / "another")
    with pytest.raises(leap_zoo.InvalidCard, match="rename the folder"):
        reindex(zoo_copy)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
def test_publish__pipes_are_not_waited_for(zoo_copy: Path, tiny_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (zoo_copy / "index.json").unlink()
    os.mkfifo(zoo_copy / "index.json")
    assert main(["add", str(tiny_zoo / TINY), "--zoo", str(zoo_copy)]) == 2
    (zoo_copy / TINY / "card.json").unlink()
    os.mkfifo(zoo_copy / TINY / "card.json")
    assert main(["index", "--zoo", str(zoo_copy)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == error.count("not a regular file") == 2


def test_add__one_file_with_its_figures(published: Path, tmp_path: Path) -> None:
    card = add(published / "leap-digits", tmp_path, ["model_int8.onnx"])
    assert [artifact.file for artifact in card.artifacts] == ["model_int8.onnx"]
    assert {row.file for row in card.latency} == {"model_int8.onnx"}
    assert {path.name for path in (tmp_path / "leap-digits").iterdir()} == {
        "README.md", "card.json", "curriculum.svg", "golden.npz", "model_int8.onnx"
    }  # fmt: skip
    assert verify("leap-digits", tmp_path).ok
    whole = read_card(published / "leap-digits" / "card.json")
    assert card.artifacts[0] == next(a for a in whole.artifacts if a.file == "model_int8.onnx")
    assert card.golden.bytes < whole.golden.bytes


def test_add__another_file_takes_the_place_of_the_first(published: Path, tmp_path: Path) -> None:
    add(published / "leap-digits", tmp_path, ["model_int8.xml"])
    card = add(published / "leap-digits", tmp_path, ["model.onnx", "model.safetensors"])
    assert verify("leap-digits", tmp_path).ok
    assert card.timm == read_card(published / "leap-digits" / "card.json").timm != []
    assert {file.file for file in card.timm} <= {path.name for path in (tmp_path / "leap-digits").iterdir()}
    assert not (tmp_path / "leap-digits" / "model_int8.bin").exists()


def test_add__a_file_that_is_not_there(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidArgument, match=r"model_int4\.onnx.*did you mean"):
        add(published / "leap-digits", tmp_path, ["model_int4.onnx"])
    with pytest.raises(InvalidArgument, match=r"model.safetensors alone is no model"):
        add(published / "leap-digits", tmp_path, ["model.safetensors"])
    assert list(tmp_path.iterdir()) == []
    assert main(["add", str(tmp_path), "--zoo", str(tmp_path), "--file", "x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("export: ")
    assert said.count("\n") == 1
