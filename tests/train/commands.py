"""`python -m train` in processes that can be killed: forked from a server that has imported torch once for all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tools.server_process import free_port

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["train.pipeline", "train.plot.report"])
LONGEST = 500  # seconds that a process may take on a busy machine
ROOT = Path(__file__).parents[2]

TORCHRUN = {  # what it sets for two processes of one machine, beside their ranks and the port
    "TORCHELASTIC_RUN_ID": "none",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_WORLD_SIZE": "1",
    "GROUP_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
}


@dataclass
class Command:
    """A running command line and the file that it writes to."""

    process: ForkServerProcess
    output: Path

    def finish(self) -> tuple[int, str]:
        """Its exit status (negative: the signal that ended it) and what it printed."""
        self.process.join(LONGEST)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"the command still ran after {LONGEST} s:\n{self.output.read_text()[-3000:]}")
        return self.process.exitcode, self.output.read_text()

    def signal_after(self, step: int, folder: Path, number: signal.Signals) -> tuple[int, str]:
        """Send a signal once the run in `folder` has a checkpoint of `step` steps or more; as `finish`."""
        newest = f"step-{step:08d}"
        return self.signal_when(
            lambda: any(path.name >= newest for path in (folder / "checkpoints").glob("step-*.safetensors")), number
        )

    def signal_when(self, ready: Callable[[], bool], number: signal.Signals) -> tuple[int, str]:
        """Send a signal as soon as `ready`; as `finish`."""
        until = time.monotonic() + LONGEST
        while not ready():
            assert self.process.is_alive(), self.output.read_text()
            assert time.monotonic() < until, f"it took more than {LONGEST} s to come so far"
            time.sleep(0.005)
        os.kill(self.process.pid, number)
        return self.finish()


def start(*words: object, output: Path, environment: dict[str, str] | None = None) -> Command:
    """`python -m train WORDS`, on one thread: there the arithmetic is the same each time. It draws no pictures."""
    return call(_train, [str(word) for word in words], output=output, environment=environment or {})


def start_two(*words: object, output: Path, hosts: int = 1) -> list[Command]:
    """The command in two processes that meet."""
    return call_two(_train, [str(word) for word in words], output=output, hosts=hosts)


def call_two(function: Callable[..., int], *arguments: object, output: Path, hosts: int = 1) -> list[Command]:
    """Two processes of one host, or one of each of two, with the environment that torchrun would give them."""
    port = free_port()
    of_hosts = {"GROUP_WORLD_SIZE": str(hosts), "LOCAL_WORLD_SIZE": str(2 // hosts)}
    return [
        call(
            function,
            *arguments,
            output=output.with_name(f"{output.stem}-{rank}.txt"),
            environment={
                **TORCHRUN,
                **of_hosts,
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "GROUP_RANK": str(rank if hosts == 2 else 0),
                "LOCAL_RANK": str(rank if hosts == 1 else 0),
            },
        )
        for rank in range(2)
    ]


def call(function: Callable[..., int], *arguments: object, output: Path, environment: dict[str, str]) -> Command:
    """A process whose exit status is what `function` returns; it prints into `output`."""
    process = CONTEXT.Process(target=_call, args=(function, arguments, str(output), environment))
    with pytest.MonkeyPatch.context() as patch:  # the server that the first process starts imports this checkout
        patch.setenv("PYTHONPATH", str(ROOT))
        process.start()
    return Command(process, output)


def finish_all(commands: list[Command]) -> list[str]:
    """What commands printed that all ended well; where one fails, the others are ended."""
    until = time.monotonic() + LONGEST
    while any(command.process.is_alive() for command in commands) and time.monotonic() < until:
        if any(command.process.exitcode for command in commands):
            break
        time.sleep(0.05)
    for command in commands:
        if any(other.process.exitcode for other in commands) or time.monotonic() >= until:
            command.process.kill()
    done = [command.finish() for command in commands]
    assert [code for code, _ in done] == [0] * len(done), "\n".join(text[-2000:] for _, text in done)
    return [text for _, text in done]


def _call(
    function: Callable[..., int], arguments: tuple[object, ...], output: str, environment: dict[str, str]
) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update({**environment, "CUDA_VISIBLE_DEVICES": ""})  # on a GPU, sums are not the same each time
    import torch

    torch.set_num_threads(1)
    raise SystemExit(function(*arguments))


def _train(words: list[str]) -> int:
    from train.__main__ import main
    from train.plot import report

    assert Path(report.__file__).is_relative_to(ROOT), report.__file__
    report.draw = lambda runs: None
    return main(words)
