"""Steered generation against a naive loop over a plain Hugging Face model with a hook, and its
metrics recomputed."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.oracle import (
    CASES,
    KINDS,
    Array,
    Family,
    NumpySAE,
    as_array,
    close,
    cross_entropy,
    kl,
    make_sae,
    softmax,
)
from tests.core.steering.reference import Choose, continuation, fires, steered_logits, tokens_of
from torch import Tensor

from saescope.cancel import cancellable
from saescope.errors import ArgumentError, Cancelled
from saescope.models import LanguageModel
from saescope.ops import joined
from saescope.saes import SAE
from saescope.splice import read_site
from saescope.steering import FeatureEdit, steer
from saescope.steering.steer import Arm, Metrics, Steering
from saescope.verdicts import Effect

N_NEW = 8
STRONG = {
    "add": [FeatureEdit(5, 8.0)],
    "clamp": [FeatureEdit(7, 8.0, "clamp")],
    "scale": [FeatureEdit(7, 20.0, "scale")],
    "project out": [FeatureEdit(5, 8.0), FeatureEdit(6, mode="project_out")],
    "several": [FeatureEdit(5, 4.0), FeatureEdit(7, 0.0, "scale"), FeatureEdit(9, 4.0, "clamp")],
}


def sae_for(family: Family, kind: str) -> SAE:
    if KINDS[kind].site not in family.hf.sites:
        pytest.skip("parallel blocks")
    return make_sae(family, kind)


def text_of(family: Family, ids: Sequence[int]) -> str:
    return family.model.tokenizer.hf.decode(ids)


def ours(family: Family, sae: SAE, edits: list[FeatureEdit], **options: Any) -> Steering:
    chosen: dict[str, Any] = {"max_new_tokens": N_NEW, "n_controls": 0} | options
    return steer(family.model, sae, tokens_of(family), edits, unit="raw", **chosen)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_steered_and_unsteered_text_are_those_of_the_naive_loop(
    family_of: Callable[[str], Family], name: str, kind: str
) -> None:
    family = family_of(name)
    sae, edits = make_sae(family, kind), STRONG["add"]
    plain = continuation(family.hf, None, tokens_of(family), N_NEW)
    steered = continuation(family.hf, (sae, edits, [1.0]), tokens_of(family), N_NEW)
    assert steered != plain or kind != "standard"
    for use_cache in (True, False):
        result = ours(family, sae, edits, use_cache=use_cache)
        assert result.baseline.text == text_of(family, plain) and result.baseline.n_tokens == len(
            plain
        )
        assert result.steered[0].text == text_of(family, steered)


@pytest.mark.parametrize("name", STRONG)
def test_every_mode_steers_as_the_naive_loop(gpt2: Family, llama: Family, name: str) -> None:
    for family in (gpt2, llama):
        sae, edits = make_sae(family, "standard"), STRONG[name]
        steered = continuation(
            family.hf, (sae, edits, [1.0] * len(edits)), tokens_of(family), N_NEW
        )
        assert steered != continuation(family.hf, None, tokens_of(family), N_NEW) or family is llama
        for use_cache in (True, False):
            assert ours(family, sae, edits, use_cache=use_cache).steered[0].text == text_of(
                family, steered
            )


@pytest.mark.parametrize(
    "edits", [[FeatureEdit(5, 0.0)], [FeatureEdit(7, 1.0, "scale")]], ids=["add 0", "scale 1"]
)
def test_strength_0_of_add_and_1_of_scale_leave_the_text_as_it_is(
    family: Family, edits: list[FeatureEdit]
) -> None:
    for kind in ("standard", "skip_transcoder"):
        result = ours(family, make_sae(family, kind), edits, max_new_tokens=5)
        assert result.steered[0].text == result.baseline.text and result.steered[0].metrics.kl == 0
        assert result.steered[0].metrics.perplexity == result.baseline.metrics.perplexity
        assert result.verdict.level == "no visible effect"


def test_a_special_token_of_the_continuation_is_not_steered(
    gpt2: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gpt2.model.tokenizer, "special_ids", torch.arange(500)
    )  # about half of what is generated
    sae, edits = make_sae(gpt2, "standard"), STRONG["add"]
    found = {
        special: continuation(gpt2.hf, (sae, edits, [1.0]), tokens_of(gpt2), N_NEW, special=special)
        for special in (4, 500)
    }
    assert found[4] != found[500]
    for use_cache in (True, False):
        assert ours(gpt2, sae, edits, use_cache=use_cache).steered[0].text == text_of(
            gpt2, found[500]
        )


def sampler(seed: int, temperature: float) -> Choose:
    rng = torch.Generator().manual_seed(seed)

    def choose(logits: Array) -> int:
        return int(torch.multinomial(torch.tensor(softmax(logits / temperature)), 1, generator=rng))

    return choose


def test_samples_come_from_their_seeds(family: Family) -> None:
    sae, edits = make_sae(family, "topk"), STRONG["add"]
    result = ours(family, sae, edits, n_samples=3, temperature=1.5, seed=11)
    assert len({arm.text for arm in result.steered}) > 1
    for i, arm in enumerate(result.steered):
        expected = continuation(
            family.hf, (sae, edits, [1.0]), tokens_of(family), N_NEW, choose=sampler(11 + i, 1.5)
        )
        assert arm.text == text_of(family, expected)
    plain = continuation(family.hf, None, tokens_of(family), N_NEW, choose=sampler(11, 1.5))
    assert result.baseline.text == text_of(family, plain)
    torch.rand(5)  # the global generator has no part in it
    again = ours(family, sae, edits, n_samples=3, temperature=1.5, seed=11)
    assert again == result


def test_generation_ends_before_an_end_of_text_token(
    gpt2: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = continuation(gpt2.hf, None, tokens_of(gpt2), N_NEW)
    end = plain[4]
    monkeypatch.setattr(gpt2.model.tokenizer, "eos_id", end)
    sae, edits = make_sae(gpt2, "standard"), STRONG["add"]
    result = ours(gpt2, sae, edits)
    assert result.baseline.n_tokens == plain.index(end) <= 4
    assert result.steered[0].text == text_of(
        gpt2, continuation(gpt2.hf, (sae, edits, [1.0]), tokens_of(gpt2), N_NEW, stop=end)
    )


def test_a_generation_that_ends_at_once_has_no_numbers(
    gpt2: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gpt2.model.tokenizer, "eos_id", continuation(gpt2.hf, None, tokens_of(gpt2), 1)[0]
    )
    arm = ours(gpt2, make_sae(gpt2, "standard"), STRONG["add"]).baseline
    nothing = Metrics(
        concept_score=None, concept_logprob=None, perplexity=None, repetition=0.0, kl=None
    )
    assert arm == Arm("baseline", "", 0, nothing)


def test_generation_stops_where_the_context_ends(gpt2: Family) -> None:
    tokens = gpt2.model.tokenize("The old man saw the house. " * 20, limit=gpt2.model.n_ctx - 3)
    result = steer(gpt2.model, make_sae(gpt2, "standard"), tokens, STRONG["add"], n_controls=0)
    plain = continuation(gpt2.hf, None, tokens, 3)
    assert result.baseline.n_tokens == len(plain) and result.baseline.text == text_of(gpt2, plain)


@pytest.mark.parametrize("kind", ["standard", "layer_norm", "skip_transcoder"])
def test_metrics_are_those_of_naive_recomputation(family: Family, kind: str) -> None:
    sae, edits, tokens = sae_for(family, kind), STRONG["add"], tokens_of(family)
    steered = continuation(family.hf, (sae, edits, [1.0]), tokens, N_NEW)
    concept = [*dict.fromkeys([steered[0], steered[-1], 9])]
    result = ours(family, sae, edits, concept_tokens=concept)
    for arm, ids in (
        (result.steered[0], steered),
        (result.baseline, continuation(family.hf, None, tokens, N_NEW)),
    ):
        whole = torch.tensor([tokens.ids.tolist() + ids])
        clean = as_array(family.hf.logits(whole))[0]
        losses = cross_entropy(clean, as_array(whole)[0])[len(tokens) - 1 :]
        assert arm.n_tokens == len(ids) == len(losses)
        assert arm.metrics.perplexity == pytest.approx(np.exp(losses.mean()), rel=1e-3)
        grams = [tuple(ids[i : i + 3]) for i in range(len(ids) - 2)]
        assert arm.metrics.repetition == pytest.approx(1 - len(set(grams)) / len(grams))
        assert arm.metrics.concept_score == pytest.approx(np.mean([i in concept for i in ids]))
        moved = (
            clean
            if arm is result.baseline
            else steered_logits(family.hf, sae, whole, edits, [1.0], len(tokens))
        )
        here = slice(len(tokens) - 1, -1)
        assert arm.metrics.kl == pytest.approx(
            kl(clean[here], moved[here]).mean(), rel=1e-2, abs=1e-6
        )
        gain = log_mass_of(moved[here], concept) - log_mass_of(clean[here], concept)
        assert arm.metrics.concept_logprob == pytest.approx(gain.mean(), rel=1e-3, abs=1e-4)
    assert result.concept_tokens == [family.model.token_text(i) for i in concept]


def test_the_default_concept_is_what_the_features_promote_most(family: Family) -> None:
    sae = make_sae(family, "standard")
    rows = NumpySAE(sae).rows()[[5, 9]]
    rows = rows - rows.mean(axis=1, keepdims=True) if family.hf.is_layer_norm else rows
    effects = (rows * family.hf.gain()) @ as_array(family.hf.unembed.weight).T
    effects = effects - effects.mean(axis=1, keepdims=True)  # what lifts all logits promotes none
    together = (effects / np.linalg.norm(effects, axis=1, keepdims=True)).sum(axis=0)
    result = ours(family, sae, [FeatureEdit(5), FeatureEdit(9)], max_new_tokens=1)
    assert result.concept_tokens == [
        family.model.token_text(int(i)) for i in np.argsort(-together)[:20]
    ]


def test_without_a_linear_write_there_is_no_concept_score_and_that_is_said(
    family_of: Callable[[str], Family],
) -> None:
    result = ours(
        family_of("gemma2"),
        make_sae(family_of("gemma2"), "hook_z"),
        STRONG["add"],
        max_new_tokens=2,
    )
    assert (
        result.concept_tokens == []
        and result.baseline.metrics.concept_score is None
        and "concept_tokens" in result.warnings[0]
    )


def test_a_control_is_steered_along_another_row_of_the_same_norm(gpt2: Family) -> None:
    sae, edits, tokens = make_sae(gpt2, "standard"), STRONG["add"], tokens_of(gpt2)
    result = ours(gpt2, sae, edits, n_controls=2, seed=3)
    rows = NumpySAE(sae).rows()
    features = [int(arm.label.removeprefix("control: feature ")) for arm in result.controls]
    assert len(set(features)) == 2 and 5 not in features
    for feature, arm in zip(features, result.controls, strict=True):
        strength = 8.0 * np.linalg.norm(rows[5]) / np.linalg.norm(rows[feature])
        expected = continuation(
            gpt2.hf, (sae, [FeatureEdit(feature, float(strength))], [1.0]), tokens, N_NEW
        )
        assert arm.text == text_of(gpt2, expected)
    again = ours(gpt2, sae, edits, n_controls=2, seed=3)
    assert again == result


def log_mass_of(logits: Array, concept: Sequence[int]) -> Array:
    """The log of the summed probability of tokens, position by position."""
    return np.log(np.array([softmax(row)[[*concept]].sum() for row in logits]))


@pytest.mark.parametrize("kind", ["standard", "layer_norm", "skip_transcoder"])
def test_the_headline_is_read_on_the_unsteered_text(family: Family, kind: str) -> None:
    sae, edits, tokens = sae_for(family, kind), STRONG["add"], tokens_of(family)
    concept = [300, 301, 9]
    result = ours(family, sae, edits, concept_tokens=concept)
    text = [*tokens.ids.tolist(), *continuation(family.hf, None, tokens, N_NEW)]
    whole, here = torch.tensor([text]), slice(len(tokens) - 1, -1)
    clean = as_array(family.hf.logits(whole))[0][here]
    moved = steered_logits(family.hf, sae, whole, edits, [1.0], len(tokens))[here]
    gain = (log_mass_of(moved, concept) - log_mass_of(clean, concept)).mean()
    assert result.concept_logprob == pytest.approx(gain, rel=1e-3, abs=1e-4)
    assert result.concept_control.n == 19 and result.concept_control.p is not None


def test_the_concept_is_compared_with_nineteen_random_features_changed_alike(gpt2: Family) -> None:
    sae, edits, tokens = make_sae(gpt2, "standard"), STRONG["add"], tokens_of(gpt2)
    concept = [300, 301, 9]
    result = ours(gpt2, sae, edits, n_controls=19, concept_tokens=concept)
    text = [*tokens.ids.tolist(), *continuation(gpt2.hf, None, tokens, N_NEW)]
    whole, here = torch.tensor([text]), slice(len(tokens) - 1, -1)
    clean = log_mass_of(as_array(gpt2.hf.logits(whole))[0][here], concept)
    rows, gains = NumpySAE(sae).rows(), []
    for arm in result.controls:
        (ref,) = arm.features
        strength = 8.0 * np.linalg.norm(rows[5]) / np.linalg.norm(rows[ref.feature])
        edit = FeatureEdit(ref.feature, float(strength))
        moved = steered_logits(gpt2.hf, sae, whole, [edit], [1.0], len(tokens))[here]
        gains.append((log_mass_of(moved, concept) - clean).mean())
    control = result.concept_control
    assert control.mean == pytest.approx(np.mean(gains), rel=1e-3, abs=1e-4)
    assert control.sd == pytest.approx(np.std(gains, ddof=1), rel=1e-3, abs=1e-4)
    fewer = ours(gpt2, sae, edits, n_controls=0, concept_tokens=concept)
    assert fewer.concept_control == control and fewer.controls == []


CONCEPT = [300, 301, 302]


def planted(gpt2: Family, *, sign: float = 1.0) -> SAE:
    """An SAE whose feature 5 writes the unembedding of the concept's tokens."""
    sae = make_sae(gpt2, "standard")
    rows = sae.tensors()["W_dec"].clone()
    towards = gpt2.hf.unembed.weight[CONCEPT].mean(0).detach()
    rows[5] = sign * towards / towards.norm() * rows[5].norm()
    return type(sae)(sae.cfg, sae.tensors() | {"W_dec": rows})


