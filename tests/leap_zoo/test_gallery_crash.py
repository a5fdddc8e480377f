"""What a gallery in a folder survives: kills at any moment, several writers, flipped bits, missing files."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import leap_zoo
from leap_zoo.errors import InvalidGallery
from leap_zoo.gallery import Kind
from leap_zoo.gallery.flat import READ_BYTES, FlatGallery

ROOT = Path(leap_zoo.__file__).parent.parent
DIM = 4
KIND = Kind(model="m", revision="1", space="student", dim=DIM)
WRITER = """
import sys
from pathlib import Path
import numpy as np
from leap_zoo.gallery.flat import FlatGallery
gallery = FlatGallery(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    names = [f"{sys.argv[2]}-{number}-{i}" for i in range(1 + number % 7)]
    gallery.add(names, np.random.default_rng(number).normal(size=(len(names), 4)), [{"number": number}] * len(names))
    gone = names[:1] if number % 3 == 0 else []
    gallery.delete(gone)
    print("+", *names, "-", *gone, flush=True)
"""


def writer(folder: Path, name: str, writes: int) -> subprocess.Popen[str]:
    """A process that writes, and says what the gallery has acknowledged."""
    arguments = [sys.executable, "-c", WRITER, str(folder), name, str(writes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def acknowledged(output: str) -> tuple[set[str], set[str]]:
    """What was added for good, and what was deleted, by whole lines of a writer."""
    kept, gone = set(), set()
    for line in output.split("\n")[:-1]:
        added, _, deleted = line.partition(" - ")
        gone |= set(deleted.rstrip("-").split())
        kept |= set(added.rstrip("-").split()[1:])
    return kept - gone, gone


def test_killed__at_any_moment_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    FlatGallery(folder, KIND)
    kept: set[str] = set()
    for attempt in range(3):
        process = writer(folder, str(attempt), 10**6)
        assert process.stdout is not None
        first = process.stdout.readline() + process.stdout.readline()  # what the first adds is deleted again
        time.sleep(random.Random(attempt).uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        added, deleted = acknowledged(first + rest)
        assert added
        kept |= added
        found = {item.id for item in FlatGallery(folder).items()}  # opening verifies every digest
        assert kept <= found
        assert not deleted & found
    gallery = FlatGallery(folder)
    gallery.add(["after"], np.ones((1, DIM)))
    assert kept | {"after"} <= {item.id for item in gallery.items()}
    named = {file.file for file in gallery.snapshot().manifest.files()}
    assert {path.name for path in folder.iterdir()} == named | {"manifest.json"}  # leftovers are gone


def test_writers__do_not_lose_each_others_photos_and_readers_see_whole_states(tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    reader = FlatGallery(folder, KIND)
    processes = [writer(folder, name, 15) for name in ("a", "b", "c")]
    seen = 0
    while any(process.poll() is None for process in processes):
        hits = reader.search(np.ones((1, DIM)), k=1000)[0]
        assert len({hit.id for hit in hits}) == len(hits)
        seen = max(seen, len(hits))
    outputs = [process.communicate(timeout=30)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    expected = set().union(*(acknowledged(output)[0] for output in outputs))
    assert {item.id for item in reader.items()} == expected
    assert seen > 0


@pytest.fixture
def written(tmp_path: Path) -> FlatGallery:
    """A gallery with every kind of file, one of them larger than what is read at a time."""
    kind = Kind(model="m", revision="1", space="student", dim=1024)
    gallery = FlatGallery(tmp_path / "gallery", kind)
    rows = READ_BYTES // 4096 + 10
    gallery.add([str(i) for i in range(rows)], np.random.default_rng(0).normal(size=(rows, 1024)), [{"x": 1}] * rows)
    gallery.delete(["5", "6"])
    gallery.add(["more"], np.ones((1, 1024)))
    return gallery


def test_flipped_bit__of_any_file_is_noticed(written: FlatGallery) -> None:
    files = sorted(path for path in written.folder.iterdir() if path.name != "lock")
    assert [path.suffix for path in files] == [".jsonl", ".f32", ".u32", ".jsonl", ".f32", ".json"]
    for path in files:
        whole = path.read_bytes()
        for position in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
            broken = bytearray(whole)
            broken[position] ^= 1 << position % 8
            path.write_bytes(broken)
            with pytest.raises(InvalidGallery, match=r"restore|pip install"):
                FlatGallery(written.folder)
        path.write_bytes(whole)
    assert FlatGallery(written.folder).count() == written.count()


@pytest.mark.parametrize("change", ["missing", "longer", "shorter", "empty"])
def test_damaged__file_is_named_with_the_mend(written: FlatGallery, change: str) -> None:
    for path in sorted(written.folder.glob("0*")):
        whole = path.read_bytes()
        if change == "missing":
            path.unlink()
        else:
            path.write_bytes({"longer": whole + b"\n", "shorter": whole[:-1], "empty": b""}[change])
        with pytest.raises(InvalidGallery, match=path.name):
            FlatGallery(written.folder)
        path.write_bytes(whole)


def test_manifest__cannot_name_files_elsewhere(written: FlatGallery, tmp_path: Path) -> None:
    path = written.folder / "manifest.json"
    text = path.read_text()
    name = written.snapshot().manifest.segments[0].vectors.file
    path.write_text(text.replace(name, f"../{name}"))
    with pytest.raises(InvalidGallery, match=r"manifest\.json.*restore"):
        FlatGallery(written.folder)


def test_full_disk__keeps_the_state_before_and_leaves_nothing_behind(
    written: FlatGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in written.folder.iterdir()}
    for write in (lambda: written.add(["x"], np.ones((1, 1024))), lambda: written.delete(["9"])):
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(InvalidGallery, match=r"cannot be written \(No space left on device\)"):
                write()
        assert {path.name: path.read_bytes() for path in written.folder.iterdir()} == before
    written.add(["x"], np.ones((1, 1024)))
    assert FlatGallery(written.folder).count() == written.count()


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_windows__where_a_folder_cannot_be_opened_galleries_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse_folders(path: str, *arguments: int, **options: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse_folders)
    with pytest.raises(InvalidGallery, match="cannot be written"):
        FlatGallery(tmp_path / "elsewhere", KIND)
    monkeypatch.setattr("leap_zoo.files.os.name", "nt")
    gallery = FlatGallery(tmp_path / "gallery", KIND)
    gallery.add(["x"], np.ones((1, DIM)))
    monkeypatch.undo()
    assert [item.id for item in FlatGallery(gallery.folder).items()] == ["x"]


def test_unreadable__file_is_one_line(written: FlatGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **options: bool) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(InvalidGallery, match="cannot be read") as caught:
        FlatGallery(written.folder)
    assert "\n" not in str(caught.value)


def test_unwritable__folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidGallery, match="cannot be written") as caught:
        FlatGallery(tmp_path / "file" / "gallery", KIND)
    assert "\n" not in str(caught.value)


def test_replaced__by_another_kind_is_noticed(tmp_path: Path) -> None:
    old = FlatGallery(tmp_path / "gallery", KIND)
    (tmp_path / "gallery").rename(tmp_path / "moved")
    FlatGallery(tmp_path / "gallery", Kind(model="m", revision="2", space="student", dim=DIM))
    with pytest.raises(InvalidGallery, match="another kind"):
        old.search(np.ones((1, DIM)))
