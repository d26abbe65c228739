"""Features that write given tokens: what stands out in their decoder rows, and how far they really
push these tokens on neutral prompts."""

from collections.abc import Sequence
from functools import partial
from statistics import mean, median
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.controls import ENOUGH, compare_with
from saescope.effects import logit_effects
from saescope.features.reading.search import token_scores
from saescope.metrics import log_mass
from saescope.models import LanguageModel, Tokens, counted
from saescope.ops import SparseActs, joined
from saescope.records.controls import Comparison
from saescope.records.features import FoundFeatures, TokenRank, Writer
from saescope.saes import SAE
from saescope.splice import SiteRecord
from saescope.stack import Stack, as_stack
from saescope.steering.edits import FeatureEdit, control_plan, make_plan, written_by
from saescope.steering.judge import is_beyond
from saescope.steering.units import MIN_POOL, IndexedActivations, Known, resolve_units
from saescope.variants import Variant, run_variants

PROMPTS = ("They said that", "Here is the", "It was a", "And then we")
"""Beginnings that nearly anything may follow."""
N_MEASURED = 20
NEAR_TOP = 50
"""The rank in the vocabulary up to which a token counts as one of those that a feature writes."""
SCORE_IS = (
    "how far the tokens stand out among what the feature promotes (in standard deviations), less "
    f"the SAE's average; of the best {N_MEASURED} those that write come first"
)


class _Push(NamedTuple):
    """The measured change of the tokens' log-probability, beside random features."""

    change: float
    control: Comparison


class _Candidate(NamedTuple):
    feature: int
    score: float
    ranks: list[TokenRank]

    @property
    def near_top(self) -> bool:
        """At least half of the tokens are among those that it raises most."""
        near = sum(each.rank <= NEAR_TOP for each in self.ranks)
        return 2 * near >= len(self.ranks)


def find_by_tokens(
    model: LanguageModel,
    sae: SAE,
    tokens: Sequence[str],
    *,
    reference: SparseActs | None = None,
    indexed: IndexedActivations | None = None,
    k: int = 10,
    offset: int = 0,
    seed: int = 0,
) -> FoundFeatures:
    """Features that write these tokens.

    All are ranked by how far the tokens stand out of each feature's effects on the logits, less
    what is common to all features. The best twenty are added, at their typical activation (of
    `indexed`, else of `reference` and the prompts), at the last position of neutral prompts: `push`
    is the change of the log of the tokens' summed probability, `control` that of 19 random features
    at their own, or, where the tokens are near the top of what the feature raises and it pushes
    more than the usual one of these, with a change as large as its own. It "writes" if the tokens
    are near its top and the push is outside of these.

    Raises:
        ArgumentError: a text is not one token, or the SAE's site does not write to the residual
            stream linearly.
    """
    ids = [model.single_token(token, "tokens") for token in dict.fromkeys(tokens)]
    own, writes = token_scores(model, sae, ids), sae.writes.cpu()
    beyond = (own - own[writes].mean(0)).mean(1).masked_fill(~writes, -torch.inf)
    order = beyond.sort(descending=True, stable=True).indices[: int((beyond > 0).sum())].tolist()
    first = 0 if offset < N_MEASURED else offset
    last = max(N_MEASURED, offset + k) if first == 0 else offset + k
    found = _candidates(_OnTokens(model, sae, ids, own, beyond), order[first:last])
    measured = found[:N_MEASURED] if first == 0 else []
    known = _known(as_stack(model, sae), reference, indexed)
    pushes, warnings = _pushes(known, measured, ids, seed)
    rows = [_row(each, push) for each, push in zip(measured, pushes, strict=True)]
    rows.sort(key=lambda row: (not row.writes, -row.score))
    rows += [_row(each, None) for each in found[len(measured) :]]
    return FoundFeatures([*rows[offset - first :][:k]], len(order), SCORE_IS, warnings)


