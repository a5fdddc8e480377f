"""Killed at any moment, whatever replaces a model leaves a zoo whose listed models are complete."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import leap_zoo
from export.zoo import add, publish
from leap_zoo.documents import read_card
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
    assert len(zoos) > 3
    assert revisions[0] == ["1"]  # nothing had been moved
    assert revisions[-1] == ["2"]  # nothing was killed
    assert {tuple(found) for found in revisions} == {("1",), (), ("2",)}
