"""Standard streams as they are found: full, closed, left by their reader, ASCII only. Each command, as a process."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from PIL import Image

import leap_zoo
from leap_zoo.card import Index
from leap_zoo.cli import main
from leap_zoo.documents import index_entry, read_card, write_card, write_index
from leap_zoo.progress import Progress

TINY = "leap-tiny-test"
ROOT = Path(leap_zoo.__file__).parent.parent
ODD_LABEL = "café \x1b[31mred\x9b0m\n\u202etxt"
ODD_NAME = "a\x1b[2Jb\nc\u202e.png"

posix = pytest.mark.skipif(os.name == "nt", reason="descriptors as POSIX has them")

COMMANDS = {
    "help": "--help",
    "version": "--version",
    "list": "list --zoo {zoo}",
    "show": "show leap-tiny-test --zoo {zoo}",
    "verify": "verify leap-tiny-test --zoo {zoo}",
    "classify": "classify {photos} --model leap-tiny-test --zoo {zoo}",
    "embed": "embed {photos} --model leap-tiny-test --zoo {zoo}",
    "embed out": "embed {photos} --out {work}/out.npz --model leap-tiny-test --zoo {zoo}",
    "fit": "fit {work}/own.head --images {classes} --model leap-tiny-test --zoo {zoo}",
    "index": "index {photos} --gallery {work}/made --model leap-tiny-test --zoo {zoo}",
    "search": "search {photos} --gallery {gallery} --zoo {zoo}",
    "bench": "bench leap-tiny-test --seconds .01 --format onnx --zoo {zoo}",
    "pull": "pull leap-tiny-test --from {zoo}",
    "cache": "cache",
}


@pytest.fixture(scope="module")
def places(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A zoo whose classes, and photos whose names, would move a terminal's cursor."""
    home = tmp_path_factory.mktemp("odd")
    zoo = Path(shutil.copytree(tiny_zoo, home / "zoo"))
    card = read_card(zoo / TINY / "card.json")
    labels = [f"{ODD_LABEL} {number}" for number in range(3)]
    heads = [replace(card.heads[0], labels=labels), *card.heads[1:]]
    card = replace(card, heads=heads, description=f"Odd {ODD_LABEL}")
    write_index(zoo / "index.json", Index(models=[index_entry(card, write_card(zoo / TINY / "card.json", card))]))
    for place in ("photos", "classes/é\x1b[31m\nx", "classes/b"):
        (home / place).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 40), (80 * number, 90, 200)).save(home / place / f"{number}{ODD_NAME}")
        (home / place / f"bad{ODD_NAME}").write_bytes(b"not a photo")
    found = {"zoo": zoo, "photos": home / "photos", "classes": home / "classes", "gallery": home / "gallery"}
    main(["index", str(found["photos"]), "--gallery", str(found["gallery"]), "--model", TINY, "--zoo", str(zoo)])
    return found


Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def run(places: dict[str, Path], tmp_path: Path) -> Run:
    """`run(command, shell="{} >&-")`: a command of COMMANDS or other words, with the redirections of a shell."""

    def start(command: str, shell: str = "{}", **environment: str) -> subprocess.CompletedProcess[bytes]:
        words = COMMANDS.get(command, command).split()
        named = [word.format(work=tmp_path, **places) for word in words]
        script = shell.format('"$@"')
        inherited = {name: value for name, value in os.environ.items() if name not in ("LEAP_ZOO_URL", "LC_ALL")}
        return subprocess.run(
            ["sh", "-c", script, "sh", sys.executable, "-m", "leap_zoo.cli", *named],
            capture_output=True,
            env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
            cwd=tmp_path,
            timeout=120,
            check=False,
        )

    return start


