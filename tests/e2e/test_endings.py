"""What ends a server: whatever keeps its worker from serving. (The end of its terminal: test_lifecycle.)"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Server

TINY = "leap-tiny-test"

Start = Callable[..., AbstractContextManager["Server"]]


def test_start__a_worker_that_cannot_serve_ends_it_with_one_line(
    start: Start, tiny_zoo: Path, torchless: dict[str, str], tmp_path: Path
) -> None:
    """What only the worker imports cannot be imported: the check before the start finds nothing wrong."""
    (tmp_path / "gradio.py").write_text("raise OSError('no place for pictures')\n")
    path = f"{tmp_path}:{torchless['PYTHONPATH']}"
    variables = {"LEAP_ZOO_URL": str(tiny_zoo), "LEAP_ZOO_SERVE_MODEL": TINY, "LEAP_ZOO_SERVE_UI": "on"}
    with start(wait=False, PYTHONPATH=path, **variables) as server:
        server.process.wait(120)
        said = server.log.read_text()
    assert said.count("Cannot serve") == 1
    assert "no place for pictures" in said
    assert "Traceback" not in said
