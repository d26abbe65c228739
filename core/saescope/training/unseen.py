"""What a training would take with a language model that is not on this machine, from known sizes:
nothing is downloaded, and only the speed of a matrix product is measured."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from saescope.catalogue import ModelSize
from saescope.devices import DTYPES, operations_per_s, pick_dtype
from saescope.names import split_hook
from saescope.records.training import Plan
from saescope.training.budget import (
    MEMORY_SHARE,
    by_site,
    group_bytes,
    grouped,
    in_order,
    set_disk_bytes,
)
from saescope.training.config import TrainConfig
from saescope.training.door import AskedRun, unseen_configs
from saescope.training.machine import free_bytes, free_disk_bytes
from saescope.training.memory import disk_bytes, run_bytes
from saescope.training.plan import SPARE_DISK_BYTES, disk_advice, memory_advice
from saescope.training.sets import names_of

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
    """The settings of the run, of a set its first SAE's, and what it would take."""

    cfg: TrainConfig
    plan: Plan


def plan_unseen(
    asked: AskedRun, size: ModelSize, *, device: torch.device, folder: Path
) -> Unseen | None:
    """What `make_plan` would say, without the model; None where its width is not known."""
    if size.d_model is None:
        return None
    named = asked._replace(settings={"model": size.name, **asked.settings})
    configs = unseen_configs(named, width=size.d_model, n_layers=size.n_layers)
    cfg, sites = configs[0], in_order(by_site(names_of(configs)))
    model_bytes = size.n_parameters * pick_dtype("auto", device, DTYPES[size.dtype]).itemsize
    held, free = PROCESS_BYTES + model_bytes, free_bytes(device)
    groups = grouped(sites, int(MEMORY_SHARE * max(0, free - held)))
    need = max(map(group_bytes, groups)) if asked.many else run_bytes(cfg)
    stored = set_disk_bytes(sites) if asked.many else disk_bytes(cfg)
    disk_free = free_disk_bytes(folder)
    speed = operations_per_s(device)
    plan = Plan(
        **_speeds(configs, size, speed / 2, len(groups)),
        memory_bytes=held + need,
        memory_free_bytes=free,
        disk_bytes=size.disk_bytes + stored,
        disk_free_bytes=disk_free,
        fits=held + need <= free and size.disk_bytes + stored + SPARE_DISK_BYTES <= disk_free,
        change=[]
        if asked.many
        else memory_advice(cfg, held + need, free)
        + disk_advice(cfg, stored, disk_free - size.disk_bytes),
        n_saes=len(configs),
        n_passes=len(groups),
        warnings=[RULE.format(speed / 1e9)],
    )
    return Unseen(cfg, plan if plan.fits else replace(plan, tokens_per_s=None, eta_s=None))


def _speeds(
    configs: Sequence[TrainConfig], size: ModelSize, per_s: float, n_passes: int
) -> dict[str, Any]:
    """Each pass of several is counted as one of the whole set."""
    cfg, n_layers = configs[0], size.n_layers
    depths = [split_hook(cfg.hook_name)[0] for cfg in configs]
    deepest = max((layer for layer in depths if layer is not None), default=None)
    share = min(1.0, (deepest + 1) / n_layers) if n_layers and deepest is not None else 1.0
    harvest = per_s / (READ_OPERATIONS * size.n_inner * share)
    step = per_s / (STEP_OPERATIONS * sum(cfg.d_in * cfg.d_sae for cfg in configs))
    n_tokens = cfg.n_steps * cfg.chosen.batch_size
    seconds = n_passes * cfg.harvested_tokens / harvest + n_tokens / step
    return {
        "harvest_tokens_per_s": harvest,
        "step_tokens_per_s": step,
        "tokens_per_s": n_tokens / seconds,
        "eta_s": seconds,
    }
