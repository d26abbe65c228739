"""A causal search: planted writers, silent ones and decoys; first-order effects against finite
differences, pushes and KL against plain PyTorch hooks."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.core.oracle import Family, make_sae

from saescope.controls import at_least
from saescope.errors import ArgumentError
from saescope.models import LanguageModel, Tokens
from saescope.ops import SparseActs
from saescope.records.search import Cause, FoundCauses
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE
from saescope.search import find_causes, neutral_prompts
from saescope.search.bench import KL, CausalBench
from saescope.search.causes import by_chance
from saescope.search.concept import ConceptTexts
from saescope.search.pushes import at_kl
from saescope.steering.units import IndexedActivations

HOOK = "blocks.1.hook_resid_post"
D_SAE = 160
WRITER, SILENT, DECOY = 7, 8, 9
PROMPTS = ("They said that", "Here is the", "It was a", "And then we went to the", "She took the")


def prompts_of(model: LanguageModel, texts: Sequence[str] = PROMPTS) -> list[Tokens]:
    return [model.tokenize(text, prepend_bos=True) for text in texts]


def world(model: LanguageModel, words: Sequence[str], *, seed: int = 0, plant: bool = True) -> SAE:
    """Random features; one writes the words and fires, one writes them and never fires, and one
    fires on everything and writes nothing of them."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(D_SAE, model.d_model, generator=rng)
    W_U = (model.readout.W_U.double() * model.readout.gain.double()[:, None]).cpu().float()
    aim = W_U[:, [model.single_token(word) for word in words]].mean(1) - W_U.mean(1)
    b_enc = torch.zeros(D_SAE)
    if plant:
        rows[[WRITER, SILENT]] = aim
        rows[DECOY] -= aim * (rows[DECOY] @ aim) / (aim @ aim)
        b_enc[SILENT] = -1e6
        b_enc[DECOY] = 1.0
    rows /= rows.norm(dim=1, keepdim=True)
    meta = SAEMetadata(model_name=model.name, hook_name=HOOK, prepend_bos=True)
    tensors = {
        "W_enc": rows.T.contiguous(),
        "b_enc": b_enc,
        "W_dec": rows,
        "b_dec": torch.zeros(model.d_model),
    }
    return StandardSAE(StandardConfig(d_in=model.d_model, d_sae=D_SAE, metadata=meta), tensors)


def with_rows(sae: SAE, rows: torch.Tensor) -> SAE:
    return type(sae)(sae.cfg, sae.tensors() | {"W_dec": rows})


def fired(sae: SAE, activation: float = 6.0) -> IndexedActivations:
    """A corpus in which every feature but the silent one fires alike."""
    typical = torch.full((sae.cfg.d_sae,), activation)
    typical[SILENT] = 0
    return IndexedActivations(typical * 2, typical, "a corpus")


def rows_of(found: FoundCauses) -> dict[int, Cause]:
    return {row.feature: row for row in found.features}


@pytest.mark.parametrize("words", [[" Queen", " King"], [" door"]], ids=["two", "one"])
def test_planted_writers_are_first_though_one_never_fires_and_a_decoy_is_no_cause(
    glass: LanguageModel, words: list[str]
) -> None:
    sae = world(glass, words)
    found = find_causes(glass, sae, words, indexed=fired(sae), k=12, n_measured=8)
    first, second = found.features[:2]
    assert {first.feature, second.feature} == {WRITER, SILENT}
    rows = rows_of(found)
    assert rows[WRITER].causes and rows[SILENT].causes
    assert rows[WRITER].fires and not rows[SILENT].fires
    interval = rows[WRITER].interval
    assert interval and interval[0] > 0
    others = [row for row in found.features if row.feature not in (WRITER, SILENT)]
    assert not any(row.causes for row in others)
    assert any("fired nowhere" in warning for warning in found.warnings)
    assert found.search.n_prompts == 10 and found.search.random_directions.n == 19


def test_what_lowers_a_word_is_found_with_the_other_sign(glass: LanguageModel) -> None:
    plain = world(glass, [" door"])
    rows = plain.W_dec.clone()
    rows[WRITER] *= -1
    sae = with_rows(plain, rows)
    asked: dict[str, Any] = {
        "prompts": prompts_of(glass),
        "indexed": fired(sae),
        "k": 3,
        "n_measured": 3,
    }
    found = find_causes(glass, sae, [" door"], sign="lower", **asked)
    best = found.features[0]
    assert best.feature == WRITER and best.causes and best.score < 0 and best.screen < 0
    assert best.interval and best.interval[1] < 0


