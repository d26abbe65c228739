"""What every run has in common: its row, its turn, its end."""

import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from saescope.cancel import cancellable
from saescope.errors import Cancelled, NumericError, SaescopeError
from saescope.fence import Fence, fenced
from saescope_mcp.jobs import ROW_FILE, FileLock, Run, Runs
from saescope_mcp.kinds import kind_of
from saescope_mcp.replies import refusal

HEARTBEAT_S = 1.0
LOOKS = 4
"""Looks for a request to stop in each heartbeat."""
TRIES = 30
SPARE_BYTES = 2**18


class Worker:
    """One run's life. A thread keeps its row fresh and looks for a request to stop."""

    phase: ClassVar[str]
    """What the run is at while it has its turn."""

    def __init__(self, runs: Runs, run: Run, stop: threading.Event, lock: FileLock) -> None:
        self.runs, self.run, self.stop, self.lock = runs, run, stop, lock
        self.message = "starting"
        self._ended = threading.Event()
        self._kept: str | None = None
        """The checkpoint that the copy of the row tells of."""
        self._writing = threading.Lock()

    def prepare(self) -> None:
        """What comes before the run's turn: measuring, refusing."""

    def do(self) -> dict[str, Any]:
        """Do the work, and return the result."""
        raise NotImplementedError

    def progress(self) -> dict[str, Any]:
        """What the row says of the work so far; called from a thread."""
        return {}

    @property
    def can_resume(self) -> bool:
        """Whether there is something that a resume would continue from."""
        return False

    def work(self) -> None:
        """Work to the end and never raise; how it ended is in the row."""
        beat = threading.Thread(target=self._beat, daemon=True)
        beat.start()
        try:
            with fenced(self._fence):
                changes = self._work()
        except Cancelled:
            changes = self._stopped()
        except Exception as error:
            changes = {"state": "failed", "message": "failed", "error": self._refusal(error)}
        self._ended.set()
        beat.join()
        self._spare.unlink(missing_ok=True)
        last: dict[str, Any] = {"ended": time.time()} | self.progress() | changes
        self.keep(**last)
        self.surely(**last)

    def say(self, message: str, *, phase: str = "") -> None:
        self.message = message
        self.write(message=message, **({"phase": phase} if phase else {}))

    def write(self, **changes: Any) -> bool:
        """Whether it is in the row. A disk that is full must not end the run: the next beat tries
        again."""
        try:
            fresh: dict[str, Any] = {"heartbeat": time.time(), "pid": os.getpid()}
            with self._writing:
                if self.runs.table.update(self.run.id, **fresh | changes):
                    return True
                self.runs.recover()  # the table is another one, or somebody emptied it
                return self.runs.table.update(self.run.id, **fresh | changes)
        except SaescopeError as error:
            sys.stderr.write(f"{error.message}\n")
            return False

    def surely(self, **changes: Any) -> None:
        """Writes as `write` does, for what no later beat writes again."""
        for _ in range(TRIES):
            if self.write(**changes):
                return
            time.sleep(HEARTBEAT_S)

    def keep(self, **changes: Any) -> None:
        """Write as `write` does, into the run's folder."""
        try:
            self.runs.keep(replace(self.run, **changes))
        except OSError as error:
            sys.stderr.write(f"{ROW_FILE}: {error.strerror}\n")

    def warn(self, *warnings: str) -> None:
        self.run = replace(self.run, warnings=list(dict.fromkeys([*self.run.warnings, *warnings])))
        self.write(warnings=self.run.warnings)

    @property
    def checkpoints(self) -> Path:
        return self.runs.folder(self.run.id) / "checkpoints"

    def newest(self) -> Path | None:
        """Find its newest checkpoint, whole or not."""
        if "torch" not in sys.modules:  # the run has not begun
            return None
        from saescope.training.run import newest_checkpoint

        return newest_checkpoint(self.checkpoints)

    @property
    def _fence(self) -> Fence | None:
        """That of the server that started the run."""
        roots = self.run.settings["fence"]
        return None if roots is None else Fence.around(map(Path, roots))

    @property
    def _spare(self) -> Path:
        """Given back at the end, so that even on a full disk there is room to write down how the
        run ended."""
        return self.runs.folder(self.run.id) / "spare"

    def _work(self) -> dict[str, Any]:
        with cancellable(self.stop):
            self.prepare()
        if self.run.dry_run:
            return {"state": "done", "message": "planned"}
        with self._turn():
            began: dict[str, Any] = {
                "state": "running",
                "phase": self.phase,
                "message": "starting",
                "started": time.time(),
            }
            self.run = replace(self.run, **began)
            self.write(**began)
            self.keep()
            with suppress(OSError):
                self._spare.write_bytes(bytes(SPARE_BYTES))
            return {"result": self.do(), "state": "done", "message": "done"}

    def _turn(self) -> FileLock:
        """Held by the run that works. While another one does, this process gives up its memory: it
        begins anew, and waits."""
        turn = self.runs.turn
        if not self._is_next() or not turn.take():
            if "torch" in sys.modules:
                self._ended.set()
                self.write(phase="waiting", message="waiting for its turn", heartbeat=time.time())
                os.execv(
                    sys.executable, [sys.executable, "-P", "-m", "saescope_mcp.worker", self.run.id]
                )
            self.say("waiting for its turn", phase="waiting")
            while not (self._is_next() and turn.take()):
                if self.stop.wait(HEARTBEAT_S / 2):
                    raise Cancelled("Asked to stop while it waited.")
        return turn

    def _is_next(self) -> bool:
        """Nobody who waits came earlier."""
        try:
            waiting = [run for run in self.runs.all() if run.live and run.phase == "waiting"]
        except SaescopeError:  # a table that cannot be read now: the next look decides
            return False
        return not any(run.queued < self.run.queued for run in waiting)

    def _stopped(self) -> dict[str, Any]:
        now = self._read()
        state = "cancelled" if now is not None and now.cancel else "interrupted"
        return {
            "state": state,
            "message": f"{state}; resume continues from the last checkpoint"
            if self.can_resume
            else state,
        }

    def _refusal(self, error: Exception) -> dict[str, str]:
        document = refusal(self.run.tool, error, kind_of(self.run).request)
        if not self.can_resume or isinstance(error, NumericError):  # which would come again
            return document
        return document | {
            "hint": f"{document['hint'].rstrip('.')}. Then resume with "
            f"{kind_of(self.run).resume(self.run)}."
        }

    def _beat(self) -> None:
        looks = 0
        while not self._ended.wait(HEARTBEAT_S / LOOKS):
            looks += 1
            now = self._read()
            if (
                now is not None and now.cancel
            ) or self.lock.is_lost():  # without it another worker could start
                self.stop.set()
            if looks % LOOKS == 0:
                self._tell()

    def _tell(self) -> None:
        progress = self.progress()
        self.write(**progress)
        if progress.get("checkpoint") != self._kept:
            self._kept = progress["checkpoint"]
            self.keep(**progress)

    def _read(self) -> Run | None:
        try:
            return self.runs.table.get(self.run.id)
        except SaescopeError:
            return None
