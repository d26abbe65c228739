"""Several SAEs at once, against plain Hugging Face models with hooks of their own and SAEs written
out in NumPy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.oracle import Array, Change, Family, NumpySAE, close, flat, make_sae, softmax
from tests.core.steering.reference import fires
from torch import Tensor

from saescope.attribution import Attribution, attribute
from saescope.attribution.ablation import Pairs, removal
from saescope.errors import ArgumentError, MismatchError
from saescope.features import encode_stack, encode_texts, rank_features
from saescope.models import Tokens
from saescope.saes import SAE
from saescope.splice import read_hook, write_hook
from saescope.stack import as_stack
from saescope.steering import FeatureEdit, IndexedActivations, intervene, steer
from saescope.variants import run_variants

TEXT = "The old man saw the little house by the"
TARGET, AGAINST = 300, 41
IN_SERIES = {
    "neighbouring layers": [("standard", 0), ("standard", 1)],
    "three sites of a block": [("constant_norm", 1), ("layer_norm", 1), ("topk", 1)],
    "a transcoder over an SAE": [("topk", 0), ("skip_transcoder", 1)],
    "two transcoders": [("skip_transcoder", 0), ("skip_transcoder", 1)],
    "heads under a stream": [("hook_z", 0), ("standard", 1)],
}
Removed = Callable[[Array], Array]
"""Takes an SAE's activations in a run and returns those that are taken away."""


def tokens_of(family: Family) -> Tokens:
    return family.model.tokenize(TEXT, prepend_bos=True)


def saes_of(family: Family, series: str, *, swapped: bool = False) -> list[SAE]:
    saes = [
        make_sae(family, kind, layer=layer, seed=7 + n)
        for n, (kind, layer) in enumerate(IN_SERIES[series])
    ]
    return saes[::-1] if swapped else saes


UPWARDS = (
    *("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid"),
    *("hook_mlp_out", "hook_resid_post"),
)


def height(sae: SAE) -> tuple[int, int]:
    """Layer and place within it: hooks of the plain model run in the order in which they are
    made."""
    _, layer, site = write_hook(sae).split(".", 2)
    return int(layer), UPWARDS.index(site)


def hooks_that(saes: Sequence[SAE], removed: Mapping[int, Removed]) -> dict[str, Change]:
    """For the plain model: each SAE's activations in the run under way, less what is taken away of
    them there."""
    hooks: dict[str, Change] = {}
    for n in sorted(removed, key=lambda n: height(saes[n])):
        away = removed[n]
        sae, read = NumpySAE(saes[n]), list[Array]()

        def look(x: Tensor, read: list[Array] = read) -> Tensor:
            read[:] = [flat(x)]
            return x

        def write(
            x: Tensor, sae: NumpySAE = sae, read: list[Array] = read, away: Removed = away
        ) -> Tensor:
            seen = read[0] if read else flat(x)
            change = np.einsum("pi,pid->pd", away(sae.encode(seen)), sae.directions(seen))
            return (x.double() - torch.tensor(change).reshape(x.shape)).to(x.dtype)

        if saes[n].cfg.transcoder:
            hooks[read_hook(saes[n])] = look
        hooks[write_hook(saes[n])] = write
    return hooks


def metric(logits: Tensor) -> float:
    row = logits[0, -1].double()
    return float(row[TARGET] - row[AGAINST])


def pairs_removed(pairs: Sequence[tuple[int, int, int]]) -> dict[int, Removed]:
    """(SAE, feature, position) triples, as what each SAE loses."""

    def of(n: int) -> Removed:
        def away(acts: Array) -> Array:
            kept = np.zeros_like(acts)
            for which, feature, pos in pairs:
                if which == n:
                    kept[pos, feature] = acts[pos, feature]
            return kept

        return away

    return {n: of(n) for n in sorted({which for which, _, _ in pairs})}


def effect(family: Family, saes: Sequence[SAE], pairs: Sequence[tuple[int, int, int]]) -> float:
    ids = tokens_of(family).ids[None]
    hooks = hooks_that(saes, pairs_removed(pairs))
    return metric(family.hf.logits(ids)) - metric(family.hf.logits(ids, hooks))


def listed(result: Attribution) -> list[tuple[int, int, int]]:
    return [(row.sae, row.feature, row.pos) for row in result.features]


@pytest.fixture(params=["gpt2", "gemma2", "llama"])
def family(request: pytest.FixtureRequest, family_of: Callable[[str], Family]) -> Family:
    return family_of(request.param)


