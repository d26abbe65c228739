"""Calibrated steering on planted features whose truth is known, and against plain PyTorch hooks."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.oracle import Array, Family, as_array, kl, make_sae, shifted_by, softmax
from tests.core.steering.reference import continuation, edited_positions

import saescope as ss
from saescope.cancel import cancellable
from saescope.errors import ArgumentError, Cancelled
from saescope.records.search_strength import StrengthSearch
from saescope.saes import SAE
from saescope.search.arms import mean_difference, mix, of_equal_norm
from saescope.splice import write_hook
from saescope.stack import as_stack
from saescope.steering import FeatureEdit
from saescope.steering.means import t_interval
from saescope.steering.prepare import prepare
from saescope.steering.units import Controls, Unit
from saescope.verdicts import Steerability

CONCEPT = [300, 301, 302]
NAMED = [f"#{token}" for token in CONCEPT]
WRITER, DECOY, DAMAGE, HELPER = 5, 7, 9, 11
N_NEW = 2
"""Texts too short to repeat themselves: what a strength is judged by can be worked out by hand."""
PROMPTS = (
    "The old man saw the little house",
    "She went to the door and",
    "A king said to him:",
    "In the morning they were",
    "He could not see the",
    "There was a boy who",
    "The sea was very",
)
TRIED, HELD_OUT = PROMPTS[:3], PROMPTS[3:]
ASKED: dict[str, Any] = {
    "concept": NAMED,
    "prompts": TRIED,
    "held_out": HELD_OUT,
    "unit": "raw",
    "max_new_tokens": N_NEW,
    "max_perplexity": 1e6,
}


@pytest.fixture(scope="module")
def planted(family_of: Any) -> tuple[Family, SAE]:
    """An SAE behind the last block: what a row adds goes through the final norm alone.

    WRITER's row points at the concept's tokens, DAMAGE's far away from them
    and from everything; DECOY's is the same number everywhere, which LayerNorm takes out.
    """
    gpt2 = family_of("gpt2")
    sae = make_sae(gpt2, "topk", layer=2)
    tensors = {name: tensor.clone() for name, tensor in sae.tensors().items()}
    W_U = gpt2.hf.unembed.weight.detach()
    gain = torch.tensor(gpt2.hf.gain(), dtype=torch.float32)
    wanted = (W_U[CONCEPT].mean(0) - W_U.mean(0)) / gain
    wanted = wanted - wanted.mean()
    size = float(tensors["W_dec"].norm(dim=1).mean())
    rng = torch.Generator().manual_seed(4)
    other = torch.randn(len(wanted), generator=rng)
    other = other - other.mean() - (other @ wanted) / (wanted @ wanted) * wanted
    tensors["W_dec"][WRITER] = size * wanted / wanted.norm()
    tensors["W_dec"][DAMAGE] = 6 * size * other / other.norm()
    tensors["W_dec"][DECOY] = size / len(wanted) ** 0.5
    return gpt2, type(sae)(sae.cfg, tensors)


def search(planted: tuple[Family, SAE], *edits: FeatureEdit, **more: Any) -> StrengthSearch:
    family, sae = planted
    return ss.steer_search(family.model, sae, edits, **(ASKED | more))


@pytest.fixture(scope="module")
def found(planted: tuple[Family, SAE]) -> StrengthSearch:
    """The writer, searched for once."""
    return search(planted, FeatureEdit(WRITER))


def by_hand(family: Family, hook_name: str, row: Array, text: str) -> tuple[float, float]:
    """The concept's change and the KL on the unsteered text, where `row` is added everywhere."""
    tokens = family.model.tokenize(text)
    written = continuation(family.hf, None, tokens, N_NEW)
    ids = torch.cat([tokens.ids, torch.tensor(written)])[None]
    mask = edited_positions(as_array(ids)[0], FeatureEdit(0), len(tokens))
    change = mask[:, None] * row[None]
    clean = as_array(family.hf.logits(ids))[0, len(tokens) - 1 : -1]
    steered = as_array(family.hf.logits(ids, {hook_name: shifted_by(change)}))[
        0, len(tokens) - 1 : -1
    ]
    log_mass = [np.log(softmax(logits)[:, CONCEPT].sum(1)).mean() for logits in (clean, steered)]
    return float(log_mass[1] - log_mass[0]), float(kl(clean, steered).mean())


