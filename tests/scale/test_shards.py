"""Photos in pieces: folders, Parquet, tar files and URLs become the same rows; a run that was killed is completed."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import leap_zoo
from leap_zoo.errors import InvalidArgument, UnknownHead

pa = pytest.importorskip("pyarrow", reason="pyarrow (of the extra ray) is not installed")
pytest.importorskip("fsspec", reason="fsspec (of the extra ray) is not installed")
pq = pytest.importorskip("pyarrow.parquet")

from leap_zoo.cli import main  # noqa: E402
from leap_zoo.gallery import open_gallery  # noqa: E402
from leap_zoo.gallery.bulk import load_vectors  # noqa: E402
from leap_zoo.ray import Classify, Embed, Embedded, Which, embed_photos  # noqa: E402
from leap_zoo.shards import Columns, part_name, read_vectors  # noqa: E402


@pytest.fixture
def which(tiny_zoo: Path) -> Which:
    return Which(model="leap-tiny-test", zoo=str(tiny_zoo))


@pytest.fixture
def folder(colour_photos: dict[str, Path], tmp_path: Path) -> Path:
    """Seven photos, one of which is none."""
    folder = tmp_path / "photos"
    for place in ("a", "b"):
        (folder / place).mkdir(parents=True)
        for path in colour_photos.values():
            shutil.copy(path, folder / place)
    (folder / "b" / "torn.jpg").write_bytes(b"not a photo")
    return folder


def embed(inputs: list[str], out: str, which: Which, **more: object) -> Embedded:
    return embed_photos(inputs, out, which, workers=0, **more)  # type: ignore[arg-type]


def rows(out: Path | str) -> list[dict]:
    parts = sorted(Path(str(out).removeprefix("file://")).glob("part-*"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_folder__is_what_the_loop_in_this_process_gives(folder: Path, tmp_path: Path, which: Which) -> None:
    done = embed([str(folder)], str(tmp_path / "out"), which, rows=3)
    assert (done.photos, done.bad, done.parts, done.kept, done.failed) == (7, 1, 3, 0, {})
    expected = leap_zoo.embed_folder(which.open(), folder)
    found = {row["id"]: row for row in rows(tmp_path / "out")}
    assert len(found) == 7
    torn = found.pop(str(folder / "b" / "torn.jpg"))
    assert torn["vector"] is None
    assert "photo" in torn["error"]
    assert list(found) == expected.photos
    assert all(row["error"] is None for row in found.values())
    np.testing.assert_allclose([row["vector"] for row in found.values()], expected.vectors, atol=1e-6)


def test_classes__are_those_of_the_loop_in_this_process(folder: Path, tmp_path: Path, which: Which) -> None:
    out = tmp_path / "out"
    done = embed([str(folder)], str(out), which, rows=3, head="")
    assert (done.photos, done.bad, done.parts) == (7, 1, 3)
    found = {Path(row["id"]): row for row in rows(out)}
    assert "photo" in found.pop(folder / "b" / "torn.jpg")["error"]
    photos, model = sorted(found), which.open()
    for photo, best in zip(photos, model.classify(photos, top=1), strict=True):
        row = found[photo]
        assert (row["label"], row["error"]) == (best[0].label, None)
        assert row["score"] == pytest.approx(best[0].score, abs=1e-5)
        assert row["unsure"] is (None if best.distance is None else best.unsure)
    table = pa.table({"path": list(map(str, photos))})
    classified = Classify("leap-tiny-test", zoo=which.zoo)(table)
    assert classified["label"].to_pylist() == [found[photo]["label"] for photo in photos]
    assert embed([str(folder)], str(out), which, rows=3, head="").kept == 3
    with pytest.raises(InvalidArgument, match="begun with another head"):
        embed([str(folder)], str(out), which, rows=3)
    with pytest.raises(UnknownHead):
        embed([str(folder)], str(tmp_path / "other"), which, head="nothing")
    assert not (tmp_path / "other").exists()
    with pytest.raises(InvalidArgument, match="no columns id and vector"):
        list(read_vectors(str(out)))


def test_every_input__gives_the_same_vectors(folder: Path, tmp_path: Path, which: Which) -> None:
    paths = sorted(one for one in folder.rglob("*.*"))
    table = pa.table({"id": [one.name + one.parent.name for one in paths], "bytes": [p.read_bytes() for p in paths]})
    pq.write_table(table, tmp_path / "bytes.parquet", row_group_size=3)
    pq.write_table(pa.table({"photo": list(map(str, paths))}), tmp_path / "paths.parquet")
    pq.write_table(
        pa.table({"image": [{"bytes": one.read_bytes(), "path": one.name} for one in paths]}), tmp_path / "hub.parquet"
    )
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        archive.add(folder, "inside")
    embed([str(folder)], str(tmp_path / "expected"), which)
    expected = [row["vector"] for row in rows(tmp_path / "expected")]
    inputs = {
        "bytes.parquet": Columns(),
        "paths.parquet": Columns("photo"),
        "hub.parquet": Columns(),
        "shard.tar": Columns(),
        f"file://{folder}": Columns(),
    }
    for number, (name, columns) in enumerate(inputs.items()):
        out = f"file://{tmp_path}/out{number}"
        done = embed([name if "://" in name else str(tmp_path / name)], out, which, columns=columns)
        assert (done.photos, done.bad) == (7, 1), name
        found = sorted(rows(out), key=lambda row: Path(row["id"]).as_posix()) if name == "shard.tar" else rows(out)
        assert [row["vector"] for row in found] == expected, name
    assert [row["id"] for row in rows(tmp_path / "out0")] == table["id"].to_pylist()
    assert rows(tmp_path / "out1")[4]["id"] == f"{tmp_path}/paths.parquet:4"


def test_names__that_are_not_utf8_are_read(folder: Path, tmp_path: Path, which: Which) -> None:
    odd = folder / os.fsdecode(b"caf\xe9")
    try:
        odd.mkdir()
    except OSError:
        pytest.skip("this file system takes only Unicode")
    whole = (folder / "a" / "red.jpg").read_bytes()
    (odd / os.fsdecode(b"\xff.jpg")).write_bytes(whole)
    pq.write_table(pa.table({"bytes": [whole]}), tmp_path / "more.parquet")
    (tmp_path / "more.parquet").rename(odd / "more.parquet")
    with tarfile.open(odd / "more.tar", "w") as archive:
        archive.add(folder / "a" / "red.jpg", "red.jpg")
    out = tmp_path / "out"
    done = embed([str(odd)], str(out), which)
    assert (done.photos, done.bad, done.failed) == (3, 0, {})
    place = str(folder / r"caf\udce9")
    assert {row["id"] for row in rows(out)} == {
        rf"{place}/\udcff.jpg",
        f"{place}/more.parquet:0",
        f"{place}/more.tar/red.jpg",
    }
    assert embed([str(odd)], str(out), which).kept == done.parts  # the same plan


def test_torn_tar__keeps_the_members_before_the_tear(folder: Path, tmp_path: Path, which: Which) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for path in sorted((folder / "a").iterdir()):
            archive.add(path, path.name)
    (tmp_path / "torn.tar").write_bytes(whole.getvalue()[:1500])
    done = embed([str(tmp_path / "torn.tar")], str(tmp_path / "out"), which)
    assert done.bad >= 1
    assert "cannot be read to its end" in rows(tmp_path / "out")[-1]["error"]


def test_killed_run__is_completed_with_each_row_once(folder: Path, tmp_path: Path, which: Which) -> None:
    out = tmp_path / "out"
    embed([str(folder)], str(out), which, rows=2)
    whole = rows(out)
    (out / part_name(1)).unlink()
    (out / part_name(3)).unlink()
    (out / ".0123.tmp").write_bytes(b"what a killed writer leaves")
    shutil.copy(folder / "a" / "red.jpg", folder / "a" / "later.jpg")  # the plan stays
    done = embed([str(folder)], str(out), which, rows=2)
    assert (done.parts, done.kept, done.photos) == (2, 2, 3)
    assert rows(out) == whole
    assert embed([str(folder)], str(out), which, rows=2).parts == 0
    with pytest.raises(InvalidArgument, match="begun with another rows"):
        embed([str(folder)], str(out), which, rows=5)


def test_piece_that_cannot_be_read__is_reported_and_tried_again(folder: Path, tmp_path: Path, which: Which) -> None:
    table = pa.table({"bytes": [(folder / "a" / "red.jpg").read_bytes()]})
    pq.write_table(table, tmp_path / "one.parquet")
    pq.write_table(table, tmp_path / "two.parquet")
    inputs = [str(tmp_path / "one.parquet"), str(tmp_path / "two.parquet")]
    embed(inputs, str(tmp_path / "out"), which)
    (tmp_path / "out" / part_name(1)).unlink()
    (tmp_path / "two.parquet").rename(tmp_path / "away")
    done = embed(inputs, str(tmp_path / "out"), which)
    assert list(done.failed) == [part_name(1)]
    (tmp_path / "away").rename(tmp_path / "two.parquet")
    assert embed(inputs, str(tmp_path / "out"), which).failed == {}
    assert len(rows(tmp_path / "out")) == 2


def test_inputs__that_hold_nothing_are_refused(tmp_path: Path, which: Which) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "missing.parquet", f"file://{tmp_path}/empty"):
        with pytest.raises(InvalidArgument):
            embed([str(place)], str(tmp_path / "out"), which)
    for place, out in (
        ("http://[h/x", "out"),
        ("http://\udcff/x", "out"),
        (str(tmp_path), "\0"),
        (str(tmp_path), "http://[h"),
    ):
        with pytest.raises(InvalidArgument):
            embed([place], out if out != "out" else str(tmp_path / out), which)
    pq.write_table(pa.table({"caption": ["x"]}), tmp_path / "text.parquet")
    done = embed([str(tmp_path / "text.parquet")], str(tmp_path / "out"), which)
    assert "has no column bytes, image, path (it has caption)" in done.failed[part_name(0)]


def test_embed__maps_a_batch(colour_photos: dict[str, Path], tiny_zoo: Path) -> None:
    embedder = Embed("leap-tiny-test", zoo=str(tiny_zoo))
    batch = pa.table({"id": ["r", "none", "g"], "path": [str(colour_photos["red"]), None, str(colour_photos["green"])]})
    answer = embedder(batch).to_pylist()
    assert [row["id"] for row in answer] == ["r", "none", "g"]
    assert "missing" in answer[1]["error"]
    assert [len(row["vector"] or []) for row in answer] == [8, 0, 8]


def test_source__is_pulled_once_and_another_revision_is_refused(tiny_zoo: Path) -> None:
    which = Which(model="leap-tiny-test", source=str(tiny_zoo), revision="1")
    assert which.open().card.revision == "1"
    with pytest.raises(InvalidArgument, match="the run is for 2"):
        Which(model="leap-tiny-test", zoo=str(tiny_zoo), revision="2").open()


def test_vectors__go_into_a_gallery(folder: Path, tmp_path: Path, which: Which) -> None:
    embed([str(folder)], str(tmp_path / "out"), which, rows=3)
    for _ in range(2):  # the second time changes nothing
        gallery, added = load_vectors(str(tmp_path / "gallery"), str(tmp_path / "out"))
        assert (added, gallery.count()) == (6, 6)
    assert gallery.kind.model == "leap-tiny-test"
    vector = next(read_vectors(str(tmp_path / "out")))[2][0]
    assert open_gallery(tmp_path / "gallery").search(vector, k=1)[0].id.endswith("/photos/a/blue.webp")
    with pytest.raises(InvalidArgument, match="no Parquet files"):
        load_vectors(str(tmp_path / "gallery"), str(folder))


def test_command__without_ray_names_the_extra(
    folder: Path, tmp_path: Path, tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    assert main(["embed", str(folder), "--engine", "ray", "--out", str(out), "--zoo", str(tiny_zoo)]) == 2
    assert "leap-zoo[ray]" in capsys.readouterr().err
    assert not out.exists()
    assert main(["embed", str(folder), "--engine", "ray", "--zoo", str(tiny_zoo)]) == 2
    assert "give --out FOLDER" in capsys.readouterr().err