@pytest.mark.parametrize("swapped", [False, True], ids=["bottom first", "top first"])
@pytest.mark.parametrize("series", IN_SERIES)
def test_what_is_measured_is_what_a_plain_model_does_without_the_pairs(
    family: Family, series: str, swapped: bool
) -> None:
    saes = saes_of(family, series, swapped=swapped)
    found = attribute(
        family.model, saes, tokens_of(family), target=TARGET, against=AGAINST, k=12, n_controls=0
    )
    assert len({row.sae for row in found.features}) > 1
    close(
        [row.measured_effect for row in found.features],
        [effect(family, saes, [pair]) for pair in listed(found)],
        1e-3,
    )
    assert found.joint
    close([found.joint.measured_effect], [effect(family, saes, listed(found))], 1e-3)


@pytest.mark.parametrize("method", ["gradient", "integrated_gradients"])
@pytest.mark.parametrize("series", IN_SERIES)
def test_each_saes_attributions_are_those_it_has_alone(
    family: Family, series: str, method: str
) -> None:
    saes, tokens = saes_of(family, series), tokens_of(family)
    found = attribute(
        family.model, saes, tokens, target=TARGET, k=10**6, method=method, validate=False
    )
    for n, sae in enumerate(saes):
        alone = attribute(
            family.model, sae, tokens, target=TARGET, k=10**6, method=method, validate=False
        )
        ours = [(row.feature, row.pos, row.attribution) for row in found.features if row.sae == n]
        assert ours == [(row.feature, row.pos, row.attribution) for row in alone.features]
        share = found.by_sae[n]
        assert (share.sae, share.error_attribution, share.error_share, share.total) == (
            n,
            alone.error_attribution,
            alone.error_share,
            alone.total,
        )
    assert found.total == sum(share.total for share in found.by_sae)
    assert found.error_share is found.error_attribution is found.completeness is None
    strengths = [abs(row.attribution) for row in found.features]
    assert strengths == sorted(strengths, reverse=True)


def test_controls_are_as_many_pairs_of_each_sae_as_are_listed_of_it(gpt2: Family) -> None:
    saes, tokens = saes_of(gpt2, "neighbouring layers"), tokens_of(gpt2)
    found = attribute(gpt2.model, saes, tokens, target=TARGET, k=5, n_controls=3)
    again = attribute(gpt2.model, saes, tokens, target=TARGET, k=5, n_controls=3)
    assert found.joint and found.joint.control.n == 3
    assert found.joint.control.sd and found == again


@pytest.mark.parametrize("mode", ["ablate", "scale", "clamp", "add"])
@pytest.mark.parametrize("series", IN_SERIES)
def test_an_upper_sae_is_edited_in_the_run_that_holds_the_lower_edit(
    family: Family, series: str, mode: str
) -> None:
    saes, tokens = saes_of(family, series), tokens_of(family)
    pos, strength = len(tokens) - 2, 3.0
    features = [
        int(each.texts[0].acts.to_dense()[pos].argmax())
        for each in encode_stack(as_stack(family.model, saes), [tokens])
    ]

    def away(feature: int) -> Removed:
        def less(acts: Array) -> Array:
            wanted = acts.copy()
            wanted[pos, feature] = {
                "ablate": 0.0,
                "scale": strength * acts[pos, feature],
                "clamp": strength,
                "add": acts[pos, feature] + strength,
            }[mode]
            return acts - wanted

        return less

    edits = [
        FeatureEdit(feature, strength, mode, (pos,), sae=n) for n, feature in enumerate(features)
    ]
    done = intervene(
        family.model, saes, tokens, edits, unit="raw", target=TARGET, against=AGAINST, n_controls=2
    )
    hooks = hooks_that(saes, {n: away(feature) for n, feature in enumerate(features)})
    ids = tokens.ids[None]
    expected = metric(family.hf.logits(ids, hooks)) - metric(family.hf.logits(ids))
    close([done.delta_logit], [expected], 2e-3)
    assert done.control.n == 2


