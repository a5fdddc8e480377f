"""A model file with no card beside it: what is read from it, and what hostile bytes cannot do."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from leap_zoo.cli import main
from leap_zoo.errors import ArtifactCorrupt, InvalidArgument
from leap_zoo.lone import Listed, graphs, listed, protobuf, read_lone
from leap_zoo.lone.graphs import Port
from leap_zoo.publish import publish
from leap_zoo.store import BUNDLED, find, models

TINY = "leap-tiny-test"
ENTRIES = {
    "model_id": TINY,
    "revision": "7",
    "description": "Knows colours",
    "preprocessing": json.dumps({"size": 32, "short_side": 36, "filter": "bicubic"}),
    "labels": json.dumps({"colours": ["red", "green", "blue"], "brightness": ["dark", "bright"]}),
    "licences": json.dumps({"code": "Apache-2.0", "weights": "MIT", "teacher": "none", "data": "none"}),
}
XML = """<?xml version="1.0"?>
<net name="tiny" version="11">
  <layers>
    <layer id="0" name="image" type="Parameter" version="opset1">
      <data shape="?,32,32,3" element_type="u8"/>
      <output><port id="0" precision="U8" names="image">
        <dim>-1</dim><dim>32</dim><dim>32</dim><dim>3</dim>
      </port></output>
    </layer>
    <layer id="1" name="inner" type="Const" version="opset1"/>
    <layer id="2" name="embedding/sink_port_0" type="Result" version="opset1" output_names="embedding">
      <input><port id="0" precision="FP32"><dim>-1</dim><dim>8</dim></port></input>
    </layer>
  </layers>
  <rt_info><conversion/><leap_zoo>ENTRIES</leap_zoo></rt_info>
</net>
"""


@pytest.fixture(scope="session")
def bare(tiny_zoo: Path) -> bytes:
    """The tiny model's ONNX file, which says nothing of itself."""
    return (tiny_zoo / TINY / "model.onnx").read_bytes()


@pytest.fixture
def tiny_onnx(bare: bytes, tmp_path: Path) -> Path:
    return onnx_file(bare, tmp_path / "found.onnx", ENTRIES)


@pytest.fixture
def tiny_xml(tmp_path: Path) -> Path:
    return xml_file(tmp_path / "found.xml", ENTRIES)


def onnx_file(bare: bytes, path: Path, entries: Mapping[str, str]) -> Path:
    proto = onnx.load_from_string(bare)
    for key, value in entries.items():
        proto.metadata_props.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())
    return path


def xml_file(path: Path, entries: Mapping[str, str]) -> Path:
    quoted = {key: value.replace("&", "&amp;").replace('"', "&quot;") for key, value in entries.items()}
    path.write_text(XML.replace("ENTRIES", "".join(f'<{key} value="{value}"/>' for key, value in quoted.items())))
    return path


def test_onnx__says_what_it_is(tiny_onnx: Path) -> None:
    file = read_lone(tiny_onnx)
    assert (file.file, file.format, file.ir, file.opset, file.weights) == ("found.onnx", "onnx", 8, 17, None)
    assert (file.bytes, file.sha256) == (tiny_onnx.stat().st_size, hashlib.sha256(tiny_onnx.read_bytes()).hexdigest())
    assert file.inputs == [Port("image", "uint8", ["batch", 32, 32, 3])]
    assert file.outputs == [
        Port("embedding", "float32", ["batch", 8]),
        Port("teacher_embedding", "float32", ["batch", 12]),
        Port("logits_colours", "float32", ["batch", 3]),
        Port("logits_brightness", "float32", ["batch", 2]),
    ]
    assert (file.says.model_id, file.says.revision, file.says.description) == (TINY, "7", "Knows colours")
    assert (file.says.preprocessing.size, file.says.preprocessing.short_side) == (32, 36)
    assert file.says.labels == {"colours": ["red", "green", "blue"], "brightness": ["dark", "bright"]}
    assert file.says.licences["weights"] == "MIT"