class _OnTokens(NamedTuple):
    """The effects of an SAE's features on the tokens that are asked for."""

    model: LanguageModel
    sae: SAE
    ids: list[int]
    own: Float[Tensor, "d_sae n_tokens"]
    """How far each token stands out of each feature's effects."""
    beyond: Float[Tensor, " d_sae"]
    """The same less what is common to all features, averaged over the tokens."""


def _candidates(asked: _OnTokens, features: Sequence[int]) -> list[_Candidate]:
    """The features with the rank of each token among all that they raise."""
    names = [asked.model.token_text(i) for i in asked.ids]
    found: list[_Candidate] = []
    for start in range(0, len(features), N_MEASURED):
        part = torch.tensor(features[start : start + N_MEASURED], device=asked.sae.device)
        effects = logit_effects(asked.model, asked.sae, part)
        assert effects is not None, "token_scores refuses a site that is no linear write"
        at = effects[:, asked.ids]
        ranks = 1 + (effects[:, None, :] > at[..., None]).sum(-1)
        for feature, row in zip(part.tolist(), ranks.tolist(), strict=True):
            shown = zip(names, row, asked.own[feature].tolist(), strict=True)
            tokens = [TokenRank(token=token, rank=rank, z=z) for token, rank, z in shown]
            found.append(_Candidate(feature, float(asked.beyond[feature]), tokens))
    return found


class _OnPrompts(NamedTuple):
    """The neutral prompts with what the SAE sees in each, and how strongly its features fire."""

    stack: Stack
    prompts: list[Tokens]
    sites: list[SiteRecord]
    known: Known


def _known(
    stack: Stack, reference: SparseActs | None, indexed: IndexedActivations | None
) -> _OnPrompts:
    model, sae = stack.model, stack.saes[0]
    prompts = [model.tokenize(text, prepend_bos=sae.cfg.metadata.prepend_bos) for text in PROMPTS]
    sites = [stack.read(model.batch(tokens.ids))[0] for tokens in prompts]
    masks = [
        counted(tokens, sinks=site.sinks).to(model.device)
        for tokens, site in zip(prompts, sites, strict=True)
    ]
    here = [
        site.acts.select(mask[site.acts.positions]) for site, mask in zip(sites, masks, strict=True)
    ]
    texts = "the neutral prompts"
    if reference is not None:
        here, texts = [*here, reference], "the probe text and the neutral prompts"
    typical = indexed and indexed.on(here[0].values.device)
    return _OnPrompts(stack, prompts, sites, Known(joined(here), typical, texts))


class _Added(NamedTuple):
    """An activation that is added of a feature; or a change as large as that, along another."""

    feature: int
    activation: float
    along: int | None = None


def _pushes(
    on: _OnPrompts, found: Sequence[_Candidate], ids: Sequence[int], seed: int
) -> tuple[list[_Push], list[str]]:
    """What each feature's typical activation does beside random features, and what is to be said of
    activations that nobody saw."""
    if not found:
        return [], []
    drawn, features = _drawn(on, seed), [each.feature for each in found]
    every = [*dict.fromkeys([*features, *drawn])]
    units = resolve_units([FeatureEdit(feature) for feature in every], on.known, "typical").values
    typical = dict(zip(every, units, strict=True))
    changes = dict(
        zip(every, _changes(on, [_Added(*pair) for pair in typical.items()], ids), strict=True)
    )
    pushes: list[_Push] = []
    for each in found:
        others = [feature for feature in drawn if feature != each.feature][:ENOUGH]
        change = changes[each.feature]
        controls = [changes[other] for other in others]
        if each.near_top and change > max(0.0, median(controls)):
            # one that pushes no more than the usual random feature writes nothing;
            # a loud feature among the controls would hide it, a loud feature would beat them
            runs = [_Added(each.feature, typical[each.feature], other) for other in others]
            controls = _changes(on, runs, ids)
        pushes.append(_Push(change, compare_with(change, controls)))
    edits = [FeatureEdit(feature) for feature in features]
    n_unseen = len(resolve_units(edits, on.known, "typical").warnings)
    return pushes, _unseen(n_unseen, len(features), on.known)