@pytest.mark.parametrize("seed", range(4))
def test_where_nothing_is_planted_a_feature_is_hardly_ever_said_to_cause(
    glass: LanguageModel, seed: int
) -> None:
    words = [[" Queen"], [" door", " hand"], [" voice"], [" child", " eyes"]][seed]
    sae = world(glass, words, seed=seed + 1, plant=False)
    found = find_causes(glass, sae, words, prompts=prompts_of(glass), indexed=fired(sae), k=20)
    assert found.search.n_measured == 20 and found.search.n_causes <= 1
    said = any("may pass by chance" in warning for warning in found.warnings)
    assert said is (found.search.n_causes == 1)


@pytest.mark.parametrize(
    ("n", "of", "said"),
    [(0, 20, False), (1, 20, True), (3, 20, True), (4, 20, False), (1, 1, False), (4, 30, True)],
)
def test_so_few_that_as_many_pass_by_chance_are_said_to(n: int, of: int, said: bool) -> None:
    """What four of twenty pass with, and one of one, is likely in less than a twentieth of cases;
    counted here over all outcomes."""
    draws = torch.rand(200_000, of, generator=torch.Generator().manual_seed(0)) < 0.05
    assert at_least(n, of) == pytest.approx(float((draws.sum(1) >= n).double().mean()), abs=3e-3)
    assert bool(by_chance([i < n for i in range(of)])) is said


