"""Runs the examples of a document as a reader would: the commands in a shell, the Python blocks as one program.

`<!-- not run: WHY -->` before a block leaves it out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "serve" / "demo" / "samples"
_FENCE = re.compile(r"(?:<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)\n```", re.DOTALL | re.MULTILINE)


def examples(document: Path, *sections: str) -> list[tuple[str, str]]:
    """(kind, text) of the blocks of `document` that run, `sh` or `python`; sections: only below these headings."""
    text = document.read_text(encoding="utf-8")
    if sections:
        below = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
        text = "\n".join(below[section] for section in sections)
    return [
        (fence["kind"], fence["text"])
        for fence in _FENCE.finditer(text)
        if fence["kind"] in ("sh", "python") and not (fence["mark"] or "").startswith("not run: ")
    ]


def with_photos(folder: Path) -> Path:
    """The photos that documents name: photo.jpg, a.jpg, b.jpg, photos/, and things/ with a folder per class."""
    (folder / "photos").mkdir(parents=True)
    for photo in sorted(SAMPLES.glob("*.jpg")):
        shutil.copy(photo, folder / "photos")
        label, _, number = photo.stem.partition("-")
        if label in ("coffee", "pier", "taxi") and number != "3":
            (folder / "things" / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, folder / "things" / label)
    for source, name in (("taxi-3", "photo"), ("pier-3", "a"), ("coffee-3", "b")):
        shutil.copy(SAMPLES / f"{source}.jpg", folder / f"{name}.jpg")
    return folder


def run(blocks: list[tuple[str, str]], folder: Path, env: Mapping[str, str] = os.environ, seconds: float = 250) -> str:
    """Run blocks in `folder`, in order, and return what they print. Fails where one fails.

    The Python blocks of a document share names, as in a notebook: each runs after the ones before it.
    """
    commands = folder / "commands"
    commands.mkdir(exist_ok=True)
    for name, module in (("leap-zoo", "-m leap_zoo.cli"), ("python", "")):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (commands / name).chmod(0o755)
    path = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    env = {**env, "PATH": f"{commands}{os.pathsep}{env['PATH']}", "PYTHONPATH": path, "LEAP_ZOO_OFFLINE": "1"}
    printed, program = "", ""
    for kind, text in blocks:
        if kind == "sh":
            script, command = folder / "example.sh", ["bash", "-euo", "pipefail"]
            script.write_text(text)
        else:
            program += text + "\n"
            script, command = folder / "example.py", [sys.executable]
            script.write_text(program)
        done = subprocess.run(
            [*command, str(script)], cwd=folder, env=env, capture_output=True, text=True, timeout=seconds
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        printed += done.stdout
    return printed
