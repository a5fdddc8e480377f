"""Killed at any moment, whatever replaces a model leaves a zoo whose listed models are complete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

import leap_zoo
from export.zoo import add, publish, reindex, replacing
from leap_zoo.documents import read_card
from leap_zoo.errors import InvalidArgument
from leap_zoo.verify import verify

ROOT = Path(__file__).parents[2]
TINY = "leap-tiny-test"

# Kills itself before the first, second, ... move of a file or folder, each time in a fresh copy of the zoo.
KILLED = """
import os, shutil, signal, sys
from itertools import count
from pathlib import Path
from export import zoo
from leap_zoo.documents import read_card
from leap_zoo.errors import InvalidArgument

source, old, out = map(Path, sys.argv[1:4])
for moment in count():
    place = shutil.copytree(old, out / str(moment))
    child = os.fork()
    if child == 0:
        left = iter(range(moment, 0, -1))
        def counted(move):
            def moved(*paths):
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return move(*paths)
            return moved
        os.replace, os.rename = counted(os.replace), counted(os.rename)
        if sys.argv[4] == "publish":
            zoo.publish(place, read_card(source / "card.json"))
        else:
            zoo.add(source, place, sys.argv[5:])
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("how", [["publish"], ["add"], ["add", "model.onnx"]], ids=" ".join)
def test_killed__before_any_move(how: list[str], tiny_zoo: Path, zoo_copy: Path, tmp_path: Path) -> None:
    """A part is moved into place as `python -m export` does it; `export.cards` publishes a card."""
    card = read_card(zoo_copy / TINY / "card.json")
    publish(zoo_copy, msgspec.structs.replace(card, revision="2"))
    command = [sys.executable, "-c", KILLED, str(zoo_copy / TINY), str(tiny_zoo), str(tmp_path / "killed"), *how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    zoos = sorted((tmp_path / "killed").iterdir(), key=lambda path: int(path.name))
    revisions = []
    for zoo in zoos:
        listed = leap_zoo.models(zoo)
        assert all(verify(each.id, zoo).ok for each in listed), zoo.name
        revisions.append([each.revision for each in listed])
        assert add(zoo_copy / TINY, zoo, how[1:]).revision == "2"
        assert verify(TINY, zoo).ok
        assert {path.name for path in zoo.iterdir()} == {"index.json", TINY}
    assert len(zoos) > 3
    assert revisions[0] == ["1"]  # nothing had been moved
    assert revisions[-1] == ["2"]  # nothing was killed
    assert {tuple(found) for found in revisions} == {("1",), (), ("2",)}


# Moves a model away as `move` does, and dies, or waits in its staging folder until a line comes.
IN_STAGING = """
import os, sys
from pathlib import Path
from export.zoo import replacing

zoo, how = Path(sys.argv[1]), sys.argv[2]
with replacing(zoo, "leap-tiny-test") as home:
    (home / "model.onnx").write_bytes(b"x")
    if how == "killed":
        os.replace(zoo / "leap-tiny-test", home.parent / ".old")
        (zoo / "index.json").unlink()
        os.kill(os.getpid(), 9)
    print(home, flush=True)
    sys.stdin.readline()
    assert (home / "model.onnx").exists()
    raise SystemExit
"""


def in_staging(zoo: Path, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", IN_STAGING, str(zoo), how]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_staging__of_a_killed_process_is_removed_and_its_model_comes_back(zoo_copy: Path) -> None:
    assert in_staging(zoo_copy, "killed").wait() == -9
    (left,) = zoo_copy.glob(".staging-*[!k]")
    assert (left / TINY / "model.onnx").exists()
    assert not (zoo_copy / TINY).exists()
    with suppress(InvalidArgument), replacing(zoo_copy, "third") as home:
        assert not left.exists()
        assert verify(TINY, zoo_copy).ok
        assert list(home.iterdir()) == []  # so that it is not a model's
    assert {path.name for path in zoo_copy.iterdir()} == {"index.json", TINY}


@pytest.mark.parametrize("mend", ["replacing", "index"])
def test_staging__a_half_removed_new_model_gives_way_to_the_old_one(zoo_copy: Path, mend: str) -> None:
    """A process was killed while it removed a new folder that it could not list."""
    left = zoo_copy / f".staging-0123456789abcdef-{TINY}"
    shutil.copytree(zoo_copy / TINY, left / ".old")
    (zoo_copy / TINY / "model.onnx").unlink()
    (zoo_copy / "index.json").unlink()
    if mend == "index":
        reindex(zoo_copy)
    else:
        with suppress(InvalidArgument), replacing(zoo_copy, "third"):
            pass
    assert verify(TINY, zoo_copy).ok
    assert {path.name for path in zoo_copy.iterdir()} == {"index.json", TINY}


def test_staging__a_new_model_that_was_moved_but_not_listed_is_listed(zoo_copy: Path) -> None:
    (zoo_copy / f".staging-0123456789abcdef-{TINY}").mkdir()
    (zoo_copy / "index.json").unlink()
    with suppress(InvalidArgument), replacing(zoo_copy, "third"):
        assert verify(TINY, zoo_copy).ok
    assert {path.name for path in zoo_copy.iterdir()} == {"index.json", TINY}


def test_staging__of_a_living_process_stays(zoo_copy: Path, tmp_path: Path) -> None:
    with in_staging(zoo_copy, "waiting") as process:
        assert process.stdout is not None
        home = Path(process.stdout.readline().strip())
        (zoo_copy / ".staging-0123").mkdir()  # of an older version, which had no locks
        assert add(zoo_copy / TINY, tmp_path / "elsewhere").id == TINY
        assert add(tmp_path / "elsewhere" / TINY, zoo_copy).id == TINY
        assert (home / "model.onnx").exists()
        assert not (zoo_copy / ".staging-0123").exists()
        process.communicate("\n")
    assert process.returncode == 0
    assert {path.name for path in zoo_copy.iterdir()} == {"index.json", TINY}
