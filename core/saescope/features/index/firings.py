"""The firings of one batch of contexts, feature by feature."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from saescope.activations.hashing import MOST
from saescope.ops import SparseActs, places, sizes_are_free

BEFORE, AFTER = 23, 8
"""Tokens of a passage around the one that it was chosen for."""
WINDOW = BEFORE + 1 + AFTER
STEPS = 16
"""Codes to an octave."""
CENTRE = 128
"""The code of an activation as strong as that at the passage's own token."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """A batch of contexts, as far as examples need to know them."""

    hashes: Int[Tensor, " n"]
    mask: Bool[Tensor, "n context_size"]
    """The positions that are counted."""
    quiz: Bool[Tensor, " n"]
    """Whether only quizzes may show the context."""
    fresh: Bool[Tensor, " n"]
    """Which have not come before; the others count, but are no examples again."""

    def without(self, positions: Bool[Tensor, "n context_size"]) -> "Contexts":
        """Return the same firings with fewer positions counted."""
        return replace(self, mask=self.mask.to(positions.device) & ~positions)

    def to(self, device: torch.device) -> "Contexts":
        return Contexts(
            self.hashes.to(device),
            self.mask.to(device),
            self.quiz.to(device),
            self.fresh.to(device),
        )


@dataclass(frozen=True, slots=True)
class Firings:
    """Entries above zero at counted positions, sorted by feature, then context, then position.
    Where their number is not free to know, entries of 0 follow them."""

    features: Int[Tensor, " n"]
    rows: Int[Tensor, " n"]
    """The context of the batch in which each feature fired."""
    positions: Int[Tensor, " n"]
    """The position of each firing in its context."""
    values: Tensor
    """The activations, float32."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def fire(self) -> Bool[Tensor, " n"]:
        """Which are firings, and not what follows them."""
        return self.values > 0

    def first(self, n: int) -> "Firings":
        """The first n, which are all that fire if there are so many."""
        return Firings(self.features[:n], self.rows[:n], self.positions[:n], self.values[:n])


def firings_of(acts: SparseActs, mask: Bool[Tensor, "n context_size"]) -> Firings:
    """List what fires at the counted positions."""
    positions, features, values = acts.positions, acts.features, acts.values
    fire = mask.flatten()[positions] & (values > 0)
    if sizes_are_free(fire.device):
        kept = places(fire)
        positions, features, values = positions[kept], features[kept], values[kept]
    # One key sorts by feature, then context, then position: `positions` here is row * context_size
    # + pos.
    keys = features.long() * mask.numel() + positions
    if not sizes_are_free(fire.device):
        keys, values = torch.where(fire, keys, MOST), torch.where(fire, values, 0)
    order = keys.argsort()
    positions = positions[order]
    return Firings(
        features[order].long(),
        positions // mask.shape[1],
        positions % mask.shape[1],
        values[order].float(),
    )


def windows(firings: Firings, chosen: Int[Tensor, " m"]) -> UInt8[Tensor, "m window"]:
    """What the feature of each chosen firing does at the tokens around it, as codes: 0 silent, else
    relative to the firing's own."""
    around = torch.arange(-BEFORE, AFTER + 1, device=chosen.device)
    # [m, window]: the neighbours in the sorted list. At most one firing a token, so all within
    # reach are among them.
    near = chosen[:, None] + around
    inside = (near >= 0) & (near < len(firings))
    near = near.clamp(0, max(0, len(firings) - 1))
    own = chosen[:, None]
    away = firings.positions[near] - firings.positions[own]
    inside &= (firings.features[near] == firings.features[own]) & (
        firings.rows[near] == firings.rows[own]
    )
    inside &= (away >= -BEFORE) & (away <= AFTER)
    codes = encode_relative(firings.values[near], firings.values[own])
    table = torch.zeros(len(chosen), WINDOW + 1, dtype=torch.uint8, device=chosen.device)
    # What is not inside goes into one column too many, which is cut off.
    table.scatter_(1, torch.where(inside, away + BEFORE, WINDOW), codes)
    return table[:, :WINDOW].contiguous()


def encode_relative(values: Tensor, own: Tensor) -> Tensor:
    """Activations above zero as codes 1..255: a sixteenth of an octave each (good to 2.2 %), 8
    octaves either way."""
    return (
        ((values / own).log2() * STEPS)
        .round()
        .clamp(1 - CENTRE, 255 - CENTRE)
        .add(CENTRE)
        .to(torch.uint8)
    )


def decode_relative(codes: Tensor, own: Tensor) -> Tensor:
    """Turn codes of `encode_relative` into activations again; 0 stays 0."""
    return torch.where(codes == 0, 0.0, own * ((codes.float() - CENTRE) / STEPS).exp2())
