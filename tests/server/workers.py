"""Workers for tests: processes like the real ones, but forked from one that has imported everything
already."""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from saescope_mcp.jobs import runs

FORKED = multiprocessing.get_context("forkserver")
PRELOADED = [
    "saescope_mcp.worker.process",
    "saescope.training",
    "saescope.models",
    "saescope.evals",
    "saescope.features.index",
]


@dataclass
class Child:
    """What `Runs` wants of a process."""

    process: BaseProcess

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode


@dataclass
class Forked:
    """Starts workers; `fsize` is the largest file that they can write, `clock` a file that tells by
    how much their clocks are wrong."""

    fsize: int = 0
    clock: str = ""
    started: list[Child] = field(default_factory=list[Child])

    def __call__(self, run_id: str, folder: Path) -> Child:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("SAESCOPE_", "HF_", "OMP_", "PATH"))
        }
        process = FORKED.Process(
            target=_work, args=(run_id, folder, environment, self.fsize, self.clock), daemon=True
        )
        process.start()
        self.started.append(Child(process))
        return self.started[-1]

    def end(self) -> None:
        """No worker outlives a test that failed: an endless training would take a core from all
        that follow."""
        for child in self.started:
            child.process.kill()


class Ended:
    """Stands for a worker that ended at once: no process is started."""

    pid = 1

    def poll(self) -> int:
        return 0


def installed(monkeypatch: pytest.MonkeyPatch) -> Forked:
    """Workers of this test's server start from a process that has imported torch already."""
    prepare()
    forked = Forked()
    monkeypatch.setattr(runs, "start_worker", forked)
    return forked


def prepare() -> None:
    FORKED.set_forkserver_preload(PRELOADED)


def wrong_clock(file: str) -> Callable[[], float]:
    """`time.time` of a machine whose clock is off by the seconds in a file, which may change at any
    time."""
    right = time.time
    return lambda: right() + float(Path(file).read_text() or 0)


def _work(run_id: str, folder: Path, environment: dict[str, str], fsize: int, clock: str) -> None:
    from saescope.activations import tokens
    from saescope.features.index import build
    from saescope.training import plan
    from saescope_mcp.worker import base, process

    os.setsid()
    os.environ.update(environment)
    sys.path[:] = [os.path.abspath(place) for place in sys.path]
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if clock:
        time.time = wrong_clock(clock)
    if fsize:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fsize, fsize))
    build.CHECKPOINT_S = 0.2
    tokens.POOL_TOKENS, tokens.BATCH_CHARS = 2**13, 2**14  # not the whole corpus for a first batch
    plan.MEASURE_S, base.HEARTBEAT_S, process.LOCK_WAIT_S = 0.02, 0.05, 0.5
    os._exit(process.main([run_id]))
