"""Every number of an evaluation against a naive loop over positions in NumPy and a plain Hugging
Face model."""

import threading
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.oracle import (
    CASES,
    Array,
    Family,
    NumpySAE,
    as_array,
    close,
    cross_entropy,
    flat,
    kl,
    make_sae,
    replaced_by,
)

from saescope.activations import Dataset, is_held_out
from saescope.cancel import cancellable
from saescope.errors import Cancelled, NotFoundError
from saescope.evals import Evaluation, evaluate
from saescope.evals.baselines import fit_pca, fit_random
from saescope.evals.reconstruction import reconstruct
from saescope.evals.sums import GroupedSums, interval, resampled
from saescope.evals.text import evaluation_text
from saescope.models import LanguageModel
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE, TemporalConfig, TemporalSAE
from saescope.splice import read_hook, read_site, write_hook

FamilyOf = Callable[[str], Family]
N_POS = 20


def some_contexts() -> torch.Tensor:
    """BOS first; a special token within; the last row filled up with NOTHING."""
    contexts = torch.randint(
        10, 1000, (6, N_POS), generator=torch.Generator().manual_seed(3), dtype=torch.int32
    )
    contexts[:, 0] = 2
    contexts[1, 7] = 3
    contexts[2, 1] = 2
    contexts[5, 12:] = -1
    return contexts


def counts(ids: Array) -> Any:
    """Ids 0..3 are the special ones."""
    return np.array(
        [[position > 0 and token > 3 for position, token in enumerate(row)] for row in ids]
    )


class Naive:
    """One context at a time, everything kept. A given context is a document of its own."""

    def __init__(self, family: Family, sae: SAE, contexts: torch.Tensor) -> None:
        self.family, self.numpy = family, NumpySAE(sae)
        self.ids = as_array(contexts).astype(int)
        self.counted, self.write = counts(self.ids), write_hook(sae)
        found = family.hf.record(contexts.long().clamp(min=0), [read_hook(sae), self.write])
        self.x, self.target = (
            flat(found[name]).reshape(*self.ids.shape, -1) for name in (read_hook(sae), self.write)
        )
        self.acts = np.stack([self.numpy.encode(x) for x in self.x])
        self.out = np.stack([self.numpy(x) for x in self.x])

    def losses(self, standing: Array, mask: Any) -> tuple[float, float]:
        """Mean cross-entropy and KL(clean || changed) with `standing` at the positions of
        `mask`."""
        ce, divergence = list[float](), list[float]()
        for row, ids in enumerate(self.ids):
            batch = torch.tensor(ids).clamp(min=0)[None]
            put = np.where(mask[row][:, None], standing[row], self.target[row])
            clean = as_array(self.family.hf.logits(batch))[0]
            logits = as_array(self.family.hf.logits(batch, {self.write: replaced_by(put)}))[0]
            known = self.counted[row][:-1] & (ids[1:] >= 0)
            ce += cross_entropy(logits, np.maximum(ids, 0))[known].tolist()
            divergence += kl(clean, logits)[self.counted[row]].tolist()
        return float(np.mean(ce)), float(np.mean(divergence))


def check_reconstruction(found: Evaluation, naive: Naive) -> None:
    target, out, acts = (
        naive.target[naive.counted],
        naive.out[naive.counted],
        naive.acts[naive.counted],
    )
    errors = ((target - out) ** 2).sum(axis=1)
    total = ((target - target.mean(axis=0)) ** 2).sum()
    norms = [np.linalg.norm(a, axis=1) for a in (target, out)]
    density = (acts > 0).mean(axis=0)
    assert found.n_tokens == len(target) and found.l0 == pytest.approx(
        (acts > 0).sum(axis=1).mean(), rel=2e-3
    )
    assert found.mse == pytest.approx(errors.mean(), rel=1e-3)
    assert found.explained_variance == pytest.approx(1 - errors.sum() / total, rel=1e-3, abs=1e-3)
    assert found.cosine == pytest.approx(
        ((target * out).sum(axis=1) / norms[0] / norms[1]).mean(), rel=1e-3, abs=1e-4
    )
    assert found.shrinkage.l2_ratio == pytest.approx((norms[1] / norms[0]).mean(), rel=1e-3)
    bias = (norms[1] ** 2).mean() / (target * out).sum(axis=1).mean()
    assert found.shrinkage.relative_reconstruction_bias == pytest.approx(bias, rel=1e-2)
    assert found.dead_share == pytest.approx((density == 0).mean(), abs=0.03)
    assert found.dense_share == pytest.approx((density > 0.1).mean(), abs=0.05)
    assert sum(bin.n_features for bin in found.density) == round(
        (1 - found.dead_share) * len(density)
    )


