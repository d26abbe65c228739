"""What a training would take with a language model that is not on this machine, from known sizes:
nothing is downloaded, and only the speed of a matrix product is measured."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from saescope.catalogue import ModelSize
from saescope.devices import DTYPES, operations_per_s, pick_dtype
from saescope.names import split_hook
from saescope.records.training import Plan
from saescope.training.config import TrainConfig
from saescope.training.machine import free_bytes, free_disk_bytes
from saescope.training.memory import disk_bytes, run_bytes
from saescope.training.plan import SPARE_DISK_BYTES, disk_advice, memory_advice
from saescope.training.run import CONTEXT_SIZE, EXPANSION_FACTOR

PROCESS_BYTES = 2**29
"""The bytes of a process with torch in memory, before it holds a model."""
READ_OPERATIONS = 2
"""A weight and token, for a forward pass."""
STEP_OPERATIONS = 8
"""A weight of a dense encoder and token, for a training step: forward, backward and the update."""
RULE = (
    f"Speeds follow a rule, they are not measured: {READ_OPERATIONS} operations a token for each "
    f"weight of the model's layers up to the site, {STEP_OPERATIONS} for each weight of the SAE's "
    "encoder, at half the speed of a matrix product on this machine ({:.3g} G operations/s)."
)


class Unseen(NamedTuple):
    """The settings of the run, and what it would take."""

    cfg: TrainConfig
    plan: Plan


def plan_unseen(
    settings: Mapping[str, Any], size: ModelSize, *, device: torch.device, folder: Path
) -> Unseen | None:
    """What `make_plan` would say, without the model; None where its width is not known."""
    if size.d_model is None:
        return None
    said: dict[str, Any] = {"model": size.name, "d_in": size.d_model, **settings}
    factor = said.pop("expansion_factor", 0) or EXPANSION_FACTOR
    said["d_sae"] = said.get("d_sae") or size.d_model * factor
    said["context_size"] = said.get("context_size") or CONTEXT_SIZE
    said["d_out"] = size.d_model if said.get("hook_name_out") else 0
    cfg = TrainConfig(**said)
    model_bytes = size.n_parameters * pick_dtype("auto", device, DTYPES[size.dtype]).itemsize
    held, free = PROCESS_BYTES + model_bytes, free_bytes(device)
    memory, disk = held + run_bytes(cfg), size.disk_bytes + disk_bytes(cfg)
    disk_free = free_disk_bytes(folder)
    speed = operations_per_s(device)
    plan = Plan(
        **_speeds(cfg, size, speed / 2),
        memory_bytes=memory,
        memory_free_bytes=free,
        disk_bytes=disk,
        disk_free_bytes=disk_free,
        fits=memory <= free and disk + SPARE_DISK_BYTES <= disk_free,
        change=memory_advice(cfg, memory, free)
        + disk_advice(cfg, disk_bytes(cfg), disk_free - size.disk_bytes),
        warnings=[RULE.format(speed / 1e9)],
    )
    return Unseen(cfg, plan if plan.fits else replace(plan, tokens_per_s=None, eta_s=None))


def _speeds(cfg: TrainConfig, size: ModelSize, per_s: float) -> dict[str, Any]:
    layer, _ = split_hook(cfg.hook_name)
    n_layers = size.n_layers
    share = min(1.0, (layer + 1) / n_layers) if n_layers and layer is not None else 1.0
    harvest = per_s / (READ_OPERATIONS * size.n_inner * share)
    step = per_s / (STEP_OPERATIONS * cfg.d_in * cfg.d_sae)
    n_tokens = cfg.n_steps * cfg.chosen.batch_size
    seconds = cfg.harvested_tokens / harvest + n_tokens / step
    return {
        "harvest_tokens_per_s": harvest,
        "step_tokens_per_s": step,
        "tokens_per_s": n_tokens / seconds,
        "eta_s": seconds,
    }
