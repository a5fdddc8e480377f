"""The edge package stands alone: no torch, nothing heavy at import, a listed public surface."""

import subprocess
import sys
import tomllib
from pathlib import Path

import leap_zoo

ROOT = Path(leap_zoo.__file__).parent.parent
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "openvino",
    "bentoml",
    "gradio",
    "onnx",
    "nncf",
    "scipy",
    "pandas",
)

LATER = ("numpy", "msgspec", "onnxruntime", "PIL", "httpx", "requests", "urllib3", "concurrent")  # with the first use

BLOCK = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError(name + " is blocked in this test")
sys.meta_path.insert(0, Blocked())
"""


def python(code: str, *arguments: str) -> str:
    """The output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_edge__classifies_with_torch_and_friends_absent(tiny_zoo: Path, colour_photos: dict[str, Path]) -> None:
    code = BLOCK + (
        "import leap_zoo\n"
        "model = leap_zoo.load('leap-tiny-test', zoo=sys.argv[1])\n"
        "print(model.classify(sys.argv[2])[0].label, model.embed(sys.argv[2]).shape)\n"
        "from leap_zoo.verify import verify\n"
        "print(verify('leap-tiny-test', sys.argv[1]).ok)\n"
    )
    assert python(code, str(tiny_zoo), str(colour_photos["green"])) == "green (8,)\nTrue"


def test_edge__the_block_of_these_tests_works() -> None:
    code = BLOCK + "try:\n    import timm\nexcept ImportError as error:\n    print(error)\n"
    assert "blocked" in python(code)


def test_import__brings_nothing_heavy() -> None:
    loaded = python("import sys, leap_zoo; print(' '.join(sorted({m.split('.')[0] for m in sys.modules})))").split()
    assert not {*HEAVY, *LATER} & set(loaded)


def test_first_use__brings_what_it_needs_and_no_more() -> None:
    code = "import sys, leap_zoo; leap_zoo.load; print(' '.join(sorted({m.split('.')[0] for m in sys.modules})))"
    loaded = set(python(code).split())
    assert {"numpy", "msgspec"} <= loaded
    assert not {*HEAVY, *LATER[2:]} & loaded
    assert python("import leap_zoo; print(leap_zoo.preprocess.Limits.__name__)") == "Limits"
    assert python("import leap_zoo; print(hasattr(leap_zoo, 'absent'), hasattr(leap_zoo, '_absent'))") == "False False"
    assert python("from leap_zoo import *; print(fit.__name__, NotAnImage.__name__)") == "fit NotAnImage"


def test_surface__every_listed_name_exists_once_and_nothing_else_is_public() -> None:
    assert sorted(set(leap_zoo.__all__)) == sorted(leap_zoo.__all__)
    for name in leap_zoo.__all__:
        assert getattr(leap_zoo, name) is not None
    assert dir(leap_zoo) == sorted(leap_zoo.__all__)


def test_surface__errors_are_one_family() -> None:
    for name in leap_zoo.__all__:
        value = getattr(leap_zoo, name)
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, leap_zoo.LeapZooError)


def test_version__is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == leap_zoo.__version__