def check_predictions(found: Evaluation, naive: Naive) -> None:
    mean = naive.target[naive.counted].mean(axis=0)
    clean = naive.losses(naive.target, naive.counted)
    with_sae = naive.losses(naive.out, naive.counted)
    zero = naive.losses(0 * naive.target, naive.counted)
    at_mean = naive.losses(0 * naive.target + mean, naive.counted)
    everywhere = naive.losses(0 * naive.target, np.ones_like(naive.counted))
    assert found.ce is not None and found.kl is not None
    close(astuple(found.ce), [clean[0], with_sae[0], zero[0], at_mean[0]], 1e-3)
    close(astuple(found.kl), [with_sae[1], zero[1]], 1e-2)
    assert found.ce_score == pytest.approx(
        (found.ce.zero_ablation - found.ce.with_sae) / (found.ce.zero_ablation - found.ce.clean)
    )
    assert found.kl_score == pytest.approx(1 - found.kl.with_sae / found.kl.zero_ablation)
    assert found.saelens["ce_loss_with_ablation"] == pytest.approx(everywhere[0], rel=1e-3)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_is_what_a_naive_loop_says(family_of: FamilyOf, name: str, kind: str) -> None:
    family = family_of(name)
    sae, contexts = make_sae(family, kind), some_contexts()
    found, naive = (
        evaluate(family.model, sae, contexts, baselines=False),
        Naive(family, sae, contexts),
    )
    check_reconstruction(found, naive)
    check_predictions(found, naive)
    assert found.baselines is None and found.hook_name_out == write_hook(sae)


def test_explained_variance_by_position_adds_up_to_the_whole(family_of: FamilyOf) -> None:
    family = family_of("gpt2")
    sae, contexts = make_sae(family, "standard"), some_contexts()
    found, naive = (
        evaluate(family.model, sae, contexts, baselines=False),
        Naive(family, sae, contexts),
    )
    assert [(bin.first, bin.last) for bin in found.positions] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 5),
        (6, 7),
        (8, 11),
        (12, 15),
        (16, 19),
    ]
    mean = naive.target[naive.counted].mean(axis=0)
    for bin in found.positions:
        here = naive.counted & (np.arange(N_POS) >= bin.first) & (np.arange(N_POS) <= bin.last)
        errors, total = (
            ((naive.target - naive.out)[here] ** 2).sum(),
            ((naive.target[here] - mean) ** 2).sum(),
        )
        assert bin.n_tokens == here.sum()
        assert bin.explained_variance == pytest.approx(1 - errors / total, rel=1e-3, abs=1e-3)


def crossed(naive: Naive) -> tuple[Array, float]:
    """Squared errors of each half's rows on the directions of the other half, by their number; and
    the total variance."""
    mean, errors, total = naive.target[naive.counted].mean(axis=0), np.zeros(32), 0.0
    for half in (0, 1):
        judged, fitted = (
            naive.target[i::2][naive.counted[i::2]].astype(float) for i in (half, 1 - half)
        )
        about = fitted.mean(axis=0)
        directions = np.linalg.svd(fitted - about)[2]
        along = ((judged - about) @ directions.T) ** 2
        errors += along.sum() - along.sum(axis=0).cumsum()
        total += ((judged - mean) ** 2).sum()
    return errors, total


