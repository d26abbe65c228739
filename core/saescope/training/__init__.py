"""Training SAEs: losses, fast steps, trainer, checkpoints; a whole run from a model's name."""

from saescope.training.config import OPTIONS, TrainConfig, parse_options
from saescope.training.data import hooks_of
from saescope.training.door import AskedRun, asked_of, check_run, check_together
from saescope.training.launcher import Launcher
from saescope.training.loggers import mode_of_wandb, require_logger
from saescope.training.plan import Plan, for_ranks, make_plan
from saescope.training.run import TrainingRun, train_config
from saescope.training.set_plan import make_set_plan
from saescope.training.set_run import SetProgress, SetRun
from saescope.training.sets import names_of, read_sweep, train_configs
from saescope.training.train import TrainedSet, train
from saescope.training.trainer import (
    Batches,
    ListBatches,
    Trainer,
    TrainingProgress,
    stop_on_signals,
)
from saescope.training.unseen import Unseen, plan_unseen

__all__ = [
    "OPTIONS",
    "AskedRun",
    "Batches",
    "Launcher",
    "ListBatches",
    "Plan",
    "SetProgress",
    "SetRun",
    "TrainConfig",
    "TrainedSet",
    "Trainer",
    "TrainingProgress",
    "TrainingRun",
    "Unseen",
    "asked_of",
    "check_run",
    "check_together",
    "for_ranks",
    "hooks_of",
    "make_plan",
    "make_set_plan",
    "mode_of_wandb",
    "names_of",
    "parse_options",
    "plan_unseen",
    "read_sweep",
    "require_logger",
    "stop_on_signals",
    "train",
    "train_config",
    "train_configs",
]