@pytest.mark.parametrize(("sign", "direction"), [(1.0, 1), (-1.0, -1)])
def test_a_feature_that_writes_the_concept_is_specific_both_ways(
    gpt2: Family, sign: float, direction: int
) -> None:
    result = ours(gpt2, planted(gpt2, sign=sign), [FeatureEdit(5, 3.0)], concept_tokens=CONCEPT)
    assert result.concept_logprob is not None and result.concept_logprob * direction > 0
    assert result.verdict.level == Effect.SPECIFIC and "nats" in result.verdict.why
    assert result.concept_control.p == pytest.approx(0.05)


def test_the_default_concept_earns_no_verdict(gpt2: Family) -> None:
    result = ours(gpt2, planted(gpt2), [FeatureEdit(5, 8.0)])
    assert result.verdict.level == Effect.OWN_TOKENS and "concept_tokens" in result.verdict.why
    assert result.concept_control.n == 0 and result.concept_logprob is not None


@pytest.mark.slow
def test_random_features_are_specific_to_an_unrelated_concept_in_a_twentieth_of_draws(
    gpt2: Family,
) -> None:
    """60 draws: more than 8 have a chance of 0.2 % where the true rate is a twentieth."""
    sae = make_sae(gpt2, "standard", d_sae=256)
    draw = torch.Generator().manual_seed(5)
    levels: list[Effect] = []
    for seed in range(60):
        feature = int(torch.randint(sae.cfg.d_sae, (1,), generator=draw))
        concept = torch.randint(4, 1024, (3,), generator=draw).tolist()
        asked = {"concept_tokens": concept, "seed": seed, "max_new_tokens": 4}
        levels.append(ours(gpt2, sae, [FeatureEdit(feature, 8.0)], **asked).verdict.level)
    assert levels.count(Effect.SPECIFIC) <= 8
    assert levels.count(Effect.UNSPECIFIC) > 20