@pytest.mark.parametrize("kind", ["topk", "layer_norm", "skip_transcoder"])
def test_pca_is_the_best_subspace_of_one_half_judged_on_the_other(
    family_of: FamilyOf, kind: str
) -> None:
    family = family_of("gpt2")
    sae, contexts = make_sae(family, kind), some_contexts()
    found, naive = evaluate(family.model, sae, contexts), Naive(family, sae, contexts)
    assert found.baselines is not None and found.baselines.pca is not None
    pca = found.baselines.pca
    errors, total = crossed(naive)
    share = 1 - errors / total
    assert pca.size == min(round(found.l0), 32)
    assert pca.explained_variance == pytest.approx(share[pca.size - 1], rel=1e-3, abs=1e-4)
    assert pca.ce_score is not None
    ev = found.explained_variance
    expected = None if ev is None or ev <= 0 else min(1 + int((share < ev).sum()), 32)
    assert found.baselines.pca_rank_to_match == expected


def test_one_context_has_no_pca_to_be_compared_with(family_of: FamilyOf) -> None:
    family = family_of("gpt2")
    found = evaluate(family.model, make_sae(family, "topk"), some_contexts()[:1])
    assert found.baselines is not None and found.baselines.pca is None
    assert found.baselines.random_sae.explained_variance is not None
    assert not any("PCA" in reason.finding for reason in found.verdict.reasons)


def test_the_random_sae_has_the_same_shape_and_l0_and_the_kindest_scale(
    family_of: FamilyOf,
) -> None:
    family = family_of("gpt2")
    sae, contexts = make_sae(family, "standard"), some_contexts()
    text = evaluation_text(family.model, sae, contexts, n_tokens=0, seed=0)
    found = reconstruct(family.model, sae, text, covariance=False)
    made = fit_random(family.model, sae, text, found, l0=5.4, seed=1)
    site, keep = read_site(family.model, sae, text.ids), text.mask.flatten()
    assert made.sae.cfg.d_sae == sae.cfg.d_sae and set(
        made.sae.encode_sparse(site.x).l0.tolist()
    ) == {5}
    assert made.sae.encoder.data_ptr() == made.sae.decoder.data_ptr()

    def loss(scale: float) -> float:
        return float((replace(made, scale=scale)(site, 0) - site.target)[keep].square().sum())

    assert loss(made.scale) <= min(loss(made.scale * 1.01), loss(made.scale * 0.99))
    again = fit_random(family.model, sae, text, found, l0=5.4, seed=1)
    assert torch.equal(again.sae.decoder, made.sae.decoder)


def test_a_pca_of_the_full_width_reconstructs_everything(family_of: FamilyOf) -> None:
    family = family_of("gpt2")
    sae, contexts = make_sae(family, "standard"), some_contexts()
    text = evaluation_text(family.model, sae, contexts, n_tokens=0, seed=0)
    found = reconstruct(family.model, sae, text, covariance=True)
    pca, site = fit_pca(found, sae, l0=99.0), read_site(family.model, sae, text.ids)
    assert pca is not None
    for fold in (0, 1):
        close(as_array(pca(site, fold)), as_array(site.target), 1e-5)
    assert pca.rank == family.model.d_model and pca.explained[-1] == pytest.approx(1)


def test_a_sequential_sae_sees_each_context_as_a_whole(family_of: FamilyOf) -> None:
    family = family_of("gpt2")
    cfg = TemporalConfig(
        d_in=32,
        d_sae=16,
        n_heads=2,
        bottleneck_factor=2,
        metadata=SAEMetadata(hook_name="blocks.1.hook_resid_post"),
    )
    torch.manual_seed(0)
    sae = TemporalSAE(
        cfg, {name: 0.3 * torch.randn(shape) for name, shape in TemporalSAE.shapes(cfg).items()}
    )
    contexts, naive_sse = some_contexts(), 0.0
    found = evaluate(family.model, sae, contexts)
    counted = counts(as_array(contexts))
    for row, keep in zip(contexts.long().clamp(min=0), counted, strict=True):
        x = family.hf.record(row[None], [read_hook(sae)])[read_hook(sae)]
        naive_sse += float((x - sae(x))[0, torch.tensor(keep)].square().sum())
    assert found.mse == pytest.approx(naive_sse / counted.sum(), rel=1e-4)
    assert found.intervals["mse"].low < found.mse < found.intervals["mse"].high