def lines(stderr: bytes) -> list[str]:
    """What was said on stderr: each line ours, none of a traceback."""
    found = stderr.decode().split("\n")
    assert found.pop() == ""
    assert all(line.startswith("leap-zoo: ") and line.isprintable() for line in found), found
    return found


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("command", ["help", "list", "classify", "embed out", "pull"])  # all print in one place
def test_stdout__that_is_full_is_one_line(run: Run, command: str) -> None:
    done = run(command, "{} >/dev/full")
    assert done.returncode == 2
    assert "stdout cannot be used (No space left on device)" in lines(done.stderr)[-1]


@posix
@pytest.mark.parametrize("command", ["list", "classify", "embed out", "cache"])
def test_stdout__that_is_closed_is_one_line_and_nothing_is_done(run: Run, tmp_path: Path, command: str) -> None:
    done = run(command, "{} >&-")
    assert (done.returncode, len(lines(done.stderr))) == (2, 1)
    assert b"stdout is closed" in done.stderr
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("command", ["help", "list", "classify", "search"])
def test_stdout__unread_is_not_an_error(run: Run, command: str) -> None:
    done = run(command, "{{ {}; echo $? >code; }} | true; cat code")
    assert done.stdout in (b"0\n", b"2\n")  # 2: of the photo that is not one
    lines(done.stderr)


@posix
@pytest.mark.parametrize("closed", ["2>/dev/full", "2>&- <&-"])
@pytest.mark.parametrize(("command", "lines"), [("classify", 12), ("show nobody", 0), ("--no-such-option", 0)])
def test_stderr__closed_changes_neither_output_nor_exit_code(run: Run, command: str, lines: int, closed: str) -> None:
    done = run(command, "{} " + closed)
    assert (done.returncode, done.stderr) == (2, b"")
    assert done.stdout.count(b"\n") == lines


@posix
def test_stderr__that_is_closed_is_not_the_next_file_that_is_opened(run: Run, tmp_path: Path) -> None:
    assert run("embed out", "{} 2>&-").returncode == 2
    (written,) = tmp_path.iterdir()
    assert written.read_bytes().startswith(b"PK")


@posix
def test_stdin__that_is_closed_holds_no_photo(run: Run) -> None:
    done = run("classify - --model leap-tiny-test --zoo {zoo}", "{} <&-")
    assert (done.returncode, done.stdout, len(lines(done.stderr))) == (2, b"", 1)


@posix
@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"help", "version", "cache"}))
def test_names__are_printed_in_ascii_and_never_obeyed(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    words = [word.format(work=tmp_path, **places) for word in COMMANDS[command].split()]
    for more in ([], ["--json"]):
        out, err = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, "ascii", "strict"))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, "ascii", "backslashreplace"))
        assert main([*words, *more]) in (0, 2)
        lines(err.getvalue())
        text = out.getvalue().decode("ascii")
        assert all(line.isprintable() for line in text.replace("\t", "\n").split("\n")), text
    json.loads(text)


@posix
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:surrogateescape"])
def test_names__of_classes_are_in_json_as_they_are(run: Run, encoding: str) -> None:
    done = run(COMMANDS["classify"] + " --json", PYTHONIOENCODING=encoding)
    text = done.stdout.decode(encoding.split(":")[0])
    assert text.replace("\n", "").isprintable()
    assert ("é" in text) == (encoding != "ascii")
    assert {row["predictions"][0]["label"][:-2] for row in json.loads(text)["photos"][:3]} == {ODD_LABEL}


