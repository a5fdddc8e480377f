"""The schema of cards and indices: round trip, strictness, bounds."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_card import SIZES, whole_card

from leap_zoo import card as cards
from leap_zoo import documents
from leap_zoo.errors import InvalidCard

TINY = "leap-tiny-test"
HASH = "0" * 64


@pytest.fixture(scope="session")
def document(tiny_zoo: Path) -> dict[str, Any]:
    """The tiny model's card.json as plain data."""
    data: dict[str, Any] = json.loads((tiny_zoo / TINY / "card.json").read_bytes())
    return data


def changed(document: dict[str, Any], path: str, value: Any) -> bytes:
    """The card with one value replaced, e.g. at `artifacts.0.file`."""
    copy = json.loads(json.dumps(document))
    *parents, last = path.split(".")
    node = copy
    for part in parents:
        node = node[int(part) if isinstance(node, list) else part]
    node[int(last) if isinstance(node, list) else last] = value
    return json.dumps(copy).encode()


def test_card__round_trips(tiny_zoo: Path, tmp_path: Path) -> None:
    card = documents.read_card(tiny_zoo / TINY / "card.json")
    data = documents.write_card(tmp_path / "card.json", card)
    assert documents.read_card(tmp_path / "card.json") == card
    assert data == (tiny_zoo / TINY / "card.json").read_bytes()


def test_write_card__leaves_no_temporary_file(tiny_zoo: Path, tmp_path: Path) -> None:
    documents.write_card(tmp_path / "card.json", documents.read_card(tiny_zoo / TINY / "card.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


def test_write_card__refuses_what_could_not_be_read(tiny_zoo: Path, tmp_path: Path) -> None:
    card = msgspec.structs.replace(documents.read_card(tiny_zoo / TINY / "card.json"), parameters=0)
    with pytest.raises(InvalidCard, match="parameters"):
        documents.write_card(tmp_path / "card.json", card)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("licences.wieghts", "weights"),
        ("revison", "revision"),
        ("artifacts.0.shaa256", "sha256"),
        ("artifacts.1.metrics.0.intervall", "interval"),
        ("training.teacher.provenence", "provenance"),
        ("training.curriculum.0.similarty", "similarity"),
        ("preprocessing.shortside", "short_side"),
    ],
)
def test_card__unknown_key_names_nearest(document: dict[str, Any], path: str, known: str) -> None:
    with pytest.raises(InvalidCard, match=f"did you mean '{known}'"):
        documents.parse_card(changed(document, path, 1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", "../escape"),
        ("id", "Nano"),
        ("artifacts.0.sha256", "0" * 63),
        ("artifacts.0.sha256", "0" * 64 + "\n"),
        ("artifacts.0.sha256", "A" * 64),
        ("artifacts.0.bytes", 0),
        ("artifacts.0.bytes", -1),
        ("artifacts.0.precision", "fp8"),
        ("artifacts.0.file", "card.json"),
        ("artifacts.0.file", "golden.npz"),
        ("artifacts.1.precision", "fp32"),
        ("artifacts.0.metrics.0.interval", [0.1]),
        ("artifacts.0.metrics.0.n", 0),
        ("default_head", "colour"),
        ("heads", []),
        ("heads.1.name", "colours"),
        ("heads.0.output", "logits_absent"),
        ("preprocessing.size", 37),
        ("preprocessing.filter", "nearest"),
        ("golden.tolerance", {"fp32": {"default": 0.1}}),
        ("golden.tolerance", {"fp32": {"default": 0.1}, "int8": {"vnni": 0.1}}),
        ("training.teacher_flops_saved", 25.0),
    ],
)
def test_card__bad_value_is_refused(document: dict[str, Any], path: str, value: Any) -> None:
    documents.parse_card(json.dumps(document).encode())
    with pytest.raises(InvalidCard):
        documents.parse_card(changed(document, path, value))


@pytest.mark.parametrize(
    "name",
    ["../model.onnx", "/model.onnx", "a/b", "a\\b", "..", ".", "", "C:model", ".hidden", "model.onnx\n", "a\0b", "x."],
)
def test_file_name__leaving_the_folder_is_refused(document: dict[str, Any], name: str) -> None:
    for path in ("artifacts.0.file", "golden.file"):
        with pytest.raises(InvalidCard):
            documents.parse_card(changed(document, path, name))


@given(st.text(max_size=140))
def test_file_name__accepted_ones_stay_in_their_folder(name: str) -> None:
    try:
        accepted = msgspec.convert(name, cards.FileName)
    except msgspec.ValidationError:
        return
    assert Path("folder", accepted).resolve().parent == Path("folder").resolve()
    assert accepted == Path(accepted).name


