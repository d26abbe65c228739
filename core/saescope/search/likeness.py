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
"""The quantile, over features, of the best score among random ones."""
N_NULL = 1024
"""Features for which chance is measured."""
NULL_TOKENS = 2**12
"""The first tokens, on which chance is measured."""
N_MIXED = 2**11
"""Features that a random one is a mix of, at most."""
N_NEAREST = 16
"""Candidates of each feature."""
MOST_CELLS = 2**25
"""Pairs compared at a time: 128 MB."""


@dataclass(frozen=True, slots=True)
class MatchSide:
    """One SAE: what each feature writes and where it fires."""

    sae: SAE
    x: Float[Tensor, "n_first d_in"]
    """What it reads at the first tokens."""
    rows: Float[Tensor, "d_sae d_out"] | None
    """Decoder rows of length 1."""
    acts: SparseActs
    n_fires: Int[Tensor, " d_sae"]
    mean: Float[Tensor, " d_sae"]
    spread: Float[Tensor, " d_sae"]
    """Standard deviations; 0 where too few tokens fire."""
    is_there: Bool[Tensor, " d_sae"]

    @classmethod
    def of(
        cls,
        sae: SAE,
        x: Float[Tensor, "n_first d_in"],
        acts: SparseActs,
        rows: Float[Tensor, "d_sae d_out"] | None,
    ) -> "MatchSide":
        """`rows` are decoder rows, of any length; None where they cannot be compared."""
        n, n_features = acts.n_pos, acts.d_sae
        values, zeros = acts.values.double(), torch.zeros(n_features, dtype=torch.float64)
        n_fires = torch.bincount(acts.features, minlength=n_features)
        mean = zeros.index_add(0, acts.features, values) / n
        square = zeros.index_add(0, acts.features, values**2) / n
        spread = (square - mean**2).clamp(min=0).sqrt()
        spread[n_fires < LEAST_TOKENS] = 0
        is_there = spread > 0 if rows is None else rows.any(dim=-1)
        unit = None if rows is None else _unit(rows)
        return cls(sae, x, unit, acts, n_fires, mean, spread, is_there)

    def at_first(self) -> "MatchSide":
        """The same at the first tokens alone."""
        return MatchSide.of(self.sae, self.x, self.acts.between(0, len(self.x)), self.rows)

    def at_random(self, rng: torch.Generator) -> "MatchSide":
        """Random features in place of the SAE's, at the first tokens: each reads and writes along a
        random mix of the SAE's own, so that both have its second moments (all of a model lie in
        some directions more than in others), and fires on as many tokens as one of these, those
        that lie furthest along it. Tokens in another order would not do: features that have nothing
        in common fire alike on words of one kind."""
        n_features, n_reads = self.acts.d_sae, self.x.shape[1]
        which = torch.randperm(n_features, generator=rng)[:N_MIXED]
        encoder = self.sae.encoder.detach()
        mixed = _unit(encoder[which.to(encoder.device)].float().cpu())
        if self.rows is not None:
            mixed = torch.cat([mixed, self.rows[which]], dim=1)
        drawn = torch.randn(n_features, len(which), generator=rng) @ mixed
        n_fires = self.at_first().n_fires
        acts = _furthest(self.x - self.x.mean(0), drawn[:, :n_reads], n_fires)
        rows = None if self.rows is None else drawn[:, n_reads:]
        return MatchSide.of(self.sae, self.x, acts, rows)


def _unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _furthest(
    x: Float[Tensor, "n_pos d_in"],
    directions: Float[Tensor, "d_sae d_in"],
    n_fires: Int[Tensor, " d_sae"],
) -> SparseActs:
    """What features fire that read these directions, each where it is largest."""
    parts = list[tuple[Tensor, Tensor, Tensor]]()
    for columns in torch.arange(len(directions)).split(max(1, MOST_CELLS // len(x))):
        along = x @ directions[columns].T
        bar = along.sort(dim=0, descending=True).values
        bar = bar.gather(0, n_fires[columns].clamp(max=len(x) - 1)[None])
        positions, features = (along > bar).nonzero(as_tuple=True)
        parts.append((positions, columns[features], (along - bar)[positions, features]))
    positions, features, values = (torch.cat(each) for each in zip(*parts, strict=True))
    order = positions.argsort(stable=True)
    return from_entries(values[order], features[order], positions[order], len(x), len(directions))


class Nearest(NamedTuple):
    """The candidates of each feature, best first; a score of -inf is none."""

    scores: Float[Tensor, "n m"]
    partners: Int[Tensor, "n m"]


def chance_level(one: MatchSide, two: MatchSide, rng: torch.Generator) -> float:
    """The score that the best partner has for one feature in a hundred where nothing is alike: of
    each SAE beside random features in place of the other's; the larger of the two."""
    return max(_by_chance(one, two, rng), _by_chance(two, one, rng))


def _by_chance(one: MatchSide, two: MatchSide, rng: torch.Generator) -> float:
    there, first = one.is_there.nonzero()[:, 0], one.at_first()
    drawn = there[torch.randperm(len(there), generator=rng)[:N_NULL]]
    # A quantile of few features is known from several draws alone.
    n_draws = -(-N_NULL // max(1, len(drawn)))
    best = torch.cat(
        [nearest_pairs(first, two.at_random(rng), drawn, n=1).scores[:, 0] for _ in range(n_draws)]
    )
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
