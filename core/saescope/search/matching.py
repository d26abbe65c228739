"""Which features of two SAEs are the same: alike in what they write and in where they fire, one to
one, beside chance.

Decoder rows after Paulo and Belrose 2025 (arXiv:2501.16615), activations after Lan et al. 2024
(arXiv:2410.06981).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.activations import EMBEDDED
from saescope.cancel import stop_if_cancelled
from saescope.errors import ArgumentError, NotFoundError
from saescope.evals.text import evaluation_text
from saescope.features.labels.scores import wilson
from saescope.features.named import require_features
from saescope.models import LanguageModel, Tokens, counted
from saescope.ops import SparseActs, from_entries, joined
from saescope.records.pairs import FeatureMatches, MatchedFeature
from saescope.saes import SAE
from saescope.search.assignment import assign
from saescope.search.likeness import (
    LEAST_TOKENS,
    NULL_TOKENS,
    MatchSide,
    Nearest,
    chance_level,
    nearest_pairs,
)
from saescope.splice import SiteRecord, check_fits, read_sites

N_TOKENS = 2048
"""Tokens of the embedded text, where no texts are given."""
BATCH_TOKENS = 2048
STRETCH, LEAST_STRETCHES, N_RESAMPLED = 64, 8, 400
"""Tokens of text that are resampled as one, how many such stretches an interval needs, and how
often they are drawn."""
N_UNMATCHED = 10
SAME_START = 10
"""How many times as many pairs with one index as chance makes, three at least, say that both SAEs
began with the same weights."""


class SharedText(NamedTuple):
    """Both SAEs' features at the same tokens, and the stretch of text of each token."""

    own: SparseActs
    other: SparseActs
    stretch: Int[Tensor, " n"]
    x: tuple[Float[Tensor, "n_first d_in"], Float[Tensor, "n_first d_in2"]]
    """What each reads at the first tokens."""


@dataclass(frozen=True, slots=True)
class _Matched:
    """Who goes with whom."""

    text: SharedText
    one: MatchSide
    two: MatchSide
    nearest: Nearest
    partners: list[int | None]
    """By feature of the first SAE."""
    rng: torch.Generator

    @property
    def pairs(self) -> dict[int, int]:
        return {i: partner for i, partner in enumerate(self.partners) if partner is not None}


def match_features(
    model: LanguageModel,
    sae: SAE,
    other: SAE,
    texts: Sequence[Tokens] = (),
    *,
    features: Sequence[int] = (),
    k: int = 10,
    offset: int = 0,
    seed: int = 0,
) -> FeatureMatches:
    """Which features of `sae` and of `other`, an SAE of another layer or from another seed, are the
    same: the one-to-one assignment with the largest sum of scores, of pairs above chance.

    The score is the mean of the cosine of decoder rows and the correlation of activations over
    `texts`, or where none are given, over embedded text that was held out of training. Listed are
    `k` pairs by score from `offset` on, first those in which both fire, or the `features` of `sae`
    that are asked for. What has no partner is named too.

    Raises:
        ArgumentError: both are one SAE, or a feature is out of range.
        MismatchError: an SAE does not fit the model.
        NotFoundError: DATASET_EMPTY: no position of the texts counts.
    """
    _check(model, sae, other, features)
    text = _read(model, (sae, other), texts, seed)
    one, two = _sides(sae, other, text)
    rng = torch.Generator().manual_seed(seed)
    chance = chance_level(one, two, rng)
    nearest = nearest_pairs(one, two, one.is_there.nonzero()[:, 0])
    found = _Matched(text, one, two, nearest, _assigned(nearest, chance, other.cfg.d_sae), rng)
    return _report(found, chance, features, slice(offset, offset + k))


def _sides(sae: SAE, other: SAE, text: SharedText) -> tuple[MatchSide, MatchSide]:
    own, its = (each.decoder.detach().float().cpu() for each in (sae, other))
    if own.shape[1] != its.shape[1]:
        own = its = None
    return (
        MatchSide.of(sae, text.x[0], text.own, own),
        MatchSide.of(other, text.x[1], text.other, its),
    )


