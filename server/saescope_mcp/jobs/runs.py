"""Runs from the outside: start one, ask about it, ask it to stop. What happens inside is
`saescope_mcp.worker`."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from saescope.errors import ConfigError, NotFoundError, ResourceError, free_space
from saescope.names import nearest
from saescope_mcp.jobs.locks import FileLock
from saescope_mcp.jobs.table import LIVE, ROW_FILE, Run, RunTable, kept_run, kept_text

STARTING_S = 20.0
"""A worker takes its lock within this time of being started; while its process is there, it may
take longer:"""
SLOW_START_S = 300.0
_children: list[subprocess.Popen[Any]] = []
"""Asked now and then, so that ended ones do not stay behind as zombies."""


class Runs:
    """All runs below one folder: `jobs.db`, and a folder for each."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.table = RunTable(folder / "jobs.db")

    def folder(self, run_id: str) -> Path:
        return self.root / run_id

    def lock(self, run_id: str) -> FileLock:
        """Held by the run's worker: there is never a second one."""
        return FileLock(self.folder(run_id) / "lock")

    @property
    def turn(self) -> FileLock:
        """The lock that is held by the one run that trains."""
        return FileLock(self.root / "turn")

    def all(self) -> list[Run]:
        """Newest first; a run whose worker is gone is interrupted."""
        if not self.table.path.exists():
            self.recover()
        _children[:] = [child for child in _children if child.poll() is None]
        return [self._judged(run) for run in self.table.all()]

    def keep(self, run: Run) -> None:
        """A copy of its row in its folder, in case the table gets lost. Raises OSError."""
        aside = self.folder(run.id) / f".{ROW_FILE}"
        try:
            aside.write_text(kept_text(run), encoding="utf-8")
            aside.replace(aside.with_name(ROW_FILE))
        finally:
            aside.unlink(missing_ok=True)

    def recover(self) -> None:
        """Put runs that have a folder but no row back into the table."""
        kept = [run for file in self.root.glob(f"*/{ROW_FILE}") if (run := kept_run(file))]
        if kept:
            self.table.restore(kept)

    def find(self, run_id: str) -> Run | None:
        return next((run for run in self.all() if run.id == run_id), None)

    def get(self, run_id: str) -> Run:
        """Return the run of that id; raises NotFoundError."""
        if run := self.find(run_id):
            return run
        known = [run.id for run in self.all()]
        close = nearest(run_id, known, 1)
        raise NotFoundError(
            f"There is no job {run_id!r}.",
            code="JOB_NOT_FOUND",
            field="job_id",
            got=run_id,
            allowed=", ".join(known[:10]) or "no job yet",
            hint=f'job_status(job_id="{close[0]}")' if close else "job_status() lists all jobs.",
        )

    def start(
        self,
        *,
        tool: str,
        name: str,
        most_live: int,
        request: dict[str, Any],
        settings: dict[str, Any],
        dry_run: bool,
    ) -> Run:
        """Start a new run in a process of its own.

        Raises:
            ResourceError: TOO_MANY_JOBS; JOBS_UNAVAILABLE.
            ConfigError: EXISTS: another run makes an SAE of this name.
        """
        now, run_id = time.time(), f"{tool.split('_')[0]}-{uuid.uuid4().hex[:6]}"
        runs = self.all()
        live = [run.id for run in runs if run.live]
        for planned in (run for run in runs if run.dry_run and not run.live):
            self.forget(planned.id)
        run = Run(
            id=run_id,
            tool=tool,
            state="queued",
            created=now,
            queued=now,
            heartbeat=now,
            name="" if dry_run else name or run_id,
            dry_run=dry_run,
            request=request,
            settings=settings,
        )
        if not self.table.add(run, most_live=most_live):
            raise _too_many(live, most_live) if len(live) >= most_live else _name_taken(run.name)
        return self._spawn(run)

    def resume(self, run: Run, *, most_live: int) -> Run:
        """The run goes on in a new process; one that is live already is left alone.

        Raises:
            ResourceError: TOO_MANY_JOBS.
        """
        live = [other.id for other in self.all() if other.live]
        now = time.time()
        changes: dict[str, Any] = {
            "state": "queued",
            "request": run.request,
            "queued": now,
            "heartbeat": now,
            "cancel": False,
            "error": {},
            "ended": None,
        }
        changes |= {
            "started": None,
            "phase": "starting",
            "message": "starting",
            "progress": _kept_progress(run),
        }
        won = self.table.revive(run.id, most_live=most_live, **changes)
        if won is None and run.id not in live:
            raise _too_many(live, most_live)
        return self._spawn(replace(run, **changes)) if won else self.get(run.id)

    def cancel(self, run_id: str) -> Run:
        """Ask a run to stop; one that has ended stays as it is, one that was interrupted will not
        be taken for unfinished any more."""
        run = self.get(run_id)
        if run.live:
            self.table.update(run_id, only_if=LIVE, cancel=True)
        elif run.state == "interrupted":
            self.table.update(
                run_id, only_if=("interrupted",), state="cancelled", message="cancelled"
            )
        return self.get(run_id)

    def forget(self, run_id: str) -> None:
        """Forget a dry run that was reported."""
        self.table.delete(run_id)
        shutil.rmtree(self.folder(run_id), ignore_errors=True)

    def _judged(self, run: Run) -> Run:
        if not run.live or _is_starting(run) or self.lock(run.id).is_held():
            return run
        now = self.table.get(run.id)  # it may have ended since its row was read
        if now is None or not now.live or now.heartbeat != run.heartbeat:
            return now or run
        changes = {"state": "interrupted", "message": "its process ended", "ended": run.heartbeat}
        with suppress(ResourceError):  # a full disk: it is so all the same
            self.table.update(run.id, only_if=LIVE, **changes)
        return replace(run, **changes)

    def _spawn(self, run: Run) -> Run:
        folder = self.folder(run.id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            child = start_worker(run.id, folder)
        except OSError as error:
            self.table.update(run.id, state="failed", message="failed", ended=time.time())
            raise ResourceError(
                f"The process of {run.id} cannot be started in {folder}: "
                f"{error.strerror} ({free_space(folder)}).",
                code="JOBS_UNAVAILABLE",
                hint="Free space on the disk of SAESCOPE_HOME or make that folder writable, "
                "then call again.",
            ) from error
        _children.append(child)
        self.table.update(run.id, pid=child.pid)
        return replace(run, pid=child.pid)


def start_worker(run_id: str, folder: Path) -> subprocess.Popen[Any]:
    """Start the worker in a process group of its own: what ends this process, or a Ctrl-C in its
    terminal, does not reach it."""
    # It finds what this process finds, from another folder; nothing is imported from that folder
    # itself.
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path if place),
    }
    group: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS}
    with (folder / "log.txt").open("ab") as log:
        command = [sys.executable, "-P", "-m", "saescope_mcp.worker", run_id]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=folder, **group
        )