def _drawn(on: _OnPrompts, seed: int) -> list[int]:
    """Random features, one more than the controls of any, of those that are known to fire if they
    are enough."""
    writes = on.stack.saes[0].writes.cpu()
    fires = writes & (on.known.maxima.cpu() > 0)
    pool = (fires if int(fires.sum()) >= MIN_POOL else writes).nonzero()[:, 0]
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return pool[order[: ENOUGH + 1]].tolist()


def _changes(on: _OnPrompts, runs: Sequence[_Added], ids: Sequence[int]) -> list[float]:
    """How each run changes the log of the tokens' summed probability, on average of the prompts."""
    sae, changes = on.stack.saes[0], list[list[float]]()
    for tokens, site in zip(on.prompts, on.sites, strict=True):
        last = torch.zeros(1, len(tokens), dtype=torch.bool, device=on.stack.model.device)
        last[0, -1] = True
        variants: list[Variant] = []
        for run in runs:
            plan = make_plan(sae, [FeatureEdit(run.feature)], [run.activation], last)
            plan = plan if run.along is None else control_plan(sae, plan, [run.along])
            variants.append({0: partial(written_by, sae, plan=plan)})
        batch = on.stack.model.batch(tokens.ids)
        clean, changed = run_variants(on.stack, batch, [site], variants, position=len(tokens) - 1)
        changes.append((log_mass(changed, ids) - log_mass(clean, ids)).tolist())
    return [mean(each) for each in zip(*changes, strict=True)]


def _unseen(n: int, of: int, known: Known) -> list[str]:
    if not n:
        return []
    where = f"{known.indexed.corpus} or {known.texts}" if known.indexed else known.texts
    return [
        f"{n} of the {of} features measured fired nowhere on {where}: they were added at the "
        "median of those that did. ss.index_features gives their own activations."
    ]


def _row(each: _Candidate, push: _Push | None) -> Writer:
    """Why it is listed; only a measured push makes it a writer."""
    writes = push is not None and each.near_top and _is_up(push)
    return Writer(
        feature=each.feature,
        score=each.score,
        why=f"{_raised(each, writes)}; {_in_words(each, push)}",
        tokens=each.ranks,
        push=push and push.change,
        control=push and push.control,
        writes=None if push is None else writes,
    )


def _raised(each: _Candidate, writes: bool) -> str:
    """The tokens that it writes or promotes, apart from those that it does not."""

    def listed(tokens: Sequence[TokenRank]) -> str:
        return ", ".join(f"{one.token!r} (rank {one.rank:,}, {one.z:.2g} sd)" for one in tokens)

    its = [one for one in each.ranks if (one.rank <= NEAR_TOP if writes else one.z > 0)]
    others = [one for one in each.ranks if one not in its]
    verb = "writes" if writes else "promotes"
    said = [f"{verb} {listed(its)}"] if its else []
    return ", ".join([*said, *([f"not {listed(others)}"] if others else [])])


def _is_up(push: _Push) -> bool:
    return push.change > 0 and is_beyond(push.change, push.control)


def _in_words(each: _Candidate, push: _Push | None) -> str:
    if push is None:
        return f"push not measured (beyond the best {N_MEASURED})"
    control = push.control
    if control.mean is None:
        return f"push {push.change:+.2g} nats, with no other features to compare with"
    beside = (
        f"push {push.change:+.2g} nats, {control.mean:+.2g} on average of {control.n} random "
        f"features (p = {control.p:.2g})"
    )
    if not _is_up(push):
        return f"{beside}: not clearly more than these"
    return beside if each.near_top else f"{beside}, but other tokens are raised far more"
