"""A model that is given by its path: a folder, a file that a card lists, a file that only says what it is."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from onnx import helper

import leap_zoo
from leap_zoo.cli import main
from leap_zoo.errors import ArtifactCorrupt, ArtifactRefused, InvalidArgument, InvalidCard, LeapZooError
from leap_zoo.model_file import MAX_XML_BYTES, card_of, names_a_path
from leap_zoo.store import BUNDLED, models
from leap_zoo.verify import verify

TINY = "leap-tiny-test"
ENTRIES = {
    "model_id": TINY,
    "revision": "7",
    "description": "Knows colours",
    "preprocessing": json.dumps({"size": 32, "short_side": 36, "filter": "bicubic"}),
    "labels": json.dumps({"colours": ["red", "green", "blue"], "brightness": ["dark", "bright"]}),
    "default_head": "brightness",
    "licences": json.dumps({"code": "Apache-2.0", "weights": "MIT", "teacher": "none", "data": "none"}),
}


@pytest.fixture(scope="session")
def bare(tiny_zoo: Path) -> bytes:
    """The tiny model's ONNX file, which says nothing of itself."""
    return (tiny_zoo / TINY / "model.onnx").read_bytes()


@pytest.fixture
def tiny_onnx(bare: bytes, tmp_path: Path) -> Path:
    """The same with what `export` writes into a file; no card lists it."""
    return onnx_file(bare, tmp_path / "found.onnx", ENTRIES)


@pytest.fixture
def tiny_xml(tiny_onnx: Path) -> Path:
    """The same as an OpenVINO IR."""
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    model = openvino.Core().read_model(tiny_onnx)
    for key in list(model.get_rt_info()):
        del model.get_rt_info()[key]
    for key, value in ENTRIES.items():
        model.set_rt_info(value, ["leap_zoo", key])
    openvino.save_model(model, tiny_onnx.with_suffix(".xml"), compress_to_fp16=False)
    return tiny_onnx.with_suffix(".xml")


def onnx_file(bare: bytes, path: Path, entries: Mapping[str, str]) -> Path:
    proto = onnx.load_from_string(bare)
    for key, value in entries.items():
        proto.metadata_props.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())
    return path


# --- folders


def test_load__folder_with_a_card(zoo_copy: Path, tmp_path: Path, colour_photos: dict[str, Path]) -> None:
    folder = Path(shutil.move(zoo_copy / TINY, tmp_path / "taken away"))
    for path in (folder, str(folder), f"{folder}/"):
        model = leap_zoo.load(path)
        assert (model.card.id, model.artifact.file, model.verified) == (TINY, "model_int8.onnx", True)
    assert leap_zoo.load(folder, precision="fp32").artifact.file == "model.onnx"
    assert model.classify(colour_photos["blue"])[0].label == "blue"
    assert verify(folder).ok


def test_load__folder_that_holds_some_of_the_files(zoo_copy: Path) -> None:
    (zoo_copy / TINY / "model_int8.onnx").unlink()
    assert leap_zoo.load(zoo_copy / TINY).artifact.file == "model.onnx"
    with pytest.raises(ArtifactCorrupt, match=r"model_int8\.onnx"):
        leap_zoo.load(zoo_copy / TINY, precision="int8")


def test_load__folder_with_another_file_than_its_card_lists(zoo_copy: Path) -> None:
    path = zoo_copy / TINY / "model_int8.onnx"
    path.write_bytes(bytes(reversed(path.read_bytes())))
    for place in (zoo_copy / TINY, path):
        with pytest.raises(ArtifactCorrupt, match="expected sha256"):
            leap_zoo.load(place)


def test_load__folders_that_are_not_models(zoo_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"zoo=FOLDER"):
        leap_zoo.load(zoo_copy)
    for folder in (tmp_path / "absent", tmp_path, Path(os.devnull), f"{tmp_path}/a\0b"):
        with pytest.raises(InvalidArgument, match=r"card\.json"):
            leap_zoo.load(folder)
    (zoo_copy / TINY / "card.json").write_text("{}")
    with pytest.raises(InvalidCard):
        leap_zoo.load(zoo_copy / TINY)


