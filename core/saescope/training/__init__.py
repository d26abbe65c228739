"""Training SAEs: losses, fast steps, trainer, checkpoints."""

from saescope.training.config import OPTIONS, TrainConfig, parse_options
from saescope.training.trainer import Batches, ListBatches, Progress, Trainer, stop_on_signals

__all__ = ["OPTIONS", "Batches", "ListBatches", "Progress", "TrainConfig", "Trainer", "parse_options", "stop_on_signals"]
