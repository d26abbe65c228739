"""How much of a world an SAE has found."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.extras import require_extra
from saescope.metrics import RunningFit
from saescope.worlds.world import World

FOUND = 0.9
"""From this cosine on a feature counts as found."""
PART = 4096
SEED = 2**40
"""Positions that are scored; training batches never have this seed."""


class Dictionary(Protocol):
    """What is scored: any SAE with decoder rows [d_sae, d_in]."""

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]: ...

    def encode(self, x: Float[Tensor, "n d_in"], /) -> Float[Tensor, "n d_sae"]: ...

    def decode(self, acts: Float[Tensor, "n d_sae"], /) -> Float[Tensor, "n d_in"]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldScore:
    """An SAE against the truth. Features of the world and of the SAE are matched one to one, so
    that the sum of the cosines of their directions is greatest (Hungarian algorithm); what the
    smaller of the two dictionaries leaves over is unmatched."""

    cosine: float
    """Mean cosine over the world's features; an unmatched one counts 0."""
    found: float
    """Share of the world's features with a cosine of 0.9 or more."""
    f1: float
    """Mean over the world's features of the F1 of firing of their pair (the feature's firing is the
    truth); an unmatched one counts 0, one that never fires in the sample is left out."""
    absorption: float | None
    """Mean over found parents of how much less often, as a share, their match fires where a child
    fires too than where the parent fires without children: 0 is none. None without such parents."""
    l0: float
    true_l0: float
    explained_variance: float
    dead: float
    """Share of the SAE's features that never fire in the sample."""
    n_positions: int


@torch.no_grad()
def score_on_world(sae: Dictionary, world: World, *, n_positions: int = 20_000) -> WorldScore:
    """The SAE's score on fresh positions of the world, the same for every SAE.

    Raises:
        ConfigError: EXTRA_MISSING: scipy, which matches the features, is not installed.
    """
    cosines = world.directions @ torch.nn.functional.normalize(sae.W_dec.float().cpu(), dim=1).T
    features, rows = matched(cosines)
    counts = _Tally(world, features, rows, len(sae.W_dec))
    fit = RunningFit()
    for part, n in enumerate(_parts(n_positions)):
        acts, strengths = world.sample(n, seed=SEED + part)
        coded = sae.encode(acts.to(sae.W_dec))
        fit.add(acts, sae.decode(coded).to(acts))
        counts.add(strengths > 0, coded.cpu() > 0)
    paired = torch.zeros(len(cosines)).index_put_((features,), cosines[features, rows])
    return WorldScore(
        cosine=float(paired.mean()),
        found=float((paired >= FOUND).float().mean()),
        f1=counts.f1,
        absorption=counts.absorption(paired),
        l0=counts.n_coded / n_positions,
        true_l0=counts.n_true / n_positions,
        explained_variance=fit.explained_variance or 0.0,
        dead=float((counts.fired == 0).float().mean()),
        n_positions=n_positions,
    )


def matched(
    cosines: Float[Tensor, "n_features d_sae"],
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Features and the rows that they are matched with, one to one, for the greatest sum."""
    require_extra(
        "scipy", "Matching features one to one", field="", without="compare largest cosines alone."
    )
    from scipy.optimize import linear_sum_assignment

    features, rows = linear_sum_assignment(cosines.numpy(), maximize=True)
    return torch.from_numpy(features), torch.from_numpy(rows)


class _Tally:
    """What is counted over positions, without keeping any."""

    def __init__(self, world: World, features: Tensor, rows: Tensor, d_sae: int) -> None:
        self.features, self.rows, self.n_features = features, rows, len(world.rates)
        self.child = (world.parents >= 0).nonzero().flatten()
        self.parent = world.parents[self.child]
        self.fired = torch.zeros(d_sae, dtype=torch.long)
        self.n_coded = self.n_true = 0
        n = self.n_features
        self.both, self.true, self.coded, self.alone_n, self.alone_coded = (
            torch.zeros(n, dtype=torch.long) for _ in range(5)
        )
        self.with_child, self.with_child_coded = (torch.zeros(n).long() for _ in range(2))

    def add(self, true: Tensor, coded: Tensor) -> None:
        self.fired += coded.sum(0)
        self.n_coded += int(coded.sum())
        self.n_true += int(true.sum())
        match = torch.zeros_like(true)
        match[:, self.features] = coded[:, self.rows]
        self.both += (true & match).sum(0)
        self.true += true.sum(0)
        self.coded += match.sum(0)
        has_child = torch.zeros(true.shape, dtype=torch.int32)
        has_child.index_add_(1, self.parent, true[:, self.child].int())
        alone, joined = true & (has_child == 0), true & (has_child > 0)
        self.alone_n += alone.sum(0)
        self.alone_coded += (alone & match).sum(0)
        self.with_child += joined.sum(0)
        self.with_child_coded += (joined & match).sum(0)

    @property
    def f1(self) -> float:
        seen = self.true > 0
        return float((2 * self.both[seen] / (self.true + self.coded)[seen]).mean())

    def absorption(self, cosines: Float[Tensor, " n"]) -> float | None:
        of = (self.alone_coded > 0) & (self.with_child > 0) & (cosines >= FOUND)
        if not bool(of.any()):
            return None
        alone = self.alone_coded[of] / self.alone_n[of]
        joined = self.with_child_coded[of] / self.with_child[of]
        return float((1 - joined / alone).clamp(min=0).mean())


def _parts(n: int) -> list[int]:
    return [PART] * (n // PART) + ([n % PART] if n % PART else [])