def _kept_progress(run: Run) -> dict[str, Any]:
    """The progress from which a run goes on: its checkpoint's, not where it was cut off; without a
    checkpoint the start's."""
    if not (run.checkpoint and run.progress):
        return {}
    progress: dict[str, Any] = {**run.progress, "eta_s": None}
    step = Path(run.checkpoint).name.rpartition("-")[2]
    if progress.get("step") and step.isdigit():
        a_step = progress["n_tokens"] // progress["step"]
        progress |= {"step": int(step), "n_tokens": int(step) * a_step}
    return progress


def _is_starting(run: Run) -> bool:
    """Whether its worker may be on its way to the lock; a slow machine takes its time, and the
    clock may have been set."""
    has_begun = run.heartbeat > run.queued and run.phase != "waiting"  # one that waits begins anew
    if run.state != "queued" or has_begun:
        return False
    silent = abs(time.time() - run.heartbeat)
    return (
        silent < STARTING_S
        or (silent < SLOW_START_S and _is_there(run.pid))
        or _is_worker(run.pid, run.id)
    )


def _is_worker(pid: int | None, run_id: str) -> bool:
    """Whether the process of this number is surely the run's worker: a child of this one, or /proc
    says so."""
    if any(child.pid == pid and child.poll() is None for child in _children):
        return True
    try:
        return run_id in Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except (OSError, ValueError):
        return False


def _is_there(pid: int | None) -> bool:
    """Whether a process has this number; the number may be another's by now."""
    if pid is None or sys.platform == "win32":  # where os.kill ends a process whatever the signal
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _name_taken(name: str) -> ConfigError:
    return ConfigError(
        f"There is a run called {name!r} already.",
        code="EXISTS",
        field="name",
        got=name,
        hint=f'Call train_sae again with name="{name}-2", or without a name.',
    )


def _too_many(live: list[str], most_live: int) -> ResourceError:
    return ResourceError(
        f"{len(live)} jobs are running or waiting, the most allowed (one runs, "
        "SAESCOPE_MAX_QUEUED_JOBS wait).",
        code="TOO_MANY_JOBS",
        got=len(live) + 1,
        allowed=most_live,
        hint=f'Call job_status(job_id="{live[-1]}", wait_s=30) and wait, or '
        f'cancel_job(job_id="{live[0]}").'
        if live
        else "Call job_status().",
    )