def test_steering_with_several_saes_writes_what_a_plain_model_writes(family: Family) -> None:
    saes, tokens = saes_of(family, "neighbouring layers"), tokens_of(family)
    edits = [FeatureEdit(3, 2.0, "clamp", sae=0), FeatureEdit(5, 4.0, "clamp", sae=1)]
    done = steer(
        family.model,
        saes,
        tokens,
        edits,
        unit="raw",
        max_new_tokens=5,
        n_controls=1,
        concept_tokens=[7],
    )
    ids = tokens.ids[None]
    special = torch.tensor(sorted(family.model.tokenizer.special_ids.tolist()))
    for _ in range(5):
        counted = ~torch.isin(ids[0], special)
        counted[0] = False

        def away(n: int, counted: Tensor = counted) -> Removed:
            def less(acts: Array) -> Array:
                wanted = acts.copy()
                wanted[counted.numpy(), edits[n].feature] = edits[n].strength
                return acts - wanted

            return less

        logits = family.hf.logits(ids, hooks_that(saes, {n: away(n) for n in range(2)}))
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert done.steered[0].text == family.model.tokenizer.join(ids[0, len(tokens) :].tolist())
    assert len(done.controls) == 1 and done.unit_values == [1.0, 1.0]
    (control,) = done.controls
    assert [ref.sae for ref in control.features] == [0, 1]
    assert all(
        f"feature {ref.feature} of the SAE at {write_hook(saes[ref.sae])}" in control.label
        for ref in control.features
    )


@pytest.mark.parametrize("swapped", [False, True], ids=["bottom first", "top first"])
def test_a_unit_is_what_is_known_of_the_edits_own_sae(gpt2: Family, swapped: bool) -> None:
    """Feature 3 of the first SAE in the list has a maximum of 2, that of the second 5."""
    saes, tokens = saes_of(gpt2, "neighbouring layers", swapped=swapped), tokens_of(gpt2)
    indexed: list[IndexedActivations | None] = [
        IndexedActivations(torch.full((48,), value), torch.full((48,), value / 2), f"text {value}")
        for value in (2.0, 5.0)
    ]
    edits = [FeatureEdit(3, 1.5, sae=1), FeatureEdit(3, 1.5, sae=0), FeatureEdit(4, 1.0, sae=1)]
    asked: dict[str, Any] = {"target": TARGET, "n_controls": 0}
    done = intervene(gpt2.model, saes, tokens, edits, unit="max", indexed=indexed, **asked)
    assert done.unit_values == [5.0, 2.0, 5.0]
    for sae, value in zip(saes, (2.0, 5.0), strict=True):
        assert f"SAE at {write_hook(sae)}: indexed maximum over text {value}" in done.unit_source
    raw = [
        replace(edit, strength=edit.strength * value)
        for edit, value in zip(edits, done.unit_values, strict=True)
    ]
    same = intervene(gpt2.model, saes, tokens, raw, unit="raw", **asked)
    assert done.delta_logit == same.delta_logit != 0
    assert steer(
        gpt2.model, saes, tokens, edits, indexed=indexed, max_new_tokens=1, n_controls=0
    ).unit_values == [2.5, 1.0, 2.5]  # the default, "typical"


@pytest.mark.parametrize("series", IN_SERIES)
def test_editing_none_of_several_saes_leaves_the_logits_as_they_are(
    family: Family, series: str
) -> None:
    stack, ids = as_stack(family.model, saes_of(family, series)), tokens_of(family).ids[None]
    sites = stack.read(ids)
    for sae, site in zip(stack.saes, sites, strict=True):  # both errors are kept
        close(site.sae_out + site.error, site.target)
        assert float(site.error.norm()) > 0.1 * float(site.target.norm()), write_hook(sae)
    nothing = Pairs(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long))
    idle = {
        i: lambda site, sae=sae: removal(sae, site, pairs=nothing)
        for i, sae in enumerate(stack.saes)
    }
    clean, changed = run_variants(stack, ids, sites, [{}, idle], position=-1)
    assert torch.equal(clean, changed)
    close(softmax(clean[0].double().numpy()), softmax(flat(family.hf.logits(ids))[-1]))


def test_an_edit_below_is_seen_above(gpt2: Family) -> None:
    saes, tokens = saes_of(gpt2, "neighbouring layers"), tokens_of(gpt2)
    stack, seen = as_stack(gpt2.model, saes), list[Tensor]()
    sites, ids = stack.read(tokens.ids[None]), tokens.ids[None]
    push = torch.ones_like(sites[0].sae_out)

    def look(site: object) -> Tensor:
        seen.append(site.x)  # pyright: ignore
        return torch.zeros_like(push)

    run_variants(stack, ids, sites, [{0: lambda _: push, 1: look}], position=-1)
    shifted = {write_hook(saes[0]): lambda x: x + push.reshape(x.shape)}
    expected = gpt2.hf.record(ids, [read_hook(saes[1])], shifted)[read_hook(saes[1])]
    close(seen[0], flat(expected))


