"""Whole contexts at random with every firing in them: who fires with whom, and where a feature is
known to be silent."""

from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Int16, Int32
from torch import Tensor

from saescope.activations.hashing import MOST
from saescope.features.index.config import IndexConfig
from saescope.features.index.firings import Contexts, Firings
from saescope.features.index.hashing import hash_order
from saescope.ops import places, sizes_are_free

MOST_ENTRIES = 2**23
"""Firings kept in all, 6 bytes each: what bounds the memory where an SAE fires densely."""


class SampledContext(NamedTuple):
    """All firings in one context."""

    order: int
    """Its place in the random order of contexts."""
    context: int
    features: Int32[Tensor, " n"]
    positions: Int16[Tensor, " n"]
    """The positions of the firings, ascending."""
    n_counted: int


class SampleDraw(NamedTuple):
    """Contexts of a batch that belong to the sample."""

    contexts: list[tuple[int, int]]
    """The place of each in the random order, and the context."""
    order: Int[Tensor, " n"]
    """The firings in them, context by context and position by position, then all others."""
    sizes: Int[Tensor, " twice_n"]
    """How many firings there are in each, then how many positions count."""


class ContextSample:
    """The first contexts of a random order of those that only quizzes may show: as many as the
    bounds allow."""

    def __init__(self, cfg: IndexConfig, *, most_entries: int = MOST_ENTRIES) -> None:
        self.seed = cfg.seed
        self.most_contexts, self.most_entries = cfg.sample_tokens // cfg.context_size, most_entries
        self.kept: list[SampledContext] = []
        self.end = MOST if self.most_contexts else 0
        """Contexts from here on in the order are out: one before them was."""
        self.n_entries = 0

    def draw(self, firings: Firings, contexts: Contexts, mask: Bool[Tensor, "n _"]) -> SampleDraw:
        """The contexts of a batch that belong here. `contexts` is where the host is, the mask of
        their counted positions where the firings are."""
        order = hash_order(self.seed, contexts.hashes)
        rows = places(contexts.quiz & contexts.fresh & (order < self.end))
        drawn = zip(order[rows].tolist(), contexts.hashes[rows].tolist(), strict=True)
        n, own = len(rows), rows.to(mask.device)
        # [n_rows]: the number of each row's context among those drawn; n for one that is not.
        numbers = torch.full((len(mask),), n, device=mask.device)
        numbers[own] = torch.arange(n, device=mask.device)
        number = torch.where(firings.fire, numbers[firings.rows], n)
        counts = torch.zeros(n + 1, dtype=torch.int64, device=mask.device)
        counts.index_add_(0, number, torch.ones_like(number))
        order = (number * mask.shape[1] + firings.positions).argsort(stable=True)
        return SampleDraw([*drawn], order, torch.cat([counts[:n], mask[own].sum(1)]))

    def add(self, firings: Firings, draw: SampleDraw, sizes: Sequence[int]) -> None:
        """Take what was drawn; `sizes` are those of the draw."""
        n = len(draw.contexts)
        order = draw.order[: sum(sizes[:n])]
        features, positions = firings.features[order].int(), firings.positions[order].short()
        parts = zip(
            draw.contexts,
            features.split(sizes[:n]),
            positions.split(sizes[:n]),
            sizes[n:],
            strict=True,
        )
        for (place, context), of_features, at, n_counted in parts:
            new = SampledContext(place, context, of_features, at, n_counted)
            insort(self.kept, new, key=lambda c: c.order)
            self.n_entries += len(of_features)
        # The random order decides, not the time of arrival: what is out of bounds once is out for
        # good, so any batching gives the same sample.
        while len(self.kept) > self.most_contexts or self.n_entries > self.most_entries:
            last = self.kept.pop()
            self.end = min(self.end, last.order)
            self.n_entries -= len(last.features)

    def _settle(self) -> None:
        """Move what is still on a device to the host, all in one."""
        away = [i for i, c in enumerate(self.kept) if not sizes_are_free(c.features.device)]
        sizes = [len(self.kept[i].features) for i in away]
        if not away:
            return
        features, positions = (
            torch.cat([getattr(self.kept[i], what) for i in away]).cpu().split(sizes)
            for what in ("features", "positions")
        )
        for i, its_features, its_positions in zip(away, features, positions, strict=True):
            self.kept[i] = self.kept[i]._replace(features=its_features, positions=its_positions)

    def arrays(self, d_sae: int, context_size: int) -> dict[str, Tensor]:
        """CSR by position: what fires at `i = n * context_size + pos` of the n-th context is
        `features[offsets[i]:offsets[i + 1]]`."""
        starts = torch.arange(len(self.kept)).repeat_interleave(
            torch.tensor([len(c.features) for c in self.kept], dtype=torch.int64)
        )
        # int16 positions + int64 starts: the sum is int64, which a long corpus needs.
        places = self._joined("positions", torch.int16) + starts * context_size
        offsets = torch.zeros(len(self.kept) * context_size + 1, dtype=torch.int32)
        offsets[1:] = torch.bincount(places, minlength=len(offsets) - 1).cumsum(0)
        return {
            "offsets": offsets,
            "features": self._joined("features", torch.int32).to(
                torch.int16 if d_sae <= 2**15 else torch.int32
            ),
            "contexts": torch.tensor([c.context for c in self.kept], dtype=torch.int64),
            "n_counted": torch.tensor(sum(c.n_counted for c in self.kept)),
        }

    def _joined(self, what: str, dtype: torch.dtype) -> Tensor:
        self._settle()
        return torch.cat([torch.zeros(0, dtype=dtype), *(getattr(c, what) for c in self.kept)])

    def state_dict(self) -> dict[str, Tensor]:
        rows = [(c.order, c.context, len(c.features), c.n_counted) for c in self.kept]
        return {
            "end": torch.tensor(self.end),
            "contexts": torch.tensor(rows, dtype=torch.int64).reshape(-1, 4),
            "features": self._joined("features", torch.int32),
            "positions": self._joined("positions", torch.int16),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.end, self.n_entries = int(state["end"]), len(state["features"])
        sizes = state["contexts"][:, 2].tolist()
        parts = zip(
            state["contexts"].tolist(),
            state["features"].split(sizes),
            state["positions"].split(sizes),
            strict=True,
        )
        self.kept = [
            SampledContext(order, context, features, positions, n)
            for (order, context, _, n), features, positions in parts
        ]
