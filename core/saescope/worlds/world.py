"""A world of known features: unit directions in superposition that fire by Zipf's law, some only
with a parent, some in pairs, on top of noise, a mean far from zero and an outlier dimension."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.errors import ArgumentError

MOST_OFTEN = 0.5
"""No feature fires on more positions than this share."""
STRENGTH_SPREAD = 0.3
"""Standard deviation of a feature's strength, whose mean is 1."""
LEAST_STRENGTH = 0.1
MAKING = 2**41
"""The number of the draw that makes the world itself."""
TOGETHER = 0.5
"""What the rarer feature of a pair adds to its partner's chance: from p to p + (1 - p) / 2."""
DEEPEST = 2
"""A child may have children, which have none."""
_LEVEL_SHARE = 1.5
"""A parent fires at least so much more often than its child."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """What a world is made of. Strengths are in units of a feature's mean strength, which is 1."""

    d_in: int = 128
    n_features: int = 512
    l0: float = 8.0
    """Features that fire at a position, on average."""
    zipf: float = 0.8
    """A feature of rank r fires in proportion to 1 / r ** zipf."""
    children: float = 0.3
    """Share of features that fire only where their parent does."""
    pairs: float = 0.1
    """Share of features that have a partner which fires with them more often than by chance."""
    noise: float = 0.1
    """Norm of the Gaussian noise at a position, as a share of the norm that the features give."""
    mean: float = 1.0
    """Norm of the constant that every position has, in the same unit."""
    outlier: float = 3.0
    """Size of one coordinate at every position, in the same unit; it varies by a tenth."""
    scale: float = 1.0
    """Factor on everything."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ArgumentError: BAD_WORLD, naming the field."""
        for name, low, high in _BOUNDS:
            if not low <= getattr(self, name) <= high:
                raise _bad(name, getattr(self, name), f"{low:g} to {high:g}")
        most = MOST_OFTEN * self.n_features
        if self.l0 > most:
            raise _bad("l0", self.l0, f"at most {most:g}: half of n_features")


_BOUNDS = (
    ("d_in", 2, 10**5),
    ("n_features", 2, 10**6),
    ("l0", 1e-3, 10**6),
    ("zipf", 0, 4),
    ("children", 0, 0.9),
    ("pairs", 0, 0.9),
    ("noise", 0, 100),
    ("mean", 0, 1e4),
    ("outlier", 0, 1e4),
    ("scale", 1e-6, 1e6),
)


class WorldSample(NamedTuple):
    """Positions of a world, and what they are made of."""

    acts: Float[Tensor, "n d_in"]
    strengths: Float[Tensor, "n n_features"]
    """0 where a feature does not fire."""


