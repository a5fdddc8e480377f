"""On Ray itself: the command, a worker that is killed, a driver that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray", reason="the extra ray is not installed")
pq = pytest.importorskip("pyarrow.parquet")

pytestmark = pytest.mark.timeout(600)
PHOTOS = 200


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file with as many rows of one photo, large enough that the run can be interrupted."""
    import io

    import pyarrow
    from PIL import Image

    folder = tmp_path_factory.mktemp("many")
    file = io.BytesIO()
    Image.effect_noise((1400, 1400), 60).convert("RGB").save(file, "JPEG")
    ids = [f"photo {number}" for number in range(PHOTOS)]
    pq.write_table(
        pyarrow.table({"id": ids, "bytes": [file.getvalue()] * PHOTOS}), folder / "x.parquet", row_group_size=10
    )
    return folder / "x.parquet"


def start(photos: Path, out: Path, zoo: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "leap_zoo.cli", "embed", str(photos), "--engine", "ray", "--workers", "1"]
    command += ["--out", str(out), "--model", "leap-tiny-test", "--zoo", str(zoo), "--json"]
    # Ray's workers stand back behind everything else, which on a busy machine would take minutes.
    env = os.environ | {"RAY_worker_niceness": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def wait_for_parts(out: Path, process: subprocess.Popen[str], count: int) -> None:
    while process.poll() is None and len(list(out.glob("part-*"))) < count:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()


def check(out: Path) -> None:
    ids = [row for part in sorted(out.glob("part-*")) for row in pq.read_table(part)["id"].to_pylist()]
    assert ids == [f"photo {number}" for number in range(PHOTOS)]


def test_worker__that_is_killed_is_replaced(photos: Path, tmp_path: Path, tiny_zoo: Path) -> None:
    driver = start(photos, tmp_path / "out", tiny_zoo)
    wait_for_parts(tmp_path / "out", driver, 2)
    workers = [
        one for one in psutil.Process(driver.pid).children(recursive=True) if "MapWorker" in "".join(one.cmdline())
    ]
    assert workers
    for worker in workers:
        worker.kill()
    said, errors = driver.communicate(timeout=400)
    assert driver.returncode == 0, errors
    assert json.loads(said)["photos"] >= PHOTOS - 20
    check(tmp_path / "out")


def test_driver__that_is_killed_is_continued(photos: Path, tmp_path: Path, tiny_zoo: Path) -> None:
    out = tmp_path / "out"
    driver = start(photos, out, tiny_zoo)
    wait_for_parts(out, driver, 2)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    left = len(list(out.glob("part-*")))
    assert left < 20
    said, errors = start(photos, out, tiny_zoo).communicate(timeout=400)
    report = json.loads(said or errors)
    assert report["kept"] >= 2
    assert report["kept"] + report["shards"] == 20
    check(out)


def test_embed__is_a_class_for_map_batches(photos: Path, tiny_zoo: Path) -> None:
    code = f"""
import ray
from leap_zoo.ray import Embed
ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
some = ray.data.read_parquet({str(photos)!r}).limit(40)
which = {{"model": "leap-tiny-test", "zoo": {str(tiny_zoo)!r}}}
one = ray.data.ActorPoolStrategy(size=1)
vectors = some.map_batches(Embed, fn_constructor_kwargs=which, batch_format="pyarrow", batch_size=20, compute=one)
rows = vectors.take_all()
assert sorted(row["id"] for row in rows) == sorted(f"photo {{number}}" for number in range(40)), rows
assert {{len(row["vector"]) for row in rows}} == {{8}}
assert {{row["error"] for row in rows}} == {{None}}
"""
    env = os.environ | {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
