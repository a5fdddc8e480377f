"""The command line: grammar, exit codes, one-line errors."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_card import whole_card

import leap_zoo
from leap_zoo.card import Index
from leap_zoo.cli import main
from leap_zoo.documents import index_entry, write_card, write_index
from leap_zoo.progress import Progress

TINY = "leap-tiny-test"
ROOT = Path(leap_zoo.__file__).parent.parent


def cli(*arguments: object, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run `leap-zoo` in this process, with streams of its own. As a process: test_streams.py."""
    out, err = io.BytesIO(), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("LEAP_ZOO_") and name != "LEAP_ZOO_HOME":
                patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(ROOT)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        patch.setattr(sys, "stdout", io.TextIOWrapper(out, "utf-8"))
        patch.setattr(sys, "stderr", io.TextIOWrapper(err, "utf-8", "backslashreplace"))
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as end:
            code = int(end.code or 0)
            sys.stdout.flush()
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def document(done: subprocess.CompletedProcess[bytes]) -> Any:
    """The JSON on stdout."""
    return json.loads(done.stdout)


def one_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """The error: one line, no traceback."""
    text = done.stderr.decode()
    assert text.startswith("leap-zoo: ")
    assert text.count("\n") == 1
    return text


def test_help__teaches_with_examples_and_loads_no_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            main([*words, "--help"])
        return capsys.readouterr().out

    everything = said()
    for command in ("list", "show", "classify", "embed", "fit", "index", "search", "verify", "pull", "bench"):
        assert f"\n    {command} " in everything
        assert f"example: leap-zoo {command}" in said(command)
    code = (
        "import sys\n"
        "from leap_zoo.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "finally:\n"
        "    sys.stderr.write(str('onnxruntime' in sys.modules))\n"
    )
    checked = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, timeout=60, check=False)
    assert checked.stderr == b"False"


def test_version() -> None:
    assert cli("--version").stdout.decode().strip() == f"leap-zoo {leap_zoo.__version__}"


def test_list__text_and_json(tiny_zoo: Path) -> None:
    assert TINY.encode() in cli("list", "--zoo", tiny_zoo).stdout
    rows = document(cli("list", "--json", LEAP_ZOO_URL=str(tiny_zoo)))
    assert rows[0]["id"] == TINY
    assert rows[0]["precisions"] == ["fp32", "int8"]


def test_show__text_and_json(tiny_zoo: Path) -> None:
    text = cli("show", TINY, "--zoo", tiny_zoo).stdout.decode()
    for expected in ("colours (default)", "Apache-2.0", "model_int8.onnx", "top1"):
        assert expected in text
    assert document(cli("show", TINY, "--zoo", tiny_zoo, "--json")) == json.loads(
        (tiny_zoo / TINY / "card.json").read_bytes()
    )


