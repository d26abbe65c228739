"""Weights & Biases and TensorBoard, when asked for: nothing is imported or sent otherwise."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from saescope.errors import ConfigError
from saescope.training.config import TrainConfig

Log = Callable[[int, Mapping[str, float | int]], None]


def make_log(cfg: TrainConfig, folder: Path | None) -> Log | None:
    """A function of step and metrics, or None.

    Raises:
        ConfigError: the library is not installed.
    """
    if cfg.logger == "none":
        return None
    require_logger(cfg)
    return _wandb(cfg) if cfg.logger == "wandb" else _tensorboard(folder)


def require_logger(cfg: TrainConfig) -> None:
    """Raises ConfigError where the library that is asked for is not installed; imports nothing."""
    if cfg.logger != "none" and find_spec(cfg.logger) is None:
        raise ConfigError(
            f"logger={cfg.logger} needs the package {cfg.logger}.",
            field="logger",
            got=cfg.logger,
            hint=f"pip install {cfg.logger}",
        )


def _wandb(cfg: TrainConfig) -> Log:
    import wandb

    run = wandb.init(
        project="saescope", name=cfg.name or None, config=cfg.to_dict(), resume="allow"
    )
    return lambda step, metrics: run.log(dict(metrics), step=step)


def _tensorboard(folder: Path | None) -> Log:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard") if folder else None)

    def log(step: int, metrics: Mapping[str, float | int]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return log