@posix
def test_names__a_line_break_in_one_adds_no_line(run: Run) -> None:
    done = run("classify")
    assert done.stdout.count(b"\n") == 3 * (1 + 3)  # the name of each photo, its three classes
    assert "café \\x1b[31mred\\x9b0m\\n\\u202etxt".encode() in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "embed {photos} --out {odd}/out.npz --model leap-tiny-test --zoo {zoo}",
        "fit {odd}/own.head --images {classes} --model leap-tiny-test --zoo {zoo}",
        "index {photos} --gallery {odd}/made --model leap-tiny-test --zoo {zoo}",
        "pull leap-tiny-test --from {zoo} --to {odd}",
        "cache",
    ],
)
def test_json__of_paths_that_are_not_utf8_is_json(
    command: str,
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        odd.mkdir()
    except OSError:
        pytest.skip("this file system takes only Unicode")
    monkeypatch.setenv("LEAP_ZOO_HOME", str(odd))
    assert main([word.format(odd=odd, **places) for word in f"{command} --json".split()]) in (0, 2)  # 2: a bad photo
    out = capsys.readouterr().out
    assert str(tmp_path / r"caf\udce9") in json.dumps(json.loads(out)).replace("\\\\", "\\")


def test_photo__about_which_pillow_logs_is_one_line_of_ours(run: Run, tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.new("RGB", (40, 40)).save(whole, "TIFF")
    samples, many = struct.pack("<HHIH", 277, 3, 1, 3), struct.pack("<HHIH", 277, 3, 1, 194)  # per pixel
    assert whole.getvalue().count(samples) == 1
    (tmp_path / "many.tif").write_bytes(whole.getvalue().replace(samples, many))
    done = run(f"classify {tmp_path}/many.tif --model leap-tiny-test --zoo {{zoo}}")
    assert (done.returncode, len(lines(done.stderr))) == (2, 1)


def test_main__without_standard_streams(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["list", "--zoo", str(places["zoo"])]) == 2
    assert main(["show", "nobody", "--zoo", str(places["zoo"])]) == 2


def test_progress__without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(3) as progress:
        progress.step()


def test_commands__print_in_one_place() -> None:
    """What is printed elsewhere would reach the terminal as it is."""
    for path in (ROOT / "leap_zoo" / "cli").glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        printing = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert not printing or path.name in ("output.py", "grammar.py"), path.name


def test_ctrl_c__has_no_imports_to_interrupt_before_the_command_can_answer_it() -> None:
    code = "import sys; before = {*sys.modules}; import leap_zoo.cli; print(*sorted({*sys.modules} - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert set(done.stdout.split()) <= {"__future__", "leap_zoo", "leap_zoo.cli"}


INTERRUPTED = """
import os, signal, sys
from leap_zoo.cli import main
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.modules.pop(sys.argv[1], None)
sys.meta_path.insert(0, Interrupt())
sys.exit(main(["classify", sys.argv[2]]))
"""


@posix
@pytest.mark.parametrize("module", ["argparse", "numpy", "datetime", "msgspec", "leap_zoo.model", "PIL", "PIL.Image"])
def test_ctrl_c__during_the_imports_has_no_traceback(module: str, colour_photos: dict[str, Path]) -> None:
    """`datetime` is imported by numpy from C, which makes an ImportError of an interrupt."""
    command = [sys.executable, "-c", INTERRUPTED, module, str(colour_photos["green"])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (130, -signal.SIGINT)
    assert done.stderr == ""


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN, lambda *_: None])
def test_main__leaves_the_handler_of_ctrl_c_as_it_was(handler: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        assert main(["cache"]) == 0
        assert signal.getsignal(signal.SIGINT) is handler
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(main, ["cache"]).result() == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "group4"])
def test_stderr__has_no_line_of_libtiff(compression: str, tiny_zoo: Path, tmp_path: Path) -> None:
    noise = bytes(number * number % 251 for number in range(120 * 120 * 3))
    photo = Image.frombytes("RGB", (120, 120), noise)
    (photo.convert("1") if compression == "group4" else photo).save(tmp_path / "a.tif", compression=compression)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[200:400] = bytes(range(200))
    (tmp_path / "a.tif").write_bytes(data)
    command = [sys.executable, "-m", "leap_zoo.cli", "classify", "a.tif", "--zoo", str(tiny_zoo), "--model", TINY]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert [line for line in done.stderr.splitlines() if not line.startswith("leap-zoo: ")] == []