class World:
    """A world: the same settings make the same one on every machine with the same torch.

    Attributes:
        directions: [n_features, d_in], unit rows; the features in the order of how often they fire.
        rates: [n_features], share of positions where each fires.
        parents: [n_features], the feature without which it never fires; -1 for none.
        partners: [n_features], the feature of its pair; -1 for none.
    """

    def __init__(self, cfg: WorldConfig) -> None:
        self.cfg = cfg
        # Not the seed itself: an SAE that starts with the same seed would start at the truth.
        rng = torch.Generator().manual_seed(_mixed(cfg.seed, MAKING))
        drawn = torch.randn(cfg.n_features, cfg.d_in, generator=rng)
        self.directions: Float[Tensor, "n_features d_in"] = torch.nn.functional.normalize(
            drawn, dim=1
        )
        self.rates: Float[Tensor, " n_features"] = zipf_rates(
            cfg.n_features, float(cfg.l0), float(cfg.zipf)
        )
        self.parents, self._depth = _family(self.rates, cfg.children, rng)
        self.partners = _paired(self.parents, cfg.pairs, rng)
        self.typical_norm = self._typical_norm(rng)
        centre = torch.nn.functional.normalize(torch.randn(cfg.d_in, generator=rng), dim=0)
        self.centre: Float[Tensor, " d_in"] = centre * cfg.mean * self.typical_norm
        self.outlier_dim = int(torch.randint(cfg.d_in, (1,), generator=rng))

    def sample(self, n: int, *, seed: int) -> WorldSample:
        """Positions, independent of each other; those of one seed are always the same, and those of
        the training batches have other seeds than any that is not negative."""
        return self._draw(n, torch.Generator().manual_seed(_mixed(self.cfg.seed, seed)))

    def batches(self, batch_size: int, n_tokens: int, *, seed: int = 0) -> "WorldBatches":
        """Batches to train on: every position is seen once."""
        return WorldBatches(self, batch_size, n_tokens // batch_size, seed=seed)

    def _draw(self, n: int, rng: torch.Generator) -> WorldSample:
        cfg, strengths = self.cfg, self._strengths(n, rng)
        unit = self.typical_norm
        acts = strengths @ self.directions + self.centre
        acts += torch.randn(acts.shape, generator=rng) * (cfg.noise * unit / cfg.d_in**0.5)
        acts[:, self.outlier_dim] += cfg.outlier * unit * (1 + 0.1 * torch.randn(n, generator=rng))
        return WorldSample(acts * cfg.scale, strengths)

    def _strengths(self, n: int, rng: torch.Generator) -> Float[Tensor, "n n_features"]:
        fires = self._firing(n, rng)
        size = 1 + STRENGTH_SPREAD * torch.randn(n, len(self.rates), generator=rng)
        return size.clamp_(min=LEAST_STRENGTH).mul_(fires)

    def _firing(self, n: int, rng: torch.Generator) -> Bool[Tensor, "n n_features"]:
        chance = torch.rand(n, len(self.rates), generator=rng)
        fires = chance < self._given_parent
        for depth in range(1, DEEPEST + 1):  # a parent is settled before its children
            children = (self._depth == depth).nonzero().flatten()
            fires[:, children] &= fires[:, self.parents[children]]
        second = ((self.partners >= 0) & (self.partners > torch.arange(len(self.rates)))).nonzero()
        often = second.flatten()  # of a pair, the one that fires more often
        rare = self.partners[often]
        p, q = self.rates[often], self.rates[rare]
        with_rare = p + TOGETHER * (1 - p)
        without = (p - with_rare * q) / (1 - q)
        fires[:, often] = chance[:, often] < torch.where(fires[:, rare], with_rare, without)
        return fires

    @property
    def _given_parent(self) -> Float[Tensor, " n_features"]:
        """The chance to fire where the parent does; of a feature without one, anywhere."""
        of_parent = torch.where(self.parents >= 0, self.rates[self.parents.clamp(min=0)], 1.0)
        return self.rates / of_parent

    def _typical_norm(self, rng: torch.Generator) -> float:
        """The root of the mean squared norm that the features give a position."""
        made = self._strengths(2048, rng) @ self.directions
        return float(made.square().sum(1).mean().sqrt())


class WorldBatches(Iterator[Tensor]):
    """Training batches of a world, as a `Trainer` takes them: [batch_size, d_in], drawn when they
    are asked for; the position is a number."""

    def __init__(self, world: World, batch_size: int, n_batches: int, *, seed: int) -> None:
        self.world, self.batch_size, self.n_batches, self.seed = world, batch_size, n_batches, seed
        self.position = 0

    def __next__(self) -> Float[Tensor, "n d_in"]:
        if self.position >= self.n_batches:
            raise StopIteration
        self.position += 1
        number = -(self.position + self.seed * 10**9)
        return self.world.sample(self.batch_size, seed=number).acts

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def zipf_rates(n: int, total: float, exponent: float) -> Float[Tensor, " n"]:
    """Rates in proportion to 1 / rank ** exponent, none above MOST_OFTEN, that sum to `total`."""
    law = torch.arange(1, n + 1, dtype=torch.float64) ** -exponent
    low, high = 0.0, total / float(law[-1])
    for _ in range(200):
        middle = (low + high) / 2
        too_few = float((law * middle).clamp(max=MOST_OFTEN).sum()) < total
        low, high = (middle, high) if too_few else (low, middle)
    return (law * high).clamp(max=MOST_OFTEN).float()


def _family(
    rates: Float[Tensor, " n"], share: float, rng: torch.Generator
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """The parent of each feature, and how many ancestors it has; parents fire more often."""
    n = len(rates)
    parents, depth = torch.full((n,), -1), torch.zeros(n, dtype=torch.long)
    chosen = torch.randperm(n, generator=rng)[: round(share * n)].sort().values
    for child in chosen.tolist():  # in the order of rank: parents come first
        may = ((rates >= _LEVEL_SHARE * rates[child]) & (depth < DEEPEST)).nonzero().flatten()
        may = may[may < child]
        if len(may):
            parents[child] = may[int(torch.randint(len(may), (1,), generator=rng))]
            depth[child] = depth[parents[child]] + 1
    return parents, depth


def _paired(parents: Int[Tensor, " n"], share: float, rng: torch.Generator) -> Int[Tensor, " n"]:
    """The partner of each feature; pairs are of features without parent or child, neighbours in
    rank among those that were chosen."""
    n = len(parents)
    alone = torch.ones(n, dtype=torch.bool)
    alone[parents >= 0] = False
    alone[parents[parents >= 0]] = False
    free = alone.nonzero().flatten()
    n_chosen = min(round(share * n), len(free)) // 2 * 2
    chosen = free[torch.randperm(len(free), generator=rng)[:n_chosen]].sort().values
    partners = torch.full((n,), -1)
    partners[chosen[0::2]], partners[chosen[1::2]] = chosen[1::2], chosen[0::2]
    return partners


def _mixed(world: int, sample: int) -> int:
    """One seed of two: a sample of one world is not that of another."""
    return int.from_bytes(blake2b(f"{world} {sample}".encode(), digest_size=8).digest()) >> 1


def _bad(name: str, got: Any, allowed: str) -> ArgumentError:
    return ArgumentError(
        f"{name} of a world is {got}.",
        code="BAD_WORLD",
        field=name,
        got=got,
        allowed=allowed,
        hint=f"Choose {name} within {allowed}.",
    )
