"""Writers of tokens: a planted one among features that raise all words, or all logits, alike; the
numbers against loops."""

import pytest
import torch
from tests.core.features.planted import WORDS, planted_sae
from tests.core.oracle import KINDS, Family, make_sae

from saescope.controls import compare_with
from saescope.effects import logit_effects
from saescope.errors import ArgumentError
from saescope.hooks import edit_activations
from saescope.metrics import log_mass
from saescope.models import LanguageModel
from saescope.ops import SparseActs
from saescope.records.features import FoundFeatures, Writer
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE
from saescope.steering import find_by_tokens
from saescope.steering.units import IndexedActivations
from saescope.steering.writers import N_MEASURED, PROMPTS

HOOK = "blocks.1.hook_resid_post"
WRITER, SPACES, LIFT, LOUD_LIFT = 7, 8, 9, 10


def written_sae(model: LanguageModel, word: str) -> SAE:
    """Random features, one that writes the word, one that raises every word with a space, and two
    that raise all logits alike."""
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(48, model.d_model, generator=rng)
    W_U = (model.readout.W_U.double() * model.readout.gain.double()[:, None]).cpu()
    is_spaced = torch.tensor([model.token_text(i).startswith(" ") for i in range(model.d_vocab)])
    rows[WRITER] = W_U[:, model.single_token(word)].float()
    aim = torch.stack([is_spaced.double(), torch.ones(model.d_vocab).double()], dim=1)
    rows[[SPACES, LIFT]] = torch.linalg.lstsq(W_U.T, aim).solution.T.float()
    rows[LOUD_LIFT] = rows[LIFT]
    rows /= rows.norm(dim=1, keepdim=True)
    rows[LOUD_LIFT] *= 20
    meta = SAEMetadata(model_name=model.name, hook_name=HOOK, prepend_bos=True)
    cfg = StandardConfig(d_in=model.d_model, d_sae=48, metadata=meta)
    tensors = {
        "W_enc": rows.T / rows.norm(dim=1),
        "b_enc": torch.zeros(48),
        "W_dec": rows,
        "b_dec": torch.zeros(model.d_model),
    }
    return StandardSAE(cfg, tensors)


def fired(sae: SAE, activation: float) -> IndexedActivations:
    """A corpus in which every feature fires alike."""
    typical = torch.full((sae.cfg.d_sae,), activation)
    return IndexedActivations(typical * 2, typical, "a corpus")


def writers(found: FoundFeatures) -> list[Writer]:
    return [row for row in found.features if isinstance(row, Writer)]


@pytest.mark.parametrize("word", [" Queen", " door"])
def test_the_feature_that_writes_a_word_is_first_and_what_lifts_many_is_no_writer(
    glass: LanguageModel, word: str
) -> None:
    sae = written_sae(glass, word)
    found = writers(find_by_tokens(glass, sae, [word], indexed=fired(sae, 8.0), k=48))
    best = found[0]
    assert best.feature == WRITER and best.writes is True and best.tokens[0].rank <= 10
    assert best.push is not None and best.push > 0.5 and best.tokens[0].z > 3
    assert best.control is not None and best.control.outside and best.control.n == 19
    assert best.why.startswith(f"writes {word!r} (rank {best.tokens[0].rank}, ")
    rest = [row for row in found if row.feature in (SPACES, LIFT, LOUD_LIFT)]
    assert not any(row.writes for row in rest)
    assert all("promotes" in row.why and "writes" not in row.why for row in rest)


def test_a_token_that_a_writer_of_another_does_not_raise_is_not_said_to_be_written(
    glass: LanguageModel,
) -> None:
    sae = written_sae(glass, " Queen")
    W_U = glass.readout.W_U * glass.readout.gain[:, None]
    effects = sae.W_dec[WRITER] @ W_U
    least = glass.token_text(int(effects.argmin()))
    found = writers(find_by_tokens(glass, sae, [" Queen", least], indexed=fired(sae, 8.0), k=48))
    row = next(row for row in found if row.feature == WRITER)
    written, _, other = row.why.partition("not ")
    assert "' Queen'" in written and repr(least) not in written and repr(least) in other


@pytest.mark.slow
def test_random_features_are_hardly_ever_called_writers(glass: LanguageModel) -> None:
    """Of the twenty best among random rows for a word."""
    sae = written_sae(glass, " Queen")
    called = measured = 0
    for word in WORDS[2:]:
        for row in writers(find_by_tokens(glass, sae, [word], indexed=fired(sae, 8.0), k=20)):
            if row.feature not in (WRITER, SPACES):
                called, measured = called + bool(row.writes), measured + 1
    assert measured > 100 and called <= 0.1 * measured