def means_by_hand(
    planted: tuple[Family, SAE], row: Array, texts: Sequence[str]
) -> tuple[list[float], float]:
    """The concept's change on each text, and the mean KL."""
    family, sae = planted
    pairs = [by_hand(family, write_hook(sae), row, text) for text in texts]
    return [change for change, _ in pairs], float(np.mean([far for _, far in pairs]))


def with_helper(planted: tuple[Family, SAE]) -> tuple[Family, SAE]:
    """HELPER's row points where WRITER's does, half as far."""
    family, sae = planted
    tensors = {name: tensor.clone() for name, tensor in sae.tensors().items()}
    tensors["W_dec"][HELPER] = 0.5 * tensors["W_dec"][WRITER]
    return family, type(sae)(sae.cfg, tensors)


def row_of(planted: tuple[Family, SAE], feature: int) -> Array:
    return as_array(planted[1].decoder[feature])


@pytest.mark.slow
def test_the_strength_is_the_best_within_the_budget(planted: tuple[Family, SAE]) -> None:
    """A fine grid of plain runs on the calibration prompts knows the limit: the writer's concept
    grows with strength, so the best strength is where the KL reaches its bound."""
    row = row_of(planted, WRITER)
    for max_kl in (0.2, 0.8):
        done = search(planted, FeatureEdit(WRITER), max_kl=max_kl)
        assert done.strength is not None
        fine = done.strength * np.geomspace(0.8, 1.25, 12)
        within = [
            (np.mean(changes), factor)
            for factor in fine
            for changes, far in [means_by_hand(planted, factor * row, TRIED)]
            if far <= max_kl
        ]
        best, where = max(within)
        assert done.strength == pytest.approx(where, rel=0.05)
        trial = next(t for t in done.trials if t.strength == done.strength)
        changes, far = means_by_hand(planted, done.strength * row, TRIED)
        assert trial.kl == pytest.approx(far, rel=1e-3) and far <= max_kl
        assert trial.concept_logprob == pytest.approx(np.mean(changes), rel=1e-3)
        assert best - np.mean(changes) < 0.05


@pytest.mark.slow
def test_what_is_reported_is_of_the_held_out_prompts(
    planted: tuple[Family, SAE], found: StrengthSearch
) -> None:
    done = found
    assert done.steered is not None and done.strength is not None
    changes, far = means_by_hand(planted, done.strength * row_of(planted, WRITER), HELD_OUT)
    assert done.steered.concept_logprob == pytest.approx(np.mean(changes), rel=1e-3)
    assert done.steered.interval == pytest.approx(t_interval(changes), rel=1e-3)
    assert done.steered.kl == pytest.approx(far, rel=1e-3)
    assert (done.n_calibration, done.n_held_out) == (3, 4) and done.prompt == HELD_OUT[0]
    assert done.n_trials == len(done.trials) >= 8
    assert [trial.strength for trial in done.trials] == sorted({t.strength for t in done.trials})
    twice = next(row for row in done.curve if row.arm == "2 x")
    changes, far = means_by_hand(planted, 2 * done.strength * row_of(planted, WRITER), HELD_OUT)
    assert twice.strength == pytest.approx(2 * done.strength)
    assert twice.concept_logprob == pytest.approx(np.mean(changes), rel=1e-3)
    assert twice.kl == pytest.approx(far, rel=1e-3)


def test_a_writer_is_usable_and_a_decoy_a_null_and_a_damaging_feature_are_not(
    planted: tuple[Family, SAE], found: StrengthSearch
) -> None:
    assert found.verdict.level is Steerability.USABLE and found.random.outside
    for feature in (DECOY, DAMAGE, 20):
        done = search(planted, FeatureEdit(feature))
        assert done.verdict.level in (Steerability.NONE, Steerability.NOT_BETTER), done.verdict


@pytest.mark.slow
@pytest.mark.thorough
def test_of_features_that_write_something_else_hardly_one_passes(
    planted: tuple[Family, SAE],
) -> None:
    levels = [search(planted, FeatureEdit(feature)).verdict.level for feature in range(20, 40)]
    useless = sum(level in (Steerability.NONE, Steerability.NOT_BETTER) for level in levels)
    assert Steerability.USABLE not in levels and useless >= 18


