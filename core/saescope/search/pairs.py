"""What makes two prompts differ, in features: aligned, then patched from one into the other, beside
controls (Heimersheim and Nanda 2024, arXiv:2404.15255; for features Marks et al. 2024,
arXiv:2403.19647)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.attribution.ablation import draw_controls
from saescope.attribution.gradients import Metric, site_gradients
from saescope.controls import ENOUGH, more_than
from saescope.metrics import kl_divergence
from saescope.models import LanguageModel, NamedTarget, Target, Tokens, counted, read_token
from saescope.precision import wide
from saescope.records.pairs import Closed, PairComparison, PatchedFeature, SitePatch
from saescope.saes import SAE
from saescope.search.alignment import Alignment, align, in_words
from saescope.search.judging import judge, share_of
from saescope.search.patching import (
    PairOf,
    SitePair,
    error_alone,
    every_feature,
    own_features,
    placebo,
    site_pair,
    variant,
    whole_site,
)
from saescope.splice import SiteRecord, add_at_site, site_record
from saescope.spread import require_one_site
from saescope.stack import Stack, as_stack
from saescope.variants import Variant, Variants, forward_variants, run_variants
from saescope.verdicts import Carrier, Judgement

LEAST_DIFFERENCE = 0.05
"""A change of the logit difference below which shares of it say nothing."""
LEAST_KL = 1e-4

Asked = tuple[int | str | None, int | str | None]
"""The tokens target and against, as they are given."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both prompts, run clean."""

    stack: Stack
    a: Tokens
    b: Tokens
    aligned: Alignment
    ids: Int[Tensor, "1 n_pos"]
    target: Target
    logits_a: Float[Tensor, " d_vocab"]
    logits_b: Float[Tensor, " d_vocab"]
    sites: list[SiteRecord]
    """What each SAE sees of a, in the order of the stack."""
    pairs: list[SitePair]
    same_top: bool
    """Both prompts predict one token."""

    @property
    def gap(self) -> float:
        """What is to be closed of the logit difference."""
        return self.target.change(self.logits_a[None], self.logits_b[None])[0]

    @property
    def kl(self) -> float:
        return float(kl_divergence(self.logits_b, self.logits_a))

    def closed(self, clean: Tensor, changed: Tensor) -> list[Closed]:
        """What each run closes."""
        gap, shares = self.gap, list[Closed]()
        start, left = (
            kl_divergence(self.logits_b.expand_as(rows), rows) for rows in (clean, changed)
        )
        effects = self.target.change(clean, changed)
        for effect, before, after in zip(effects, start.tolist(), left.tolist(), strict=True):
            shares.append(
                Closed(
                    effect / gap if abs(gap) >= LEAST_DIFFERENCE else None,
                    1 - after / before if before >= LEAST_KL else None,
                )
            )
        return shares


@dataclass(frozen=True, slots=True)
class _PatchRuns:
    """What every run closes, in the order in which the runs were made."""

    all_features: Closed
    error: Closed
    whole: Closed
    listed: Closed
    alone: list[Closed]
    by_sae: list[list[Closed]]
    draws: list[Closed]
    placebos: list[Closed]


def compare_prompts(
    model: LanguageModel,
    sae: SAE | Sequence[SAE],
    a: Tokens,
    b: Tokens,
    *,
    target: int | str | None = None,
    against: int | str | None = None,
    k: int = 10,
    n_controls: int = ENOUGH,
    seed: int = 0,
    include_special: bool = False,
) -> PairComparison:
    """Which features, of one SAE or of several, make prompt b predict something else than prompt a:
    those that differ at aligned positions, patched from b into a.

    Measured is the share of logit(target) - logit(against) that a patch closes, and that of the KL
    to b's prediction; target is b's most likely token and against is a's, unless they are given.
    Patched are all features, the `k` that the gradient on a finds strongest, each of these alone,
    the SAE's error, and the activation itself. Controls: `n_controls` random choices of as many
    features that differ too, and as many moves of the same length in random subspaces.

    Values are those of b's clean run at every SAE: with several in series an upper one is set to
    them in the run that holds the patch below.

    Raises:
        ArgumentError: the prompts are the same, or a target is no token.
        MismatchError: two SAEs write the same site.
        ConfigError: CROSS_LAYER_FEATURE: a layer of a cross-layer transcoder.
    """
    stack = as_stack(model, sae)
    require_one_site(stack.saes, "a patch")
    pair = _read(stack, a, b, include_special, (target, against))
    estimates = _estimates(pair)
    chosen = _strongest(estimates, k)
    rows = _run(pair, chosen, n_controls, seed)
    return _report(pair, chosen, estimates, rows)


def _read(stack: Stack, a: Tokens, b: Tokens, include_special: bool, asked: Asked) -> _Pair:
    model, aligned = stack.model, align(a, b)
    ids = [model.batch(tokens.ids) for tokens in (a, b)]
    logits_a, logits_b = (model.forward(each, last=1)[0][0, -1] for each in ids)
    target, same_top = _target(model, (logits_a, logits_b), asked)
    sites = [stack.read(each) for each in ids]
    pairs = [
        site_pair(sae, one, other, aligned, _counts((a, b), (one, other), include_special))
        for sae, one, other in zip(stack.saes, *sites, strict=True)
    ]
    return _Pair(
        *(stack, a, b, aligned, ids[0], target), logits_a, logits_b, sites[0], pairs, same_top
    )


