"""Where a server's metrics lie: a folder of its own, that no other server of the same user wipes.

BentoML gives every server of a user the same folder, and the next one to start empties it. The supervisor makes
another one beside that, named by its process id, and its workers, which know their parent, use it.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's

_OWN = re.compile(r"\Aleap_zoo_metrics_(\d+)\Z")
_LIVE_GAUGE = re.compile(r"\Agauge_live[a-z]*_(\d+)\.db\Z")


def make_folder(home: Path) -> None:
    """In the supervisor, before any worker starts: an empty folder in `home`; those of dead servers are removed."""
    for path in home.glob("leap_zoo_metrics_*"):
        found = _OWN.match(path.name)
        if found and not (_is_alive(int(found[1])) and int(found[1]) != os.getpid()):
            shutil.rmtree(path, ignore_errors=True)
    (home / f"leap_zoo_metrics_{os.getpid()}").mkdir(parents=True, exist_ok=True)


def use_folder() -> None:
    """In a worker, before any metric is made: write to the folder of its supervisor, where there is one."""
    common = os.environ.get(VARIABLE)
    if common:
        own = Path(common).parent / f"leap_zoo_metrics_{os.getppid()}"
        if own.is_dir():
            os.environ[VARIABLE] = str(own)


def forget_dead_workers() -> None:
    """Remove the gauges of workers that are gone: one that was killed has not taken its requests off the count."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    from prometheus_client import multiprocess

    for path in Path(folder).glob("gauge_live*.db"):
        found = _LIVE_GAUGE.match(path.name)
        if found and not _is_alive(int(found[1])):
            multiprocess.mark_process_dead(int(found[1]), folder)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