@pytest.mark.parametrize(
    ("name", "is_path"),
    [
        (Path("leap-tiny"), True),
        ("a/leap-tiny", True),
        ("leap-tiny/", True),
        (".", True),
        ("model.onnx", True),
        ("MODEL.ONNX", True),
        ("model.xml", True),
        ("leap-tiny", False),
        ("hf://a/b", False),
        ("https://host/model.onnx", False),
    ],
)
def test_load__names_that_are_paths(name: str | Path, is_path: bool) -> None:
    assert names_a_path(name) is is_path


def test_load__a_folder_in_the_way_is_not_taken_for_a_model(
    zoo_copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / TINY).mkdir()
    monkeypatch.chdir(tmp_path)
    assert leap_zoo.load(TINY, zoo=zoo_copy).card.id == TINY


@pytest.mark.parametrize("name", [5, b"leap-tiny"])
def test_load__other_types_are_refused(name: object) -> None:
    with pytest.raises(InvalidArgument, match="id or a path"):
        leap_zoo.load(name)  # type: ignore[arg-type]


# --- files that a card lists


def test_load__file_beside_its_card(zoo_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = leap_zoo.load(zoo_copy / TINY / "model.onnx")
    assert (model.verified, model.artifact.precision, model.card.revision) == (True, "fp32", "1")
    assert not caplog.records


def test_load__file_under_another_name_that_a_zoo_lists(tiny_zoo: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_zoo / TINY / "model_int8.onnx", tmp_path / "mine.onnx"))
    model = leap_zoo.load(path, zoo=tiny_zoo)
    assert (model.verified, model.artifact.file, model.artifact.precision) == (True, "mine.onnx", "int8")
    with pytest.raises(InvalidArgument, match="one file"):
        leap_zoo.load(path, zoo=tiny_zoo, precision="fp32")


def test_bundled__files_match_their_cards(tmp_path: Path) -> None:
    for card in models(BUNDLED):
        for artifact in card.artifacts:
            copy = Path(shutil.copy(BUNDLED / card.id / artifact.file, tmp_path / "copy.onnx"))
            model = leap_zoo.load(copy)
            assert (model.verified, model.card) == (True, card)
            says = card_of(artifact, model.session.metadata, model.session.outputs)
            assert (says.id, says.revision) == (card.id, card.revision)
            heads = [replace(head, doubt=None) for head in card.heads]  # which only the card has
            assert (says.heads, says.preprocessing) == (heads, card.preprocessing)


# --- files that no card lists


@pytest.mark.parametrize("fixture", ["tiny_onnx", "tiny_xml"])
def test_load__unverified_file_works_and_is_said_to_be_unverified(
    fixture: str,
    request: pytest.FixtureRequest,
    tiny_zoo: Path,
    colour_photos: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("leap_zoo"), "propagate", True)  # which the service turns off
    caplog.set_level(logging.WARNING)  # NNCF raises the level of every handler
    path = request.getfixturevalue(fixture)
    model = leap_zoo.load(path)
    assert not model.verified
    assert "not verified" in repr(model)
    [record] = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "leap_zoo")
    assert "not verified" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert (model.card.id, model.card.revision, model.heads) == (TINY, "7", ("brightness", "colours"))
    assert model.card.licences.weights == "MIT"
    assert model.classify(colour_photos["green"], head="colours")[0].label == "green"
    known = leap_zoo.load(TINY, zoo=tiny_zoo, precision="fp32")
    photos = list(colour_photos.values())
    assert np.abs(model.embed(photos) - known.embed(photos)).max() < 1e-5


def test_load__precision_of_an_unverified_file(tiny_zoo: Path, bare: bytes, tmp_path: Path) -> None:
    int8 = (tiny_zoo / TINY / "model_int8.onnx").read_bytes()
    assert leap_zoo.load(onnx_file(int8, tmp_path / "a.onnx", ENTRIES)).artifact.precision == "int8"
    assert leap_zoo.load(onnx_file(bare, tmp_path / "b.onnx", ENTRIES)).artifact.precision == "fp32"


def test_load__explains_a_file_without_our_metadata(bare: bytes, tmp_path: Path) -> None:
    path = onnx_file(bare, tmp_path / "a.onnx", {"author": "x"})
    with pytest.raises(InvalidArgument, match="without leap-zoo's metadata"):
        leap_zoo.load(path)


