"""What an index says of a feature, against NumPy over every context of the text."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.core.oracle import KINDS, Array, Family, NumpySAE, as_array, make_sae

from saescope.activations import ContextConfig, Dataset, read_contexts
from saescope.errors import ArgumentError, NotFoundError
from saescope.features.index import FeatureIndex, Passage, index_features
from saescope.features.index.examples import N_BANDS
from saescope.features.index.feature_index import _spread  # pyright: ignore[reportPrivateUsage]
from saescope.features.index.firings import AFTER, BEFORE
from saescope.features.index.statistics import N_BINS
from saescope.saes import SAE
from saescope.splice import read_hook

FamilyOf = Callable[[str], Family]
SIZE = 24
WORDS = [
    "Alice",
    "rabbit",
    "Queen",
    "garden",
    "house",
    "little",
    "river",
    "was",
    "never",
    "always",
    "said",
    "to",
    "the",
    "and",
    "of",
    "in",
]


def documents(n: int = 90) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=rng.integers(3, 40))) + "." for _ in range(n)]


def dataset(texts: list[str] | None = None) -> Dataset:
    texts = documents() if texts is None else texts
    return Dataset("words", "print", lambda: iter(texts))


@dataclass
class Brute:
    """Dense float64 activations `[n_contexts, n_pos, d_sae]` at the counted positions of every
    distinct context; elsewhere 0."""

    acts: Array
    ids: NDArray[np.int64]
    n_tokens: int

    def of(self, feature: int) -> Array:
        return self.acts[:, :, feature]

    def row(self, strings: tuple[str, ...], start: int, text: list[list[str]]) -> list[int]:
        """The contexts in which these tokens stand at this place."""
        return [
            i for i, row in enumerate(text) if tuple(row[start : start + len(strings)]) == strings
        ]


def brute_force(family: Family, sae: SAE) -> Brute:
    """All contexts in reading order (the index reads them in another), through the plain model and
    the published equations."""
    cfg = ContextConfig(context_size=SIZE, prepend_bos=True, held_out=0.0)
    ids = torch.cat(list(read_contexts(family.model, dataset(), cfg))).long()
    x = as_array(family.hf.record(ids.clamp(min=0), [read_hook(sae)])[read_hook(sae)])
    acts = NumpySAE(sae).encode(x.reshape(len(ids) * SIZE, -1)).reshape(len(ids), SIZE, -1)
    special = np.isin(ids.numpy(), family.model.tokenizer.special_ids.numpy())
    counted = (ids.numpy() >= 0) & ~special & (np.arange(SIZE) > 0)
    return Brute(np.maximum(acts, 0) * counted[:, :, None], ids.numpy(), int(counted.sum()))


def built(family: Family, sae: SAE, root: Path, **settings: Any) -> FeatureIndex:
    return index_features(
        family.model, sae, dataset(), context_size=SIZE, prepend_bos=True, root=root, **settings
    )


def typical_of(values: Array) -> float:
    return float(np.percentile(values, 99))


def near(value: float, expected: float, tolerance: float = 1e-4) -> bool:
    return abs(value - expected) <= tolerance * max(abs(expected), 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_counts_sums_maxima_and_histograms_are_numpys(
    family_of: FamilyOf, kind: str, tmp_path: Path
) -> None:
    family = family_of("gpt2")
    sae = make_sae(family, kind)
    brute, index = brute_force(family, sae), built(family, sae, tmp_path)
    fired = brute.acts.reshape(-1, sae.cfg.d_sae)
    assert index.manifest.n_tokens == brute.n_tokens and index.manifest.n_contexts == len(brute.ids)
    # At the edge of firing float32 and float64 may disagree on single positions.
    np.testing.assert_allclose(index.densities * brute.n_tokens, (fired > 0).sum(0), atol=1)
    np.testing.assert_allclose(index.maxima, fired.max(0), rtol=1e-3, atol=1e-4)
    for feature in range(sae.cfg.d_sae):
        values, row = fired[fired[:, feature] > 0, feature], index.statistics(feature)
        assert near(row.mean, float(fired[:, feature].sum()) / brute.n_tokens, 1e-3)
        assert sum(
            bin_.count for bin_ in row.histogram
        ) == row.n_fired and row.density == index.density(feature)
        if not len(values):
            assert row.max is row.quantiles is row.mean_firing is index.maximum(feature) is None
            continue
        assert (
            row.mean_firing is not None
            and row.quantiles is not None
            and near(row.mean_firing, float(values.mean()), 0.05)
        )
        edges = [bin_.low for bin_ in row.histogram] + [row.histogram[-1].high]
        expected, _ = np.histogram(values, edges)
        assert sum(abs(np.array([bin_.count for bin_ in row.histogram]) - expected)) <= 2
        assert (
            len(row.histogram) <= N_BINS
            and row.histogram[-1].low <= values.max() * 1.001
            and values.max() <= row.histogram[-1].high
        )
        for share, value in row.quantiles.items():
            low, high = np.quantile(
                values, [max(0, share - 1 / len(values)), min(1, share + 1 / len(values))]
            )
            assert low / 2**0.25 <= value <= high * 2**0.25
        assert row.typical is not None and row.typical == row.quantiles[0.99]
        assert near(row.typical, typical_of(values), 0.02)


@pytest.fixture(scope="module")
def made(
    family_of: FamilyOf, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Brute, FeatureIndex]:
    """A standard SAE, whose features fire at a third of the positions."""
    family = family_of("gpt2")
    sae = make_sae(family, "standard")
    return brute_force(family, sae), built(
        family, sae, tmp_path_factory.mktemp("indexes"), n_top=6, n_range=2
    )


@pytest.fixture(scope="module")
def text(made: tuple[Brute, FeatureIndex], family_of: FamilyOf) -> list[list[str]]:
    tokenizer = family_of("gpt2").model.tokenizer
    return [[tokenizer.text(i) for i in row if i >= 0] for row in made[0].ids.tolist()]


def matching(passage: Passage, brute: Brute, feature: int, text: list[list[str]]) -> int:
    """The context that a passage is from, once all that it says was compared; several may read the
    same."""
    rows = brute.row(passage.tokens, passage.start, text)
    assert (
        rows
        and len(passage.tokens)
        == min(len(text[rows[0]]), passage.start + passage.pos + AFTER + 1) - passage.start
    )
    assert passage.start == max(0, passage.start + passage.pos - BEFORE)
    for row in rows:
        expected = brute.of(feature)[row, passage.start : passage.start + len(passage.tokens)]
        if np.allclose(
            passage.activations, expected, rtol=0.023, atol=0.005 * max(passage.activations)
        ):
            assert near(passage.activation, expected[passage.pos], 1e-3)
            return row
    raise AssertionError(f"No context has these activations: {passage}")


def test_the_top_contexts_are_the_strongest_of_those_for_cards(
    made: tuple[Brute, FeatureIndex], text: list[list[str]]
) -> None:
    brute, index = made
    seen = defaultdict[int, list[int]](list)
    shown: set[int] = set()
    for feature in range(index.manifest.d_sae):
        for example in index.examples(feature, 100):
            row = matching(example, brute, feature, text)
            shown.add(row)
            if example.band == "top":
                seen[feature].append(row)
    # A context is for cards if any card shows it: with 6 + 2 * 8 places of 48 features all of them
    # are.
    for feature, rows in seen.items():
        best = brute.of(feature).max(1)
        strongest = sorted(best[list(shown)], reverse=True)[: len(rows)]
        np.testing.assert_allclose(best[rows], strongest, rtol=1e-3)
        assert len(rows) == min(6, int((best[list(shown)] > 0).sum())) and len(set(rows)) == len(
            rows
        )


def test_cards_and_quizzes_show_no_context_in_common(made: tuple[Brute, FeatureIndex]) -> None:
    index = made[1]
    features = range(index.manifest.d_sae)
    cards = {example.context for feature in features for example in index.examples(feature, 100)}
    pools = [
        passages
        for feature in features
        for passages in index.quiz_pool(feature, seed=feature, similar=(1, 2))
    ]
    quizzes = {passage.context for passages in pools for passage in passages}
    assert cards and quizzes and not cards & quizzes
    assert 0.1 < len(quizzes) / (len(cards) + len(quizzes)) < 0.45


def test_samples_lie_in_their_bands_and_cover_the_range(
    made: tuple[Brute, FeatureIndex], text: list[list[str]]
) -> None:
    brute, index = made
    for feature in range(index.manifest.d_sae):
        maximum = index.maximum(feature)
        if maximum is None:
            continue
        sampled = [example for example in index.examples(feature, 100) if example.band != "top"]
        for example in sampled:
            low, high = map(float, example.band.split(".."))
            assert (
                low * 0.99 <= example.activation <= high * 1.01
                and high <= maximum * 1.01
                and low >= maximum / 2 ** (N_BANDS / 2 + 0.5)
            )
            share = (
                brute.of(feature)[brute.of(feature) > 0] <= example.activation * 2**0.25
            ).mean()
            assert example.quantile <= share + 0.02
        assert all([e.band for e in sampled].count(band) <= 2 for band in {e.band for e in sampled})


def test_examples_lead_with_the_strongest_and_come_in_pages(
    made: tuple[Brute, FeatureIndex],
) -> None:
    index = made[1]
    feature = int(index.densities.argmax())
    whole = index.examples(feature, 100)
    assert whole[0].activation == index.maximum(feature)
    assert len({example.context for example in whole}) == len(whole)
    assert [
        e for i in range(0, len(whole), 3) for e in index.examples(feature, 3, offset=i)
    ] == whole


def test_quiz_passages_fire_or_are_silent_as_they_say(
    made: tuple[Brute, FeatureIndex], text: list[list[str]]
) -> None:
    brute, index = made
    kinds = set[str]()
    for feature in range(0, index.manifest.d_sae, 3):
        pool = index.quiz_pool(feature, seed=1, similar=(5,))
        for passage in pool.firing:
            assert matching(passage, brute, feature, text) >= 0 and passage.activation > 0
        for passage in [*pool.near_miss, *pool.random]:
            rows = brute.row(passage.tokens, passage.start, text)
            span = slice(passage.start, passage.start + len(passage.tokens))
            assert (
                any(brute.of(feature)[row, span].max() < 1e-5 for row in rows)
                and not passage.firing
            )
            kinds.add(passage.why.rstrip("0123456789 fires"))
            if passage.why.startswith("feature"):
                other = int(passage.why.split()[1])
                assert any(brute.of(other)[row, passage.start + passage.pos] > 0 for row in rows)
        contexts = [passage.context for passages in pool for passage in passages]
        assert (
            len(contexts) == len(set(contexts))
            and index.quiz_pool(feature, seed=1, similar=(5,)) == pool
        )
    assert len(kinds) == 3


def test_partners_are_those_that_numpy_counts(
    made: tuple[Brute, FeatureIndex], text: list[list[str]]
) -> None:
    """The sample has room for every quiz context here; which those are is seen from the index
    itself."""
    brute, index = made
    sample = index.sample
    ids = index.texts.ids(sample.contexts.tolist())
    rows = [
        next(i for i, row in enumerate(brute.ids) if (row == ids[n].numpy()).all())
        for n in sample.contexts.tolist()
    ]
    fires = brute.acts[rows].reshape(-1, index.manifest.d_sae) > 0
    special = np.isin(brute.ids[rows], sample.special_ids.numpy())
    fires = fires[((brute.ids[rows] >= 0) & ~special & (np.arange(SIZE) > 0)).ravel()].astype(float)
    assert len(fires) == int(sample.n_counted)
    for feature in range(0, index.manifest.d_sae, 5):
        partners = index.cofiring(feature, 48)
        if fires[:, feature].sum() < 3:
            continue
        expected = {
            g: float(np.corrcoef(fires[:, feature], fires[:, g])[0, 1])
            for g in range(48)
            if fires[:, g].any() and not fires[:, g].all()
        }
        assert [p.phi for p in partners] == sorted((p.phi for p in partners), reverse=True)
        for partner in partners:
            together = int((fires[:, feature] * fires[:, partner.feature]).sum())
            assert abs(together - partner.n_together) <= 1 and near(
                partner.phi, expected[partner.feature], 0.02
            )
            assert near(partner.share, partner.n_together / fires[:, feature].sum(), 0.02)


def test_a_card_opens_in_milliseconds(made: tuple[Brute, FeatureIndex]) -> None:
    index = FeatureIndex.open(made[1].folder)
    index.cofiring(0)
    seconds: list[float] = []
    for feature in range(1, 20):
        started = time.process_time()
        assert (
            len([index.examples(feature, 10), index.statistics(feature), index.cofiring(feature)])
            == 3
        )
        seconds.append(time.process_time() - started)
    assert sorted(seconds)[len(seconds) // 2] < 0.020


@pytest.mark.parametrize("feature", [-1, 48])
def test_a_feature_outside_the_sae_is_an_error(
    made: tuple[Brute, FeatureIndex], feature: int
) -> None:
    for ask in (
        made[1].density,
        made[1].maximum,
        made[1].statistics,
        made[1].examples,
        made[1].cofiring,
        made[1].quiz_pool,
    ):
        with pytest.raises(ArgumentError, match=f"no feature {feature}"):
            ask(feature)


def test_n_tokens_are_read_and_hardly_more(family_of: FamilyOf, tmp_path: Path) -> None:
    family = family_of("gpt2")
    index = built(family, make_sae(family, "topk"), tmp_path, n_tokens=300)
    assert 300 <= index.manifest.n_tokens < 300 + SIZE


def test_an_empty_text_is_an_error(family_of: FamilyOf, tmp_path: Path) -> None:
    family = family_of("gpt2")
    with pytest.raises(NotFoundError, match="holds no text") as caught:
        index_features(family.model, make_sae(family, "topk"), dataset([" "]), root=tmp_path)
    assert caught.value.code == "DATASET_EMPTY"


def test_a_repeated_text_counts_again_but_is_no_second_example(
    family_of: FamilyOf, tmp_path: Path
) -> None:
    family = family_of("gpt2")
    sae, tokenizer = make_sae(family, "standard"), family.model.tokenizer
    n_row = len(tokenizer.hf(" Alice said", add_special_tokens=False).input_ids) * 4
    found: list[FeatureIndex] = []
    for n in (1, 50):
        text = Dataset("same", str(n), lambda n=n: iter([" Alice said" * 4] * n))
        found.append(index_features(family.model, sae, text, context_size=n_row + 1, root=tmp_path))
    once, often = found
    assert often.manifest.n_tokens > 40 * once.manifest.n_tokens
    for feature in range(48):
        contexts = [example.context for example in often.examples(feature, 100)]
        assert len(contexts) == len(set(contexts)) <= n_row + 1


def test_the_first_examples_are_of_the_top_and_of_the_whole_range() -> None:
    assert _spread(8) == [7, 3, 5, 1, 6, 2, 4, 0] and _spread(1) == [0] and _spread(0) == []
    assert sorted(_spread(5)) == [0, 1, 2, 3, 4]


def test_examples_take_turns_between_the_strongest_and_the_range(
    made: tuple[Brute, FeatureIndex],
) -> None:
    index = made[1]
    n_both = 0
    for feature in range(index.manifest.d_sae):
        examples = index.examples(feature, 5)
        strongest = index.strongest(feature, 3)
        assert [e.activation for e in strongest] == sorted(
            (e.activation for e in strongest), reverse=True
        )
        if not examples:
            continue
        assert examples[0] == strongest[0]
        below = [e for e in index.examples(feature, 100) if e.band != "top"]
        if len(below) >= 2 and len(index.strongest(feature)) >= 3:
            n_both += 1
            assert [e.band == "top" for e in examples] == [True, False, True, False, True]
            assert [examples[0], examples[2], examples[4]] == strongest
            assert examples[1].band == min(below, key=lambda e: e.activation).band
    assert n_both
