"""The tab Your classes: what its report says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import gradio as gr
import pytest

from leap_zoo.fitting import Fit
from serve.demo import classes
from serve.demo.uploads import SAMPLES, Photo, Visitor
from serve.engine import Engine


def test_report__has_no_path_of_a_photo_that_was_removed_meanwhile(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor, fit = Visitor(), classes._fit
    visitor.members = [Photo(f"my {name}", str(path), "", name.split()[0]) for name, path in SAMPLES.items()]
    paths = [photo.path for photo in visitor.members]

    async def fit_meanwhile(engine: Engine, members: Sequence[Photo]) -> Fit:
        found = await fit(engine, members)
        visitor.members.clear()
        return replace(found, bad={paths[0]: f"{paths[0]} cannot be read"}, notes=[], confusions=[])

    monkeypatch.setattr(classes, "_fit", fit_meanwhile)
    monkeypatch.setattr(classes, "_file_of", lambda found: "head")
    with gr.Blocks() as blocks:
        classes.build(engine, gr.State(Visitor()), gr.Radio())
    (learn,) = (one.fn for one in blocks.fns.values() if one.name == "learn")
    report = asyncio.run(learn(visitor))[1]
    assert f"my {next(iter(SAMPLES))} cannot be read" in report
    assert not any(path in report for path in paths)
