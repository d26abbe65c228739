"""Rows of activations, taken from a language model while it reads text."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.activations.buffer import Rows, n_rows
from saescope.activations.harvest import Harvester
from saescope.activations.text import Dataset
from saescope.activations.tokens import ContextConfig, ContextStream, counted_positions, empty_error
from saescope.errors import NumericError
from saescope.models import LanguageModel, model_fingerprint
from saescope.ranks import ALONE, Ranks
from saescope.sinks import find_sinks

FORWARD_TOKENS = {"cpu": 2048}
"""Tokens of one forward pass, by device; on a GPU more."""
GPU_FORWARD_TOKENS = 32_768


class RowSource(ABC):
    """A supply of rows, always the same for the same state; endless, unless it says that it has
    ended."""

    widths: dict[str, int]
    device: torch.device
    fingerprint: str
    """Sources with the same one supply the same rows."""
    max_rows: int
    """The most rows that `next_rows` returns at once."""
    memory_bytes: int
    """The most that the source itself holds between two calls."""
    epoch: int
    """How often the data has been gone through."""

    @property
    def ended(self) -> bool:
        """Whether there are no more rows; only a source that goes through its data once ends."""
        return False

    @abstractmethod
    def next_rows(self) -> Rows: ...

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]: ...

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class TextSource(RowSource):
    """Activations of a text at several hooks from one forward pass, position 0, special tokens and
    attention sinks left out.

    A row holds one token at every hook, so a position that is a sink at any of them is left out of
    all. Ranks that work together run a pass each at the same time, and all get the rows of all: in
    the order in which a process alone would.
    """

    def __init__(
        self,
        model: LanguageModel,
        hook_names: Sequence[str],
        dataset: Dataset,
        cfg: ContextConfig,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.stream = ContextStream(model, dataset, cfg)
        self.harvester = Harvester(model, hook_names, cfg.context_size)
        self.widths = self.harvester.widths
        self.device = model.device
        self.n_contexts = contexts_at_once(model, cfg)
        self.max_rows = ranks.size * self.n_contexts * (cfg.context_size - 1)
        self.fingerprint = text_fingerprint(model, self.widths, dataset, cfg)
        self.memory_bytes = self.stream.memory_bytes
        self.epoch, self.n_supplied = 0, 0
        self._taken = self._none = torch.empty(0, cfg.context_size, dtype=torch.int32)
        """Contexts whose rows were not supplied yet: a stop in the middle of the forward pass loses
        none."""

    def next_rows(self) -> Rows:
        """The rows of the next forward pass, or of one for each rank.

        Raises:
            NotFoundError: DATASET_EMPTY: there is no text, or none but special tokens.
            NumericError: an activation is NaN or infinite.
        """
        contexts = self._taken = self._take()
        own = rows_of(self.harvester, contexts)
        rows = {name: self.ranks.together(x) for name, x in own.items()}
        self.epoch = self.stream.epoch
        if self.epoch and not self.n_supplied + n_rows(rows):
            raise empty_error(self.stream.dataset, self.stream.cfg)
        require_finite(rows)
        self.n_supplied += n_rows(rows)
        self._taken = self._none
        return rows

    def _take(self) -> Int[Tensor, "n context_size"]:
        """The contexts of the next pass; each rank passes those of the others by."""
        passes = [self._taken] if len(self._taken) else []
        while len(passes) < self.ranks.size:
            passes.append(self.stream.take(self.n_contexts))
        return passes[self.ranks.rank]

    def state_dict(self) -> dict[str, Tensor]:
        own = {"n_rows": torch.tensor(self.n_supplied), "taken": self._taken}
        return self.stream.state_dict() | own

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.n_supplied = int(state["n_rows"])
        self._taken = state.get(
            "taken", self._none
        ).cpu()  # none in an earlier version's checkpoint
        self.stream.load_state_dict(state)
        self.epoch = self.stream.epoch


def contexts_at_once(model: LanguageModel, cfg: ContextConfig) -> int:
    """The contexts of one forward pass."""
    return max(1, FORWARD_TOKENS.get(model.device.type, GPU_FORWARD_TOKENS) // cfg.context_size)


def text_fingerprint(
    model: LanguageModel, hook_names: Iterable[str], dataset: Dataset, cfg: ContextConfig
) -> str:
    """Two texts, models and settings with the same one supply the same rows."""
    identity = (
        model_fingerprint(model),
        model.sink_factor,
        *hook_names,
        dataset.fingerprint,
        cfg,
    )
    return hashlib.sha256(repr(identity).encode()).hexdigest()


def rows_of(harvester: Harvester, contexts: Int[Tensor, "batch n_pos"]) -> Rows:
    """The rows of contexts, from one forward pass."""
    mask = counted_positions(contexts, harvester.model.tokenizer.special_ids)
    activations = harvester(contexts.clamp(min=0).long())
    return counted_rows(harvester.model, activations, mask.to(harvester.model.device))


def counted_rows(
    model: LanguageModel, activations: Mapping[str, Tensor], mask: Bool[Tensor, "batch n_pos"]
) -> Rows:
    """The rows of the positions in `mask` that are no sink at any of the hooks."""
    where = (mask & ~find_sinks(model, activations)).flatten().nonzero().squeeze(1)
    return {name: x.flatten(0, 1).index_select(0, where) for name, x in activations.items()}


def require_finite(rows: Rows) -> None:
    """Raises NumericError where an activation is NaN or infinite."""
    for name, x in rows.items():
        if not bool(x.float().sum().isfinite()):
            raise NumericError(
                f"The activations at {name} are not finite.",
                hint='Load the model with dtype="float32".',
            )
