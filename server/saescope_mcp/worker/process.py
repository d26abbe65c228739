"""The life of a worker's process: one run, one lock, one kind of work."""

import os
import signal
import threading

from saescope.names import home
from saescope_mcp.jobs import Runs
from saescope_mcp.worker.base import Worker
from saescope_mcp.worker.index import IndexWorker
from saescope_mcp.worker.train import TrainWorker

KINDS: dict[str, type[Worker]] = {"train_sae": TrainWorker, "index_features": IndexWorker}
NICE = 10
LOCK_WAIT_S = 5.0
SECOND_WORKER = 3
"""Exit status of a worker that finds another one at work."""


def main(words: list[str]) -> int:
    """Work on one run until it ends or is asked to stop."""
    runs, run_id = Runs(home() / "jobs"), words[0]
    lock = runs.lock(run_id)
    if not lock.take(within_s=LOCK_WAIT_S):
        return SECOND_WORKER
    with lock:
        run = runs.table.get(run_id)
        if run is None or not run.live:
            return 0
        stop = threading.Event()
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, lambda *_: stop.set())
        if hasattr(os, "nice"):
            os.nice(max(0, NICE - os.nice(0)))
        KINDS[run.tool](runs, run, stop).work()
    return 0