def test_an_edit_that_touches_nothing_is_no_visible_effect(gpt2: Family) -> None:
    sae = make_sae(gpt2, "standard")
    never = torch.where(torch.arange(sae.cfg.d_sae) == 5, -1e6, sae.tensors()["b_enc"])
    silent = type(sae)(sae.cfg, sae.tensors() | {"b_enc": never})
    result = ours(gpt2, silent, [FeatureEdit(5, mode="ablate")], concept_tokens=CONCEPT)
    assert result.verdict.level == Effect.NONE and result.concept_logprob == 0
    assert result.concept_control.p == 1 and not result.concept_control.outside


def test_a_word_without_its_space_brings_a_warning_that_names_the_other_form(gpt2: Family) -> None:
    word = next(
        text.strip()
        for i in range(4, 1024)
        if (text := gpt2.model.token_text(i)).startswith(" ")
        and text.strip().isalpha()
        and text.strip() in gpt2.model.tokenizer.hf.get_vocab()
    )
    bare, spaced = (gpt2.model.single_token(text) for text in (word, f" {word}"))
    sae, edits = make_sae(gpt2, "standard"), [FeatureEdit(5, 1.0)]
    warned = ours(gpt2, sae, edits, concept_tokens=[bare], max_new_tokens=1).warnings
    assert f'" {word}"' in " ".join(warned)
    for concept in ([spaced], [bare, spaced]):
        assert ours(gpt2, sae, edits, concept_tokens=concept, max_new_tokens=1).warnings == []