@pytest.mark.slow
def test_the_push_is_what_a_loop_over_prompts_measures(glass: LanguageModel) -> None:
    sae, activation = written_sae(glass, " Queen"), 4.0
    ids = [glass.single_token(word) for word in (" Queen", " King")]
    found = writers(
        find_by_tokens(
            glass, sae, [" Queen", " King"], indexed=fired(sae, activation), seed=3, k=20
        )
    )
    rows = sae.W_dec

    def push(change: torch.Tensor) -> float:
        total = 0.0
        for prompt in PROMPTS:
            tokens = glass.tokenize(prompt, prepend_bos=True)
            batch = glass.batch(tokens.ids)

            def add(x: torch.Tensor) -> torch.Tensor:
                x = x.clone()
                x[:, -1] += change
                return x

            clean = glass.forward(batch)[0][0, -1]
            with edit_activations(glass, {HOOK: add}):
                total += float(log_mass(glass.forward(batch)[0][0, -1], ids) - log_mass(clean, ids))
        return total / len(PROMPTS)

    rng = torch.Generator().manual_seed(3)
    drawn = torch.randperm(48, generator=rng)[:20].tolist()
    assert found[0].feature == WRITER and found[0].writes and not found[-1].writes
    for row in (found[0], found[-1]):
        others = [each for each in drawn if each != row.feature][:19]
        change = activation * rows[row.feature]
        sizes = change.norm() if row.writes else activation * rows[others].norm(dim=1)
        unit = rows[others] / rows[others].norm(dim=1, keepdim=True)
        expected = compare_with(push(change), [push(each) for each in (unit.T * sizes).T])
        assert row.push == pytest.approx(push(change), rel=1e-3, abs=1e-4)
        assert row.control is not None and row.control.p == expected.p
        assert row.control.mean == pytest.approx(expected.mean, rel=1e-3, abs=1e-4)


def test_ranks_are_places_in_the_vocabulary_and_what_all_features_raise_counts_for_nothing(
    gpt2: Family,
) -> None:
    sae = make_sae(gpt2, "standard")
    W_U = gpt2.model.readout.W_U * gpt2.model.readout.gain[:, None]
    token = 300
    common = type(sae)(sae.cfg, sae.tensors() | {"W_dec": sae.W_dec + 3 * W_U[:, token]})
    word = gpt2.model.token_text(token)
    effects = logit_effects(gpt2.model, common, torch.arange(sae.cfg.d_sae))
    assert effects is not None and int((effects.argmax(1) == token).sum()) > sae.cfg.d_sae / 2
    found = find_by_tokens(gpt2.model, common, [word], k=sae.cfg.d_sae)
    assert found.total < sae.cfg.d_sae  # those that raise it less than the others do are out
    z = (effects - effects.mean(1, keepdim=True)) / effects.std(1, keepdim=True, correction=0)
    for row in writers(found):
        (each,) = row.tokens
        assert each.rank == 1 + int((effects[row.feature] > effects[row.feature, token]).sum())
        assert each.z == pytest.approx(float(z[row.feature, token]), abs=2e-3)
        assert row.score == pytest.approx(each.z - float(z[:, token].mean()), abs=4e-3)


def test_pages_are_the_whole_in_parts_and_beyond_twenty_nothing_is_measured(
    gpt2: Family,
) -> None:
    sae, words = make_sae(gpt2, "standard"), [gpt2.model.token_text(300)]
    whole = writers(find_by_tokens(gpt2.model, sae, words, k=100))
    parts = [
        row
        for offset in range(0, len(whole), 7)
        for row in writers(find_by_tokens(gpt2.model, sae, words, k=7, offset=offset))
    ]
    assert [row.feature for row in parts] == [row.feature for row in whole]
    assert [row.push is None for row in whole] == [i >= N_MEASURED for i in range(len(whole))]
    assert all(row.writes is None and "not measured" in row.why for row in whole[N_MEASURED:])


def test_activations_that_nobody_saw_are_said(glass: LanguageModel) -> None:
    sae = planted_sae(glass)
    silent = SparseActs(
        torch.tensor([]), torch.tensor([], dtype=torch.long), torch.zeros(1, dtype=torch.long), 12
    )
    found = find_by_tokens(glass, sae, [" Queen"], reference=silent)
    assert any("fired nowhere on" in warning for warning in found.warnings)


def test_a_text_of_several_tokens_and_a_site_without_effects_are_refused(
    family: Family,
) -> None:
    with pytest.raises(ArgumentError) as caught:
        find_by_tokens(family.model, make_sae(family, "standard"), ["several words here"])
    assert caught.value.field == "tokens"
    if KINDS["hook_z"].site in family.hf.sites and family.name.startswith("gemma"):
        with pytest.raises(ArgumentError) as caught:
            find_by_tokens(family.model, make_sae(family, "hook_z"), [family.model.token_text(300)])
        assert caught.value.code == "NO_LOGIT_EFFECTS"
