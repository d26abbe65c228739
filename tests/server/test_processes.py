"""train_sae(nproc=): a job like any other, whose work several processes share."""

import os
from pathlib import Path
from typing import Any

import pytest
from tests.server.helpers import HOOK, call, refuse
from tests.server.test_train import SMALL, WAIT_S, Train, train, until, workers

from saescope.load import load_sae
from saescope_mcp.jobs import Run
from saescope_mcp.state import AppState

__all__ = ["train", "workers"]  # fixtures

TWO: dict[str, Any] = {"nproc": 2, "device": "cpu"}
LONG: dict[str, Any] = SMALL | {
    "training_tokens": 1_000_000,
    "options": ["buffer_tokens=1024", "checkpoint_every_s=1"],
}
SBATCH = """#!/bin/sh
# Stands for SLURM: the script runs here, as the only node's only task.
for script; do :; done
echo 4242
export SLURM_NNODES=1 SLURM_JOB_ID=4242 SLURM_JOB_NODELIST=localhost
exec bash "$script"
"""


@pytest.mark.parametrize(
    ("asked", "field", "hint"),
    [
        ({"nproc": 3}, "nproc", "batch_size=129"),
        ({"nproc": 128}, "nproc", f"nproc={os.cpu_count()}"),
        ({"nproc": 2, "launcher": "slurm"}, "launcher", "torchrun"),
        ({"nproc": 2, "options": ["k=2,4"]}, "nproc", "nproc=1"),
        ({"nproc": 2, "options": ["cache_activations=true"]}, "cache_activations", ""),
        ({"nproc": 3, "options": ["shard_features=true"]}, "nproc", "d_sae=66"),
        (
            {"nproc": 2, "architecture": "gated", "options": ["shard_features=true"]},
            "shard_features",
            "Leave shard_features out",
        ),
    ],
)
async def test_what_processes_cannot_share_is_refused_at_the_door(
    state: AppState, glass_dir: Path, asked: dict[str, Any], field: str, hint: str
) -> None:
    words = {"model": str(glass_dir), "hook_name": HOOK, "device": "cpu", **SMALL, **asked}
    if "k=2,4" in asked.get("options", []):
        del words["k"]
    error = await refuse(state, "train_sae", **words)
    assert error["field"] == field and hint in error["hint"]
    assert state.runs.all() == []


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(400)
async def test_two_processes_train_stop_and_go_on(train: Train, state: AppState) -> None:
    begun = await train(**LONG, **TWO, wait_s=0.0)
    job_id = begun["job_id"]
    run = await until(state, job_id, told)
    assert run.message == "training in 2 processes" and run.progress["n_steps"] == 7812
    assert run.progress["densities"][""]["bins"]
    await call(state, "cancel_job", job_id=job_id)
    stopped = await until(state, job_id, lambda run: not run.live)
    assert stopped.state == "cancelled" and not rank_processes(state, job_id)
    at = stopped.progress["step"]
    resumed = await call(state, "train_sae", resume=job_id, nproc=2, wait_s=0.0)
    assert resumed["state"] in ("queued", "running")
    await until(state, job_id, lambda run: run.progress.get("step", 0) > at)
    await call(state, "cancel_job", job_id=job_id)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
async def test_an_sae_that_processes_trained_loads_by_its_handle(
    train: Train,
    state: AppState,
    glass_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launcher: str,
) -> None:
    for name, text in {
        "sbatch": SBATCH,
        "srun": '#!/bin/sh\nexec "$@"\n',
        "scontrol": "#!/bin/sh\necho localhost\n",
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    begun = await train(**SMALL, **TWO, launcher=launcher, wait_s=0.0)
    run = await until(state, begun["job_id"], lambda run: not run.live)
    assert run.state == "done", run.error
    sae = load_sae(run.result["path"])
    assert run.result["provenance"]["weights_hash"] == sae.weights_hash
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (128, 64)
    loaded = await call(
        state, "load_sae", path=run.result["path"], model=str(glass_dir), wait_s=WAIT_S
    )
    assert loaded["sae"] == run.result["sae"]
    script = state.runs.folder(run.id) / "run.sbatch"
    assert script.exists() == (launcher == "slurm")


def told(run: Run) -> object:
    """Whether it says everything that a run of one process says."""
    at = run.progress
    return run.checkpoint and at.get("densities") and at["curves"]["series"].get("")


def rank_processes(state: AppState, job_id: str) -> list[str]:
    """The processes that work in the folder of a job."""
    folder = str(state.runs.folder(job_id))
    found: list[str] = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_text().split("\0")
        except OSError:
            continue
        found += [place.name] * (folder in words and "saescope.training" in words)
    return found
