"""`saescope.train`: one SAE, or a set of them in one pass of the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from saescope.models import LanguageModel, load_model
from saescope.progress import Report
from saescope.saes import SAE
from saescope.training.config import TrainConfig
from saescope.training.run import TrainingRun
from saescope.training.set_run import SetProgress, SetRun
from saescope.training.trainer import TrainingProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedSet:
    """What a set's training came to."""

    saes: dict[str, SAE]
    """By name: `layer_3`, of several at a site `k32`, of both `k32/layer_3`."""
    failed: dict[str, str]
    """Why an SAE could not be trained to the end, by name; the others were."""

    def save(self, folder: Path) -> None:
        """Write each SAE in SAELens's format into a folder of its name below `folder`.

        Raises:
            ResourceError: DISK_FULL or CANNOT_WRITE.
        """
        for name, sae in self.saes.items():
            sae.save(folder / name)


@overload
def train(
    config: TrainConfig,
    *,
    model: LanguageModel | None = None,
    folder: Path | None = None,
    report: Report[TrainingProgress] | None = None,
) -> SAE: ...


@overload
def train(
    config: Sequence[TrainConfig],
    *,
    model: LanguageModel | None = None,
    folder: Path | None = None,
    report: Report[SetProgress] | None = None,
) -> TrainedSet: ...


def train(
    config: TrainConfig | Sequence[TrainConfig],
    *,
    model: LanguageModel | None = None,
    folder: Path | None = None,
    report: Report[Any] | None = None,
) -> SAE | TrainedSet:
    """The SAE that this configuration trains; of a list, the SAEs of all, from one forward pass a
    batch. With a `folder`, checkpoints are kept there, and a run that was cut off goes on.

    Raises:
        ConfigError: the configurations cannot share a pass; or the checkpoints are of others.
        NumericError: the loss is no longer finite; of a set, that of every SAE.
    """
    first = config if isinstance(config, TrainConfig) else config[0]
    model = model or load_model(*([first.model] if first.model else []))
    if isinstance(config, TrainConfig):
        run = TrainingRun(config, model, folder=folder)
        run.go(report=report)
        return run.sae()
    saes: dict[str, SAE] = {}
    progress = SetRun(config, model, folder=folder).go(keep=saes.__setitem__, report=report)
    return TrainedSet(saes=saes, failed={m.name: m.error for m in progress.members if m.error})