def _counts(
    tokens: tuple[Tokens, Tokens], sites: tuple[SiteRecord, SiteRecord], include_special: bool
) -> tuple[Bool[Tensor, " n_a"], Bool[Tensor, " n_b"]]:
    one, other = (
        counted(each, include_special=include_special, sinks=site.sinks).to(site.x.device)
        for each, site in zip(tokens, sites, strict=True)
    )
    return one, other


def _target(model: LanguageModel, logits: Sequence[Tensor], asked: Asked) -> tuple[Target, bool]:
    """The tokens whose logit difference is asked for; without any, those that the prompts predict.
    Where both predict one token, those that add most to the KL of each way."""
    on_a, on_b = (wide(rows).log_softmax(-1) for rows in logits)
    named = NamedTarget.of(model, *asked)
    top_a, top_b = int(on_a.argmax()), int(on_b.argmax())
    token, against = named.token, named.against
    if token is None:
        gain = on_b.exp() * (on_b - on_a)
        token = top_b if top_b not in (against, top_a) else _best(gain, against)
    if against is None:
        loss = on_a.exp() * (on_a - on_b)
        against = top_a if top_a != token else _best(loss, token)
    return Target(token, against), top_a == top_b


def _best(scores: Tensor, other_than: int | None) -> int:
    first, second = scores.topk(2).indices.tolist()
    return second if first == other_than else first


def _estimates(pair: _Pair) -> list[Float[Tensor, " n"]]:
    """What each pair that differs adds to the logit difference, by the gradient on a."""
    gradients, _ = site_gradients(pair.stack, pair.ids, Metric(pair.target, -1))
    return [
        wide(each.sae.contributions(each.differ, rows[0].to(site.x), like=site.x))
        for each, rows, site in zip(pair.pairs, gradients, pair.sites, strict=True)
    ]


def _strongest(estimates: Sequence[Tensor], k: int) -> list[PairOf]:
    sizes = torch.cat([each.abs() for each in estimates])
    places = [(i, n) for i, each in enumerate(estimates) for n in range(len(each))]
    return [places[n] for n in sizes.argsort(descending=True, stable=True)[:k].tolist()]


def _run(pair: _Pair, chosen: Sequence[PairOf], n_controls: int, seed: int) -> _PatchRuns:
    """Every patch, in one batch of runs."""
    stack, pairs = pair.stack, pair.pairs
    kinds = (every_feature, error_alone, whole_site)
    together: list[Variant] = [{i: kind(each) for i, each in enumerate(pairs)} for kind in kinds]
    alone = [variant(stack, pairs, [one]) for one in chosen]
    of_each: list[Variant] = [{i: kind(each)} for i, each in enumerate(pairs) for kind in kinds]
    draws = [variant(stack, pairs, draw) for draw in _draws(pair, chosen, n_controls, seed)]
    placebos = [_placebo(pair, chosen, seed + n) for n in range(n_controls if chosen else 0)]
    variants = [*together, variant(stack, pairs, chosen), *alone, *of_each, *draws, *placebos]
    found = pair.closed(*run_variants(stack, pair.ids, pair.sites, variants, position=-1))
    rest = iter(found[4:])
    return _PatchRuns(
        *(found[0], found[1], found[2], found[3]),
        alone=[next(rest) for _ in alone],
        by_sae=[[next(rest) for _ in kinds] for _ in pairs],
        draws=[next(rest) for _ in draws],
        placebos=[next(rest) for _ in placebos],
    )


def _draws(pair: _Pair, chosen: Sequence[PairOf], n: int, seed: int) -> list[list[PairOf]]:
    """Controls of the listed features: of each SAE as many others that differ as there are of
    it."""
    if not chosen or not _has_others(pair, chosen):
        return []
    draws: list[list[PairOf]] = [[] for _ in range(n)]
    for i, each in enumerate(pair.pairs):
        norms = each.sae.decoder.norm(dim=-1).to(each.differ.values)
        sizes = each.differ.values.abs() * norms[each.differ.features]
        own = torch.tensor([place for which, place in chosen if which == i], dtype=torch.long)
        drawn = draw_controls(
            each.differ, own, sizes=sizes, n_controls=n, seed=seed, others_only=True
        )
        for draw, places in zip(draws, drawn, strict=True):
            draw += [(i, place) for place in places.tolist()]
    return draws


def _has_others(pair: _Pair, chosen: Sequence[PairOf]) -> bool:
    """Whether each SAE has as many that differ and write besides the listed ones as these are."""
    listed = [sum(which == i for which, _ in chosen) for i in range(len(pair.pairs))]
    writing = [int(each.sae.writes[each.differ.features].sum()) for each in pair.pairs]
    return all(n >= 2 * k for n, k in zip(writing, listed, strict=True) if k)


