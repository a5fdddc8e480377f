"""Files as users have them: links, pipes, devices, long names, private files."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import leap_zoo
from leap_zoo.errors import InvalidArgument
from leap_zoo.files import atomic_file, open_regular, read_regular, sync_folder

posix = pytest.mark.skipif(os.name == "nt", reason="links, pipes and permissions as POSIX has them")


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: str | os.PathLike[str], data: bytes) -> None:
    with atomic_file(path) as file:
        file.write(data)


def test_write__replaces_at_the_end_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, b"old")
    with atomic_file(str(path)) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_write__that_fails_leaves_the_file_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    write(path, b"old")

    def fail() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@posix
def test_write__gives_a_new_file_what_the_umask_allows(tmp_path: Path, umask: None) -> None:
    write(tmp_path / "a", b"")
    assert mode(tmp_path / "a") == 0o640


@posix
@pytest.mark.parametrize("kept", [0o600, 0o664, 0o755])
def test_write__keeps_the_permissions_of_the_file_that_it_replaces(tmp_path: Path, umask: None, kept: int) -> None:
    path = tmp_path / "a"
    path.touch()
    path.chmod(kept)
    with atomic_file(path) as file:
        file.write(b"secret")
        (temporary,) = set(tmp_path.iterdir()) - {path}
        assert mode(temporary) == 0o600
    assert mode(path) == kept


@posix
def test_write__goes_through_links_to_the_file_that_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "file"
    (tmp_path / "elsewhere" / "second").symlink_to("file")
    first = tmp_path / "first"
    first.symlink_to("elsewhere/second")
    for data in (b"made", b"replaced"):
        write(first, data)
        assert first.is_symlink()
        assert target.read_bytes() == data
        assert not target.is_symlink()


@posix
def test_write__refuses_a_circle_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write(tmp_path / "a", b"")
    assert (tmp_path / "a").is_symlink()


@posix
def test_write__takes_names_of_255_bytes(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127 + "x")
    write(path, b"long")
    assert path.read_bytes() == b"long"


@posix
def test_write__writes_into_a_pipe_and_keeps_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(pipe, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@posix
def test_write__writes_into_a_device_and_keeps_it(tmp_path: Path) -> None:
    link = tmp_path / "nothing"
    link.symlink_to(os.devnull)
    for path in (link, os.devnull):
        write(path, b"gone")
        assert stat.S_ISCHR(os.stat(path).st_mode)


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_write__to_a_full_device_is_an_error() -> None:
    with pytest.raises(OSError, match="No space"):
        write("/dev/full", b"x")


@posix
@pytest.mark.parametrize("linked", [False, True])
def test_write__to_dev_stdout_reaches_the_reader(tmp_path: Path, linked: bool) -> None:
    path = "/dev/stdout"
    if linked:
        (tmp_path / "out").symlink_to(path)
        path = str(tmp_path / "out")
    code = "import sys; from leap_zoo.files import *\nwith atomic_file(sys.argv[1]) as file: file.write(b'bytes')"
    command = [sys.executable, "-c", code, path]
    root = Path(leap_zoo.__file__).parent.parent
    assert subprocess.run(command, capture_output=True, cwd=root, check=True).stdout == b"bytes"
    kept = tmp_path / "kept"
    with kept.open("wb") as file:
        subprocess.run(command, stdout=file, cwd=root, check=True)
        assert os.fstat(file.fileno()).st_ino == kept.stat().st_ino  # not replaced behind the shell's back
    assert kept.read_bytes() == b"bytes"


def test_write__of_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"directory|denied"):
        write(tmp_path, b"")


def test_read__gives_one_byte_more_than_the_limit_of_a_larger_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert [read_regular(path, limit) for limit in (0, 4, 5, 1 << 40)] == [b"1", b"12345", b"12345", b"12345"]
    assert read_regular(str(path), 3) == b"1234"


@posix
def test_read__refuses_what_is_not_a_regular_file_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, os.devnull):
        with pytest.raises(OSError, match="not a regular file"):
            read_regular(path, 10)


def test_read__refuses_odd_names_as_errors_of_the_system(tmp_path: Path) -> None:
    for name in ("a\0b", "\ud800", "x" * 300, "absent"):
        with pytest.raises(OSError, match=r"."):
            read_regular(tmp_path / name, 10)
        if name != "absent":
            with pytest.raises(OSError, match=r"."):
                write(tmp_path / name, b"")


def test_paths__are_not_file_descriptors(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    for wrong in (descriptor, True, None, b"a", 1.5):
        with pytest.raises(InvalidArgument, match="path"), open_regular(wrong):  # type: ignore[arg-type]
            pass
        with pytest.raises(InvalidArgument, match="path"):
            write(wrong, b"")  # type: ignore[arg-type]
    os.fstat(descriptor)  # still open
    os.close(descriptor)


def test_read__closes_what_it_refuses(tmp_path: Path) -> None:
    before = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    os.close(before)
    for _ in range(3):
        with pytest.raises(OSError, match=r"."):
            read_regular(tmp_path, 10)
    after = os.open(tmp_path / "a", os.O_RDWR)
    os.close(after)
    assert after == before


def test_sync_folder__takes_a_folder(tmp_path: Path) -> None:
    sync_folder(tmp_path)