@given(st.from_regex(r"\A[A-Za-z0-9_]([A-Za-z0-9._+-]{0,100}[A-Za-z0-9])?\Z"))
def test_file_name__ordinary_ones_are_accepted(name: str) -> None:
    assert msgspec.convert(name, cards.FileName) == name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=12), children, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_parse__anything_is_a_document_or_invalid_card(data: bytes) -> None:
    for parse in (documents.parse_card, documents.parse_index):
        try:
            document = parse(data)
        except InvalidCard:
            continue
        assert isinstance(document, cards.Index)
        assert document.models == []


@given(value=JSON, key=st.sampled_from(sorted(cards.ModelCard.__struct_fields__)))
def test_parse__replaced_value_is_valid_or_invalid_card(document: dict[str, Any], key: str, value: Any) -> None:
    try:
        card = documents.parse_card(changed(document, key, value))
    except InvalidCard:
        return
    assert documents.parse_card(msgspec.json.encode(card)) == card


def test_parse__deep_nesting_is_refused() -> None:
    with pytest.raises(InvalidCard):
        documents.parse_card(b'{"artifacts":' + b"[" * 200_000)


def test_parse__too_large_is_refused_before_parsing(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(b" " * (cards.MAX_DOCUMENT_BYTES + 100) + b"{}")
    with pytest.raises(InvalidCard, match="larger than"):
        documents.read_card(path)


def test_parse__newer_schema_says_update(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidCard, match=r"schema 2.*pip install -U"):
        documents.parse_card(changed(document, "schema", 2))


def test_index__repeated_model_is_refused() -> None:
    entry = {"id": "a", "revision": "1", "sha256": HASH, "bytes": 1, "description": "x"}
    assert len(documents.parse_index(json.dumps({"schema": 1, "models": [entry]}).encode()).models) == 1
    with pytest.raises(InvalidCard, match="repeat: a"):
        documents.parse_index(json.dumps({"schema": 1, "models": [entry, entry]}).encode())


@pytest.fixture(scope="session")
def whole() -> dict[str, Any]:
    """A card with every optional part, as plain data. Artifacts: ONNX fp32, ONNX int8, OpenVINO fp16."""
    data: dict[str, Any] = json.loads(msgspec.json.encode(whole_card()))
    return data


def test_card__without_timms_files_stays_valid(whole: dict[str, Any]) -> None:
    with_them = documents.parse_card(json.dumps(whole).encode())
    assert [file.file for file in with_them.files][-2:] == ["config.json", "model.safetensors"]
    without = {key: value for key, value in whole.items() if key != "timm"}
    assert documents.parse_card(json.dumps(without).encode()).files == with_them.files[:-2]


def test_card__with_every_part_round_trips(tmp_path: Path) -> None:
    card = whole_card()
    assert all(getattr(card, field) not in (None, []) for field in cards.ModelCard.__struct_fields__)
    documents.write_card(tmp_path / "card.json", card)
    read = documents.read_card(tmp_path / "card.json")
    assert read == card
    assert [file.file for artifact in read.artifacts for file in artifact.files] == list(SIZES)
    assert read.artifacts[2].total_bytes == SIZES["model_fp16.xml"] + SIZES["model_fp16.bin"]


WEIGHTS = {"file": "other.bin", "bytes": 1, "sha256": HASH}


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("artifacts.2.weights", None, "in a second file"),
        ("artifacts.0.weights", WEIGHTS, "in a second file"),
        ("artifacts.0.opset", None, "an ONNX file has one"),
        ("artifacts.2.opset", 17, "an OpenVINO IR does not"),
        ("artifacts.2.weights.file", "model_fp16.xml", "files repeat: model_fp16.xml"),
        ("artifacts.2.weights.file", "model.onnx", "files repeat: model.onnx"),
        ("artifacts.2.weights.file", "golden.npz", "files repeat: golden.npz"),
        ("artifacts.2.weights.file", "../model.bin", "file"),
        ("artifacts.2.weights.sha256", "D" * 64, "sha256"),
        ("artifacts.2.weights.bytes", 0, "bytes"),
        ("artifacts.1.precision", "fp32", "artifacts repeat: onnx fp32"),
        ("artifacts.2.format", "tflite", "format"),
        ("search.n", 0, "n"),
        ("search.candidates.0.agreement", 96.3, "agreement"),
        ("search.candidates.0.relative_ms", -1, "relative_ms"),
        ("search.sensitivity.0.cosine_mean", 1.5, "cosine_mean"),
        ("latency.0.median_ms", -0.5, "median_ms"),
        ("latency.0.threads", 0, "threads"),
        ("architecture.pooling", "max", "pooling"),
        ("timm.0.file", "model.onnx", "files repeat: model.onnx"),
        ("timm.0.sha256", "D" * 64, "sha256"),
        ("architecture.depth", 0, "depth"),
        ("training.curriculum.0.block", 0, "block"),
    ],
)
def test_card__part_that_breaks_a_rule_is_refused(whole: dict[str, Any], path: str, value: Any, reason: str) -> None:
    with pytest.raises(InvalidCard, match=reason):
        documents.parse_card(changed(whole, path, value))


