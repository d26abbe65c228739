"""The life of a worker's process: one run, one lock, one kind of work."""

import os
import signal
import sys
import threading
import time
from pkgutil import resolve_name

from saescope.errors import ResourceError
from saescope.names import home
from saescope_mcp.jobs import Run, Runs
from saescope_mcp.kinds import kind_of
from saescope_mcp.worker.base import HEARTBEAT_S, Worker

NICE = 10
LOCK_WAIT_S = 5.0
SECOND_WORKER = 3
"""Exit status of a worker that finds another one at work."""


PATIENCE_S = 300.0
"""The longest wait for a table that another program keeps locked while this worker starts."""


def main(words: list[str]) -> int:
    """Work on one run until it ends or is asked to stop."""
    runs, run_id = Runs(home() / "jobs"), words[0]
    lock = runs.lock(run_id)
    if not lock.take(within_s=LOCK_WAIT_S):
        return SECOND_WORKER
    with lock:
        run = _row(runs, run_id)
        if run is None or not run.live:
            return 0
        stop = threading.Event()
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, lambda *_: stop.set())
        if hasattr(os, "nice"):
            os.nice(max(0, NICE - os.nice(0)))
        worker: type[Worker] = resolve_name(kind_of(run).worker)
        worker(runs, run, stop, lock).work()
    return 0


def _row(runs: Runs, run_id: str) -> Run | None:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return runs.table.get(run_id)
        except ResourceError as error:
            sys.stderr.write(f"{error.message}\n")
            if time.monotonic() >= give_up:
                raise
            time.sleep(HEARTBEAT_S)
