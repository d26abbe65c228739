"""How alike features of two SAEs are, in what they write and in where they fire, and how alike by
chance."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.ops import SparseActs, from_entries
from saescope.saes import SAE

LEAST_TOKENS = 10
"""Tokens on which a feature must fire for its correlation to say something."""
CHANCE = 0.99
"""The quantile, over features, of the best score among shuffled ones."""
N_NULL = 1024
"""Features for which chance is measured."""
N_NEAREST = 16
"""Candidates of each feature."""
MOST_CELLS = 2**25
"""Pairs compared at a time: 128 MB."""


@dataclass(frozen=True, slots=True)
class MatchSide:
    """One SAE: what each feature writes and where it fires."""

    rows: Float[Tensor, "d_sae d_out"] | None
    """Decoder rows of length 1."""
    acts: SparseActs
    n_fires: Int[Tensor, " d_sae"]
    mean: Float[Tensor, " d_sae"]
    spread: Float[Tensor, " d_sae"]
    """Standard deviations; 0 where too few tokens fire."""
    is_there: Bool[Tensor, " d_sae"]

    @classmethod
    def of(cls, sae: SAE, acts: SparseActs, has_cosines: bool) -> "MatchSide":
        n, n_features = acts.n_pos, acts.d_sae
        values, zeros = acts.values.double(), torch.zeros(n_features, dtype=torch.float64)
        n_fires = torch.bincount(acts.features, minlength=n_features)
        mean = zeros.index_add(0, acts.features, values) / n
        square = zeros.index_add(0, acts.features, values**2) / n
        spread = (square - mean**2).clamp(min=0).sqrt()
        spread[n_fires < LEAST_TOKENS] = 0
        rows = sae.decoder.detach().float().cpu()
        unit = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        is_there = rows.any(dim=-1) if has_cosines else spread > 0
        return cls(unit if has_cosines else None, acts, n_fires, mean, spread, is_there)

    def shuffled(self, rng: torch.Generator) -> "MatchSide":
        """What is alike by chance: its tokens in another order, and random rows with the second
        moments of its decoder rows. Mere shuffled coordinates would lose the directions in which
        all rows of a model lie."""
        order = torch.randperm(self.acts.n_pos, generator=rng)
        positions = order[self.acts.positions]
        by_position = positions.argsort(stable=True)
        acts = from_entries(
            self.acts.values[by_position],
            self.acts.features[by_position],
            positions[by_position],
            self.acts.n_pos,
            self.acts.d_sae,
        )
        rows = self.rows
        if rows is not None:
            values, vectors = torch.linalg.eigh((rows.T @ rows).double() / len(rows))
            root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
            drawn = torch.randn(rows.shape, generator=rng) @ root.float()
            rows = drawn / drawn.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return MatchSide(rows, acts, self.n_fires, self.mean, self.spread, self.is_there)


class Nearest(NamedTuple):
    """The candidates of each feature, best first; a score of -inf is none."""

    scores: Float[Tensor, "n m"]
    partners: Int[Tensor, "n m"]


def chance_level(one: MatchSide, two: MatchSide, rng: torch.Generator) -> float:
    """The score that the best partner has for one feature in a hundred where nothing is alike."""
    there = one.is_there.nonzero()[:, 0]
    drawn = there[torch.randperm(len(there), generator=rng)[:N_NULL]]
    best = nearest_pairs(one, two.shuffled(rng), drawn, n=1).scores[:, 0]
    known = best[best.isfinite()]
    return max(float(known.quantile(CHANCE)), 0.0) if len(known) else 1.0


def nearest_pairs(
    one: MatchSide, two: MatchSide, which: Int[Tensor, " n"], *, n: int = N_NEAREST
) -> Nearest:
    """The features of `two` that are most like each of these features of `one`."""
    n_columns = len(two.n_fires)
    n = min(n, n_columns)
    scores = torch.full((len(one.n_fires), n), -torch.inf)
    partners = torch.zeros(len(one.n_fires), n, dtype=torch.long)
    width = max(1, min(n_columns, MOST_CELLS // max(one.acts.n_pos, 1)))
    for first in range(0, n_columns, width):
        columns = torch.arange(first, min(first + width, n_columns))
        fires = _dense(two.acts, columns)
        for rows in which.split(max(1, MOST_CELLS // len(columns))):
            stop_if_cancelled()
            cells = _scores(one, two, rows, columns, fires)
            best = torch.cat([scores[rows], cells], dim=1).topk(n, dim=1)
            all_of = torch.cat([partners[rows], columns.expand(len(rows), -1)], dim=1)
            scores[rows], partners[rows] = best.values, all_of.gather(1, best.indices)
    return Nearest(scores, partners)


def _dense(acts: SparseActs, columns: Int[Tensor, " m"]) -> Float[Tensor, "n m"]:
    first, last = int(columns[0]), int(columns[-1])
    here = (acts.features >= first) & (acts.features <= last)
    # In float64: of a feature that fires alike everywhere, mean of squares and square of the
    # mean are equal to many digits.
    dense = torch.zeros(acts.n_pos, len(columns), dtype=torch.float64)
    dense[acts.positions[here], acts.features[here] - first] = acts.values[here].double()
    return dense


def _scores(
    one: MatchSide,
    two: MatchSide,
    rows: Int[Tensor, " n"],
    columns: Int[Tensor, " m"],
    fires: Float[Tensor, "n_pos m"],
) -> Float[Tensor, "n m"]:
    correlation = _correlations(one, two, rows, columns, fires)
    known = correlation.isfinite()
    if one.rows is None or two.rows is None:
        scores = correlation
    else:
        cosine = one.rows[rows] @ two.rows[columns].T
        scores = torch.where(known, (cosine + correlation) / 2, cosine)
    scores[:, ~two.is_there[columns]] = -torch.inf
    return scores.nan_to_num(nan=-torch.inf, neginf=-torch.inf)


def _correlations(
    one: MatchSide,
    two: MatchSide,
    rows: Int[Tensor, " n"],
    columns: Int[Tensor, " m"],
    fires: Float[Tensor, "n_pos m"],
) -> Float[Tensor, "n m"]:
    """Over tokens; NaN where either fires too rarely."""
    acts = one.acts
    number = torch.full((acts.d_sae,), -1, dtype=torch.long)
    number[rows] = torch.arange(len(rows))
    here = number[acts.features] >= 0
    places = torch.stack([number[acts.features[here]], acts.positions[here]])
    size = (len(rows), acts.n_pos)
    values = acts.values[here].double()
    sparse = torch.sparse_coo_tensor(places, values, size, check_invariants=False)
    both = torch.sparse.mm(sparse, fires) / max(acts.n_pos, 1)
    centred = both - one.mean[rows][:, None] * two.mean[columns]
    scale = one.spread[rows][:, None] * two.spread[columns]
    return torch.where(scale > 0, centred / scale.clamp(min=1e-30), torch.nan).float()