def _check(model: LanguageModel, sae: SAE, other: SAE, features: Sequence[int]) -> None:
    for each in (sae, other):
        check_fits(model, each, allow_mismatch=True)
    if sae is other:
        raise ArgumentError(
            "An SAE is matched with itself.",
            code="DUPLICATE_SAE",
            field="match",
            allowed="another SAE of the same model",
            hint="Name an SAE of another layer, or one trained with another seed.",
        )
    require_features(sae, features)


def _read(
    model: LanguageModel, saes: tuple[SAE, SAE], texts: Sequence[Tokens], seed: int
) -> SharedText:
    """Both SAEs on the same tokens, position 0, special tokens and the sinks of either left out."""
    parts, begun = list[SharedText](), 0
    for ids, mask in _batches(model, saes[0], texts, seed):
        stop_if_cancelled()
        one, other = read_sites(model, saes, model.batch(ids))
        keep = mask.flatten()
        for record in (one, other):
            keep = keep & ~record.sinks.cpu() if record.sinks is not None else keep
        n_pos = ids.shape[1]
        place = torch.arange(len(keep))
        stretch = begun + (place // n_pos) * (1 + n_pos // STRETCH) + place % n_pos // STRETCH
        left = NULL_TOKENS - sum(len(part.x[0]) for part in parts)
        x, its = (each.x.detach().cpu()[keep][:left].float() for each in (one, other))
        parts.append(SharedText(_kept(one, keep), _kept(other, keep), stretch[keep], (x, its)))
        begun = int(stretch.max()) + 1
    if not any(len(part.stretch) for part in parts):
        raise NotFoundError(
            "No position of the texts counts (position 0, special tokens and attention sinks do "
            "not).",
            code="DATASET_EMPTY",
            field="texts",
            hint="Give longer texts, or none: embedded text is read then.",
        )
    own, others, stretches, x = zip(*parts, strict=True)
    numbers = torch.cat(stretches).unique(return_inverse=True)[1]
    ours, its = (torch.cat(each) for each in zip(*x, strict=True))
    return SharedText(joined(own), joined(others), numbers, (ours, its))


def _batches(
    model: LanguageModel, sae: SAE, texts: Sequence[Tokens], seed: int
) -> Iterator[tuple[Int[Tensor, "n n_pos"], Bool[Tensor, "n n_pos"]]]:
    if texts:
        for tokens in texts:
            yield tokens.ids[None], counted(tokens)[None]
        return
    text = evaluation_text(model, sae, EMBEDDED, n_tokens=N_TOKENS, seed=seed)
    size = max(1, BATCH_TOKENS // text.ids.shape[1])
    yield from zip(text.ids.split(size), text.mask.split(size), strict=True)


def _kept(record: SiteRecord, keep: Bool[Tensor, " n_pos"]) -> SparseActs:
    """The features at the positions that are kept, numbered anew."""
    acts, number = record.acts, keep.cumsum(0) - 1
    positions, features = acts.positions.cpu(), acts.features.cpu()
    inside = keep[positions] & (acts.values > 0).cpu()
    return from_entries(
        acts.values.detach().float().cpu()[inside],
        features[inside],
        number[positions[inside]],
        int(keep.sum()),
        acts.d_sae,
    )


def _assigned(nearest: Nearest, chance: float, n_columns: int) -> list[int | None]:
    above = nearest.scores > chance
    edges: list[dict[int, float]] = [
        {
            partner: score
            for partner, score, is_above in zip(partners, scores, kept, strict=True)
            if is_above
        }
        for partners, scores, kept in zip(
            nearest.partners.tolist(), nearest.scores.tolist(), above.tolist(), strict=True
        )
    ]
    return assign(edges, n_columns)


def _report(found: _Matched, chance: float, features: Sequence[int], page: slice) -> FeatureMatches:
    pairs = found.pairs
    scores = {i: _score(found, i, partner) for i, partner in pairs.items()}
    # A score of decoder rows alone is no less, but says less.
    by_score = sorted(pairs, key=lambda i: (not _both_fire(found, i, pairs[i]), -scores[i], i))
    n, n_matched = int(found.one.is_there.sum()), len(pairs)
    low, high = wilson(n_matched, n) if n else (0.0, 1.0)
    return FeatureMatches(
        features=[_row(found, i) for i in features or by_score[page]],
        n_features=n,
        n_other=int(found.two.is_there.sum()),
        n_matched=n_matched,
        low=low,
        high=high,
        score=float(torch.tensor([*scores.values()]).median()) if scores else None,
        chance=chance,
        n_same_index=sum(i == partner for i, partner in pairs.items()),
        unmatched=_without_partner(found.one, pairs.keys()),
        unmatched_other=_without_partner(found.two, {*pairs.values()}),
        n_tokens=found.text.own.n_pos,
        warnings=_warnings(found),
    )


def _both_fire(found: _Matched, feature: int, partner: int) -> bool:
    rarer = min(int(found.one.n_fires[feature]), int(found.two.n_fires[partner]))
    return rarer >= LEAST_TOKENS


def _score(found: _Matched, feature: int, partner: int) -> float:
    at = found.nearest.partners[feature] == partner
    return float(found.nearest.scores[feature][at].max())


def _row(found: _Matched, feature: int) -> MatchedFeature:
    """A feature with its partner, or with how like it the nearest one is."""
    partner = found.partners[feature]
    best = found.nearest.scores[feature, 0]
    other = partner if partner is not None else int(found.nearest.partners[feature, 0])
    known = bool(best.isfinite())
    rows, columns = found.one.rows, found.two.rows
    own, its = (
        acts.of_feature(i) for acts, i in ((found.text.own, feature), (found.text.other, other))
    )
    tells = known and _both_fire(found, feature, other)
    low, high = _interval(own, its, found.text.stretch, found.rng) if tells else (None, None)
    return MatchedFeature(
        feature=feature,
        partner=partner,
        score=_score(found, feature, other) if known else None,
        cosine=float(rows[feature] @ columns[other])
        if known and rows is not None and columns is not None
        else None,
        correlation=_correlation(own, its) if tells else None,
        low=low,
        high=high,
        n_tokens=int(found.one.n_fires[feature]),
        partner_tokens=int(found.two.n_fires[other]) if partner is not None else None,
    )


def _correlation(own: Float[Tensor, " n"], other: Float[Tensor, " n"]) -> float | None:
    value = torch.corrcoef(torch.stack([own, other]).double())[0, 1]
    return float(value) if bool(value.isfinite()) else None


def _interval(
    own: Float[Tensor, " n"],
    other: Float[Tensor, " n"],
    stretch: Int[Tensor, " n"],
    rng: torch.Generator,
) -> tuple[float | None, float | None]:
    """An interval of the correlation, stretches of text resampled: tokens next to each other are no
    independent draws."""
    n = int(stretch[-1]) + 1
    if n < LEAST_STRETCHES:
        return None, None
    x, y = own.double(), other.double()
    terms = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], dim=1)
    sums = torch.zeros(n, 6, dtype=torch.float64).index_add_(0, stretch, terms)
    draws = torch.randint(n, (N_RESAMPLED, n), generator=rng)
    size, sx, sy, sxx, syy, sxy = sums[draws].sum(1).T
    spread = (sxx - sx * sx / size) * (syy - sy * sy / size)
    values = (sxy - sx * sy / size)[spread > 0] / spread[spread > 0].sqrt()
    if not len(values):
        return None, None
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _without_partner(side: MatchSide, matched: Collection[int]) -> list[int]:
    """Those that fire most."""
    free = side.n_fires.clone()
    free[~side.is_there] = -1
    free[[*matched]] = -1
    order = free.argsort(descending=True, stable=True)[:N_UNMATCHED].tolist()
    return [i for i in order if free[i] >= 0]


def _warnings(found: _Matched) -> list[str]:
    pairs, warnings = found.pairs, list[str]()
    same = sum(i == partner for i, partner in pairs.items())
    by_chance = len(pairs) / len(found.two.n_fires)
    if same > max(2, SAME_START * by_chance):
        warnings.append(
            f"{same} of {len(pairs)} partners have the same index in both SAEs: these began with "
            "the same weights, as one seed makes them, and what they share may come of that. A "
            "replication must change the seed."
        )
    rare = found.one.is_there & (found.one.n_fires < LEAST_TOKENS)
    if found.one.rows is not None and int(rare.sum()) > len(rare) / 2:
        warnings.append(
            f"{int(rare.sum())} of {len(rare)} features fire on fewer than {LEAST_TOKENS} of the "
            f"{found.text.own.n_pos} tokens: they are matched by their decoder rows alone. Give "
            "more texts."
        )
    return warnings
