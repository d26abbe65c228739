"""What a set will take on this machine: one reading of the text for all SAEs that fit into memory
together, and the steps of each."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from saescope.activations import TextPasses
from saescope.activations.buffer import Rows, n_rows
from saescope.errors import NumericError
from saescope.models import LanguageModel
from saescope.names import split_hook
from saescope.records.training import Plan
from saescope.training import plan as single
from saescope.training.budget import (
    MEMORY_SHARE,
    SiteConfigs,
    by_site,
    group_bytes,
    grouped,
    in_order,
    room,
    set_disk_bytes,
)
from saescope.training.config import TrainConfig
from saescope.training.data import context_config, hooks_of, text_of
from saescope.training.loggers import require_logger
from saescope.training.machine import free_bytes, free_disk_bytes, load_average, peak_bytes
from saescope.training.sets import check_set, names_of

SMALL_BUFFERS = (2**16, 2**15, 2**14, 2**13)


class _Listener:
    """Reads as a site does, counts its rows, and keeps some of them."""

    def __init__(self, cfg: TrainConfig) -> None:
        self.cfg, self.hook_names = cfg, hooks_of(cfg)
        self.n_passes, self.n_rows = 0, 0
        self.rows: Rows = {}

    def take(self, rows: Rows) -> None:
        self.n_passes += 1
        self.n_rows += n_rows(rows)
        if not self.rows and n_rows(rows):
            self.rows = {name: x[:256].clone() for name, x in rows.items()}

    def fail(self, error: NumericError) -> None:
        raise error


def make_set_plan(
    configs: Sequence[TrainConfig],
    model: LanguageModel,
    *,
    folder: Path,
    roots: Sequence[Path] = (),
) -> Plan:
    """Read some text for all sites at once, take some steps of each kind of SAE, and leave nothing
    behind."""
    checked = check_set(configs)
    cfg, sites = checked[0], in_order(by_site(names_of(checked)))
    require_logger(cfg.logger)
    load = load_average()
    samples = [_Listener(next(iter(site.values()))) for site in sites]
    passes = TextPasses(model, samples, text_of(cfg, roots=roots), context_config(cfg))
    harvest_s = _time_passes(passes, samples)
    there, left = peak_bytes(model.device), free_bytes(model.device)
    groups = grouped(sites, room(model.device))
    memory, disk = there + max(map(group_bytes, groups)), set_disk_bytes(sites)
    disk_free = free_disk_bytes(folder)
    steps_s = _time_steps(checked, samples, model) if memory <= there + left else None
    n_tokens = cfg.n_steps * cfg.chosen.batch_size
    seconds = n_tokens * (harvest_s * _readings(groups) + steps_s) if steps_s else None
    change = _one_pass(checked, memory - there, left)
    return Plan(
        tokens_per_s=n_tokens / seconds if seconds else None,
        harvest_tokens_per_s=1 / harvest_s,
        step_tokens_per_s=1 / steps_s if steps_s else None,
        eta_s=seconds,
        memory_bytes=memory,
        memory_free_bytes=there + left,
        disk_bytes=disk,
        disk_free_bytes=disk_free,
        fits=memory <= there + left and disk + single.SPARE_DISK_BYTES <= disk_free,
        change=change if memory > there + left else [],
        load=load,
        n_saes=len(checked),
        n_passes=len(groups),
        warnings=[
            *_several_passes(len(groups), change),
            *single.not_read_by_saelens(checked),
            *single.about_the_text(
                cfg, single.text_tokens(passes.stream, passes.n_supplied // len(samples))
            ),
        ],
    )


def _time_passes(passes: TextPasses, samples: Sequence[_Listener]) -> float:
    """Seconds a token, of all sites together; the first pass also fills the pool of contexts, so
    another one is timed."""
    passes.next_pass()
    before, started = samples[0].n_rows, time.monotonic()
    while samples[0].n_rows == before or time.monotonic() - started < single.MEASURE_S:
        passes.next_pass()
    return (time.monotonic() - started) / (samples[0].n_rows - before)


def _time_steps(
    configs: Sequence[TrainConfig], samples: Sequence[_Listener], model: LanguageModel
) -> float:
    """Seconds a token of a step of every SAE: each kind is tried once, at its first site."""
    rows = {sample.hook_names: sample.rows for sample in samples}
    tried: dict[TrainConfig, float] = {}
    for cfg in configs:
        if (kind := _kind(cfg)) not in tried:
            tried[kind] = single.time_step(cfg, rows[hooks_of(cfg)], model.device)
    return sum(tried[_kind(cfg)] for cfg in configs)


def _kind(cfg: TrainConfig) -> TrainConfig:
    """Two SAEs of the same kind take the same time."""
    return replace(cfg, hook_name="", hook_name_out="x" * cfg.transcoder, seed=0, name="")


def _readings(groups: Sequence[Sequence[SiteConfigs]]) -> float:
    """The work of reading the text for each group, as a multiple of reading it for all at once: a
    pass ends at the last of its sites."""
    depths = [
        max(
            (split_hook(name)[0] or 0) + 1
            for site in group
            for name in hooks_of(next(iter(site.values())))
        )
        for group in groups
    ]
    return sum(depths) / max(depths)


def _one_pass(configs: Sequence[TrainConfig], need: int, free: int) -> list[str]:
    """The largest buffer with which the set fits into memory at once."""
    for tokens in SMALL_BUFFERS:
        if tokens < configs[0].chosen.batch_size or tokens >= configs[0].buffer_tokens:
            continue
        smaller = by_site(names_of([replace(cfg, buffer_tokens=tokens) for cfg in configs]))
        if group_bytes(smaller) <= free * MEMORY_SHARE:
            return [f'options=["buffer_tokens={tokens}"]']
    return ["fewer layers, a smaller d_sae or a smaller batch_size"] if need > free else []


def _several_passes(n_passes: int, change: Sequence[str]) -> list[str]:
    if n_passes == 1:
        return []
    one = f" One would do with {change[0]}." if change else ""
    return [
        f"The set does not fit into memory at once: the text is read {n_passes} times, for one "
        f"part of the sites after another. The SAEs are the same.{one}"
    ]
