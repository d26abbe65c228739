"""What a run will take on this machine, measured for a few seconds before it starts; and what to
change where it does not fit."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from saescope.activations import ContextStream, TextSource
from saescope.activations.buffer import n_rows
from saescope.models import LanguageModel
from saescope.records.training import Plan
from saescope.saes.disk import not_in_saelens, saelens_name
from saescope.training.config import TrainConfig
from saescope.training.data import text_source
from saescope.training.loggers import require_logger
from saescope.training.machine import free_bytes, free_disk_bytes, load_average, peak_bytes
from saescope.training.memory import disk_bytes, run_bytes
from saescope.training.trainer import ListBatches, Trainer

MEASURE_S = 2.0
SPARE_DISK_BYTES = 2**28
FEW_STEPS = 300
MANY_EPOCHS = 4


def make_plan(
    cfg: TrainConfig, model: LanguageModel, *, folder: Path, roots: Sequence[Path] = ()
) -> Plan:
    """Reads some text and takes some steps with the settings of the run; leaves nothing behind."""
    require_logger(cfg.logger)
    source, load = text_source(cfg, model, roots=roots), load_average()
    harvest_s, rows = _time_harvest(source)
    there = peak_bytes(model.device)
    memory, free = there + run_bytes(cfg), there + free_bytes(model.device)
    disk, disk_free = disk_bytes(cfg), free_disk_bytes(folder)
    step_s = time_step(cfg, rows, model.device) if memory <= free else None
    n_tokens = cfg.n_steps * cfg.chosen.batch_size
    rate = (
        n_tokens / (cfg.harvested_tokens * harvest_s + n_tokens * step_s)
        if step_s is not None
        else None
    )
    return Plan(
        tokens_per_s=rate,
        harvest_tokens_per_s=1 / harvest_s,
        step_tokens_per_s=1 / step_s if step_s else None,
        eta_s=n_tokens / rate if rate else None,
        memory_bytes=memory,
        memory_free_bytes=free,
        disk_bytes=disk,
        disk_free_bytes=disk_free,
        fits=memory <= free and disk + SPARE_DISK_BYTES <= disk_free,
        change=memory_advice(cfg, memory, free) + disk_advice(cfg, disk, disk_free),
        load=load,
        warnings=[
            *not_read_by_saelens([cfg]),
            *about_the_text(cfg, text_tokens(source.stream, source.n_supplied)),
        ],
    )


def for_ranks(plan: Plan, cfg: TrainConfig, n: int, *, one_memory: bool) -> Plan:
    """The plan of a run that `n` processes share, from that of one: each holds a model and the
    whole SAE, or with shard_features its share of it. How much faster they are is not measured
    before."""
    if n == 1:
        alone = ["shard_features does nothing for one process: set nproc."] * cfg.shard_features
        return replace(plan, warnings=[*plan.warnings, *alone])
    each = plan.memory_bytes
    if cfg.shard_features:
        each -= run_bytes(cfg) - run_bytes(cfg, parts=n)
    memory, free = each * n if one_memory else each, plan.memory_free_bytes
    fits = memory <= free and plan.disk_bytes + SPARE_DISK_BYTES <= plan.disk_free_bytes
    speed = f"Speed and time are one process's: {n} share the work."
    change = [] if fits else plan.change or ["fewer processes, or a smaller d_sae"]
    warnings = [*plan.warnings, speed]
    return replace(plan, memory_bytes=memory, fits=fits, change=change, warnings=warnings)


def _time_harvest(source: TextSource) -> tuple[float, dict[str, Tensor]]:
    """Seconds a token; the first pass also fills the pool of contexts, so another one is timed."""
    rows = source.next_rows()
    n_tokens, started = 0, time.monotonic()
    while not n_tokens or time.monotonic() - started < MEASURE_S:
        read = source.next_rows()
        n_tokens += n_rows(read)
        rows = read if n_rows(read) else rows
    return (time.monotonic() - started) / n_tokens, rows


def time_step(cfg: TrainConfig, rows: Mapping[str, Tensor], device: torch.device) -> float:
    """Seconds a token of training steps on what was just read, repeated to a whole batch."""
    read = rows[cfg.hook_name]
    again = torch.arange(cfg.chosen.batch_size, device=read.device) % len(read)
    x, y = (
        rows[cfg.hook_name][again].float(),
        rows[cfg.hook_name_out or cfg.hook_name][again].float(),
    )
    batches = [(x, y)] if cfg.transcoder else [x]
    quiet = replace(cfg, logger="none", n_batches_for_norm_estimate=1)
    trainer = Trainer(quiet, ListBatches(batches), device=device)
    trainer.run()
    n_steps, started = 0, time.monotonic()
    while not n_steps or (time.monotonic() - started < MEASURE_S and trainer.step < cfg.n_steps):
        trainer.batches = ListBatches(batches)
        trainer.run()
        n_steps += 1
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
    return (time.monotonic() - started) / (n_steps * cfg.chosen.batch_size)


def memory_advice(cfg: TrainConfig, need: int, free: int) -> list[str]:
    """What to change so that `need` bytes of memory become at most `free`."""
    if need <= free:
        return []
    spare = free - (need - run_bytes(cfg))
    tries = [{"d_sae": d} for d in (cfg.d_sae // 2, cfg.d_sae // 4, cfg.d_sae // 8) if d > cfg.k]
    tries += [
        {"buffer_tokens": max(cfg.chosen.batch_size, 2**14)},
        {"batch_size": 1024, "buffer_tokens": 2**14, "d_sae": cfg.d_sae // 4},
    ]
    for change in tries:
        if (
            change.get("d_sae", 1)
            and _valid(cfg, change)
            and run_bytes(replace(cfg, **change)) <= spare
        ):
            return [_as_arguments(change)]
    return ["a smaller language model or more memory: even a small SAE does not fit"]


def _valid(cfg: TrainConfig, change: dict[str, int]) -> bool:
    return (
        not cfg.recipe.nested
        or "d_sae" not in change
        or change["d_sae"] >= cfg.chosen.matryoshka_widths[-2]
    )


def _as_arguments(change: dict[str, int]) -> str:
    options = [f'"{name}={value}"' for name, value in change.items() if name == "buffer_tokens"]
    plain = [f"{name}={value}" for name, value in change.items() if name != "buffer_tokens"]
    return ", ".join([*plain, *([f"options=[{', '.join(options)}]"] if options else [])])


def disk_advice(cfg: TrainConfig, need: int, free: int) -> list[str]:
    """What to change so that the run fits on the disk, as arguments of the call."""
    if need + SPARE_DISK_BYTES <= free:
        return []
    short = (
        f"{(need + SPARE_DISK_BYTES - free) / 1e9:.2g} GB more free disk, or SAESCOPE_HOME "
        "on a larger one"
    )
    smaller = replace(
        cfg,
        keep_checkpoints=1,
        cache_activations=False,
        buffer_tokens=max(cfg.chosen.batch_size, 2**14),
    )
    if disk_bytes(smaller) + SPARE_DISK_BYTES <= free:
        return [f'options=["keep_checkpoints=1", "buffer_tokens={smaller.buffer_tokens}"]']
    return [short]


def text_tokens(stream: ContextStream, n_supplied: int) -> int:
    """About how many tokens a text has, of which so many rows were taken; 0 if it is longer than
    what was read of it."""
    if not stream.ended:
        return 0
    n_contexts = stream.slots.n_filled + len(stream.overflow) + stream.n_contexts
    n_given = stream.epoch * n_contexts + stream.n_contexts
    return max(1, n_contexts * n_supplied // max(1, n_given))


def not_read_by_saelens(cfgs: Iterable[TrainConfig]) -> list[str]:
    """A warning for each kind of SAE that sae-lens has no class for."""
    kinds = {
        saelens_name(cfg.architecture, transcoder=cfg.transcoder, skip=cfg.skip) for cfg in cfgs
    }
    return [warning for kind in sorted(kinds) if (warning := not_in_saelens(kind))]


def about_the_text(cfg: TrainConfig, n_tokens: int) -> list[str]:
    """Warnings where a text of that many tokens (0: not known) or the run is short."""
    warnings = list[str]()
    epochs = cfg.training_tokens / n_tokens if n_tokens else 0
    if epochs > MANY_EPOCHS:
        warnings.append(
            f"The text has about {n_tokens:,} tokens: it is read {epochs:,.0f} times. "
            "More text makes a better SAE."
        )
    if cfg.n_steps < FEW_STEPS:
        warnings.append(
            f"The run has {cfg.n_steps} steps: too few for a good SAE. Take more "
            "training_tokens or a smaller batch_size."
        )
    return warnings
