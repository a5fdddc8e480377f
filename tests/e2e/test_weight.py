"""The edge package as a device gets it: a new environment, `pip install .`, weighed and timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import weigh

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def weighed(edge_python: Path, sample_photos: list[Path]) -> dict[str, Any]:
    """What `python -m tools.weigh` measures, on a real photo."""
    return weigh.measure(edge_python, sample_photos[0], repeats=1)


def test_weight__is_within_its_limits(weighed: dict[str, Any]) -> None:
    """Of its times, those that were published are judged, below: here they would judge the machine."""
    assert [line for line in weigh.exceeded(weighed) if "seconds" not in line] == []
    assert min(weighed["import_seconds"]["fastest"], weighed["first_prediction_seconds"]["fastest"]) > 0
    assert weighed["megabytes"] > 50  # the runtime alone is more: it was installed, and found


def test_weight__is_what_the_packages_weigh(weighed: dict[str, Any]) -> None:
    packages = weighed["packages"]
    assert {"leap-zoo", "numpy", "pillow", "onnxruntime", "msgspec"} <= set(packages)
    assert sum(package["megabytes"] for package in packages.values()) == pytest.approx(weighed["megabytes"], rel=0.02)


def test_wheel__has_nothing_that_only_a_checkout_can_use(edge_python: Path) -> None:
    (package,) = edge_python.parents[1].rglob("site-packages/leap_zoo")
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*") if path.is_file()}
    assert {"__init__.py", "py.typed", "bundled/index.json", "cli/__main__.py"} <= files.keys()
    assert {path.suffix for path in files.values()} - {".pyc"} <= {".py", ".typed", ".json", ".npz", ".onnx", ".md"}
    pages = [name for name, path in files.items() if name.endswith(".py") and "docs/" in path.read_text("utf-8")]
    assert pages == []


def test_weight__lists_the_limits_that_are_exceeded() -> None:
    times = {"fastest": 0.2, "median": 0.3}
    found = {"megabytes": 216, "import_seconds": times, "first_prediction_seconds": times, "forbidden": ["torch"]}
    assert weigh.exceeded(found) == [
        "megabytes: 216, at most 215",
        "import_seconds: 0.2, at most 0.15",
        "torch is installed",
    ]


def test_weight__the_published_figures_are_within_the_limits() -> None:
    assert weigh.exceeded(json.loads((ROOT / "results" / "edge_weight.json").read_text())) == []