def test_load__broken_zoo_says_nothing_about_a_file(tiny_onnx: Path, tmp_path: Path) -> None:
    assert not leap_zoo.load(tiny_onnx, zoo=tmp_path / "absent").verified


def test_licence__of_files_with_one(bare: bytes, tmp_path: Path) -> None:
    entries = {key: value for key, value in ENTRIES.items() if key != "licences"} | {"licence": "MIT"}
    licences = leap_zoo.load(onnx_file(bare, tmp_path / "a.onnx", entries)).card.licences
    assert (licences.weights, licences.code) == ("MIT", "unknown")


# --- hostile files


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", "not JSON"),
        ("labels", '{"colours": "red"}'),
        ("labels", "{}"),
        ("labels", '{"colours": []}'),
        ("labels", '{"colours": ["red"]}'),
        ("labels", '{"../colours": ["red", "green", "blue"]}'),
        ("labels", "[" * 100_000),
        ("default_head", "absent"),
        ("preprocessing", '{"size": 64, "short_side": 32}'),
        ("preprocessing", '{"size": 16, "short_side": 32}'),
        ("licences", "null"),
        ("revision", None),
        ("revision", "\x1b[2J"),
        ("model_id", "../../etc"),
        ("description", "x" * 5_000_000),
    ],
)
def test_load__damaged_entries(bare: bytes, tmp_path: Path, key: str, value: str | None) -> None:
    entries = {name: text for name, text in (ENTRIES | {key: value}).items() if text is not None}
    with pytest.raises((ArtifactCorrupt, InvalidCard)) as caught:
        leap_zoo.load(onnx_file(bare, tmp_path / "a.onnx", entries))
    assert len(str(caught.value)) < 1000


def test_load__weights_in_another_file_are_not_followed(bare: bytes, tmp_path: Path) -> None:
    proto = onnx.load_from_string(bare)
    for key, value in ENTRIES.items():
        proto.metadata_props.add(key=key, value=value)
    weight = next(one for one in proto.graph.initializer if one.name == "embedding_weight")
    (tmp_path / "secret").write_bytes(weight.raw_data)
    onnx.external_data_helper.set_external_data(weight, "secret")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(InvalidArgument, match="another file"):
        leap_zoo.load(tmp_path / "a.onnx")


def test_load__another_graph_than_a_students(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", 32, 32, 3])
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["out"])], "g", [value], [])
    graph.output.append(helper.make_tensor_value_info("out", onnx.TensorProto.UINT8, ["batch", 32, 32, 3]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = onnx_file(model.SerializeToString(), tmp_path / "a.onnx", ENTRIES)
    with pytest.raises(ArtifactCorrupt, match="a student"):
        leap_zoo.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(50), b"\x08\x08" + b"\x40\x01" * 5, b"\x08\x08" * 200_001]
)
def test_load__refuses_files_that_are_not_models(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hostile.onnx").write_bytes(content)
    with pytest.raises((ArtifactRefused, InvalidArgument)) as caught:
        leap_zoo.load(tmp_path / "hostile.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"<html></html>",
        b"<net version='eleven'/>",
        b"<net version='11'>",
        b"<?xml version='1.0'?><!DOCTYPE net [<!ENTITY a 'b'>]><net version='11'>&a;</net>",
        b"<net version='11'>" + b" " * MAX_XML_BYTES,
        b"<a>" * 1_000_000,
    ],
)
def test_load__refuses_files_that_are_not_openvino(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    (tmp_path / "hostile.xml").write_bytes(content)
    with pytest.raises(InvalidArgument, match=r"hostile\.bin|hostile\.xml"):
        leap_zoo.load(tmp_path / "hostile.xml")
    (tmp_path / "hostile.bin").write_bytes(b"weights")
    with pytest.raises((ArtifactRefused, InvalidArgument, ArtifactCorrupt)):
        leap_zoo.load(tmp_path / "hostile.xml")


@settings(max_examples=60)
@given(place=st.integers(0, 10_000), change=st.binary(max_size=12), cut=st.booleans())
def test_load__a_damaged_file_is_a_model_or_one_of_our_errors(
    bare: bytes, tmp_path_factory: pytest.TempPathFactory, place: int, change: bytes, cut: bool
) -> None:
    path = onnx_file(bare, tmp_path_factory.mktemp("damaged") / "a.onnx", ENTRIES)
    data = path.read_bytes()
    at = place % len(data)
    path.write_bytes(data[:at] + change + (b"" if cut else data[at + len(change) :]))
    try:
        model = leap_zoo.load(path)
    except LeapZooError:
        return
    assert not model.verified


@pytest.mark.timeout(20)
def test_load__pipes_devices_and_links_that_lead_out(tiny_onnx: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "device.onnx").symlink_to("/dev/zero")
    (tmp_path / "here.onnx").symlink_to(tiny_onnx.name)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "out.onnx").symlink_to(tiny_onnx)
    (tmp_path / "folder.onnx").mkdir()
    for path in ("pipe.onnx", "device.onnx", "below/out.onnx", "absent.onnx", "folder.onnx", "a\0b.onnx"):
        with pytest.raises((InvalidArgument, ArtifactCorrupt)):
            leap_zoo.load(tmp_path / path)
    assert leap_zoo.load(tmp_path / "here.onnx").card.id == TINY