def test_openvino__says_what_it_is(tiny_xml: Path) -> None:
    file = read_lone(tiny_xml)
    assert (file.format, file.ir, file.opset, file.weights) == ("openvino", 11, None, None)
    assert file.inputs == [Port("image", "uint8", ["?", 32, 32, 3])]
    assert file.outputs == [Port("embedding", "float32", ["?", 8])]
    assert file.says.labels["brightness"] == ["dark", "bright"]
    tiny_xml.with_suffix(".bin").write_bytes(b"weights")
    assert read_lone(tiny_xml).weights == "found.bin"


def test_openvino__as_openvino_writes_it(tiny_onnx: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    model = openvino.convert_model(tiny_onnx)
    for key, value in ENTRIES.items():
        model.set_rt_info(value, ["leap_zoo", key])
    openvino.save_model(model, tmp_path / "ir.xml", compress_to_fp16=False)
    found, expected = read_lone(tmp_path / "ir.xml"), read_lone(tiny_onnx)
    assert (found.says, found.weights) == (expected.says, "ir.bin")
    assert [(port.name, port.dtype, port.shape[1:]) for port in (*found.inputs, *found.outputs)] == [
        (port.name, port.dtype, port.shape[1:]) for port in (*expected.inputs, *expected.outputs)
    ]


def test_bundled__files_say_what_their_card_says() -> None:
    for card in models(BUNDLED):
        for artifact in card.artifacts:
            file = read_lone(BUNDLED / card.id / artifact.file)
            assert (file.says.model_id, file.says.revision, file.sha256) == (card.id, card.revision, artifact.sha256)
            assert file.says.labels == {head.name: head.labels for head in card.heads}
            assert file.says.preprocessing == card.preprocessing
            assert {port.name: port.shape for port in file.outputs} == {port.name: port.shape for port in card.outputs}
            assert listed(file) == Listed(card.id, card.revision, artifact.file)


def test_licence__of_files_with_one(bare: bytes, tmp_path: Path) -> None:
    entries = {key: value for key, value in ENTRIES.items() if key != "licences"} | {"licence": "MIT"}
    assert read_lone(onnx_file(bare, tmp_path / "a.onnx", entries)).says.licences == {"weights": "MIT"}


def test_listed__by_its_bytes_alone(tiny_onnx: Path, zoo_copy: Path) -> None:
    file = read_lone(tiny_onnx)
    assert listed(file, zoo_copy) is None
    _, card = find(TINY, zoo_copy)
    (zoo_copy / TINY / "model.onnx").write_bytes(tiny_onnx.read_bytes())
    fp32 = replace(card.artifacts[0], sha256=file.sha256, bytes=file.bytes)
    publish(zoo_copy, replace(card, artifacts=[fp32, *card.artifacts[1:]]))
    assert listed(file, zoo_copy) == Listed(TINY, "1", "model.onnx")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has no graph"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "no ONNX file and no OpenVINO .xml"),
        (b"\x3a\xff\xff\xff\xff\x0f", "longer than its message"),
        (b"\x08\x08" + b"\x40\x01" * 5, "it has no graph"),
        (b"\x08" + b"\xff" * 20, "more than 64 bits"),
        (b"\x08\x08" * (protobuf.MAX_FIELDS + 1), "more than 200000 fields"),
        (b"<html></html>", "no <net>"),
        (b"<net version='eleven'/>", "no <net> with a version"),
        (b"<net version='11'>", "no element found"),
        (b"<?xml version='1.0'?><!DOCTYPE net [<!ENTITY a 'b'>]><net version='11'>&a;</net>", "document type"),
        ("<?xml version='1.0' encoding='utf-16'?><!DOCTYPE net><net/>".encode("utf-16"), "no ONNX file"),
        (b"<?xml version='1.0' encoding='cp037'?>" + "<!DOCTYPE net><net/>".encode("cp037"), "no ONNX file"),
        (b"<net version='11'>" + b" " * graphs.MAX_XML_BYTES, "more than 8388608 bytes"),
        (b"<a>" * 1_000_000, "no element found"),
    ],
)
def test_read__what_is_no_model_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "hostile.onnx").write_bytes(content)
    with pytest.raises(InvalidArgument, match=reason):
        read_lone(tmp_path / "hostile.onnx")