@pytest.mark.parametrize("use_cache", [True, False])
def test_cancelling_stops_within_a_token_and_leaves_the_model_as_before(
    gpt2: Family, ids: Tensor, use_cache: bool
) -> None:
    clean, event = gpt2.model.forward(ids)[0], threading.Event()
    with Watch(gpt2.model, event, after=4) as watch, cancellable(event), pytest.raises(Cancelled):
        ours(
            gpt2, make_sae(gpt2, "standard"), STRONG["add"], max_new_tokens=40, use_cache=use_cache
        )
    assert watch.n_forwards == 4
    assert not any(point.fwd_hooks for point in gpt2.model.bridge.hook_dict.values())
    assert torch.equal(gpt2.model.forward(ids)[0], clean)
    assert ours(gpt2, make_sae(gpt2, "standard"), STRONG["add"]).baseline.n_tokens > 0


class Watch:
    """Counts forward passes and sets the event during the last that may happen."""

    def __init__(self, model: LanguageModel, event: threading.Event, *, after: int) -> None:
        self.n_forwards, self.event, self.after = 0, event, after
        block: Any = model.bridge.original_model.transformer.h[0]
        self.handle = block.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.n_forwards += 1
        if self.n_forwards == self.after:
            self.event.set()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def test_a_set_event_stops_everything_before_its_first_forward(gpt2: Family) -> None:
    event = threading.Event()
    event.set()
    with (
        Watch(gpt2.model, threading.Event(), after=1) as watch,
        cancellable(event),
        pytest.raises(Cancelled),
    ):
        ours(gpt2, make_sae(gpt2, "standard"), STRONG["add"])
    assert watch.n_forwards == 0


