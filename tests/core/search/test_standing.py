"""Whether a feature that fires on a concept and writes it stands for that alone: what else it
writes and fires on, and whether a random direction does as much."""

from dataclasses import dataclass

import pytest
import torch
from tests.core.features.planted import FILLERS, planted_sae
from tests.core.search.test_selection import N_ALL, PROMPTS, TRUE, aim, chosen, sides, world

from saescope.controls import LEVEL
from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.search.bench import CausalBench
from saescope.search.concept import ConceptTexts
from saescope.search.others import OtherWords
from saescope.search.pushes import next_probabilities
from saescope.search.standing import Standing
from saescope.search.text_bench import Separated
from saescope.verdicts import Choice

OTHER = " voice"
"""A word of the texts without the concept."""


def two_words(model: LanguageModel, *, fires: bool, writes: bool) -> SAE:
    """A world whose right feature also fires faintly on another word, also writes it, or both."""
    sae, small = world(model), planted_sae(model)
    rows, biases = small.W_enc.T, small.get_buffer("b_enc")
    if fires:
        place = 4  # of OTHER among the planted words
        embedding = model.bridge.original_model.get_input_embeddings().weight.detach()
        words = [" Queen", OTHER, " eyes", *FILLERS]
        ids = [model.single_token(word) for word in words]
        own, other = (rows[i] / (1 - biases[i]) for i in (TRUE, place))
        share, strong, cut = 0.2, 1.0, 0.0
        hits = embedding[ids] @ own
        while hits[1] < cut + 0.3 * strong:
            share += 0.02
            hits = embedding[ids] @ (own + share * other)
            cut, strong = float(hits[2:].max()), float(hits[0] - hits[2:].max())
        assert 0.3 <= float(hits[1] - cut) / strong < 0.4, "a third as strongly, and on no other"
        sae.W_enc[:, TRUE] = (own + share * other) / strong
        sae.get_buffer("b_enc")[TRUE] = -cut / strong
    if writes:
        both = sae.W_dec[TRUE] / sae.W_dec[TRUE].norm() + aim(planted_sae(model), model, OTHER)
        sae.W_dec[TRUE] = sae.W_dec[TRUE].norm() * both / both.norm()
    return sae


@pytest.mark.parametrize(
    ("fires", "writes"),
    [
        (True, True),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((True, False), (False, True))),
    ],
)
def test_what_faintly_fires_on_another_word_is_refused_if_it_writes_it_too(
    glass: LanguageModel, fires: bool, writes: bool
) -> None:
    """Fired on less than half as strongly as usual, or only written, the other word proves
    nothing."""
    done = chosen(glass, two_words(glass, fires=fires, writes=writes), [" Queen"])
    row = next(row for row in done.features if row.feature == TRUE)
    assert row.causes and row.separates and row.also_on == 0 and row.auc > 0.99
    assert row.also_writes is not None and (row.also_writes > 0.07) is (fires and writes)
    assert row.clean is not (fires and writes)
    assert done.choice.verdict == (Choice.NONE if fires and writes else Choice.ONE)
    assert ("writes words that only against has: ' voice'" in done.why) is (fires and writes)


def test_the_share_of_other_words_is_that_of_plain_arithmetic(glass: LanguageModel) -> None:
    """Of 0.5 gained, 0.3 go to the concept and 0.2 to a word on whose texts it fires with a quarter
    and three quarters of its usual level; a word that rises less does not count."""
    tokens = torch.tensor([5, 6])
    has = torch.tensor([[True, True, False], [False, True, True]])
    words = OtherWords(glass, torch.tensor([3]), tokens, has)
    clean, pushed = torch.full((10,), 0.1).double(), torch.full((10,), 0.03).double()
    pushed[3], pushed[5], pushed[6] = 0.4, 0.3, 0.11
    level = torch.tensor([0.25, 0.75, 1.0]).double()
    found = words._shared(clean, pushed, level)  # pyright: ignore[reportPrivateUsage]
    assert found.share == pytest.approx(0.2 * 0.5 / 0.5)
    assert found.words == [glass.token_text(5)] and not found.keeps_off
    silent = words._shared(clean, pushed, 0 * level)  # pyright: ignore[reportPrivateUsage]
    assert silent.share == 0 and silent.words == [] and silent.keeps_off


