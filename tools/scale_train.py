"""`python -m tools.scale_train`: torchrun on two hosts, one of which is killed, and the share of a step that waits.

The hosts are network namespaces of this machine (iproute2, needs root) with a virtual cable between them. They share
the file system, as machines with a shared run folder do, and the cores, as machines do not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tools.scale_results import HERE, figure, write
from train import log

ROOT = Path(__file__).resolve().parent.parent
PORT = 29500
QUICK = ["teacher.supervised.epochs=2", "checkpoint_minutes=0.02", "monitor=0"]
LONGEST = 900  # seconds of one training
BEAT = 2  # seconds between two signs of life; torchrun strikes off a host that misses three
GONE = 10  # seconds that a killed host is away


def can_emulate() -> str | None:
    """Why hosts cannot be emulated here; None: they can."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    name = f"lz{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces cannot be made here ({made.stderr.strip()})"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


@dataclass
class Host:
    """A network namespace with one address."""

    name: str
    device: str
    address: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def torchrun(self, first: Host, out: Path, *words: str) -> subprocess.Popen[bytes]:
        """Start this host's share of a training of two hosts; a run that was begun is resumed."""
        train = f'exec {sys.executable} -m train "$@" --out {out} $(test -e {out}/recipe.yaml && echo --resume)'
        command = ["ip", "netns", "exec", self.name, sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
        command += ["--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint={first.address}:{PORT}"]
        # In a network namespace a machine's own name does not lead to its address, so torchrun is told which is first.
        command += [f"--rdzv_conf=is_host={int(self is first)},join_timeout={LONGEST},keep_alive_interval={BEAT}"]
        command += ["--rdzv_id=scale", f"--local_addr={self.address}", "--max_restarts=3", "--no-python"]
        # Where torchrun shares its store with the training, a machine that comes back waits for an address in vain.
        env = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": self.device}
        env |= {"OMP_NUM_THREADS": "1"}
        said = (out.parent / f"{self.device}.txt").open("ab")
        process = subprocess.Popen(
            [*command, "sh", "-c", train, "sh", *words],
            cwd=ROOT, env=env, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        said.close()
        self.processes.append(process)
        return process

    def kill(self) -> None:
        """All that runs on this host, at once, as when its power fails."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        for one in listed.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(one), signal.SIGKILL)
        for process in self.processes:
            process.wait()


@contextlib.contextmanager
def two_hosts() -> Iterator[list[Host]]:
    """Two hosts on one cable."""
    tag = secrets.token_hex(2)
    hosts = [Host(f"lz-{tag}-{number}", f"lz{tag}{number}", f"10.77.0.{number + 1}") for number in range(2)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    try:
        for host in hosts:
            ip("netns", "add", host.name)
        ip("link", "add", hosts[0].device, "netns", hosts[0].name, "type", "veth",
           "peer", "name", hosts[1].device, "netns", hosts[1].name)  # fmt: skip
        for host in hosts:
            ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.device)
            ip("-n", host.name, "link", "set", host.device, "up")
            ip("-n", host.name, "link", "set", "lo", "up")
        yield hosts
    finally:
        for host in hosts:
            host.kill()
            subprocess.run(["ip", "netns", "del", host.name], check=False)


def train_on(hosts: list[Host], out: Path, *words: str, killed: int | None = None, after: int = 1) -> None:
    """A training on both hosts. killed: that host is killed after as many checkpoints, and comes back."""
    running = [host.torchrun(hosts[0], out, *words) for host in hosts]
    until = time.monotonic() + LONGEST
    if killed is not None:
        while len(list((out / "checkpoints").glob("step-*.safetensors"))) < after:
            _check_going(running, out, until)
        hosts[killed].kill()
        if killed == 0:  # it kept the list of hosts: the other one gives up, and a scheduler starts both again
            hosts[1].kill()
        else:  # a machine takes longer to start again than torchrun takes to strike it off
            time.sleep(GONE)
        again = hosts if killed == 0 else hosts[killed:]
        for host in again:
            running[hosts.index(host)] = host.torchrun(hosts[0], out, *words)
    while any(process.poll() is None for process in running):
        _check_going(running, out, until)
    if any(process.returncode for process in running):
        raise RuntimeError(_said(out))


def _check_going(running: list[subprocess.Popen[bytes]], out: Path, until: float) -> None:
    if any(process.poll() for process in running) or time.monotonic() > until:
        raise RuntimeError(_said(out))
    time.sleep(0.05)


def _said(out: Path) -> str:
    texts = [file.read_text(errors="replace")[-3000:] for file in sorted(out.parent.glob("lz*.txt"))]
    return "the training ended badly, or took too long:\n" + "\n".join(texts)


def seconds_per_step(out: Path, batch: int) -> float:
    """The median of the second half of a run."""
    rows = log.read(out / log.FILE)
    return batch / median(row.images_per_second for row in rows[len(rows) // 2 :])


def main() -> None:
    """Write `results/scale/training.csv`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--note", default="", help="about the machine, e.g. busy")
    options = parser.parse_args()
    if (why := can_emulate()) is not None:
        parser.error(why)
    words = ["digits", f"epochs={options.epochs}", *QUICK]
    with tempfile.TemporaryDirectory() as folder, two_hosts() as hosts:
        alone, two, killed = (Path(folder, name) for name in ("alone", "two", "killed"))
        command = [sys.executable, "-m", "train", *words, "batch=32", "--out", str(alone)]
        core = f"{min(os.sched_getaffinity(0))}"
        subprocess.run(
            ["taskset", "-c", core, *command], cwd=ROOT, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        train_on(hosts, two, *words)
        start = time.monotonic()
        train_on(hosts, killed, *words, killed=1)
        took = time.monotonic() - start
        shares = Path(folder, "shares")
        train_on(hosts, shares, *words, "data.by_host=true", f"data.store={folder}/photos")
        half, whole, own = seconds_per_step(alone, 32), seconds_per_step(two, 64), seconds_per_step(shares, 64)
        steps = [log.read(run / log.FILE)[-1].step for run in (two, killed)]
    about = f"digits, batch 64, {steps[0]} steps, gloo"
    rows = [
        figure("1 host, half the batch", "seconds per step", half, "digits, batch 32", options.note),
        figure("2 hosts", "seconds per step", whole, about, options.note),
        figure("2 hosts", "share of a step beyond the host's own work", 1 - half / whole, about, options.note),
        figure("2 hosts, a share of the photos each", "seconds per step", own, about, options.note),
        figure("2 hosts, the second killed", "steps at its end", steps[1], about, options.note),
        figure("2 hosts, the second killed", "seconds in all", took, about, options.note),
    ]
    write(HERE / "training.csv", rows)


if __name__ == "__main__":
    main()
