"""A training run from a model's name to an SAE."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from saescope import checkpoints as disk
from saescope.activations import ActivationStore
from saescope.errors import Cancelled, FormatError, ResourceError
from saescope.hooks import hook_width
from saescope.models import LanguageModel, model_fingerprint
from saescope.progress import Report, Say, silent
from saescope.ranks import here
from saescope.saes import SAE
from saescope.saes.disk import not_in_saelens, saelens_name
from saescope.training.config import TrainConfig
from saescope.training.data import StoreBatches, WatchedSource, row_source, store_config
from saescope.training.trainer import Trainer, TrainingProgress

EXPANSION_FACTOR = 8
CONTEXT_SIZE = 256


def train_config(
    model: LanguageModel, hook_name: str, *, expansion_factor: int = 0, **settings: Any
) -> TrainConfig:
    """A configuration with what the model decides filled in: widths, and a context that it can
    read.

    Raises:
        HookError: the model has no such site.
        ConfigError: a setting is out of range, or does not go with another.
    """
    d_in = hook_width(model, hook_name)
    d_out = hook_width(model, settings["hook_name_out"]) if settings.get("hook_name_out") else 0
    settings["d_sae"] = settings.get("d_sae") or d_in * (expansion_factor or EXPANSION_FACTOR)
    settings["context_size"] = settings.get("context_size") or min(CONTEXT_SIZE, model.n_ctx)
    decided: dict[str, Any] = {
        "model": model.name,
        "hook_name": hook_name,
        "d_in": d_in,
        "d_out": d_out,
    }
    return TrainConfig(**decided | settings)


class TrainingRun:
    """One run; `go` returns at its end, or once `stop` is set, either way with a complete
    checkpoint in `folder`."""

    def __init__(
        self,
        cfg: TrainConfig,
        model: LanguageModel,
        *,
        folder: Path | None = None,
        roots: Sequence[Path] = (),
        stop: threading.Event | None = None,
        say: Say = silent,
    ) -> None:
        """Goes on from the newest good checkpoint in `folder`, if there is one.

        Raises:
            FormatError: CHECKPOINT_CORRUPT: there are checkpoints, but none is whole.
            ConfigError: RESUME_MISMATCH, CHECKPOINT_MISMATCH: they are of other settings, or the
                text has changed.
        """
        self.cfg, self.model = cfg, model
        self.stop = stop or threading.Event()
        self.source = WatchedSource(
            row_source(cfg, model, roots=roots, stop=self.stop, say=say), self.stop
        )
        self.store = ActivationStore(self.source, store_config(cfg), ranks=here())
        self.batches, self.warnings = StoreBatches(self.store, cfg, source=self.source), list[str]()
        where: Any = {"device": model.device, "ranks": here()}
        if here().first(folder is not None and newest_checkpoint(folder)) and folder is not None:
            self.warnings += _judged(folder)
            self.trainer = Trainer.resume(folder, self.batches, cfg=cfg, **where)
        else:
            self.trainer = Trainer(cfg, self.batches, folder=folder, **where)
        name = saelens_name(cfg.architecture, transcoder=cfg.transcoder, skip=cfg.skip)
        self.warnings += [warning for warning in (not_in_saelens(name),) if warning]

    def go(self, *, report: Report[TrainingProgress] | None = None) -> TrainingProgress:
        """Train to the end or to a stop; the state is "done" or "stopped"."""
        try:
            return self.trainer.run(stop=self.stop, report=report)
        except Cancelled:  # between two forward passes, while the buffer was being filled
            self.trainer.save()
            return self.trainer.progress("stopped")

    def eta_s(self, *, step_s_per_token: float = 0.0) -> float | None:
        """Seconds to go at the pace of the last minutes; before the first step `step_s_per_token`
        stands for its pace."""
        harvest, step = self.source.rate.s_per_token, self.batches.rate.s_per_token
        if harvest is None:
            return None
        total = self.store.cfg.n_tokens
        return max(0, total - self.store.n_received) * harvest + max(
            0, total - self.trainer.n_tokens
        ) * (step or step_s_per_token)

    def save_sae(self, folder: Path) -> SAE:
        """Raises: ResourceError: DISK_FULL or CANNOT_WRITE; the checkpoints are untouched."""
        return saved(self.sae(), folder)

    def sae(self) -> SAE:
        """The SAE as it is now, named after the model and text by their public names."""
        return named(self.trainer.result(), self.cfg, self.model)


def named(sae: SAE, cfg: TrainConfig, model: LanguageModel) -> SAE:
    """A trained SAE that names model and text by their public names."""
    metadata = sae.cfg.metadata
    facts = {
        **metadata.raw,
        "dataset_path": public_name(cfg.dataset),
        "model_revision": model.revision,
    }
    facts["model_fingerprint"] = model_fingerprint(model)
    return sae.with_metadata(replace(metadata, model_name=model.name, raw=facts))


def saved(sae: SAE, folder: Path) -> SAE:
    """An SAE, once it is written.

    Raises:
        ResourceError: DISK_FULL or CANNOT_WRITE; the checkpoints are untouched.
    """
    try:
        sae.save(folder)
    except ResourceError as error:
        what = (
            "Free space on that disk" if error.code == "DISK_FULL" else "Make that folder writable"
        )
        raise ResourceError(
            error.message,
            code=error.code,
            field="name",
            hint=f"{what}, then resume the run: its last checkpoint is complete.",
        ) from error
    return sae


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the newest checkpoint, whole or not."""
    return max((path for path in folder.glob(f"{disk.PREFIX}*") if path.is_dir()), default=None)


def public_name(dataset: str) -> str:
    """Name a dataset without the folders of this machine."""
    return dataset if dataset == "embedded" or dataset.startswith("hf:") else Path(dataset).name


def _judged(folder: Path) -> list[str]:
    """A warning where the newest checkpoint cannot be used; the rank that writes has it."""
    newest = newest_checkpoint(folder)
    if newest is None or not here().writes:
        return []
    good = disk.latest(folder)
    if good is None:
        raise FormatError(
            f"No checkpoint of this run is whole: {newest.name}: {disk.damage(newest)}.",
            code="CHECKPOINT_CORRUPT",
            field="resume",
            hint="Start the run again without resume.",
        )
    return (
        []
        if good == newest
        else [
            f"{newest.name} is damaged ({disk.damage(newest)}); the run continues from {good.name}."
        ]
    )