def perfect_sae(model: LanguageModel) -> SAE:
    """relu(x) and relu(-x): reconstructs everything."""
    eye = torch.eye(model.d_model)
    sae = StandardConfig(d_in=len(eye), d_sae=2 * len(eye), apply_b_dec_to_input=False)
    sae = replace(
        sae,
        metadata=replace(
            sae.metadata, hook_name="blocks.1.hook_resid_post", context_size=32, prepend_bos=True
        ),
    )
    rows = torch.cat([eye, -eye])
    return StandardSAE(
        sae,
        {
            "W_enc": rows.T,
            "W_dec": rows,
            "b_enc": torch.zeros(len(rows)),
            "b_dec": torch.zeros(len(eye)),
        },
    )


def test_a_perfect_sae_reaches_one_and_a_doubled_one_is_wrong(glass: LanguageModel) -> None:
    perfect, contexts = perfect_sae(glass), some_contexts()
    found = evaluate(glass, perfect, contexts)
    assert found.explained_variance == pytest.approx(1) and found.ce_score == pytest.approx(
        1, abs=1e-4
    )
    assert found.mse == pytest.approx(0, abs=1e-6) and found.shrinkage.l2_ratio == pytest.approx(1)
    worse = StandardSAE(perfect.cfg, perfect.tensors() | {"W_dec": -perfect.W_dec})
    assert evaluate(glass, worse, contexts).verdict.level == "wrong"


@pytest.mark.slow
def test_intervals_hold_the_estimate_and_narrow_with_more_text(glass: LanguageModel) -> None:
    sae = perfect_sae(glass)
    faint = StandardSAE(
        sae.cfg,
        sae.tensors() | {"W_dec": 0.7 * sae.W_dec, "b_enc": torch.full((sae.cfg.d_sae,), -2.0)},
    )
    few, many = (evaluate(glass, faint, n_tokens=n, baselines=False) for n in (300, 3000))
    for found in (few, many):
        values = {
            "l0": found.l0,
            "explained_variance": found.explained_variance,
            "ce_score": found.ce_score,
            "mse": found.mse,
        }
        for name, value in values.items():
            assert (
                value is not None
                and found.intervals[name].low <= value <= found.intervals[name].high
            )
    few_l0, many_l0 = few.intervals["l0"], many.intervals["l0"]
    assert many_l0.high - many_l0.low < few_l0.high - few_l0.low


def test_the_interval_of_a_mean_is_what_theory_says() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    sums = GroupedSums(200)
    sums.add("x", torch.arange(200), values)
    found = interval(sums.totals(resampled(200, 0))["x"] / 200, 200)
    error = 1.96 * float(values.std()) / 200**0.5
    assert found is not None and found.low == pytest.approx(float(values.mean()) - error, abs=0.02)
    assert found.high == pytest.approx(float(values.mean()) + error, abs=0.02)


def test_the_same_seed_gives_the_same_numbers_and_the_model_stays_as_it_was(
    glass: LanguageModel,
) -> None:
    sae, ids = perfect_sae(glass), torch.tensor([[2, 50, 60]])
    clean = glass.forward(ids)[0]
    one, two = (evaluate(glass, sae, n_tokens=200, seed=5) for _ in range(2))
    assert one == two and one.n_tokens >= 200
    assert torch.equal(glass.forward(ids)[0], clean)


def test_a_cancelled_evaluation_stops_and_says_how_far_it_was(glass: LanguageModel) -> None:
    stop, seen = threading.Event(), list[tuple[int, int]]()

    def progress(done: int, n_all: int) -> None:
        seen.append((done, n_all))
        if done > n_all // 2:
            stop.set()

    with cancellable(stop), pytest.raises(Cancelled):
        evaluate(glass, perfect_sae(glass), some_contexts(), progress=progress)
    assert seen[-1] == (6 * N_POS + N_POS, 2 * 6 * N_POS)


def documents(n: int) -> Dataset:
    texts = [
        f"Story {i}: the cat number {i * 7} sat on the mat and looked at the sea, the "
        f"ships and the {i} birds."
        for i in range(n)
    ]
    return Dataset("stories", "0", lambda: iter(texts))