def test_the_default_unit_is_typical_and_a_silent_feature_gets_the_median(gpt2: Family) -> None:
    sae, tokens = make_sae(gpt2, "standard"), tokens_of(gpt2)
    loud = joined([fires(sae.cfg.d_sae, {5: 1000.0})] * 5000)  # the prompt's firings are below 1 %
    asked: dict[str, Any] = {"max_new_tokens": 3, "n_controls": 0}
    known = steer(gpt2.model, sae, tokens, [FeatureEdit(5, 0.001)], reference=loud, **asked)
    assert known.unit_values == [1000.0] and "99th percentile" in known.unit_source
    never = torch.where(torch.arange(sae.cfg.d_sae) == 5, -1e6, sae.tensors()["b_enc"])
    silent = type(sae)(sae.cfg, sae.tensors() | {"b_enc": never})
    warned = steer(gpt2.model, silent, tokens, [FeatureEdit(5)], **asked)
    acts = read_site(gpt2.model, silent, tokens.ids[None]).acts.to_dense().numpy()
    kept = [pos for pos, token in enumerate(tokens.ids.tolist()) if pos and token > 3]
    columns = [column[column > 0] for column in acts[kept].T]
    typical = [np.quantile(column, 0.99) for column in columns if len(column)]
    close(warned.unit_values, [np.sort(typical)[(len(typical) - 1) // 2]])
    assert "index_features" in " ".join(warned.warnings)


@pytest.mark.parametrize(
    ("edits", "options", "code"),
    [
        ([], {}, "MISSING_ARGUMENT"),
        ([FeatureEdit(99)], {}, "FEATURE_OUT_OF_RANGE"),
        ([FeatureEdit(1)], {"n_samples": 2}, "OUT_OF_RANGE"),
        ([FeatureEdit(1, positions=(50,))], {}, "POSITION_OUT_OF_RANGE"),
    ],
)
def test_what_cannot_be_is_refused(
    gpt2: Family, edits: list[FeatureEdit], options: dict[str, Any], code: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        ours(gpt2, make_sae(gpt2, "standard"), edits, **options)
    assert caught.value.code == code


def test_a_prompt_that_fills_the_context_is_refused(gpt2: Family) -> None:
    tokens = gpt2.model.tokenize("The old man saw the house. " * 20, limit=gpt2.model.n_ctx)
    with pytest.raises(ArgumentError) as caught:
        steer(gpt2.model, make_sae(gpt2, "standard"), tokens, STRONG["add"])
    assert caught.value.code == "PROMPT_TOO_LONG" and caught.value.got == str(gpt2.model.n_ctx)
