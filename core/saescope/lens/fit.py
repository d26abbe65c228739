"""Fits a Jacobian lens on a text, prompt by prompt: what is done is kept, and a later call goes
on from there."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from saescope import checkpoints as disk
from saescope.activations import EMBEDDED, ContextConfig, ContextStream, Dataset, open_dataset
from saescope.errors import NotFoundError, require_ranges
from saescope.lens.lens import Lens
from saescope.lens.plan import require_layers_above
from saescope.lens.store import KEPT, SQUARES, lens_root, opened, place_of
from saescope.models import LanguageModel, model_fingerprint
from saescope.models.analysis import fit_jacobian
from saescope.precision import wide
from saescope.progress import Progress, counting

POOL_TOKENS = 2**15
"""Contexts are drawn from so many tokens: the order must not depend on how many are wanted."""
HELD_OUT = 0.1
"""The share of the documents on which a lens is not fitted: agreement is measured there."""
CHECKPOINT_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LensConfig:
    """All that decides what a lens is, beside model and text."""

    n_prompts: int = 100
    """Contexts to average over; 100 of 128 tokens are usable, 1,000 are what is published."""
    context_size: int = 128
    skip_first: int = 16
    """Positions at the start of each context that do not count: attention sinks stand there."""
    first_layer: int = 0
    """The lowest layer to fit: each backward pass goes down to it."""
    seed: int = 0

    def __post_init__(self) -> None:
        require_ranges(
            self,
            {
                "n_prompts": (1, 10_000),
                "context_size": (4, 2**13),
                "skip_first": (0, self.context_size - 3),
                "first_layer": (0, 2**10),
            },
        )


def fit_lens(
    model: LanguageModel,
    dataset: str | Dataset = EMBEDDED,
    *,
    root: Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Lens:
    """A Jacobian lens of the model, fitted on a text and kept below `root` (default: `home() /
    "lenses"`). `settings` are those of `LensConfig`: n_prompts=100, context_size=128, ...

    One that was cut off, or is wanted with more prompts, goes on where it ended: prompts come in
    one order. `plan_lens` says what a fit takes; `progress` hears of the rows of the Jacobians that
    are done, d_model of them a prompt.

    Raises:
        ModelError: a lens cannot be fitted on a model of this kind.
        NotFoundError: DATASET_EMPTY: the text fills no context.
        Cancelled: the caller gave up; the prompts that were done are kept.
    """
    cfg = LensConfig(**settings)
    text = open_dataset(dataset) if isinstance(dataset, str) else dataset
    run = _LensFit(model, text, cfg, root or lens_root())
    run.go(progress)
    lens = opened(model, run.folder)
    assert lens is not None, "a fit that ended is kept"
    return lens


class _LensFit:
    """A running sum of Jacobians in a folder of its own."""

    def __init__(self, model: LanguageModel, text: Dataset, cfg: LensConfig, root: Path) -> None:
        self.model, self.text, self.cfg = model, text, cfg
        require_layers_above(model, cfg.first_layer)
        self.size = min(cfg.context_size, model.n_ctx)
        self.skip = min(cfg.skip_first, self.size - 3)
        key = (
            model_fingerprint(model),
            text.fingerprint,
            self.size,
            self.skip,
            cfg.first_layer,
            cfg.seed,
        )
        self.folder = place_of(model, root) / hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        self.sums = dict[int, Tensor]()
        self.squares = dict[int, float]()
        """Sums of the squared norms of the prompts' matrices, for the error of their mean."""
        self.n_done = 0

    def go(self, progress: Progress | None) -> None:
        """Fit until so many prompts are done, or the text ends."""
        disk.require_writable(self.folder)
        self._resume()
        kept, schedule = self.n_done, disk.Schedule(CHECKPOINT_S)
        try:
            for ids in self._prompts():
                self._add(ids, progress)
                if schedule.due:
                    self._save()
                    kept = self.n_done
                    schedule.saved()
        finally:
            if self.n_done > kept:
                self._save()
        if not self.n_done:
            raise NotFoundError(
                f"The dataset {self.text.name!r} fills no context of {self.size} tokens.",
                code="DATASET_EMPTY",
                field="dataset",
                got=self.text.name,
                hint='Use more text, or dataset="embedded".',
            )

    def _prompts(self) -> "list[Int[Tensor, ' n_pos']]":
        """The contexts that are still to be done, always in the same order."""
        left = self.cfg.n_prompts - self.n_done
        if left <= 0:
            return []
        contexts = ContextConfig(
            context_size=self.size, held_out=HELD_OUT, seed=self.cfg.seed, join_documents=True
        )
        stream = ContextStream(self.model, self.text, contexts, pool_tokens=POOL_TOKENS)
        wanted = list[Tensor]()
        # One by one, so that the order is the same however many are wanted.
        while len(wanted) < self.cfg.n_prompts:
            (ids,) = stream.take(1)
            if bool((ids >= 0).all()):
                wanted.append(ids.long())
            if stream.at_end:
                break
        return wanted[self.n_done :]

    def _add(self, ids: Int[Tensor, " n_pos"], progress: Progress | None) -> None:
        d_model, before = self.model.d_model, self.n_done * self.model.d_model
        heard = counting(progress, self.cfg.n_prompts * d_model, n_before=before)
        matrices = fit_jacobian(
            self.model,
            ids,
            layers=range(self.cfg.first_layer, self.model.n_layers - 1),
            skip_first=self.skip,
            advance=heard,
        )
        for layer, matrix in matrices.items():
            # In double: the mean of many must not depend on where a run was cut.
            double = wide(matrix)
            self.sums[layer] = self.sums.get(layer, torch.zeros_like(double)) + double
            squares = float(double.square().sum())
            self.squares[layer] = self.squares.get(layer, 0.0) + squares
        self.n_done += 1

    def _resume(self) -> None:
        disk.clean(self.folder)
        if path := disk.latest(self.folder):
            tensors, state = disk.load(path)
            self.sums = {int(layer): each for layer, each in tensors[KEPT].items()}
            self.squares = {int(layer): each for layer, each in state[SQUARES].items()}
            self.n_done = int(state["n_prompts"])

    def _save(self) -> None:
        name = self.text.name
        plain = name == EMBEDDED or name.startswith("hf:")
        state = {
            "model_fingerprint": model_fingerprint(self.model),
            "n_prompts": self.n_done,
            "n_tokens": self.size,
            SQUARES: {str(layer): each for layer, each in self.squares.items()},
            "corpus": name if plain else Path(name).name,
        }
        tensors = {KEPT: {str(layer): each for layer, each in self.sums.items()}}
        disk.save(self.folder, self.n_done, disk.Checkpoint(tensors, state), keep=1)
