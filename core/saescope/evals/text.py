"""The text of an evaluation: contexts at random from what training never saw, position 0 and
special tokens masked."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.activations import (
    EMBEDDED,
    ContextConfig,
    Dataset,
    Split,
    counted_positions,
    open_dataset,
    read_contexts,
)
from saescope.cancel import stop_if_cancelled
from saescope.errors import NotFoundError
from saescope.fence import real_path
from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.sinks import many_sinks

NOTHING = -1
DEFAULT_CONTEXT, LONGEST_CONTEXT = 256, 1024
"""The context of an SAE that does not say what it was trained with, and a bound on the memory that
one context takes (tokens)."""
POOL = 4
"""Contexts are drawn from the first text that holds this many times the wanted tokens."""


@dataclass(frozen=True, slots=True)
class EvalText:
    """Contexts, and which of their positions count."""

    name: str
    ids: Int[Tensor, "n_contexts n_pos"]
    """The ids as the model gets them: what fills up the end of a text is a token as good as any."""
    mask: Bool[Tensor, "n_contexts n_pos"]
    has_next: Bool[Tensor, "n_contexts n_pos"]
    """Positions whose next token is known."""
    counts_sinks: bool = False
    """Whether positions count whose norm at the site is out of proportion."""
    n_sinks: int = 0
    """The number of sinks that were taken out of the mask."""
    seed: int = 0
    """The seed with which the contexts were drawn."""
    warnings: tuple[str, ...] = ()

    def without(self, sinks: Bool[Tensor, "n_contexts n_pos"]) -> "EvalText":
        """This text with these positions left out too, and a warning where they are many.

        Raises:
            NotFoundError: none is left.
        """
        mask = self.mask & ~sinks
        n_sinks = int((self.mask & sinks).sum())
        if not bool(mask.any()):
            raise _nothing_counts(self.name)
        warnings = (*self.warnings, *many_sinks(n_sinks, int(mask.sum())))
        return replace(self, mask=mask, n_sinks=n_sinks, warnings=warnings)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_tokens(self) -> int:
        return int(self.mask.sum())


def evaluation_text(
    model: LanguageModel,
    sae: SAE,
    dataset: str | Dataset | Tensor,
    *,
    n_tokens: int = 20_000,
    seed: int = 0,
    include_special: bool = False,
) -> EvalText:
    """Contexts with at least `n_tokens` counted positions, as far as the text holds them; all of
    them if they are given as a tensor.

    Held-out documents come first. Others are taken only where those do not suffice and the SAE does
    not say that it was trained on them.

    Raises:
        NotFoundError: DATASET_EMPTY: there is no such text.
    """
    if isinstance(dataset, Tensor):
        given = masked_text("the given contexts", dataset, model, include_special=include_special)
        return replace(given, seed=seed)
    opened = open_dataset(dataset) if isinstance(dataset, str) else dataset
    pool, warnings = _read(model, sae, opened, n_tokens), list[str]()
    n_held_out = _n_counted(pool, model)
    if n_held_out < n_tokens and not _trained_on(sae, opened):
        pool = torch.cat([pool, _read(model, sae, opened, n_tokens - n_held_out, split="train")])
        warnings.append(
            f"The held-out part of {opened.name} has {n_held_out} tokens; other "
            f"documents fill up to {n_tokens}. "
            "If the SAE was trained on them, its numbers are a little too good."
        )
    text = masked_text(
        opened.name, _draw(pool, model, n_tokens, seed), model, include_special=include_special
    )
    if text.n_tokens < n_tokens:
        warnings.append(
            f"{opened.name} holds {text.n_tokens} tokens to evaluate on; {n_tokens} were asked for."
        )
    return replace(text, seed=seed, warnings=tuple(warnings))


def masked_text(
    name: str, contexts: Int[Tensor, "n n_pos"], model: LanguageModel, *, include_special: bool
) -> EvalText:
    """Raises NotFoundError where no position counts."""
    contexts = contexts.cpu()
    mask = (
        contexts != NOTHING
        if include_special
        else counted_positions(contexts, model.tokenizer.special_ids)
    )
    if not bool(mask.any()):
        raise _nothing_counts(name)
    has_next = torch.zeros_like(mask)
    has_next[:, :-1] = contexts[:, 1:] != NOTHING
    return EvalText(name, contexts.long().clamp(min=0), mask, has_next, include_special)


def _nothing_counts(name: str) -> NotFoundError:
    return NotFoundError(
        f"{name}: no position to evaluate on (position 0, special tokens and attention "
        "sinks do not count).",
        code="DATASET_EMPTY",
        field="dataset",
        got=name,
        hint='Use more text, or dataset="embedded".',
    )


def _read(
    model: LanguageModel, sae: SAE, dataset: Dataset, n_tokens: int, split: Split = "held_out"
) -> Int[Tensor, "n n_pos"]:
    """The first contexts of a split, with up to POOL times `n_tokens` counted positions."""
    size = min(sae.cfg.metadata.context_size or DEFAULT_CONTEXT, model.n_ctx, LONGEST_CONTEXT)
    cfg = ContextConfig(context_size=size, prepend_bos=sae.cfg.metadata.prepend_bos, split=split)
    contexts: Iterator[Tensor] = read_contexts(model, dataset, cfg)
    parts, n_read = [torch.zeros(0, size, dtype=torch.int32)], 0
    while n_read < POOL * n_tokens and (part := next(contexts, None)) is not None:
        stop_if_cancelled()
        parts.append(part)
        n_read += _n_counted(part, model)
    return torch.cat(parts)


def _n_counted(contexts: Int[Tensor, "n n_pos"], model: LanguageModel) -> int:
    return int(counted_positions(contexts, model.tokenizer.special_ids).sum())


def _draw(
    pool: Int[Tensor, "n n_pos"], model: LanguageModel, n_tokens: int, seed: int
) -> Int[Tensor, "m n_pos"]:
    """Contexts at random, in reading order, until they hold `n_tokens` counted positions."""
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    so_far = counted_positions(pool, model.tokenizer.special_ids).sum(1)[order].cumsum(0)
    n = 1 + int((so_far < n_tokens).sum())
    return pool[order[:n].sort().values]


def _trained_on(sae: SAE, dataset: Dataset) -> bool:
    """Trainings keep only the last part of a path, so that a published file does not tell of its
    machine: then names decide."""
    dataset_path = sae.cfg.metadata.dataset_path
    if (
        not dataset_path
        or dataset_path in (dataset.name, EMBEDDED)
        or dataset.name.startswith("hf:")
    ):
        return dataset_path == dataset.name
    trained, given = Path(dataset_path).expanduser(), real_path(Path(dataset.name).expanduser())
    return real_path(trained) == given or dataset_path == given.name
