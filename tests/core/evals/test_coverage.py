"""Intervals hold the true value as often as they say, where documents differ from one another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.core.evals.test_evaluate import perfect_sae, trained_on

from saescope.activations import Dataset, is_held_out
from saescope.evals import evaluate
from saescope.evals.reconstruction import reconstruct
from saescope.evals.report import metrics
from saescope.evals.sums import GroupedSums, interval, once, resampled
from saescope.evals.text import evaluation_text
from saescope.metrics import student_t
from saescope.models import LanguageModel
from saescope.saes import SAE

N_DRAWS, WIDTH = 400, 3
METRICS = ("l0", "mse", "explained_variance", "over_pca", "ce_score")


class Population:
    """Documents with means, errors and losses of their own; a document is some positions of
    independent noise about them."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.truth = self.of(*self.documents(200_000))

    def documents(self, n: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Sums by document, and the number of positions."""
        random = self.random
        size = random.integers(60, 400, n)
        mean = random.normal(0, 0.7, (n, WIDTH))
        noise = random.normal(0, 1, (n, WIDTH)) / np.sqrt(size)[:, None]
        target = size[:, None] * (mean + noise)
        own = random.gamma(6, 1 / 6, n)  # how hard a document is, 1 on average
        sums = {
            "n": size,
            "target": target,
            "target2": size * ((mean + noise) ** 2).sum(1) + random.chisquare(WIDTH * (size - 1)),
            "sse": 0.8 * own * size,
            "sse.pca": 1.5 * random.gamma(9, 1 / 9, n) * size,
            "l0": 20 * random.gamma(8, 1 / 8, n) * size,
            "n_ce": size,
            "ce.clean": 3 * size,
            "ce.with_sae": (3 + 0.3 * own) * size,
            "ce.zero_ablation": (3 + 3 * random.gamma(5, 1 / 5, n)) * size,
        }
        return sums, size

    def of(self, sums: dict[str, np.ndarray], size: np.ndarray) -> dict[str, float]:
        """The metrics by their definitions."""
        all_of = {name: values.sum(0) for name, values in sums.items()}
        variance = all_of["target2"] - (all_of["target"] ** 2).sum() / size.sum()
        zero = all_of["ce.zero_ablation"]
        return {
            "l0": all_of["l0"] / size.sum(),
            "mse": all_of["sse"] / size.sum(),
            "explained_variance": 1 - all_of["sse"] / variance,
            "over_pca": (all_of["sse.pca"] - all_of["sse"]) / variance,
            "ce_score": (zero - all_of["ce.with_sae"]) / (zero - all_of["ce.clean"]),
        }


def grouped(sums: dict[str, np.ndarray], groups: torch.Tensor) -> GroupedSums:
    made = GroupedSums(int(groups.max()) + 1)
    n = len(groups)
    rest = ("l1", "cosine", "norm_in", "norm_out", "norm_ratio", "out2", "target_out", "legacy")
    none = {name: np.zeros(n) for name in (*rest, "n_kl", "kl.with_sae", "kl.zero_ablation")}
    for name, values in (none | sums).items():
        made.add(name, groups, torch.tensor(values))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("n_documents", [12, 40])
def test_intervals_hold_the_true_value_in_95_of_100_samples(n_documents: int) -> None:
    population, held = Population(), dict.fromkeys(METRICS, 0)
    for draw in range(N_DRAWS):
        sums, size = population.documents(n_documents)
        made = grouped(sums, torch.arange(n_documents))
        estimate = metrics(made, once(n_documents))
        for name, value in population.of(sums, size).items():
            assert float(estimate[name]) == pytest.approx(value)
        drawn = metrics(made, resampled(n_documents, draw))
        for name in METRICS:
            found = interval(drawn[name], n_documents)
            assert found is not None
            held[name] += found.low <= population.truth[name] <= found.high
    assert {name: n for name, n in held.items() if not 0.92 <= n / N_DRAWS <= 0.98} == {}, held


def test_students_t_is_that_of_the_tables() -> None:
    for n_free, value in ((4, 2.776), (9, 2.262), (29, 2.045), (1000, 1.962)):
        assert student_t(n_free) == pytest.approx(value, rel=0.01)


def test_few_documents_have_no_interval() -> None:
    assert interval(torch.rand(1000).double(), 4) is None


def own_words(n: int, n_words: int = 100) -> Dataset:
    """Documents that differ: each repeats few words of its own."""
    random = np.random.default_rng(5)
    common = ["the", "cat", "sea", "ship", "bird", "mat", "house", "tree", "road", "king"]
    words = [random.choice(common, 3) for _ in range(n)]
    texts = [f"{i}: " + " ".join(random.choice(own, n_words)) for i, own in enumerate(words)]
    return Dataset("own words", "0", lambda: iter(texts))


def faint_sae(glass: LanguageModel) -> SAE:
    sae = perfect_sae(glass)
    shut = torch.full((sae.cfg.d_sae,), -2.0)
    return type(sae)(sae.cfg, sae.tensors() | {"W_dec": 0.7 * sae.W_dec, "b_enc": shut})


@pytest.mark.slow
def test_an_evaluation_on_a_sample_holds_the_value_of_the_whole_split(
    glass: LanguageModel,
) -> None:
    sae, dataset = trained_on("own words", faint_sae(glass)), own_words(3000)
    whole = evaluation_text(glass, sae, dataset, n_tokens=10**6)
    sums = reconstruct(glass, sae, whole, covariance=False).by_group
    truth = {name: float(value) for name, value in shares(sums, once(sums.n_groups)).items()}
    held = list[bool]()
    for seed in range(15):
        text = evaluation_text(glass, sae, dataset, n_tokens=700, seed=seed)
        sums = reconstruct(glass, sae, text, covariance=False).by_group
        assert sums.n_groups < len(text) < len(whole) / 5
        for name, drawn in shares(sums, resampled(sums.n_groups, seed)).items():
            found = interval(drawn, sums.n_groups)
            assert found is not None
            held.append(found.low <= truth[name] <= found.high)
    assert sum(held) >= 0.86 * len(held)
    found = evaluate(glass, sae, dataset, n_tokens=700, baselines=False, seed=14)
    assert found.n_documents == sums.n_groups
    drawn = shares(sums, resampled(sums.n_groups, 14))["l0"]
    assert found.intervals["l0"] == interval(drawn, sums.n_groups)


def shares(sums: GroupedSums, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    total = sums.totals(weights)
    return {name: total[source] / total["n"] for name, source in (("l0", "l0"), ("mse", "sse"))}


def test_contexts_come_from_the_whole_split_and_those_of_a_document_go_together(
    glass: LanguageModel,
) -> None:
    sae, dataset = trained_on("own words", faint_sae(glass)), own_words(3000)
    text = evaluation_text(glass, sae, dataset, n_tokens=3500, seed=1)
    everything = evaluation_text(glass, sae, dataset, n_tokens=10**6, seed=1)
    rows = {tuple(row): i for i, row in enumerate(everything.ids.tolist())}
    where = [rows[tuple(row)] / len(rows) for row in text.ids.tolist()]
    assert min(where) < 0.1 and max(where) > 0.9 and text.n_tokens < 3600
    together = reconstruct(glass, sae, text, covariance=False).by_group
    apart = reconstruct(
        glass, sae, replace(text, documents=torch.arange(len(text))), covariance=False
    ).by_group
    assert (together.n_groups, apart.n_groups) == (text.n_documents, len(text))

    def width(sums: GroupedSums) -> float:
        drawn = sums.totals(resampled(sums.n_groups, 0))
        found = interval(drawn["sse"] / drawn["n"], sums.n_groups)
        assert found is not None
        return found.high - found.low

    assert text.n_documents < len(text) and width(together) > 1.15 * width(apart)


def test_documents_of_both_splits_are_apart_where_others_fill_up(glass: LanguageModel) -> None:
    """Every document is one context long, and no two begin alike."""
    texts = [f"{i} the cat number {i} sat on the mat and looked at {i} ships." for i in range(400)]
    dataset = Dataset("hf:own/words", "0", lambda: iter(texts))
    text = evaluation_text(glass, faint_sae(glass), dataset, n_tokens=3000)
    assert any("fill up" in warning for warning in text.warnings)
    starts = {tuple(row) for row in text.ids.tolist()}
    assert len(starts) == len(text)
    held_out = [t for t in texts if is_held_out(t)]
    alone = evaluation_text(
        glass, trained_on("hf:own/words", faint_sae(glass)), dataset, n_tokens=3000
    )
    n_first = alone.n_documents
    assert 0 < n_first <= len(held_out)
    assert text.documents[: len(alone)].tolist() == alone.documents.tolist()
    assert int(text.documents[len(alone) :].min()) == n_first


def test_a_split_beyond_the_bound_is_said(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saescope.evals.text.MOST_TOKENS", 1400)
    monkeypatch.setattr("saescope.evals.text.STREAMED", 2)
    dataset = own_words(1000)
    text = evaluation_text(glass, faint_sae(glass), dataset, n_tokens=300)
    (said,) = text.warnings
    n_read = int(said.split("the first ")[1].split()[0].replace(",", ""))
    assert 1400 <= n_read < 1700 and said.endswith("tokens of own words.")
    streamed = Dataset("hf:own/words", "0", dataset.read)
    (said,) = evaluation_text(glass, faint_sae(glass), streamed, n_tokens=300).warnings
    assert 600 <= int(said.split("the first ")[1].split()[0].replace(",", "")) < 1000