@pytest.mark.parametrize("name", cards.OTHER_FILES)
@pytest.mark.parametrize("path", ["artifacts.0.file", "artifacts.2.weights.file", "golden.file", "timm.0.file"])
def test_card__cannot_list_what_every_folder_has(whole: dict[str, Any], path: str, name: str) -> None:
    with pytest.raises(InvalidCard, match=f"files repeat: {name}"):
        documents.parse_card(changed(whole, path, name))


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("search.candidates.0.agrement", "agreement"),
        ("search.sensitivity.0.layers", "layer"),
        ("latency.0.median", "median_ms"),
        ("architecture.register", "registers"),
        ("artifacts.2.weights.shasum256", "sha256"),
    ],
)
def test_card__unknown_key_of_an_optional_part_names_nearest(whole: dict[str, Any], path: str, known: str) -> None:
    with pytest.raises(InvalidCard, match=f"did you mean '{known}'"):
        documents.parse_card(changed(whole, path, 1))


def test_card__the_same_precision_may_come_in_both_formats(whole: dict[str, Any]) -> None:
    card = documents.parse_card(changed(whole, "artifacts.2.precision", "int8"))
    assert [(a.format, a.precision) for a in card.artifacts][1:] == [("onnx", "int8"), ("openvino", "int8")]


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
shares = st.floats(-1, 1)
amounts = st.floats(0, allow_infinity=False, allow_nan=False)
counts = st.integers(1, 2**53)
formats = st.sampled_from(["onnx", "openvino"])
precisions = st.sampled_from(["fp32", "fp16", "int8"])
recipes = st.dictionaries(texts, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts, max_size=3)
candidates = st.builds(
    cards.Candidate,
    name=texts,
    format=formats,
    precision=precisions,
    recipe=recipes,
    top1_drop=st.none() | shares,
    agreement=shares,
    cosine_mean=shares,
    cosine_min=shares,
    relative_ms=st.none() | amounts,
    outcome=texts,
)
searches = st.builds(
    cards.Search,
    dataset=texts,
    split=texts,
    n=counts,
    calibration_photos=counts,
    device=texts,
    isa=st.lists(texts, max_size=3),
    threads=counts,
    minutes=amounts,
    candidates=st.lists(candidates, max_size=3),
    sensitivity=st.lists(st.builds(cards.Sensitivity, layer=texts, cosine_mean=shares), max_size=3),
)
latencies = st.builds(
    cards.Latency,
    file=st.sampled_from(sorted(SIZES)),
    device=texts,
    isa=st.lists(texts, max_size=3),
    runtime=texts,
    threads=counts,
    batch=counts,
    n=counts,
    min_ms=amounts,
    median_ms=amounts,
    p95_ms=amounts,
    peak_memory_bytes=st.none() | counts,
)
architectures = st.builds(
    cards.Architecture,
    patch=counts,
    width=counts,
    depth=counts,
    heads=counts,
    mlp_ratio=amounts,
    registers=st.integers(0, 16),
    layer_scale=st.booleans(),
    pooling=st.sampled_from(["cls", "patch_mean"]),
)


@given(
    search=st.none() | searches,
    latency=st.lists(latencies, max_size=3),
    architecture=st.none() | architectures,
    artifacts=st.sets(st.integers(0, 2), min_size=1),
)
def test_card__any_choice_of_parts_round_trips(
    search: cards.Search | None,
    latency: list[cards.Latency],
    architecture: cards.Architecture | None,
    artifacts: set[int],
) -> None:
    full = whole_card()
    card = msgspec.structs.replace(
        full,
        search=search,
        latency=latency,
        architecture=architecture,
        artifacts=[full.artifacts[place] for place in sorted(artifacts)],
    )
    data = msgspec.json.encode(card)
    assert documents.parse_card(data) == card
    assert msgspec.json.encode(documents.parse_card(data)) == data