# --- leap-zoo show FILE


def test_load__an_openvino_file_says_the_same(tiny_xml: Path, tiny_onnx: Path) -> None:
    found, expected = leap_zoo.load(tiny_xml), leap_zoo.load(tiny_onnx)
    assert (found.artifact.format, found.artifact.files[1].file) == ("openvino", "found.bin")
    assert replace(found.card, artifacts=[]) == replace(expected.card, artifacts=[])


def test_verify__of_a_lone_file_says_what_to_verify_instead(
    tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tiny_onnx)]) == 2
    assert "is one file" in (error := capsys.readouterr().err)
    assert "leap-zoo show FILE" in error


def test_show__a_file(tiny_onnx: Path, tiny_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tiny_onnx), "--zoo", str(tiny_zoo)]) == 0
    text = capsys.readouterr().out
    sha256 = hashlib.sha256(tiny_onnx.read_bytes()).hexdigest()
    for part in ("NOT verified", sha256, "center 32 x 32", "colours: 3 classes", "teacher none"):
        assert part in text
    assert main(["show", str(tiny_onnx), "--zoo", str(tiny_zoo), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verified"], found["listed_as"], found["card"]["id"]) == (False, None, TINY)
    copy = Path(shutil.copy(tiny_zoo / TINY / "model_int8.onnx", tiny_onnx.parent / "mine.onnx"))
    assert main(["show", str(copy), "--zoo", str(tiny_zoo)]) == 0
    assert "it is model_int8.onnx of this card" in capsys.readouterr().out


def test_show__a_folder(zoo_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(zoo_copy / TINY)]) == 0
    assert TINY in capsys.readouterr().out


def test_show__file_in_this_folder_by_its_name(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny_onnx.parent)
    assert main(["show", tiny_onnx.name]) == 0
    assert main(["show", "absent.onnx"]) == 2
    assert "No such file" in capsys.readouterr().err


def test_show__prints_no_terminal_codes(bare: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = ENTRIES | {"description": "\x1b[2Jgone\x07\r\n\u202eback"}
    assert main(["show", str(onnx_file(bare, tmp_path / "a.onnx", hostile))]) == 0
    text = capsys.readouterr().out
    assert r"\x1b[2Jgone\x07\r\n\u202eback" in text
    assert "\x1b" not in text


def test_classify__a_file(tiny_onnx: Path, colour_photos: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(colour_photos["red"]), "--model", str(tiny_onnx), "--head", "colours"]) == 0
    assert "red" in capsys.readouterr().out


@pytest.mark.parametrize("page", [b"<!doctype html><title>404", b"\n<html>", b"<svg/>"])
def test_load__web_page_under_a_model_s_name(tmp_path: Path, page: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(page)
    with pytest.raises(InvalidArgument, match="perhaps a web page"):
        leap_zoo.load(tmp_path / "model.onnx")


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_load__repr_does_nothing_to_a_terminal(tiny_onnx: Path) -> None:
    odd = tiny_onnx.rename(tiny_onnx.with_name("a\n\x1b[31m.onnx"))
    assert "a\\n\\x1b[31m.onnx" in repr(leap_zoo.load(odd))