def test_only_held_out_documents_are_read_where_they_suffice(glass: LanguageModel) -> None:
    held_out = [text for text in documents(4000).documents() if is_held_out(text)]
    text = evaluation_text(glass, perfect_sae(glass), documents(4000), n_tokens=500, seed=0)
    read = [
        glass.tokenizer.join(row[mask].tolist())
        for row, mask in zip(text.ids, text.mask, strict=True)
    ]
    joined = "".join(held_out)
    assert len(held_out) > 50 and text.n_tokens >= 500 and not text.warnings
    assert all(
        any(piece in joined for piece in (part, part[2:]))
        for row in read
        for part in row.split("Story")[1:-1]
    )


def test_a_small_dataset_is_filled_up_unless_the_sae_was_trained_on_it(
    glass: LanguageModel,
) -> None:
    sae = perfect_sae(glass)
    text = evaluation_text(glass, sae, documents(200), n_tokens=2000, seed=0)
    assert text.n_tokens >= 2000 and "held-out part of stories" in text.warnings[0]
    own = evaluation_text(glass, trained_on("stories", sae), documents(200), n_tokens=2000, seed=0)
    assert own.n_tokens < 400 and "asked for" in own.warnings[0]


def test_the_folder_of_the_training_is_known_by_its_name_from_any_working_folder(
    glass: LanguageModel, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    for i, text in enumerate(documents(200).documents()):
        (tmp_path / "mine" / f"{i}.txt").write_text(text, encoding="utf-8")
    for said, filled_up in (
        ("mine", False),
        (str(tmp_path / "mine"), False),
        ("yours", True),
        ("/elsewhere/mine", True),
    ):
        text = evaluation_text(
            glass,
            trained_on(said, perfect_sae(glass)),
            str(tmp_path / "mine"),
            n_tokens=2000,
            seed=0,
        )
        assert (text.n_tokens >= 2000) is filled_up, said


def test_a_file_of_the_users_own_is_held_out_as_a_whole(
    glass: LanguageModel, tmp_path: Path
) -> None:
    stories = tmp_path / "mine.txt"
    stories.write_text("\n\n".join(documents(60).documents()), encoding="utf-8")
    sae = trained_on("hf:somebody/else", perfect_sae(glass))
    text = evaluation_text(glass, sae, str(stories), n_tokens=10**6)
    # all of its text counts, not the fiftieth part that a hash holds out
    n_tokens = sum(len(glass.tokenize(each).ids) for each in documents(60).documents())
    assert 0.9 * n_tokens < text.n_tokens < 1.1 * n_tokens
    assert not any("held-out part" in warning for warning in text.warnings)
    unnamed = evaluation_text(glass, perfect_sae(glass), str(stories), n_tokens=300)
    assert "does not name the texts" in unnamed.warnings[0]


def trained_on(dataset: str, sae: SAE) -> SAE:
    cfg = replace(sae.cfg, metadata=replace(sae.cfg.metadata, raw={"dataset_path": dataset}))
    return StandardSAE(cfg, sae.tensors())


def test_a_text_without_a_counted_position_is_refused(glass: LanguageModel) -> None:
    with pytest.raises(NotFoundError, match="no position to evaluate on"):
        evaluate(glass, perfect_sae(glass), torch.tensor([[2, 3, 3]]))


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_the_embedded_sae_is_good_on_the_embedded_text(
    smollm: LanguageModel, embedded_sae: SAE
) -> None:
    found = evaluate(smollm, embedded_sae, n_tokens=500)
    assert found.verdict.level == "good" and found.baselines is not None
    pca = found.baselines.pca
    assert pca is not None and pca.explained_variance is not None
    assert (
        found.explained_variance is not None and found.explained_variance > pca.explained_variance
    )


def test_an_sae_in_bfloat16_is_measured_almost_as_in_float32(family_of: FamilyOf) -> None:
    family = family_of("gpt2")
    sae, contexts = make_sae(family, "standard"), some_contexts()
    exact, rounded = (
        evaluate(family.model, sae, contexts),
        evaluate(family.model, sae.bfloat16(), contexts),
    )
    assert exact.baselines is not None and rounded.baselines is not None
    assert exact.baselines.pca is not None and rounded.baselines.pca is not None
    assert rounded.l0 == pytest.approx(exact.l0, rel=0.02) and rounded.mse == pytest.approx(
        exact.mse, rel=0.02
    )
    assert rounded.baselines.pca.explained_variance == pytest.approx(
        exact.baselines.pca.explained_variance, abs=2e-3
    )
