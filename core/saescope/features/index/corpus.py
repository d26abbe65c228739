"""The contexts that an index reads: each once, in random order, from a position that can be
saved."""

import math

import torch
from jaxtyping import Int
from torch import Tensor

from saescope.activations import ContextConfig, ContextStream, Dataset, counted_positions
from saescope.activations.sources import FORWARD_TOKENS, GPU_FORWARD_TOKENS
from saescope.activations.tokens import POOL_TOKENS, empty_error
from saescope.features.index.config import IndexConfig
from saescope.models import LanguageModel

LOOK_AHEAD = 4
"""Contexts are drawn from a pool of this many times `n_tokens` tokens: tokenizing more would cost a
short run too much."""


class Corpus:
    """All documents of a dataset (nothing is held out), until `n_tokens` positions are counted or
    the text ends."""

    def __init__(self, model: LanguageModel, dataset: Dataset, cfg: IndexConfig) -> None:
        size = min(cfg.context_size, model.n_ctx)
        contexts = ContextConfig(
            context_size=size, prepend_bos=cfg.prepend_bos, held_out=0.0, seed=cfg.seed
        )
        self.stream = ContextStream(
            model, dataset, contexts, pool_tokens=min(POOL_TOKENS, LOOK_AHEAD * cfg.n_tokens + size)
        )
        self.special_ids, self.n_wanted = model.tokenizer.special_ids, cfg.n_tokens
        self.most_rows = max(1, FORWARD_TOKENS.get(model.device.type, GPU_FORWARD_TOKENS) // size)
        self.n_tokens = 0
        self.waiting = self.stream.pool[:0]
        """Taken from the stream, not counted yet."""

    @property
    def ended(self) -> bool:
        return not len(self.waiting) and (self.n_tokens >= self.n_wanted or self.stream.at_end)

    def peek(self) -> Int[Tensor, "n context_size"]:
        """The next contexts, the same again until they are `counted`; call only before the end."""
        if not len(self.waiting):
            # A context counts at most context_size - 1 positions: its first is left out.
            left = math.ceil((self.n_wanted - self.n_tokens) / (self.stream.cfg.context_size - 1))
            self.waiting = self.stream.take(min(self.most_rows, left))
        return self.waiting

    def mask(self, contexts: Int[Tensor, "n context_size"]) -> Tensor:
        """The positions of these contexts that count."""
        return counted_positions(contexts, self.special_ids)

    def counted(self, n_tokens: int) -> None:
        """Count the contexts that wait as done."""
        self.n_tokens += n_tokens
        self.waiting = self.waiting[:0]

    def check(self) -> None:
        """Raises NotFoundError DATASET_EMPTY where nothing was counted."""
        if not self.n_tokens:
            raise empty_error(self.stream.dataset, self.stream.cfg)

    def state_dict(self) -> dict[str, Tensor]:
        return self.stream.state_dict() | {
            "n_tokens": torch.tensor(self.n_tokens),
            "waiting": self.waiting.clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.stream.load_state_dict(state)
        self.n_tokens, self.waiting = int(state["n_tokens"]), state["waiting"].clone()