def test_show__every_part_of_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = whole_card()
    (tmp_path / card.id).mkdir()
    data = write_card(tmp_path / card.id / "card.json", card)
    write_index(tmp_path / "index.json", Index(models=[index_entry(card, data)]))
    assert main(["show", card.id, "--zoo", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for expected in (
        "12 blocks of width 128, 4 heads, patches of 16 px, 3 registers, pooling patch_mean",
        "model_fp16.xml  openvino fp16",
        "with model_fp16.bin  5.0 MB  sha256 dddd",
        "1.5 ms median (1.25 min, 2.25 p95)  batch 1, 1 thread, peak 90.0 MB, onnxruntime 1.30, a made-up CPU",
    ):
        assert expected in text


def test_classify__text(tiny_zoo: Path, colour_photos: dict[str, Path]) -> None:
    done = cli("classify", colour_photos["green"], "--model", TINY, "--zoo", tiny_zoo, "--top", 1)
    assert done.returncode == 0
    score, label = done.stdout.decode().split()
    assert label == "green"
    assert 33 < float(score.rstrip("%")) <= 100


def test_classify__folder_json_and_head(tiny_zoo: Path, colour_photos: dict[str, Path]) -> None:
    folder = colour_photos["red"].parent
    found = document(cli("classify", folder, "--model", TINY, "--zoo", tiny_zoo, "--json"))
    assert {Path(row["photo"]).stem: row["predictions"][0]["label"] for row in found["photos"]} == {
        "red": "red", "green": "green", "blue": "blue"
    }  # fmt: skip
    assert (found["model"], found["head"], found["precision"]) == (TINY, "colours", "int8")
    other = document(cli("classify", folder, "--model", TINY, "--zoo", tiny_zoo, "--json", "--head", "brightness"))
    assert {p["label"] for p in other["photos"][0]["predictions"]} == {"dark", "bright"}


def test_classify__dash_reads_stdin(tiny_zoo: Path, colour_photos: dict[str, Path]) -> None:
    data = colour_photos["blue"].read_bytes()
    found = document(cli("classify", "-", "--model", TINY, "--zoo", tiny_zoo, "--json", stdin=data))
    assert found["photos"][0]["photo"] == "-"
    assert found["photos"][0]["predictions"][0]["label"] == "blue"


def test_classify__bad_photo_among_many_is_reported_and_the_rest_done(
    tiny_zoo: Path, colour_photos: dict[str, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    done = cli(
        "classify", colour_photos["red"], bad, colour_photos["blue"], "--model", TINY, "--zoo", tiny_zoo, "--json"
    )
    assert done.returncode == 2
    assert "bad.jpg" in one_line(done)
    rows = document(done)["photos"]
    assert [row.get("predictions", [{}])[0].get("label") for row in rows] == ["red", None, "blue"]
    assert "not a photo" in rows[1]["error"]


def test_classify__file_name_that_is_not_utf8(tiny_zoo: Path, colour_photos: dict[str, Path], tmp_path: Path) -> None:
    try:
        path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
        Path(path).write_bytes(colour_photos["red"].read_bytes())
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    done = cli("classify", path, "--model", TINY, "--zoo", tiny_zoo, "--json")
    assert (done.returncode, document(done)["photos"][0]["predictions"][0]["label"]) == (0, "red")


def test_embed__npz_json_and_text(tiny_zoo: Path, colour_photos: dict[str, Path], tmp_path: Path) -> None:
    photos, common = sorted(colour_photos.values()), ("--model", TINY, "--zoo", tiny_zoo)
    expected = leap_zoo.load(TINY, zoo=tiny_zoo).embed(photos, space="teacher")
    out = tmp_path / "out.npz"
    assert cli("embed", *photos, *common, "--space", "teacher", "--out", out).returncode == 0
    with np.load(out, allow_pickle=False) as saved:
        assert np.abs(saved["embeddings"] - expected).max() < 1e-5
        assert saved["photos"].tolist() == [str(photo) for photo in photos]
        assert (str(saved["model"]), str(saved["space"])) == (TINY, "teacher")
    rows = document(cli("embed", *photos, *common, "--space", "teacher", "--json"))["photos"]
    assert np.abs(np.array([row["embedding"] for row in rows]) - expected).max() < 1e-5
    first = cli("embed", *photos, *common, "--space", "teacher").stdout.decode().splitlines()[0].split("\t")
    assert first[0] == str(photos[0])
    assert np.abs(np.array(first[1:], float) - expected[0]).max() < 1e-4


def test_verify__passes(tiny_zoo: Path) -> None:
    done = cli("verify", TINY, "--zoo", tiny_zoo)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"ok  ") == 2
    assert document(cli("verify", TINY, "--zoo", tiny_zoo, "--json"))["ok"] is True


def test_verify__flipped_byte_exits_1_with_both_digests_and_the_mend(zoo_copy: Path) -> None:
    path = zoo_copy / TINY / "model.onnx"
    data = bytearray(path.read_bytes())
    data[200] ^= 0x10
    path.write_bytes(data)
    done = cli("verify", TINY, "--zoo", zoo_copy)
    assert done.returncode == 1
    error = one_line(done)
    assert "expected sha256" in error
    assert "found" in error
    assert "copy the model's folder again" in error
    assert document(cli("verify", TINY, "--zoo", zoo_copy, "--json"))["ok"] is False


def test_verify__tampered_card_exits_1(zoo_copy: Path) -> None:
    path = zoo_copy / TINY / "card.json"
    path.write_bytes(path.read_bytes().replace(b'"red"', b'"rad"'))
    done = cli("verify", TINY, "--zoo", zoo_copy, "--json")
    assert (done.returncode, document(done)["ok"]) == (1, False)
    assert "card.json" in one_line(done)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show", "leap-tiny"], "did you mean 'leap-tiny-test'"),
        (["verify", "leap-tiny"], "did you mean 'leap-tiny-test'"),
        (["classify", "absent.jpg", "--model", TINY], "absent.jpg"),
        (["classify", "absent.jpg", "--model", TINY, "--head", "colour"], "did you mean 'colours'"),
        (["classify", "tests/leap_zoo", "--model", TINY], "no photos in the folder"),
        (["embed", "absent.jpg", "--model", TINY, "--out", "absent/out.npz"], "in a folder that does not exist"),
        (["classify", "absent.jpg", "--top", "0"], "at least 1"),
        (["clasify", "absent.jpg"], "--help"),
        (["classify"], "PHOTO"),
        ([], "COMMAND"),
    ],
)
def test_errors__one_line_and_exit_code_2(tiny_zoo: Path, arguments: list[str], expected: str) -> None:
    zoo = ["--zoo", str(tiny_zoo)] if arguments else []
    done = cli(*arguments, *zoo)
    assert (done.returncode, done.stdout) == (2, b"")
    assert expected in one_line(done)


def test_errors__bad_environment(tiny_zoo: Path) -> None:
    done = cli("list", LEAP_ZOO_URL=str(tiny_zoo / "absent"))
    assert (done.returncode, "index.json" in one_line(done)) == (2, True)


def test_main__returns_its_exit_code(tiny_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", TINY, "--zoo", str(tiny_zoo)]) == 0
    assert main(["show", "nobody", "--zoo", str(tiny_zoo)]) == 2
    assert "unknown model 'nobody'" in capsys.readouterr().err


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self, tty: bool) -> None:
        self.text, self.tty = "", tty

    def isatty(self) -> bool:
        return self.tty

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(
    ("total", "tty", "shown", "drawn"),
    [(9, True, True, True), (9, False, True, False), (1, True, True, False), (9, True, False, False)],
)
def test_progress__only_on_a_terminal_and_for_many(total: int, tty: bool, shown: bool, drawn: bool) -> None:
    terminal = Terminal(tty)
    with Progress(total, shown=shown, stream=terminal) as progress:  # type: ignore[arg-type]
        for _ in range(total):
            progress.step()
    assert (f"{total}/{total}" in terminal.text) == drawn
    assert terminal.text.endswith("\x1b[K") == drawn