@pytest.mark.slow
def test_a_concept_is_lowered_too(planted: tuple[Family, SAE]) -> None:
    """By the writer backwards; forwards it is no way to lower it."""
    back = search(planted, FeatureEdit(WRITER, -1.0), sign="lower")
    assert back.steered is not None and back.steered.concept_logprob < -1
    assert back.verdict.level in (Steerability.USABLE, Steerability.WEAK)
    forth = search(planted, FeatureEdit(WRITER), sign="lower")
    assert forth.verdict.level is Steerability.NONE


@pytest.mark.slow
def test_what_each_feature_adds_is_what_is_lost_without_it(planted: tuple[Family, SAE]) -> None:
    helped = with_helper(planted)
    done = search(helped, FeatureEdit(WRITER), FeatureEdit(DECOY), FeatureEdit(HELPER, 0.5))
    assert done.strength is not None and done.steered is not None
    rows = [row_of(helped, WRITER), row_of(helped, DECOY), 0.5 * row_of(helped, HELPER)]
    for n, found in enumerate(done.leave_one_out):
        others = np.sum([row for m, row in enumerate(rows) if m != n], axis=0)
        changes, far = means_by_hand(planted, done.strength * others, HELD_OUT)
        assert found.without == pytest.approx(np.mean(changes), rel=1e-3)
        assert found.lost == pytest.approx(done.steered.concept_logprob - found.without, rel=1e-5)
        assert found.kl == pytest.approx(far, rel=1e-3)
    assert [found.feature for found in done.leave_one_out] == [WRITER, DECOY, HELPER]
    assert abs(done.leave_one_out[1].lost) < 1e-3 < done.leave_one_out[0].lost


@pytest.mark.slow
def test_random_mixes_are_as_long_as_the_mix(planted: tuple[Family, SAE]) -> None:
    """Rows that add up are longer than rows that do not: each mix is stretched to the same norm."""
    planted = with_helper(planted)
    family, sae = planted
    stack, tokens = as_stack(family.model, sae), family.model.tokenize(PROMPTS[0])
    edits = [FeatureEdit(WRITER, 2.0), FeatureEdit(HELPER)]
    ready = prepare(
        stack, tokens, edits, unit=Unit("raw", [None], [None]), controls=Controls(19, 0)
    )
    wanted = float(mix(ready.plans[0]).norm())
    assert wanted == pytest.approx(2.5 * np.linalg.norm(row_of(planted, WRITER)), rel=1e-5)
    norms = [float(mix(of_equal_norm(ready.plans, each)[0]).norm()) for each in ready.controls]
    assert len(norms) == 19 and norms == pytest.approx([wanted] * 19, rel=1e-5)


@pytest.mark.slow
def test_a_difference_of_means_stands_beside_it_at_the_same_norm_and_the_same_kl(
    planted: tuple[Family, SAE],
) -> None:
    texts, against = ["The king saw the sea", "A boy saw her"], ["She went to the", "He was not"]
    done = search(planted, FeatureEdit(WRITER), texts=texts, against=against)
    family, sae = planted
    assert done.strength is not None

    def mean_of(side: Sequence[str]) -> Array:
        means: list[Array] = []
        for text in side:
            tokens = family.model.tokenize(text)
            x = as_array(family.hf.record(tokens.ids[None], [write_hook(sae)])[write_hook(sae)])
            means.append(
                x[0][edited_positions(as_array(tokens.ids), FeatureEdit(0), len(tokens))].mean(0)
            )
        return np.mean(means, axis=0)

    direction = mean_of(texts) - mean_of(against)
    norm = done.strength * np.linalg.norm(row_of(planted, WRITER))
    rows = {row.arm: row for row in done.controls}
    same = rows["difference of means, same norm"]
    row = norm * direction / np.linalg.norm(direction)
    changes, far = means_by_hand(planted, row, HELD_OUT)
    assert same.concept_logprob == pytest.approx(np.mean(changes), rel=1e-2, abs=1e-3)
    assert same.kl == pytest.approx(far, rel=1e-2)
    equal = rows["difference of means, same KL"]
    assert equal.strength is not None
    _, there = means_by_hand(planted, equal.strength * row, TRIED)
    trial = next(t for t in done.trials if t.strength == done.strength)
    assert there == pytest.approx(trial.kl, rel=0.1)
    changes, _ = means_by_hand(planted, equal.strength * row, HELD_OUT)
    assert equal.concept_logprob == pytest.approx(np.mean(changes), rel=1e-2, abs=1e-3)
    assert equal.ahead is not None and equal.ahead[0] > 0 and equal.perplexity is not None


