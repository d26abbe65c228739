"""A text read once: its contexts in random order, from a position that can be saved, each by one of
the processes that read together."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.activations.buffer import Rows
from saescope.activations.harvest import Harvester
from saescope.activations.hashing import hash_contexts, is_own
from saescope.activations.sources import (
    RowSource,
    contexts_at_once,
    require_finite,
    rows_of,
    text_fingerprint,
)
from saescope.activations.text import Dataset
from saescope.activations.tokens import (
    POOL_TOKENS,
    ContextConfig,
    ContextStream,
    counted_positions,
    empty_error,
)
from saescope.models import LanguageModel

LOOK_AHEAD = 4
"""Contexts are drawn from a pool of this many times `n_tokens` tokens: tokenizing more would cost a
short run too much."""


class Numbered(NamedTuple):
    """Contexts, and the number of each among those of all ranks."""

    ids: Int[Tensor, "n context_size"]
    numbers: Int[Tensor, " n"]

    def at(self, which: slice | Tensor) -> "Numbered":
        """Some of them."""
        return Numbered(self.ids[which], self.numbers[which])


class Corpus:
    """One rank's contexts of a split, until all ranks together have `n_tokens` counted positions or
    the text ends.

    Every rank tokenizes the whole text and draws the same contexts from it; the hash of a context
    says whose it is. So the ranks need not talk, and any number of them has the same contexts.
    """

    def __init__(
        self,
        model: LanguageModel,
        dataset: Dataset,
        cfg: ContextConfig,
        *,
        n_tokens: int,
    ) -> None:
        cfg = replace(cfg, context_size=min(cfg.context_size, model.n_ctx))
        self.stream = ContextStream(
            model,
            dataset.whole,
            cfg,
            pool_tokens=min(POOL_TOKENS, LOOK_AHEAD * n_tokens + cfg.context_size),
        )
        self.special_ids, self.n_wanted = model.tokenizer.special_ids, n_tokens
        self.ranks = dataset.ranks
        self.most_rows = contexts_at_once(model, cfg)
        self.n_tokens = 0
        """Positions that count in what was drawn so far, whoever has it."""
        self.waiting = Numbered(self.stream.pool[:0], torch.zeros(0, dtype=torch.int64))
        """Drawn from the text, not done yet."""

    @property
    def n_contexts(self) -> int:
        """Contexts that were drawn so far, whoever has them."""
        return self.stream.n_contexts

    @property
    def ended(self) -> bool:
        """Whether this rank has nothing left to read; asking may draw from the text."""
        return not len(self.peek().ids)

    def peek(self) -> Numbered:
        """The next contexts, the same again until they are `done`; none at the end."""
        while len(self.waiting.ids) < self.most_rows and self._goes_on:
            self._draw()
        return self.waiting.at(slice(self.most_rows))

    def mask(self, contexts: Int[Tensor, "n context_size"]) -> Bool[Tensor, "n context_size"]:
        """The positions of these contexts that count."""
        return counted_positions(contexts, self.special_ids)

    def done(self) -> None:
        """What `peek` gave is done."""
        self.waiting = self.waiting.at(slice(self.most_rows, None))

    def check(self) -> None:
        """Raises NotFoundError DATASET_EMPTY where nothing was counted."""
        if not self.n_tokens:
            raise empty_error(self.stream.dataset, self.stream.cfg)

    @property
    def _goes_on(self) -> bool:
        return self.n_tokens < self.n_wanted and not self.stream.at_end

    def _draw(self) -> None:
        # A context counts at most context_size - 1 positions: its first is left out.
        left = math.ceil((self.n_wanted - self.n_tokens) / (self.stream.cfg.context_size - 1))
        first = self.n_contexts
        ids = self.stream.take(min(self.most_rows, left))
        self.n_tokens += int(self.mask(ids).sum())
        own = is_own(hash_contexts(ids), self.ranks)
        new = Numbered(ids, torch.arange(first, first + len(ids))).at(own)
        self.waiting = Numbered(*map(torch.cat, zip(self.waiting, new, strict=True)))

    def state_dict(self) -> dict[str, Tensor]:
        return self.stream.state_dict() | {
            "n_tokens": torch.tensor(self.n_tokens),
            "waiting": self.waiting.ids.clone(),
            "numbers": self.waiting.numbers.clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.stream.load_state_dict(state)
        self.n_tokens = int(state["n_tokens"])
        self.waiting = Numbered(state["waiting"].clone(), state["numbers"].clone())


class CorpusSource(RowSource):
    """The rows of one rank's contexts, each once; then it has ended."""

    def __init__(
        self,
        model: LanguageModel,
        hook_names: Sequence[str],
        dataset: Dataset,
        cfg: ContextConfig,
        *,
        n_tokens: int,
    ) -> None:
        self.corpus = Corpus(model, dataset, cfg, n_tokens=n_tokens)
        cfg = self.corpus.stream.cfg
        self.harvester = Harvester(model, hook_names, cfg.context_size)
        self.widths, self.device = self.harvester.widths, model.device
        self.max_rows = self.corpus.most_rows * (cfg.context_size - 1)
        self.memory_bytes, self.epoch = self.corpus.stream.memory_bytes, 0
        # How many contexts are drawn at once is up to the device, and so is which come last.
        of = (text_fingerprint(model, self.widths, dataset, cfg), n_tokens, self.corpus.most_rows)
        self.fingerprint = hashlib.sha256(repr(of).encode()).hexdigest()

    @property
    def ended(self) -> bool:
        """Whether this rank has had its rows.

        Raises:
            NotFoundError: DATASET_EMPTY: no rank has any.
        """
        if not self.corpus.ended:
            return False
        self.corpus.check()
        return True

    def next_rows(self) -> Rows:
        """The rows of the next forward pass.

        Raises:
            NumericError: an activation is NaN or infinite.
        """
        rows = rows_of(self.harvester, self.corpus.peek().ids)
        require_finite(rows)
        self.corpus.done()
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        return self.corpus.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.corpus.load_state_dict(state)
