"""Nothing is reported to anyone: no command looks up a host, opens a connection, or writes outside of its folders.

Two witnesses: Python's audit events, which are also refused; and strace where it works, which sees native code too.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import leap_zoo

TINY = "leap-tiny-test"
ROOT = Path(leap_zoo.__file__).parent.parent

# Found by Python when it starts, before our code.
WITNESS = """
import os, sys

def witness(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo",
                 "socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"):
        note(event, repr(arguments))
        raise OSError("refused by this test")
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        note("write", os.path.abspath(os.fsdecode(arguments[0])))
    if event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.symlink", "os.link", "os.rename"):
        for path in arguments[: 2 if event in ("os.symlink", "os.link", "os.rename") else 1]:
            note("write", os.path.abspath(os.fsdecode(path)))

def note(event, what):
    os.write(log, f"{event} {what}\\n".encode())

log = os.open(os.environ["WITNESS_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
sys.addaudithook(witness)
"""

COMMANDS = {
    "list": "list --zoo {zoo}",
    "show": "show leap-tiny-test --zoo {zoo}",
    "verify": "verify leap-tiny-test --zoo {zoo}",
    "classify": "classify {photos} --model leap-tiny-test --zoo {zoo}",
    "classify bundled": "classify {photos}",
    "embed": "embed {photos} --out {work}/out.npz --model leap-tiny-test --zoo {zoo}",
    "fit": "fit {work}/own.head --images {classes} --model leap-tiny-test --zoo {zoo}",
    "index": "index {photos} --gallery {work}/made --model leap-tiny-test --zoo {zoo}",
    "search": "search {photos} --gallery {gallery} --zoo {zoo}",
    "bench": "bench leap-tiny-test --seconds .01 --precision int8 --zoo {zoo}",
    "cache": "cache",
}


@dataclass
class Seen:
    """What a process did: requests and look-ups; files that it made, changed or removed."""

    network: list[str]
    written: set[str]


@functools.cache
def strace() -> list[str] | None:
    """The words before a command that is watched, None where that cannot be done."""
    words = ["strace", "-f", "-qq", "-y", "-s", "300", "-e", "trace=%network,%file", "-e", "signal=none"]
    if shutil.which("strace") is None:
        return None
    works = subprocess.run([*words, sys.executable, "-c", ""], capture_output=True, check=False).returncode == 0
    return words if works else None


def watched(command: list[str], work: Path) -> tuple[subprocess.CompletedProcess[bytes], Seen]:
    """Run Python with an empty home, and every witness there is."""
    hook, home, temporary = (work / name for name in ("hook", "home", "tmp"))
    for folder in (hook, home, temporary):
        folder.mkdir()
    (hook / "sitecustomize.py").write_text(WITNESS)
    log, trace = work / "witness.log", work / "strace.log"
    kept = {name: value for name, value in os.environ.items() if not re.match("LEAP_ZOO_|XDG_|HF_|ORT_|.*proxy$", name)}
    environment = kept | {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONPATH": os.pathsep.join([str(hook), str(ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "WITNESS_LOG": str(log),
    }
    words = strace()
    done = subprocess.run(
        [*(() if words is None else (*words, "-o", str(trace))), sys.executable, *command],
        capture_output=True,
        env=environment,
        cwd=work,
        timeout=200,
        check=False,
    )
    seen = Seen([], set())
    for line in log.read_text().splitlines():
        event, _, what = line.partition(" ")
        if event == "write":
            seen.written.add(what)
        else:
            seen.network.append(line)
    if words is not None:
        read_trace(trace.read_text(errors="replace"), work, seen)
    own = (str(log), str(trace), os.devnull, "/dev/tty", "/dev/shm/", "/proc/self/")  # /dev/shm: semaphores
    seen.written = {path for path in seen.written if not path.startswith(own)}
    assert list(home.iterdir()) == []
    return done, seen


_CALL = re.compile(r"\A(?:\d+ +)?(?P<call>\w+)\((?P<arguments>.*)\) += (?P<result>\S+)")
_PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>, )?"(?P<path>[^"]*)"')
_CHANGES = re.compile(
    r"\A(mkdir|rmdir|rename|unlink|symlink|link|[fl]?chmod|[fl]?chown|truncate|creat|mknod)(at|at2|2)?\Z"
)
_LOOKUPS = ("/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/run/nscd", "/var/run/nscd")


def read_trace(text: str, work: Path, seen: Seen) -> None:
    """Add what strace saw. Calls that failed changed nothing, but a look-up or connection that fails is one."""
    for line in text.splitlines():
        found = _CALL.match(line)
        if found is None:
            continue
        call, arguments = found["call"], found["arguments"]
        if "AF_INET" in arguments or any(f'"{path}' in arguments for path in _LOOKUPS):
            seen.network.append(line)
        if found["result"].startswith("-"):
            continue
        if _CHANGES.search(call) or (call.startswith("open") and re.search("O_WRONLY|O_RDWR|O_CREAT", arguments)):
            seen.written |= {
                os.path.normpath(work / (path["folder"] or "") / path["path"]) for path in _PATH.finditer(arguments)
            }


@pytest.fixture(scope="module")
def places(tiny_zoo: Path, colour_photos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A zoo, photos, classes and a gallery."""
    home = tmp_path_factory.mktemp("given")
    zoo = Path(shutil.copytree(tiny_zoo, home / "zoo"))
    photos = colour_photos["red"].parent
    for name in ("a", "b"):
        shutil.copytree(photos, home / "classes" / name)
    from leap_zoo.cli import main

    assert main(["index", str(photos), "--gallery", str(home / "gallery"), "--model", TINY, "--zoo", str(zoo)]) == 0
    return {"zoo": zoo, "photos": photos, "classes": home / "classes", "gallery": home / "gallery"}


@pytest.mark.skipif(os.name == "nt", reason="HOME and TMPDIR as POSIX has them")
@pytest.mark.parametrize("command", COMMANDS)
def test_command__uses_no_network_and_writes_only_to_its_folder(
    places: dict[str, Path], tmp_path: Path, command: str
) -> None:
    work = tmp_path / "out"
    work.mkdir()
    words = [word.format(work=work, **places) for word in COMMANDS[command].split()]
    done, seen = watched(["-m", "leap_zoo.cli", *words], tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert seen.network == []
    allowed = (str(work), str(tmp_path / "tmp"))
    if command == "search":
        allowed += (str(places["gallery"]),)  # its lock
    assert {path for path in seen.written if not path.startswith(allowed)} == set()


@pytest.mark.skipif(os.name == "nt", reason="HOME and TMPDIR as POSIX has them")
@pytest.mark.parametrize(
    ("code", "sign"),
    [
        ("import socket; socket.getaddrinfo('host.invalid', 80)", "socket.getaddrinfo"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "127.0.0.1"),
        ("import ctypes; ctypes.CDLL(None).gethostbyname(b'host.invalid')", "/etc/"),
        ("import ctypes; ctypes.CDLL(None).socket(2, 1, 0)", "AF_INET"),
    ],
)
def test_witnesses__see_a_look_up(tmp_path: Path, code: str, sign: str) -> None:
    if "ctypes" in code and (strace() is None or not sys.platform.startswith("linux")):
        pytest.skip("strace is not installed, or may not trace")
    _, seen = watched(["-c", code], tmp_path)
    assert any(sign in line for line in seen.network)


@pytest.mark.skipif(os.name == "nt", reason="HOME and TMPDIR as POSIX has them")
@pytest.mark.parametrize(
    "code",
    [
        "open('there', 'w')",
        "import os; os.mkdir('there')",
        "import os; os.close(os.open('there', os.O_CREAT | os.O_RDWR))",
        "import ctypes; ctypes.CDLL(None).mkdir(b'there', 0o777)",
    ],
)
def test_witnesses__see_a_file(tmp_path: Path, code: str) -> None:
    if "ctypes" in code and strace() is None:
        pytest.skip("strace is not installed, or may not trace")
    _, seen = watched(["-c", code], tmp_path)
    assert str(tmp_path / "there") in seen.written


def test_witnesses__let_a_command_answer(places: dict[str, Path], tmp_path: Path) -> None:
    done, _ = watched(["-m", "leap_zoo.cli", "list", "--json", "--zoo", str(places["zoo"])], tmp_path)
    assert json.loads(done.stdout)[0]["id"] == TINY