@pytest.mark.slow
def test_a_difference_of_means_that_does_better_is_said(planted: tuple[Family, SAE]) -> None:
    """The concept is what a difference of means promotes; the feature has a part of that, beside
    much else."""
    family, sae = planted
    texts, against = ["The king saw the sea", "A boy saw her"], ["She went to the", "He was not"]
    tokenized = [[family.model.tokenize(text) for text in side] for side in (texts, against)]
    direction = mean_difference(as_stack(family.model, sae), *tokenized)[0]
    direction = direction - direction.mean()
    gain = torch.tensor(family.hf.gain(), dtype=torch.float32)
    promoted = (family.hf.unembed.weight.detach() @ (gain * direction)).topk(3).indices.tolist()
    tensors = {name: tensor.clone() for name, tensor in sae.tensors().items()}
    damage = tensors["W_dec"][DAMAGE]
    tensors["W_dec"][3] = damage.norm() * direction / direction.norm() + damage
    mixed = type(sae)(sae.cfg, tensors)
    done = search(
        (family, mixed),
        FeatureEdit(3),
        texts=texts,
        against=against,
        concept=[f"#{token}" for token in promoted],
    )
    row = next(row for row in done.controls if row.arm == "difference of means, same KL")
    assert row.ahead is not None and row.ahead[1] < 0
    assert done.verdict.level is Steerability.NOT_BETTER
    assert "difference of means, same KL" in done.verdict.why


@pytest.mark.slow
def test_an_instruction_is_the_same_text_after_another_prompt(planted: tuple[Family, SAE]) -> None:
    done = search(planted, FeatureEdit(WRITER), instruction="Tell of the sea.")
    family = planted[0]
    changes: list[float] = []
    for text in HELD_OUT:
        tokens = family.model.tokenize(text)
        written = torch.tensor(continuation(family.hf, None, tokens, N_NEW))
        levels = []
        for told in (text, f"Tell of the sea.\n\n{text}"):
            ids = torch.cat([family.model.tokenize(told).ids, written])[None]
            logits = as_array(family.hf.logits(ids))[0, -len(written) - 1 : -1]
            levels.append(np.log(softmax(logits)[:, CONCEPT].sum(1)).mean())
        changes.append(float(levels[1] - levels[0]))
    row = next(row for row in done.controls if row.arm == "instruction")
    assert row.concept_logprob == pytest.approx(np.mean(changes), rel=1e-3, abs=1e-4)
    assert row.strength is None and row.ahead is not None


@pytest.mark.slow
def test_continuations_of_several_tokens_are_read_after_the_prompt(
    planted: tuple[Family, SAE],
) -> None:
    family, sae = planted
    phrases = [family.model.tokenizer.join([300, 301]), family.model.tokenizer.join([302, 300])]
    done = search(planted, FeatureEdit(WRITER), concept=phrases)
    assert done.steered is not None and done.strength is not None
    row, gains = done.strength * row_of(planted, WRITER), list[float]()
    for text in HELD_OUT:
        tokens, levels = family.model.tokenize(text), list[list[float]]()
        for phrase in phrases:
            ids = torch.tensor(family.model.tokenizer.plain_ids(phrase))
            whole = torch.cat([tokens.ids, ids])[None]
            mask = edited_positions(as_array(whole)[0], FeatureEdit(0), len(tokens))
            each: list[float] = []
            for size in (0.0, 1.0):
                change = shifted_by(size * mask[:, None] * row[None])
                logits = as_array(family.hf.logits(whole, {write_hook(sae): change}))[0]
                p = softmax(logits[len(tokens) - 1 : -1])
                each.append(float(np.log(p[np.arange(len(ids)), ids.numpy()]).sum()))
            levels.append(each)
        before, after = np.logaddexp.reduce(np.array(levels), axis=0)
        gains.append(float(after - before))
    assert done.steered.concept_logprob == pytest.approx(np.mean(gains), rel=1e-3)