def test_read__a_model_of_others_is_told_from_no_model(bare: bytes, tmp_path: Path) -> None:
    for path in (onnx_file(bare, tmp_path / "a.onnx", {"author": "x"}), xml_file(tmp_path / "a.xml", {})):
        with pytest.raises(InvalidArgument, match="nothing of leap-zoo's"):
            read_lone(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", "not JSON"),
        ("labels", '{"colours": "red"}'),
        ("labels", "[" * 100_000),
        ("preprocessing", '{"size": 64, "short_side": 32}'),
        ("licences", "null"),
        ("revision", None),
    ],
)
def test_read__damaged_entries_are_corrupt(bare: bytes, tmp_path: Path, key: str, value: str | None) -> None:
    entries = {name: text for name, text in (ENTRIES | {key: value}).items() if text is not None}
    for path in (onnx_file(bare, tmp_path / "a.onnx", entries), xml_file(tmp_path / "a.xml", entries)):
        with pytest.raises(ArtifactCorrupt, match="damaged"):
            read_lone(path)


def test_read__paths_that_lead_nowhere(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "absent.onnx", tmp_path, "a\0b"):
        with pytest.raises(InvalidArgument):
            read_lone(path)


@given(st.binary(max_size=400))
def test_graphs__any_bytes_are_a_graph_or_a_value_error(data: bytes) -> None:
    for read in (graphs.read_onnx, graphs.read_openvino):
        try:
            found = read(data)
        except ValueError:
            continue
        assert isinstance(found, graphs.Graph)


@given(place=st.integers(0, 10_000), change=st.binary(max_size=12), cut=st.booleans())
def test_graphs__a_damaged_file_is_a_graph_or_a_value_error(bare: bytes, place: int, change: bytes, cut: bool) -> None:
    for data, read in ((bare, graphs.read_onnx), (XML.encode(), graphs.read_openvino)):
        at = place % len(data)
        damaged = data[:at] + change + (b"" if cut else data[at + len(change) :])
        try:
            found = read(damaged)
        except ValueError:
            continue
        assert isinstance(found, graphs.Graph)


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.integers(0, 2**64 - 1) | st.binary(max_size=200)), max_size=8))
def test_protobuf__gives_back_what_was_written(wanted: list[tuple[int, int | bytes]]) -> None:
    message = b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in wanted
    )
    found = [(n, v if isinstance(v, int) else bytes(v)) for n, v in protobuf.fields(memoryview(message))]
    assert found == wanted


def varint(value: int) -> bytes:
    head = b""
    while value > 127:
        head, value = head + bytes([value & 127 | 128]), value >> 7
    return head + bytes([value])


def test_show__a_file(tiny_onnx: Path, tiny_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tiny_onnx), "--zoo", str(tiny_zoo)]) == 0
    text = capsys.readouterr().out
    for part in ("no zoo", "opset 17", "uint8 (batch, 32, 32, 3)", "colours: 3 classes", "teacher none"):
        assert part in text
    assert main(["show", str(tiny_onnx), "--zoo", str(tiny_zoo), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["says"]["model_id"], found["listed"], found["opset"]) == (TINY, None, 17)


def test_show__a_file_in_a_broken_zoo(tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tiny_onnx), "--zoo", str(tmp_path)]) == 0
    assert "listed      unknown" in capsys.readouterr().out


def test_show__file_in_this_folder_by_its_name(
    tiny_xml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny_xml.parent)
    assert main(["show", tiny_xml.name]) == 0
    assert "missing" in capsys.readouterr().out
    assert main(["show", "absent.onnx"]) == 2
    assert "No such file" in capsys.readouterr().err


def test_show__prints_no_terminal_codes(bare: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = ENTRIES | {"description": "\x1b[2Jgone\x07\r\n\u202eback"}
    assert main(["show", str(onnx_file(bare, tmp_path / "a.onnx", hostile))]) == 0
    text = capsys.readouterr().out
    assert "?[2Jgone????back" in text
    assert "\x1b" not in text