def _placebo(pair: _Pair, chosen: Sequence[PairOf], seed: int) -> Variant:
    own = [[n for which, n in chosen if which == i] for i in range(len(pair.pairs))]
    return {i: placebo(pair.pairs[i], places, seed) for i, places in enumerate(own) if places}


def _is_unchanged(pair: _Pair) -> bool:
    """Whether a with its own features patched in has the logits that it has without hooks: all of
    them, bit by bit. The rows of a larger batch would differ by rounding."""

    def keep(i: int, read: Tensor, written: Tensor) -> Tensor:
        site = site_record(pair.stack.model, pair.stack.saes[i], read, written)
        return add_at_site(written, own_features(pair.pairs[i])(site))

    patched = forward_variants(pair.stack, pair.ids, Variants(1, keep))
    return torch.equal(patched, pair.stack.model.forward(pair.ids)[0])


def _report(
    pair: _Pair, chosen: Sequence[PairOf], estimates: Sequence[Tensor], rows: _PatchRuns
) -> PairComparison:
    model, total = pair.stack.model, sum(len(each) for each in estimates)
    effect, *others = (share_of(each) or 0.0 for each in (rows.listed, *rows.draws, *rows.placebos))
    n = len(rows.draws)
    control, moved = (more_than(effect, part) for part in (others[:n], others[n:]))
    found = PairComparison(
        target=read_token(model, pair.logits_b, pair.target.token),
        against=read_token(model, pair.logits_a, pair.target.against or 0),
        difference_a=float(pair.target.of(wide(pair.logits_a))),
        difference_b=float(pair.target.of(wide(pair.logits_b))),
        kl=pair.kl,
        differences=in_words(pair.a, pair.b, pair.aligned.spans),
        n_aligned=len(pair.aligned.a),
        n_unaligned=pair.aligned.n_unaligned,
        n_patched=int(torch.stack([each.patched for each in pair.pairs]).any(0).sum()),
        features=[
            _feature(pair, one, float(estimates[one[0]][one[1]]), closed)
            for one, closed in zip(chosen, rows.alone, strict=True)
        ],
        total=total,
        all_features=rows.all_features,
        together=rows.listed,
        error=rows.error,
        whole=rows.whole,
        control=control,
        placebo=moved,
        unchanged=_is_unchanged(pair),
        by_sae=_by_sae(pair, rows),
        verdict=Judgement(Carrier.UNTOLD, ""),
    )
    return replace(found, verdict=judge(found), warnings=_warnings(pair, found))


def _feature(pair: _Pair, one: PairOf, estimate: float, closed: Closed) -> PatchedFeature:
    i, n = one
    each = pair.pairs[i]
    on_a, feature = each.differ.positions[n : n + 1], each.differ.features[n : n + 1]
    pos_a, pos_b = int(on_a), int(each.partner[on_a])
    known = closed.difference is not None
    return PatchedFeature(
        sae=pair.stack.given[i],
        feature=int(feature),
        pos_a=pos_a,
        token_a=pair.a.strings[pos_a],
        pos_b=pos_b,
        token_b=pair.b.strings[pos_b],
        activation_a=float(each.before.acts.at(on_a, feature)),
        activation_b=float(each.there.at(on_a, feature)),
        estimate=estimate / pair.gap if known else None,
        closed=closed.difference,
        closed_kl=closed.kl,
    )


def _by_sae(pair: _Pair, rows: _PatchRuns) -> list[SitePatch]:
    found = [
        SitePatch(
            sae=given, n_differ=len(each.differ.values), features=all_of, error=error, whole=whole
        )
        for given, each, (all_of, error, whole) in zip(
            pair.stack.given, pair.pairs, rows.by_sae, strict=True
        )
    ]
    return sorted(found, key=lambda each: each.sae)


def _warnings(pair: _Pair, found: PairComparison) -> list[str]:
    warnings: list[str] = []
    if pair.same_top:
        warnings.append(
            f"Both prompts predict the same token: measured is {found.target.token!r} against "
            f"{found.against.token!r}. Name target and against to ask for others."
        )
    if found.n_unaligned:
        warnings.append(
            f"{found.n_unaligned} tokens have no partner in the other prompt: what they bring is "
            "patched only where later tokens hold it. Prompts of one length align best."
        )
    left_out = found.n_aligned - found.n_patched
    if left_out:
        warnings.append(
            f"{left_out} of {found.n_aligned} aligned positions are not patched (position 0, "
            "special tokens, attention sinks). "
            "Put a word before what differs there, or ask with include_special."
        )
    if len(pair.pairs) > 1:
        warnings.append("SAEs in series carry the same difference: do not add up their shares.")
    if not found.unchanged:
        warnings.append(
            "Patching a with its own features changed its logits: do not rely on the shares."
        )
    if found.features and found.placebo.n > found.control.n:
        warnings.append(
            f"Of the {found.total} pairs that differ {len(found.features)} are listed: there are "
            "not as many others to draw controls from. Lower k."
        )
    return warnings