def logprobs(logits: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    return logits.double().log_softmax(-1)[..., [*ids]]


def test_effects_and_kl_are_those_of_plain_hooks(family: Family) -> None:
    """At every position but 0, at each of the strengths; and the screen is the slope at zero."""
    model, sae = family.model, make_sae(family, "standard")
    prompts = prompts_of(model, PROMPTS[:2])
    words = [model.token_text(300), model.token_text(41)]
    fires = IndexedActivations(torch.ones(sae.cfg.d_sae), torch.full((sae.cfg.d_sae,), 0.5), "it")
    found = find_causes(model, sae, words, prompts=prompts, indexed=fires, k=5, n_measured=5)
    site = sae.cfg.metadata.hook_name

    def plain(row: int, strength: float) -> tuple[float, float]:
        values: list[float] = []
        kls: list[float] = []
        for tokens in prompts:

            def add(x: torch.Tensor) -> torch.Tensor:
                added = torch.zeros_like(x)
                added[:, 1:] = strength * 0.5 * sae.W_dec[row].reshape(x.shape[2:])
                return x + added

            ids = tokens.ids[None]
            clean = family.hf.logits(ids)[0, -1]
            pushed = family.hf.logits(ids, {site: add})[0, -1]
            both = [logprobs(one, [300, 41]).logsumexp(-1) for one in (pushed, clean)]
            values.append(float(both[0] - both[1]))
            p = clean.double().log_softmax(-1)
            kls.append(float((p.exp() * (p - pushed.double().log_softmax(-1))).sum()))
        return sum(values) / 2, sum(kls) / 2

    for row in found.features:
        assert len(row.strengths) == 3 and row.strengths == sorted(row.strengths)
        for strength, effect, kl in zip(row.strengths, row.effects, row.kl, strict=True):
            assert (effect, kl) == pytest.approx(plain(row.feature, strength), rel=2e-2, abs=2e-4)
        up, down = plain(row.feature, 0.02)[0], plain(row.feature, -0.02)[0]
        assert row.screen == pytest.approx((up - down) / 0.04, rel=0.05, abs=3e-4)


@pytest.mark.parametrize("kind", ["layer_norm", "skip_transcoder", "hook_z", "rescaled"])
def test_the_first_order_effect_is_the_slope_of_a_push_whatever_the_sae(
    gpt2: Family, kind: str
) -> None:
    sae = make_sae(gpt2, kind)
    concept = ConceptTexts.of(gpt2.model, [gpt2.model.token_text(300)], over=[], metric="logprob")
    bench = CausalBench.of(
        gpt2.model, sae, concept, prompts_of(gpt2.model), fired=(None, None), draw=(1, 0)
    )
    from saescope.search.pushes import push

    best = bench.screen.order[:3]
    vectors = bench.vectors(best)
    step = 0.01
    up = push(bench.read, step * vectors, lambda n: None).concept.mean(1)
    down = push(bench.read, -step * vectors, lambda n: None).concept.mean(1)
    slopes = (up - down) / (2 * step)
    assert slopes.tolist() == pytest.approx(bench.screen.typical[best].tolist(), rel=0.03, abs=1e-3)


@pytest.mark.parametrize(
    ("causes", "over"),
    [
        ([" one of them", "#300"], [" not here"]),
        ([" one of them", " not here"], ["#300", "#41"]),
        (["#300", "#41"], ["#55", "#12"]),
        (["#300"], [" not here", "#12"]),
    ],
    ids=["longer", "longer over tokens", "tokens", "a token"],
)
def test_a_concept_is_the_summed_probability_of_its_texts_over_that_of_others(
    gpt2: Family, causes: list[str], over: list[str]
) -> None:
    """Teacher-forced, by plain hooks; the gradient is the slope of the same."""
    model, sae = gpt2.model, make_sae(gpt2, "standard")
    tokens = model.tokenize("They said that", prepend_bos=True)
    concept = ConceptTexts.of(model, causes, over=over, metric="logprob")
    bench = CausalBench.of(model, sae, concept, [tokens], fired=(None, None), draw=(1, 0))
    from saescope.search.pushes import push

    vector = 3 * sae.W_dec[:1]
    longer = max(len(ids) for ids in (*concept.texts, *concept.over))
    assert (longer > 1) == any(not text.startswith("#") for text in (*causes, *over))

    def value(texts: Sequence[str], change: torch.Tensor) -> float:
        each: list[torch.Tensor] = []
        for text in texts:
            alone = text.startswith("#")
            ids = [int(text[1:])] if alone else model.tokenizer.plain_ids(text)
            row = torch.cat([tokens.ids, torch.tensor(ids)])[None]

            def add(x: torch.Tensor) -> torch.Tensor:
                added = torch.zeros_like(x)
                added[:, 1:] = change
                return x + added

            logits = gpt2.hf.logits(row, {sae.cfg.metadata.hook_name: add})[0]
            said = logits.double().log_softmax(-1)[len(tokens) - 1 : -1]
            each.append(said[range(len(ids)), ids].sum())
        return float(torch.stack(each).logsumexp(0))

    def gain(change: torch.Tensor) -> float:
        return value(causes, change) - value(over, change)

    zero = torch.zeros_like(vector[0])
    effect = float(push(bench.read, vector, lambda n: None).concept.mean())
    assert effect == pytest.approx(gain(vector[0]) - gain(zero), rel=1e-2, abs=1e-3)
    slope = (gain(vector[0] / 50) - gain(-vector[0] / 50)) * 25
    assert float(bench.gradient @ vector[0].double()) == pytest.approx(slope, rel=0.03, abs=1e-3)


def test_repetition_is_the_probability_of_the_prompt_said_again(glass: LanguageModel) -> None:
    sae = world(glass, [" door"])
    text = "The door was open."
    tokens = glass.tokenize(text, prepend_bos=True)
    concept = ConceptTexts.of(glass, [], over=[], metric="repetition")
    (forced,) = concept.forced(glass, [tokens])
    again = glass.tokenizer.plain_ids(f" {text}")
    ids = torch.cat([tokens.ids, torch.tensor(again)])
    logits = glass.forward(ids[None])[0][0, len(tokens) - 1 : -1]
    expected = logits.double().log_softmax(-1)[range(len(again)), again].mean()
    assert float(forced.value(logits.double().log_softmax(-1))) == pytest.approx(float(expected))
    found = find_causes(glass, sae, metric="repetition", prompts=[tokens], k=3, n_measured=1)
    assert found.features and "second time" in found.search.concept
    (shipped, *_) = neutral_prompts(sentences=True)
    assert shipped.endswith(".") and len(neutral_prompts()) >= 40


def test_a_curve_is_read_where_the_kl_is_what_is_asked() -> None:
    concept = torch.tensor([[1.0, 3.0], [2.0, 6.0], [8.0, 8.0]], dtype=torch.float64)
    kl = torch.tensor([[0.04, 0.04], [0.16, 0.16], [0.64, 0.64]], dtype=torch.float64)
    between = at_kl([1.0, 2.0, 4.0], concept, kl, target=0.36)
    assert between.strength == pytest.approx(3.0)
    assert between.effects.tolist() == pytest.approx([5.0, 7.0])
    below = at_kl([1.0, 2.0, 4.0], concept, kl, target=0.01)
    assert below.effects.tolist() == pytest.approx([0.5, 1.5]) and below.strength == 0.5
    beyond = at_kl([1.0, 2.0, 4.0], concept, kl, target=100.0)
    assert beyond.strength == 6.0 and beyond.effects.tolist() == [12.0, 12.0]


@pytest.mark.parametrize("faintly", [6.0, 0.02], ids=["as others", "faintly"])
def test_features_are_compared_where_predictions_change_alike(
    glass: LanguageModel, faintly: float
) -> None:
    """A writer whose row is five times as long has the same score, and so has one that was only
    seen hardly firing."""
    plain = world(glass, [" door"])
    rows = plain.W_dec.clone()
    rows[SILENT] *= 5
    sae = with_rows(plain, rows)
    typical = torch.full((D_SAE,), 6.0)
    typical[WRITER] = faintly
    known = IndexedActivations(typical, typical, "a corpus")
    found = rows_of(
        find_causes(
            glass, sae, [" door"], prompts=prompts_of(glass), indexed=known, k=2, n_measured=2
        )
    )
    one, other = found[WRITER], found[SILENT]
    assert other.screen == pytest.approx(5 * one.screen * 6 / faintly, rel=1e-3)
    assert one.equal_norm == pytest.approx(other.equal_norm, rel=1e-3)
    assert one.score == pytest.approx(other.score, rel=0.1)
    for row in (one, other):
        assert any(abs(kl - KL) < 0.6 * KL for kl in row.kl)
        assert row.strength is not None and row.strengths[0] / 2 < row.strength


def test_controls_are_the_best_of_as_many_random_directions(glass: LanguageModel) -> None:
    """Their cosines with the gradient are those of the largest of d_sae random ones."""
    sae = world(glass, [" door"])
    concept = ConceptTexts.of(glass, [" door"], over=[], metric="logprob")
    bench = CausalBench.of(
        glass, sae, concept, prompts_of(glass), fired=(None, fired(sae)), draw=(1, 0)
    )
    drawn = bench.random_directions().double()
    cosines = drawn @ bench.gradient / bench.gradient.norm() / drawn.norm(dim=1)
    rng = torch.Generator().manual_seed(1)
    other = torch.randn(400, D_SAE, glass.d_model, generator=rng, dtype=torch.float64)
    largest = (other[..., 0] / other.norm(dim=-1)).max(1).values
    assert drawn.norm(dim=1).tolist() == pytest.approx([bench.usual_norm] * 19, rel=1e-4)
    assert float(cosines.mean()) == pytest.approx(float(largest.mean()), abs=0.03)


def test_pages_are_the_whole_in_parts_and_beyond_the_best_nothing_is_pushed(
    glass: LanguageModel,
) -> None:
    sae, prompts = world(glass, [" door"]), prompts_of(glass)
    asked: dict[str, Any] = {"prompts": prompts, "indexed": fired(sae), "n_measured": 4}
    whole = find_causes(glass, sae, [" door"], k=12, **asked)
    parts = [
        row.feature
        for offset in (0, 5, 10)
        for row in find_causes(glass, sae, [" door"], k=5, offset=offset, **asked).features
    ]
    assert [row.feature for row in whole.features] == parts[:12]
    assert [row.causes is not None for row in whole.features] == [True] * 4 + [False] * 8
    assert "not pushed" in whole.features[-1].why and not whole.features[-1].kl


def test_few_prompts_are_said_and_give_no_interval(glass: LanguageModel) -> None:
    sae = world(glass, [" door"])
    twice = prompts_of(glass, [PROMPTS[0]] * 2)
    found = find_causes(glass, sae, [" door"], prompts=twice, indexed=fired(sae), k=1)
    assert found.search.n_prompts == 1 and found.features[0].interval is None
    assert any("1 prompt only" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("causes", "more", "code", "field"),
    [
        ([], {}, "MISSING_ARGUMENT", "causes"),
        ([" door"], {"metric": "rhyme"}, "INVALID_CHOICE", "metric"),
        ([" door"], {"sign": "up"}, "INVALID_CHOICE", "sign"),
        ([" door"], {"over": [" door"]}, "CONFLICTING_ARGUMENTS", "causes"),
        ([" door"], {"metric": "repetition"}, "CONFLICTING_ARGUMENTS", "causes"),
        (["#99999"], {}, "TOKEN_OUT_OF_RANGE", "causes"),
        ([" door" * 200], {}, "PROMPT_TOO_LONG", "prompts"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    glass: LanguageModel, causes: list[str], more: dict[str, object], code: str, field: str
) -> None:
    sae = world(glass, [" door"])
    with pytest.raises(ArgumentError) as caught:
        find_causes(glass, sae, causes, **more)  # pyright: ignore[reportArgumentType]
    assert (caught.value.code, caught.value.field) == (code, field)


def test_an_empty_prompt_is_refused(glass: LanguageModel) -> None:
    sae = world(glass, [" door"])
    lone = glass.tokenize(" door", prepend_bos=False)
    with pytest.raises(ArgumentError) as caught:
        find_causes(glass, sae, [" door"], prompts=[lone])
    assert caught.value.code == "EMPTY_PROMPT"


def test_activations_known_from_texts_set_the_strength(glass: LanguageModel) -> None:
    sae = world(glass, [" door"])
    seen = SparseActs(
        torch.full((3,), 40.0), torch.tensor([WRITER] * 3), torch.tensor([0, 1, 2, 3]), D_SAE
    )
    asked: dict[str, Any] = {"prompts": prompts_of(glass), "k": 2, "n_measured": 2}
    known = rows_of(find_causes(glass, sae, [" door"], reference=seen, **asked))
    plain = rows_of(find_causes(glass, sae, [" door"], **asked))
    assert known[WRITER].screen > plain[WRITER].screen
