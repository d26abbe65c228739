"""Training by several processes: the SAE that one process trains, to rounding; checkpoints that any
number of them goes on from; a process that is killed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.core.processes import run_on_ranks
from tests.core.training.ranked import (
    RUNS,
    SHARDED,
    config_of_text,
    numbers_of,
    run_on_text,
    trained,
)
from torch import Tensor

from saescope.training import Plan, for_ranks
from saescope.training.launched import LaunchedRun, Progress
from saescope.training.launcher import Launch
from saescope.training.memory import run_bytes

ROOT = Path(__file__).parents[3]
START = """
import sys
from pathlib import Path
import torch
from tests.core.training.ranked import RUNS, SHARDED, keep, numbers_of, run_on_text, trained
from saescope.ranks import joined
torch.set_num_threads(1)
folder = Path(sys.argv[1])
"""
ALL = f"""{START}
with joined() as ranks:
    numbers = {{name: trained(name, ranks) for name in RUNS}}
    numbers |= {{f"{{name}} sharded": trained(name, ranks, shard=True) for name in SHARDED}}
    if ranks.writes:
        keep(folder, numbers)
"""
FURTHER = f"""{START}
with joined():
    run_on_text(folder, n_steps=int(sys.argv[2]))
"""


def require_equal(these: dict[str, Tensor], those: dict[str, Tensor]) -> None:
    """To the rounding of sums that were taken in another order."""
    for name, expected in those.items():
        torch.testing.assert_close(
            these[name], expected, rtol=1e-3, atol=1e-5, msg=lambda m, at=name: f"{at}: {m}"
        )


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(400)
def test_processes_that_outlived_their_starter_stop_before_others_begin(tmp_path: Path) -> None:
    cfg = config_of_text(training_tokens=480_000)
    told = LaunchedRun(config=cfg.to_dict(), model=cfg.model)
    first = Launch(tmp_path, told, nproc=1, launcher="torchrun")
    while not Progress.read(tmp_path).step:
        assert not first.wait(0.2)
    second = Launch(tmp_path, told, nproc=1, launcher="torchrun")
    assert first.wait(5.0) and (tmp_path / "checkpoints").exists()
    second.stop()
    assert second.wait(120.0)
    second.require_success()


def a_plan(**changed: Any) -> Plan:
    numbers: dict[str, Any] = dict.fromkeys((field.name for field in fields(Plan)), None)
    disk = {"disk_bytes": 0, "disk_free_bytes": 2**40}
    numbers |= {"fits": False, "change": ["less"], "warnings": []} | disk | changed
    return Plan(**numbers)


def test_a_dictionary_that_no_process_holds_alone_fits_where_its_features_are_spread() -> None:
    large = config_of_text(d_sae=2**17, shard_features=True)
    whole, model_bytes = run_bytes(large), 10**9
    plan = a_plan(memory_bytes=model_bytes + whole, memory_free_bytes=model_bytes + whole // 2)
    spread = for_ranks(plan, large, 4, one_memory=False)
    assert spread.fits and spread.change == []
    weights = 16 * large.d_sae * 2 * large.d_in  # four numbers a parameter, four bytes each
    assert plan.memory_bytes - spread.memory_bytes > 0.7 * weights
    shared = for_ranks(plan, replace(large, shard_features=False), 4, one_memory=False)
    assert not shared.fits and shared.memory_bytes == plan.memory_bytes
    assert not for_ranks(plan, large, 4, one_memory=True).fits  # four models in one memory
    assert "set nproc" in for_ranks(plan, large, 1, one_memory=False).warnings[0]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ranks_train_what_one_process_trains(
    tmp_path: Path,
) -> None:
    run_on_ranks(2, ALL, tmp_path, cwd=ROOT)
    together = load_file(tmp_path / "numbers.safetensors")
    for run in RUNS:
        for kind in (run, f"{run} sharded")[: 1 + (run in SHARDED)]:
            require_equal(together, {f"{kind}/{name}": x for name, x in trained(run).items()})


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_any_number_of_ranks_goes_on_from_what_another_left(tmp_path: Path) -> None:
    run_on_text(tmp_path, n_steps=5)
    run_on_ranks(2, FURTHER, tmp_path, 7, cwd=ROOT)
    last = run_on_text(tmp_path)
    alone = run_on_text(None)
    assert last.trainer.step == alone.trainer.step == 34
    require_equal(numbers_of(last.trainer), numbers_of(alone.trainer))


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_run_goes_from_one_rank_to_two_to_four_and_back(tmp_path: Path) -> None:
    run_on_text(tmp_path, n_steps=5)
    run_on_ranks(2, FURTHER, tmp_path, 7, cwd=ROOT)
    run_on_ranks(4, FURTHER, tmp_path, 6, cwd=ROOT)
    run_on_ranks(3, FURTHER, tmp_path, 6, cwd=ROOT)
    last = run_on_text(tmp_path)
    require_equal(numbers_of(last.trainer), numbers_of(run_on_text(None).trainer))


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(400)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_a_killed_rank_is_started_again_from_the_last_checkpoint(tmp_path: Path) -> None:
    cfg = config_of_text(training_tokens=120_000, checkpoint_every_s=1.0)
    LaunchedRun(config=cfg.to_dict(), model=cfg.model).write(tmp_path)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*command, "--max-restarts", "1", "-m", "saescope.training", str(tmp_path)]
    said = tmp_path / "said"  # not a pipe, which would fill up
    with (
        said.open("wb") as log,
        subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=log) as agent,
    ):
        while not any((tmp_path / "checkpoints").glob("ckpt-*")):
            assert agent.poll() is None, said.read_text()
            time.sleep(0.1)
        before = set(ranks_of(agent.pid))
        os.kill(max(before), signal.SIGKILL)
        assert agent.wait(300) == 0
    now = Progress.read(tmp_path)
    assert (now.state, now.step, now.n_ranks) == ("done", cfg.n_steps, 2)
    assert (tmp_path / "sae" / "cfg.json").exists()
    assert len(now.rank_bytes) == 2


def ranks_of(agent: int) -> list[int]:
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return [int(pid) for pid in children]