def test_texts_are_read_by_several_saes_as_by_each_alone(gpt2: Family) -> None:
    saes, texts = saes_of(gpt2, "three sites of a block", swapped=True), [tokens_of(gpt2)]
    for sae, ours in zip(saes, encode_stack(as_stack(gpt2.model, saes), texts), strict=True):
        alone = encode_texts(gpt2.model, sae, texts)
        assert (ours.l0_mean, ours.explained_variance) == (alone.l0_mean, alone.explained_variance)
        assert torch.equal(ours.texts[0].acts.to_dense(), alone.texts[0].acts.to_dense())


@pytest.mark.parametrize("rank_by", ["max", "mean", "count", "contrast"])
def test_features_of_several_saes_are_ranked_in_one_list(gpt2: Family, rank_by: str) -> None:
    saes, texts = saes_of(gpt2, "neighbouring layers"), [tokens_of(gpt2)]
    against = [gpt2.model.tokenize("a red dog ran", prepend_bos=True)] * (rank_by == "contrast")
    together = rank_features(gpt2.model, saes, texts, rank_by=rank_by, against=against, k=10**4)
    alone = [
        rank_features(gpt2.model, sae, texts, rank_by=rank_by, against=against, k=10**4)
        for sae in saes
    ]
    for n, one in enumerate(alone):
        assert [(r.feature, r.score, r.promotes) for r in together.features if r.sae == n] == [
            (r.feature, r.score, r.promotes) for r in one.features
        ]
    scores = [row.score for row in together.features]
    assert scores == sorted(scores, reverse=True) and together.total == len(scores)
    # of one text a side a contrast is a difference of activations
    assert bool(together.warnings) is (rank_by != "count")


def test_two_saes_of_one_site_are_refused(gpt2: Family) -> None:
    with pytest.raises(MismatchError) as caught:
        as_stack(gpt2.model, [make_sae(gpt2, "topk"), make_sae(gpt2, "topk", seed=1)])
    assert caught.value.code == "TWO_SAES_ON_SITE"


def test_a_list_of_no_sae_is_refused(gpt2: Family) -> None:
    with pytest.raises(ArgumentError, match="No SAE"):
        attribute(gpt2.model, [], tokens_of(gpt2))


def test_an_edit_of_an_sae_that_is_not_in_the_list_is_refused(gpt2: Family) -> None:
    saes = saes_of(gpt2, "neighbouring layers")
    with pytest.raises(ArgumentError, match="no SAE 2"):
        intervene(gpt2.model, saes, tokens_of(gpt2), [FeatureEdit(1, sae=2)])


def test_one_reference_for_two_saes_is_refused(gpt2: Family) -> None:
    saes = saes_of(gpt2, "neighbouring layers")
    with pytest.raises(ArgumentError, match="2 SAEs"):
        intervene(
            gpt2.model, saes, tokens_of(gpt2), [FeatureEdit(1)], reference=fires(48, {1: 1.0})
        )


def test_what_is_said_of_one_of_several_saes_names_its_site(gpt2: Family) -> None:
    saes, tokens = saes_of(gpt2, "neighbouring layers"), tokens_of(gpt2)
    why = attribute(gpt2.model, saes, tokens, target=TARGET, k=4, validate=False)
    assert any("Do not add them up over SAEs" in warning for warning in why.warnings)
    alone = attribute(gpt2.model, saes[:1], tokens, target=TARGET, k=4, validate=False)
    assert not alone.warnings
    silent = FeatureEdit(silent_feature(gpt2, saes[0]), mode="ablate", sae=0)
    done = intervene(gpt2.model, saes, tokens, [silent, FeatureEdit(5, sae=1)], target=TARGET)
    first, second = (f"SAE at {write_hook(sae)}: " for sae in saes)
    assert any(warning.startswith(f"{first}Feature {silent.feature}") for warning in done.warnings)
    assert done.unit_source.startswith(first) and f"; {second}" in done.unit_source


def silent_feature(family: Family, sae: SAE) -> int:
    """A feature that does not fire on the text."""
    (read,) = family.hf.record(tokens_of(family).ids[None], [read_hook(sae)]).values()
    fires = NumpySAE(sae).encode(flat(read)).max(axis=0) > 0
    return int(np.flatnonzero(~fires)[0])