def test_words_of_both_sides_and_of_the_concept_are_no_other_words(glass: LanguageModel) -> None:
    texts, against = sides(glass)
    concept = [(glass.single_token(" Queen"),), (glass.single_token(" eyes"),)]
    words = OtherWords.of(glass, texts, against, concept=concept)
    assert words is not None and glass.single_token(OTHER) in words.tokens.tolist()
    assert not {*words.tokens.tolist()} & {token for text in texts for token in text.ids.tolist()}
    assert glass.single_token(" eyes") not in words.tokens.tolist()
    place = words.tokens.tolist().index(glass.single_token(OTHER))
    expected = [glass.single_token(OTHER) in text.ids.tolist() for text in against]
    assert words.has[place].tolist() == expected
    assert OtherWords.of(glass, texts, against, concept=[(1, 2)]) is None


def test_probabilities_after_a_push_are_those_of_a_plain_hook(glass: LanguageModel) -> None:
    """Of transformers' own model, prompt by prompt."""
    sae, head = world(glass), glass.bridge.original_model
    prompts = [glass.tokenize(text, prepend_bos=True) for text in PROMPTS[:2]]
    concept = ConceptTexts.of(glass, [" Queen"], over=[], metric="logprob")
    bench = CausalBench.of(glass, sae, concept, prompts, fired=(None, None), draw=(1, 0))
    vectors = 3 * bench.vectors([TRUE, 1])
    found = next_probabilities(bench.read, vectors)
    embed = head.get_input_embeddings()
    rows = list[torch.Tensor]()
    for vector in (torch.zeros_like(vectors[0]), *vectors):
        told = list[torch.Tensor]()
        for tokens in prompts:
            x = embed(tokens.ids[None]).detach()
            x[:, 1:] += vector  # position 0 does not count
            told.append(head(inputs_embeds=x).logits[0, -1].detach().double().softmax(-1))
        rows.append(torch.stack(told).mean(0))
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-4, atol=1e-7)


@dataclass(frozen=True)
class Texts:
    """What the texts say of a feature that is right."""

    auc: float = 1.0
    interval: tuple[float, float] = (0.9, 1.0)

    def told(self) -> Separated:
        return Separated(self.auc, self.interval, True, 1.0, 0, 24)


@pytest.mark.parametrize(
    ("texts", "tells"),
    [
        (Texts(0.95, (0.9, 0.98)), True),
        (Texts(0.92, (0.8, 0.97)), True),
        (Texts(0.92, (0.9, 0.94)), False),
        (Texts(0.89, (0.7, 0.99)), False),
    ],
)
def test_an_area_is_large_enough_as_far_as_its_interval_tells(texts: Texts, tells: bool) -> None:
    """Few texts cannot tell 0.92 from 0.95, many can."""
    told = texts.told()
    assert told.tells is tells is told.clean
    assert ("is asked for" in Standing(told).flaw) is not tells


@pytest.mark.parametrize(("chance", "is_chance"), [(None, False), (LEVEL, False), (0.06, True)])
def test_what_may_be_chance_says_so(chance: float | None, is_chance: bool) -> None:
    stand = Standing(Texts().told(), None, chance)
    assert stand.is_chance is is_chance and stand.clean
    if is_chance:
        assert stand.flaw.endswith("may do as much (p = 0.06)")


@pytest.mark.slow
def test_what_passes_its_controls_as_one_of_many_that_separate_is_not_chosen(
    glass: LanguageModel,
) -> None:
    """A direction between the right one and a random one, among a few decoys: the more of it is
    random, the larger the chance; some that beat 19 directions are no choice."""
    told = list[tuple[float, float | None, bool]]()
    for share in (0.55, 0.6, 0.8, 1.0):
        sae = world(glass)
        for i in range(14, 19):
            sae.W_enc[:, i], sae.get_buffer("b_enc")[i] = (
                sae.W_enc[:, TRUE],
                sae.get_buffer("b_enc")[TRUE],
            )
        own, other = sae.W_dec[TRUE].clone(), sae.W_dec[N_ALL - 1]
        mixed = share * own / own.norm() + (1 - share**2) ** 0.5 * other / other.norm()
        sae.W_dec[TRUE] = own.norm() * mixed
        done = chosen(glass, sae, [" Queen"])
        row = next(row for row in done.features if row.feature == TRUE)
        if row.causes:
            is_taken = done.choice.verdict == Choice.ONE and done.features[0].feature == TRUE
            told.append((share, row.chance, is_taken))
    chances = [chance for _, chance, _ in told if chance is not None]
    assert len(chances) == len(told) >= 3 and chances == sorted(chances, reverse=True)
    assert [taken for _, _, taken in told] == [chance <= LEVEL for chance in chances], told
    assert chances[0] > LEVEL > chances[-1], told
