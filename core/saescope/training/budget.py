"""How much of a set fits into memory at once: its sites in groups, each trained in one pass over
the text. Grouping changes no number, because no site depends on another."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from saescope.names import split_hook
from saescope.training.config import TrainConfig
from saescope.training.data import hooks_of
from saescope.training.machine import free_bytes
from saescope.training.memory import (
    WORK_BYTES,
    buffer_bytes,
    checkpoint_bytes,
    copied_bytes,
    first_batches_bytes,
    step_bytes,
    weight_bytes,
)

MEMORY_SHARE = 0.85
"""The part of the free memory that a set takes: what else is free is not its own."""

POSITION_BYTES = 2**25
"""The saved positions in the text."""

SiteConfigs = Mapping[str, TrainConfig]
"""The configurations of the SAEs at one site, by name."""


def site_bytes(site: SiteConfigs) -> int:
    """What a site holds from step to step: the buffer and the first batches once, and of each SAE
    weights and Adam's two moments. Gradients are there for one SAE at a time."""
    configs = list(site.values())
    shared = buffer_bytes(configs[0]) + max(map(first_batches_bytes, configs))
    return shared + sum(3 * weight_bytes(cfg) for cfg in configs)


def group_bytes(group: Sequence[SiteConfigs]) -> int:
    """The most that a group takes beside the language model: all its sites, and the work of one
    step or checkpoint."""
    turns = [
        max(weight_bytes(cfg) + step_bytes(cfg), copied_bytes(cfg))
        for site in group
        for cfg in site.values()
    ]
    return sum(map(site_bytes, group)) + max(turns) + WORK_BYTES


def grouped(sites: Sequence[SiteConfigs], budget: int) -> list[list[SiteConfigs]]:
    """The sites, in their order, in as few groups as fit into `budget` bytes; groups of about the
    same number. A site that does not fit alone is a group all the same: whether it may begin is
    the plan's to say."""
    for n_groups in range(1, len(sites) + 1):
        groups = [
            list(sites[len(sites) * i // n_groups : len(sites) * (i + 1) // n_groups])
            for i in range(n_groups)
        ]
        if all(group_bytes(group) <= budget for group in groups):
            return groups
    return [[site] for site in sites]


def set_disk_bytes(sites: Sequence[SiteConfigs]) -> int:
    """The checkpoints of all sites that are kept, the largest once more while it is written, and
    the SAEs."""
    of_sites = [
        checkpoint_bytes(next(iter(site.values())))
        + sum(3 * weight_bytes(cfg) for cfg in [*site.values()][1:])
        for site in sites
    ]
    saes = sum(weight_bytes(cfg) for site in sites for cfg in site.values())
    keep = next(iter(sites[0].values())).keep_checkpoints
    return keep * sum(of_sites) + max(of_sites) + saes + POSITION_BYTES


def room(device: torch.device) -> int:
    """The bytes that a set may take here beside the language model."""
    return int(MEMORY_SHARE * free_bytes(device))


def by_site(configs: Mapping[str, TrainConfig]) -> list[SiteConfigs]:
    """The configurations in groups of one site each, in the order in which they are given."""
    sites: dict[tuple[str, ...], dict[str, TrainConfig]] = {}
    for name, cfg in configs.items():
        sites.setdefault(hooks_of(cfg), {})[name] = cfg
    return [*sites.values()]


def in_order(sites: Iterable[SiteConfigs]) -> list[SiteConfigs]:
    """Sites as a forward pass reaches them, so that the first groups of a set end early in it."""

    def depth(site: SiteConfigs) -> int:
        return max(split_hook(name)[0] or 0 for name in hooks_of(next(iter(site.values()))))

    return sorted(sites, key=depth)
