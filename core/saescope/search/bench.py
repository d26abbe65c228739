"""The bench of a causal search: a concept on prompts, an SAE, the gradient that screens all its
features, and pushes that are compared at one KL."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from saescope.controls import ENOUGH
from saescope.models import LanguageModel, Tokens
from saescope.ops import SparseActs, joined
from saescope.progress import Progress, counting
from saescope.saes import SAE
from saescope.search.concept import ConceptTexts
from saescope.search.prompts import prompts_or_neutral
from saescope.search.pushes import (
    AtKL,
    PushEffects,
    ReadTexts,
    at_kl,
    concept_gradients,
    push,
    read_texts,
)
from saescope.spread import require_one_site
from saescope.stack import as_stack
from saescope.steering.means import t_interval
from saescope.steering.units import MIN_POOL, IndexedActivations, Known, typical_of_all

KL = 0.5
"""Nats by which a push changes predictions where features are compared: enough for a text to
differ, before it breaks."""
LEAST_PROMPTS = 5
"""Prompts that an interval needs."""
LONGEST = 16.0
"""How many times as long as the usual push the longest is that is tried, and as short the
shortest; or so many times strength 1, where that goes further."""
ROWS = 4096
"""Decoder rows that are multiplied at a time."""


class Screen(NamedTuple):
    """First-order effects of all features, in nats."""

    typical: Float64[Tensor, " d_sae"]
    equal_norm: Float64[Tensor, " d_sae"]
    order: list[int]
    """Features that go the way that is asked for, by turns the best of each."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A vector that was pushed at three strengths."""

    strengths: list[float]
    concept: Float64[Tensor, "n_strengths n_prompts"]
    kl: Float64[Tensor, "n_strengths n_prompts"]
    at: AtKL
    """Where predictions change by `KL`."""

    @property
    def score(self) -> float:
        return float(self.at.effects.mean()) / KL

    @property
    def interval(self) -> tuple[float, float] | None:
        return t_interval((self.at.effects / KL).tolist(), least=LEAST_PROMPTS)


