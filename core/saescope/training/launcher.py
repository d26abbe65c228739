"""Starting a run's processes: here by torchrun, or by SLURM on the machines of a cluster; and
asking them to stop. What they do is `launched`'s."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Literal, get_args

from saescope.devices import available_devices
from saescope.errors import ConfigError, ResourceError
from saescope.training.launched import (
    ERROR,
    PROGRESS,
    STOP,
    UNWATCHED_S,
    WATCHED,
    LaunchedRun,
    raise_error,
)

Launcher = Literal["torchrun", "slurm"]
RESTARTS = 3
"""How often all processes of a run begin anew, from its last checkpoint, after one of them died."""
SCRIPT, LOG, LOCK = "run.sbatch", "ranks.txt", "ranks.lock"
_TEMPLATE = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={cpus}
{gpus}#SBATCH --output={folder}/slurm-%j.txt
# Partition, account and time come from SBATCH_PARTITION, SBATCH_ACCOUNT and SBATCH_TIMELIMIT, or
# stand here. With more nodes each runs {nproc} processes.
export PYTHONSAFEPATH=1 {path}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun {python} -m torch.distributed.run --nnodes="$SLURM_NNODES" --nproc-per-node={nproc} \\
  --max-restarts={restarts} --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" \\
  --rdzv-endpoint="$head:29500" -m saescope.training {folder}
"""


def check_launcher(nproc: int, launcher: Launcher, *, device: str) -> None:
    """Raises ConfigError where so many processes cannot be started here."""
    if launcher == "slurm":
        if shutil.which("sbatch") is None:
            raise ConfigError(
                "There is no sbatch here: this machine submits nothing to SLURM.",
                code="NO_SLURM",
                field="launcher",
                got=launcher,
                allowed=[each for each in get_args(Launcher) if each != "slurm"],
                hint="Call from a login node of the cluster, or with launcher='torchrun'.",
            )
        return
    cards = [name for name in available_devices() if name.startswith("cuda")]
    on_cards = bool(cards) and device != "cpu"
    there = len(cards) if on_cards else os.cpu_count() or 1
    if nproc > there:
        raise ConfigError(
            f"{nproc} processes need a {'card' if on_cards else 'core'} each: this machine has "
            f"{there}.",
            field="nproc",
            got=nproc,
            allowed=f"1..{there}",
            hint=f"Take nproc={there}, or launcher='slurm' on a cluster.",
        )


class Launch:
    """A run's processes, from outside; `folder` is theirs."""

    def __init__(self, folder: Path, run: LaunchedRun, *, nproc: int, launcher: Launcher) -> None:
        """Starts them; they go on from the checkpoints in the folder, where there are any."""
        self.folder, self.launcher, self._beats = folder, launcher, 0
        lock = _alone_in(folder)
        for name in (STOP, ERROR, PROGRESS, WATCHED):
            (folder / name).unlink(missing_ok=True)
        run.write(folder)
        self.watch()
        here = os.pathsep.join(os.path.abspath(place) for place in sys.path if place)
        env = {**os.environ, "PYTHONPATH": here, "PYTHONSAFEPATH": "1"}
        if launcher == "slurm":
            _write_script(folder, nproc, on_cards=run.device != "cpu", path=here)
        with self.log() as log:
            self.process = subprocess.Popen(
                _command(folder, nproc, launcher),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                pass_fds=lock,
            )
        for handle in lock:
            os.close(handle)

    def log(self) -> IO[bytes]:
        """What the processes say; SLURM's first line is the number of its job."""
        return (self.folder / LOG).open("ab")

    def watch(self) -> None:
        """Say that somebody still waits for this run; without that it stops after a while."""
        self._beats += 1
        (self.folder / WATCHED).write_text(str(self._beats))

    def wait(self, seconds: float) -> bool:
        """Whether all processes have ended within so many seconds."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.watch()
            return False
        return True

    def stop(self) -> None:
        """Ask the processes to stop with a checkpoint; a SLURM job that has not begun is taken out
        of the queue."""
        (self.folder / STOP).touch()
        if self.launcher == "slurm" and not (self.folder / PROGRESS).exists():
            words = (self.folder / LOG).read_text(encoding="utf-8").split()
            job = next((word for word in words if word.isdecimal()), "")
            if job and shutil.which("scancel"):
                subprocess.run(["scancel", "--state=PENDING", job], check=False)

    def require_success(self) -> None:
        """Raises what the run could not go on for.

        Raises:
            ResourceError: RANKS_ENDED: the processes ended, and none of them said why.
        """
        raise_error(self.folder)
        if self.process.returncode:
            said = (self.folder / LOG).read_text(encoding="utf-8", errors="replace")
            last = said.strip().rpartition("\n")[2][-200:]
            raise ResourceError(
                f"The processes of the run ended with status {self.process.returncode}: {last}",
                code="RANKS_ENDED",
                hint=f"Look at {LOG} in the folder of the job",
            )

    def end(self) -> None:
        """Leave none behind."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def wait_for(launch: Launch) -> None:
    """Wait for the end of a run, and leave no process behind whatever comes.

    Raises:
        SaescopeError: as the run did.
    """
    try:
        while not launch.wait(1.0):
            time.sleep(0)
    finally:
        launch.end()
    launch.require_success()


def _alone_in(folder: Path) -> list[int]:
    """A lock on the folder, to be handed to the processes: it is theirs until the last has ended,
    also where whoever started them was killed. Those of such a run are asked to stop first.

    Raises:
        ResourceError: BUSY: they do not.
    """
    if sys.platform == "win32":
        return []
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    give_up = time.monotonic() + UNWATCHED_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return [handle]
        except OSError:
            (folder / STOP).touch()
        if time.monotonic() >= give_up:
            os.close(handle)
            raise ResourceError(
                "The processes of this run are still at work, and do not stop.",
                code="BUSY",
                hint="End them (they run `saescope.training`), then resume the run.",
            )
        time.sleep(0.2)


def _command(folder: Path, nproc: int, launcher: Launcher) -> list[str]:
    if launcher == "slurm":
        return ["sbatch", "--parsable", "--wait", str(folder / SCRIPT)]
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    many = ["--nproc-per-node", str(nproc), "--max-restarts", str(RESTARTS)]
    return [*agent, *many, "-m", "saescope.training", str(folder)]


def _write_script(folder: Path, nproc: int, *, on_cards: bool, path: str) -> None:
    script = _TEMPLATE.format(
        name=folder.name,
        nproc=nproc,
        cpus=nproc,
        gpus=f"#SBATCH --gpus-per-node={nproc}\n" * on_cards,
        folder=shlex.quote(str(folder)),
        path=f"PYTHONPATH={shlex.quote(path)}",
        python=shlex.quote(sys.executable),
        restarts=RESTARTS,
    )
    (folder / SCRIPT).write_text(script, encoding="utf-8")
