"""What a run holds in memory and on disk, by arithmetic."""

from saescope.devices import DTYPES
from saescope.training.config import TrainConfig
from saescope.training.data import BUFFER_DTYPE, store_config

WORK_BYTES = 2**28
"""The work of a step: its chunks have a fixed size."""


def n_parameters(cfg: TrainConfig) -> int:
    return (
        cfg.d_sae * (cfg.d_in + cfg.chosen.d_out + 4)
        + cfg.chosen.d_out
        + (cfg.d_in * cfg.chosen.d_out if cfg.skip else 0)
    )


def buffer_bytes(cfg: TrainConfig) -> int:
    width = cfg.d_in + (cfg.chosen.d_out if cfg.transcoder else 0)
    return store_config(cfg).buffer_tokens * (width * DTYPES[BUFFER_DTYPE].itemsize + 8)


def weight_bytes(cfg: TrainConfig) -> int:
    return 4 * n_parameters(cfg)


def first_batches_bytes(cfg: TrainConfig) -> int:
    """The batches that the scaling is estimated on, until they have been trained on."""
    return cfg.n_batches_for_norm_estimate * _batch_bytes(cfg)


def step_bytes(cfg: TrainConfig) -> int:
    """What one step takes beside weights and gradients."""
    entries = 0 if cfg.recipe.ranks else cfg.chosen.batch_size * cfg.d_sae * 3
    return 6 * _batch_bytes(cfg) + entries


def copied_bytes(cfg: TrainConfig, *, parts: int = 1) -> int:
    """The copies that a checkpoint takes."""
    return max(2 * weight_bytes(cfg) // parts, buffer_bytes(cfg)) + buffer_bytes(cfg)


def _batch_bytes(cfg: TrainConfig) -> int:
    return cfg.chosen.batch_size * (cfg.d_in + cfg.chosen.d_out) * 4


def run_bytes(cfg: TrainConfig, *, parts: int = 1) -> int:
    """Memory beside the language model: weights, gradients, Adam, the buffer, a step's work, and
    the copies that a checkpoint takes; one process's, where so many hold features in `parts`."""
    weights = weight_bytes(cfg) // parts
    held = 4 * weights + buffer_bytes(cfg) + first_batches_bytes(cfg)
    return (
        held
        + WORK_BYTES
        + max(weights + step_bytes(cfg), 6 * _batch_bytes(cfg) + copied_bytes(cfg, parts=parts))
    )


def checkpoint_bytes(cfg: TrainConfig) -> int:
    """The largest one: early in a run the batches that the scaling was estimated on are part of
    it."""
    pending = (
        cfg.n_batches_for_norm_estimate
        * cfg.chosen.batch_size
        * (cfg.d_in + (cfg.chosen.d_out if cfg.transcoder else 0))
        * 4
    )
    return 12 * n_parameters(cfg) + buffer_bytes(cfg) + pending + 2**23


def disk_bytes(cfg: TrainConfig) -> int:
    """The checkpoints that are kept, one that is being written, the SAE, and the stored activations
    where they are asked for."""
    width = cfg.d_in + (cfg.chosen.d_out if cfg.transcoder else 0)
    stored = (
        cfg.harvested_tokens * width * DTYPES[BUFFER_DTYPE].itemsize + 2 * buffer_bytes(cfg)
        if cfg.cache_activations
        else 0
    )
    return (cfg.keep_checkpoints + 1) * checkpoint_bytes(cfg) + 4 * n_parameters(cfg) + stored