@dataclass(frozen=True)
class CausalBench:
    """A concept on prompts, an SAE, and how strongly its features fire: what pushes are made of
    and judged by."""

    read: ReadTexts
    known: Known
    sign: int
    seed: int

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        sae: SAE,
        concept: ConceptTexts,
        prompts: Sequence[Tokens],
        *,
        fired: tuple[SparseActs | None, IndexedActivations | None],
        draw: tuple[int, int],
    ) -> "CausalBench":
        """Read the prompts; `fired` is what is known of activations elsewhere, `draw` the sign and
        the seed.

        Raises:
            ConfigError: CROSS_LAYER_FEATURE: a layer of a cross-layer transcoder.
        """
        require_one_site([sae], "a causal search")
        given = prompts_or_neutral(model, sae, prompts, sentences=concept.repetition)
        read = read_texts(as_stack(model, sae), concept.forced(model, given))
        reference, indexed = fired
        here, words = read.acts, "the prompts"
        if reference is not None:
            here, words = joined([here, reference]), "the probe text and the prompts"
        known = Known(here, indexed and indexed.on(here.values.device), words)
        return cls(read, known, *draw)

    @property
    def sae(self) -> SAE:
        return self.read.stack.saes[0]

    @cached_property
    def fires(self) -> Bool[Tensor, " d_sae"]:
        return self.known.maxima.cpu() > 0

    @cached_property
    def units(self) -> Float[Tensor, " d_sae"]:
        """The typical activation of each feature; of a silent one the median of the others'."""
        return typical_of_all(self.known).cpu()

    @cached_property
    def gradient(self) -> Float64[Tensor, " d_out"]:
        """The mean over the prompts."""
        return concept_gradients(self.read).mean(0)

    @cached_property
    def along(self) -> tuple[Float64[Tensor, " d_sae"], Float64[Tensor, " d_sae"]]:
        """Each decoder row's product with the gradient, and its norm."""
        dots: list[Tensor] = []
        norms: list[Tensor] = []
        for features in torch.arange(self.sae.cfg.d_sae).split(ROWS):
            rows = self.rows(features).double()
            dots.append(rows @ self.gradient)
            norms.append(rows.norm(dim=1))
        return torch.cat(dots), torch.cat(norms)

    @cached_property
    def usual_norm(self) -> float:
        """The median length of a push of typical strength, over the features that fire."""
        sizes = self.units.double() * self.along[1]
        pool = sizes[self.fires & (sizes > 0)]
        pool = pool if len(pool) else sizes[sizes > 0]
        return float(pool.median()) if len(pool) else 1.0

    def rows(self, features: Int[Tensor, " n"]) -> Float[Tensor, "n d_out"]:
        return self.sae.directions(features.to(self.sae.device)).float().cpu()

    @cached_property
    def screen(self) -> Screen:
        dots, norms = self.along
        typical, equal = self.units.double() * dots, dots / norms.clamp(min=1e-12)
        equal = self.usual_norm * equal
        fit = (self.sign * dots > 0) & (norms > 0)
        ranks = torch.stack([_ranks(self.sign * each, fit) for each in (typical, equal)])
        key = ranks.min(0).values * len(fit) + ranks.max(0).values
        order = key.argsort(stable=True)[: int(fit.sum())].tolist()
        return Screen(typical, equal, order)

    def vectors(self, features: Sequence[int]) -> Float[Tensor, "n d_out"]:
        """Each feature's push at strength 1."""
        named = torch.tensor([*features], dtype=torch.long)
        return self.units[named][:, None] * self.rows(named)

    def curves(
        self, vectors: Float[Tensor, "n d_out"], *, n_fine: int, progress: Progress | None
    ) -> list[Curve]:
        """Push each vector at strength 1, then so that predictions change by about `KL`; the first
        `n_fine` also half as far as that."""
        n = len(vectors)
        advance = counting(progress, (2 * n + n_fine) * len(self.read.texts))
        one = push(self.read, vectors, advance)
        roots = (KL / one.kl.mean(1).clamp(min=1e-12)).sqrt().to(vectors)
        # Bounded by length: the unit of a feature that was only seen hardly firing is tiny.
        usual = self.usual_norm / vectors.norm(dim=1).clamp(min=1e-12)
        ends = usual.clamp(max=1) / LONGEST, usual.clamp(min=1) * LONGEST
        full = roots.maximum(ends[0]).minimum(ends[1])
        # A push of strength 1 that hits the mark is not measured twice.
        full = torch.where((full - 1).abs() < 0.05, full.new_tensor(2.0), full)
        scaled = vectors * full[:, None]
        more = push(self.read, torch.cat([scaled, scaled[:n_fine] / 2]), advance)
        curves: list[Curve] = []
        for i, strength in enumerate(full.tolist()):
            points = [(1.0, one, i), (strength, more, i)]
            points += [(strength / 2, more, n + i)] if i < n_fine else []
            curves.append(_curve(sorted(points, key=lambda point: point[0])))
        return curves

    def random_features(self, but: Sequence[int]) -> Float[Tensor, "n d_out"]:
        """Rows of random features, of those that fire if they are enough, pushed as far as the
        usual feature."""
        pool = self.along[1] > 0
        pool[[*but]] = False
        if int((pool & self.fires).sum()) >= MIN_POOL:
            pool &= self.fires
        places = pool.nonzero()[:, 0]
        drawn = torch.randperm(len(places), generator=self._draws())[:ENOUGH]
        rows = self.rows(places[drawn])
        return self.usual_norm * rows / rows.norm(dim=1, keepdim=True)

    def random_directions(self) -> Float[Tensor, "n d_out"]:
        """Random directions of the usual length, each the best by gradient of as many as there are
        features.

        Of a Gaussian direction the part along the gradient is a normal number: the largest of n
        such is drawn at once, the rest of the direction does not depend on it.
        """
        n = max(1, int((self.along[1] > 0).sum()))
        size = self.gradient.norm().clamp(min=1e-30)
        aim = self.sign * self.gradient / size
        rng = self._draws()
        best = torch.rand(ENOUGH, generator=rng, dtype=torch.float64) ** (1 / n)
        draws = torch.randn(ENOUGH, len(aim), generator=rng, dtype=torch.float64)
        along = torch.special.ndtri(best.clamp(max=1 - 1e-15))
        draws = draws + (along - draws @ aim)[:, None] * aim
        return (self.usual_norm * draws / draws.norm(dim=1, keepdim=True)).float()

    def _draws(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def _ranks(values: Float64[Tensor, " n"], fit: Bool[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Ranks from 0, the largest first; those that do not fit come last."""
    order = values.masked_fill(~fit, -torch.inf).argsort(descending=True, stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))


def _curve(points: Sequence[tuple[float, PushEffects, int]]) -> Curve:
    """From strengths, ascending, with the effects that each is a row of."""
    strengths = [strength for strength, _, _ in points]
    concept = torch.stack([found.concept[row] for _, found, row in points])
    kl = torch.stack([found.kl[row] for _, found, row in points])
    return Curve(strengths, concept, kl, at_kl(strengths, concept, kl, target=KL))
