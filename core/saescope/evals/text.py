"""The text of an evaluation: contexts at random from what training never saw, position 0 and
special tokens masked."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.activations import (
    EMBEDDED,
    HELD_OUT,
    ContextConfig,
    Dataset,
    OwnedContexts,
    Split,
    counted_positions,
    open_dataset,
    read_owned_contexts,
)
from saescope.cancel import stop_if_cancelled
from saescope.errors import NotFoundError
from saescope.fence import real_path
from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.sinks import many_sinks

NOTHING = -1
SEEN = "If the SAE was trained on them, its numbers are a little too good."
DEFAULT_CONTEXT, LONGEST_CONTEXT = 256, 1024
"""The context of an SAE that does not say what it was trained with, and a bound on the memory that
one context takes (tokens)."""
MOST_TOKENS = 2**20
"""Contexts are drawn from the whole split, up to so many tokens (4 MB of text)."""
MAX_GROUPS = 256
"""More documents than this are resampled in runs of neighbours."""
STREAMED = 16
"""How many times the wanted tokens are read of a dataset on the hub, which is streamed."""


@dataclass(frozen=True, slots=True)
class EvalText:
    """Contexts, and which of their positions count."""

    name: str
    ids: Int[Tensor, "n_contexts n_pos"]
    """The ids as the model gets them: what fills up the end of a text is a token as good as any."""
    mask: Bool[Tensor, "n_contexts n_pos"]
    has_next: Bool[Tensor, "n_contexts n_pos"]
    """Positions whose next token is known."""
    documents: Int[Tensor, " n_contexts"]
    """The document that each context begins in, numbered from 0; a given context is one of its
    own."""
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

    @property
    def n_documents(self) -> int:
        return 1 + int(self.documents.max())

    @property
    def n_groups(self) -> int:
        """What is resampled: documents, or runs of neighbouring ones where there are many."""
        return min(self.n_documents, MAX_GROUPS)

    def groups(self, contexts: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The group of each context, by its number."""
        return self.documents[contexts] * self.n_groups // self.n_documents

    def folds(self, contexts: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """0 or 1: what is fitted to one half of the groups is judged on the other; halves of the
        contexts where all are of one document."""
        return (self.groups(contexts) if self.n_groups > 1 else contexts) % 2


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

    A file or folder that the SAE does not say it was trained on is held out as a whole. Of any
    other text held-out documents come first; the rest is taken only where those do not suffice and
    the SAE does not say that it was trained on them.

    Raises:
        NotFoundError: DATASET_EMPTY: there is no such text.
    """
    if isinstance(dataset, Tensor):
        given = masked_text("the given contexts", dataset, model, include_special=include_special)
        return replace(given, seed=seed)
    opened = open_dataset(dataset) if isinstance(dataset, str) else dataset
    drawn, warnings = _drawn(model, sae, opened, n_tokens=n_tokens, seed=seed)
    text = masked_text(
        opened.name, drawn.ids, model, documents=drawn.documents, include_special=include_special
    )
    if text.n_tokens < n_tokens:
        warnings = (
            *warnings,
            f"{opened.name} holds {text.n_tokens} tokens to evaluate on; {n_tokens} were asked "
            "for.",
        )
    return replace(text, seed=seed, warnings=warnings)


def masked_text(
    name: str,
    contexts: Int[Tensor, "n n_pos"],
    model: LanguageModel,
    *,
    documents: Int[Tensor, " n"] | None = None,
    include_special: bool,
) -> EvalText:
    """Raises NotFoundError where no position counts."""
    contexts = contexts.cpu()
    documents = torch.arange(len(contexts)) if documents is None else documents
    mask = (
        contexts != NOTHING
        if include_special
        else counted_positions(contexts, model.tokenizer.special_ids)
    )
    if not bool(mask.any()):
        raise _nothing_counts(name)
    has_next = torch.zeros_like(mask)
    has_next[:, :-1] = contexts[:, 1:] != NOTHING
    ids, numbers = contexts.long().clamp(min=0), documents.unique(return_inverse=True)[1]
    return EvalText(name, ids, mask, has_next, numbers, include_special)


def _nothing_counts(name: str) -> NotFoundError:
    return NotFoundError(
        f"{name}: no position to evaluate on (position 0, special tokens and attention "
        "sinks do not count).",
        code="DATASET_EMPTY",
        field="dataset",
        got=name,
        hint='Use more text, or dataset="embedded".',
    )


@dataclass(frozen=True, slots=True)
class _Pool:
    """What contexts are drawn from."""

    contexts: OwnedContexts
    warnings: tuple[str, ...]
    """A warning where the split holds more than was taken."""


def _drawn(
    model: LanguageModel, sae: SAE, dataset: Dataset, *, n_tokens: int, seed: int
) -> tuple[OwnedContexts, tuple[str, ...]]:
    """Contexts of what is held out, then of the rest where that may be taken; and what to say of
    the choice."""
    own, trained_on = _is_local(dataset), _trained_on(sae, dataset)
    held_out = 1.0 if own and not trained_on else HELD_OUT
    pool = _read(model, sae, dataset, n_tokens, held_out=held_out)
    drawn, warnings = _draw(pool, model, n_tokens, seed), pool.warnings
    n_held_out = _n_counted(pool.contexts.ids, model)
    if own and not sae.cfg.metadata.dataset_path:
        warnings = (*warnings, f"The SAE does not name the texts that it was trained on. {SEEN}")
    if n_held_out >= n_tokens or trained_on or own:
        return drawn, warnings
    others = _read(model, sae, dataset, n_tokens - n_held_out, split="train")
    ids, documents = _draw(others, model, n_tokens - n_held_out, seed)
    # both splits number their documents from 0
    n_known = 1 + max(pool.contexts.documents.tolist(), default=-1)
    fills = (
        f"The held-out part of {dataset.name} has {n_held_out} tokens; other "
        f"documents fill up to {n_tokens}. {SEEN}"
    )
    return _joined(drawn, OwnedContexts(ids, documents + n_known)), (*warnings, fills)


def _read(
    model: LanguageModel,
    sae: SAE,
    dataset: Dataset,
    n_tokens: int,
    *,
    split: Split = "held_out",
    held_out: float = HELD_OUT,
) -> _Pool:
    """A split, up to a bound on its counted positions."""
    size = min(sae.cfg.metadata.context_size or DEFAULT_CONTEXT, model.n_ctx, LONGEST_CONTEXT)
    bos = sae.cfg.metadata.prepend_bos
    cfg = ContextConfig(context_size=size, prepend_bos=bos, split=split, held_out=held_out)
    contexts = read_owned_contexts(model, dataset, cfg)
    at_most = STREAMED * n_tokens
    at_most = at_most if dataset.name.startswith("hf:") else max(MOST_TOKENS, at_most)
    none = OwnedContexts(torch.zeros(0, size, dtype=torch.int32), torch.zeros(0, dtype=torch.long))
    parts, n_read = [none], 0
    while n_read < at_most and (part := next(contexts, None)) is not None:
        stop_if_cancelled()
        parts.append(part)
        n_read += _n_counted(part.ids, model)
    warnings = (
        (f"Contexts were drawn from the first {n_read:,} tokens of {dataset.name}.",)
        if n_read >= at_most
        else ()
    )
    return _Pool(_joined(*parts), warnings)


def _joined(*parts: OwnedContexts) -> OwnedContexts:
    ids, documents = zip(*parts, strict=True)
    return OwnedContexts(torch.cat(ids), torch.cat(documents))


def _n_counted(contexts: Int[Tensor, "n n_pos"], model: LanguageModel) -> int:
    return int(counted_positions(contexts, model.tokenizer.special_ids).sum())


def _draw(pool: _Pool, model: LanguageModel, n_tokens: int, seed: int) -> OwnedContexts:
    """Contexts at random, in reading order, until they hold `n_tokens` counted positions."""
    ids, documents = pool.contexts
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    so_far = counted_positions(ids, model.tokenizer.special_ids).sum(1)[order].cumsum(0)
    kept = order[: 1 + int((so_far < n_tokens).sum())].sort().values
    return OwnedContexts(ids[kept], documents[kept])


def _is_local(dataset: Dataset) -> bool:
    return dataset.name != EMBEDDED and Path(dataset.name).expanduser().exists()


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