@pytest.mark.slow
def test_texts_that_fall_apart_cost_strength(planted: tuple[Family, SAE]) -> None:
    loose = search(planted, FeatureEdit(WRITER), max_kl=3.0, max_new_tokens=8)
    tight = search(planted, FeatureEdit(WRITER), max_kl=3.0, max_new_tokens=8, max_perplexity=1.05)
    assert loose.strength is not None
    assert tight.strength is None or tight.strength < loose.strength
    over = [t for t in tight.trials if (t.perplexity_ratio or 0) > 1.05]
    assert over and not any(trial.within for trial in over)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_search_and_splits_once(planted: tuple[Family, SAE]) -> None:
    asked = {"prompts": PROMPTS, "held_out": ()}
    one, again = (search(planted, FeatureEdit(WRITER), **asked, seed=3) for _ in range(2))
    assert one == again and (one.n_calibration, one.n_held_out) == (2, 5)
    both = search(planted, FeatureEdit(WRITER), held_out=PROMPTS[1:])
    assert both.n_held_out == 4
    assert both.warnings[0] == "2 held-out prompts are calibration prompts too: left out."


@pytest.mark.slow
def test_neutral_prompts_ship(planted: tuple[Family, SAE]) -> None:
    done = search(planted, FeatureEdit(WRITER), prompts=(), held_out=(), max_new_tokens=1)
    assert done.n_calibration >= 5 and done.n_held_out >= 10


def test_a_cancelled_search_leaves_the_model_as_before(planted: tuple[Family, SAE]) -> None:
    family = planted[0]
    ids = family.model.batch(family.model.tokenize(PROMPTS[0]).ids)
    before = family.model.forward(ids)[0]
    for after in (2, 14, 30):
        stop, told = threading.Event(), list[int]()

        def progress(done: int, total: int, after: int = after, told: list[int] = told) -> None:
            told.append(done)
            if len(told) == after:
                stop.set()  # noqa: B023

        with cancellable(stop), pytest.raises(Cancelled):
            search(planted, FeatureEdit(WRITER), progress=progress)
        assert torch.equal(family.model.forward(ids)[0], before)


@pytest.mark.slow
def test_progress_never_goes_back_or_beyond(planted: tuple[Family, SAE]) -> None:
    told: list[tuple[int, int]] = []
    search(
        planted,
        FeatureEdit(WRITER),
        texts=["a b"],
        against=["c d"],
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == sorted(told) and told[-1][0] == told[-1][1]
    assert all(done <= total for done, total in told)


@pytest.mark.parametrize(
    "edit, more, code, field",
    [
        (FeatureEdit(5, mode="ablate"), {}, "INVALID_CHOICE", "mode"),
        (FeatureEdit(5, positions=(1,)), {}, "INVALID_CHOICE", "positions"),
        (FeatureEdit(5, when_feature=1), {}, "INVALID_CHOICE", "when_feature"),
        (FeatureEdit(5, 0.0), {}, "INVALID_CHOICE", "strength"),
        (FeatureEdit(5), {"sign": "up"}, "INVALID_CHOICE", "sign"),
        (FeatureEdit(5), {"concept": []}, "MISSING_ARGUMENT", "concept"),
        (FeatureEdit(5), {"texts": ["a b"]}, "MISSING_ARGUMENT", "against"),
        (FeatureEdit(5), {"max_kl": 0.0}, "OUT_OF_RANGE", "max_kl"),
        (FeatureEdit(5), {"max_perplexity": 1.0}, "OUT_OF_RANGE", "max_perplexity"),
        (FeatureEdit(5), {"held_out": PROMPTS[:4]}, "TOO_FEW_PROMPTS", "held_out"),
        (FeatureEdit(5), {"prompts": PROMPTS[:1]}, "TOO_FEW_PROMPTS", "prompts"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    planted: tuple[Family, SAE], edit: FeatureEdit, more: dict[str, Any], code: str, field: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        search(planted, edit, **more)
    assert (caught.value.code, caught.value.field) == (code, field)
