"""The measured check against NumPy reconstructions in a plain Hugging Face model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.oracle import (
    CASES,
    Family,
    NumpySAE,
    Reference,
    as_array,
    close,
    cross_entropy,
    flat,
    make_sae,
    replaced_by,
)

from saescope.embedded import landmarks
from saescope.evals import PROBE_TEXT, check_sae
from saescope.models import LanguageModel, load_model
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE
from saescope.splice import read_hook, write_hook


def expected_check(
    hf: Reference, tokenizer: Any, sae: SAE, limit: int, prepend_bos: bool
) -> dict[str, Any]:
    ids = [
        *([2] if prepend_bos else []),
        *tokenizer(PROBE_TEXT, add_special_tokens=False).input_ids,
    ][:limit]
    counted = np.array(
        [pos > 0 and token > 3 for pos, token in enumerate(ids)]
    )  # ids 0..3 are the special ones
    batch = torch.tensor([ids])
    found = hf.record(batch, [read_hook(sae), write_hook(sae)])
    x, written = flat(found[read_hook(sae)]), flat(found[write_hook(sae)])
    numpy = NumpySAE(sae)
    acts, out = numpy.encode(x), numpy(x)

    def loss(standing: Any) -> float:
        logits = as_array(hf.logits(batch, {write_hook(sae): replaced_by(standing)}))[0]
        return float(cross_entropy(logits, np.array(ids))[counted[:-1]].mean())

    clean, with_sae, zero = (
        loss(written),
        loss(np.where(counted[:, None], out, written)),
        loss(written * ~counted[:, None]),
    )
    used = written[counted]
    return {
        "n_tokens": int(counted.sum()),
        "l0": (acts[counted] > 0).sum(axis=1).mean(),
        "explained_variance": 1
        - ((used - out[counted]) ** 2).sum() / ((used - used.mean(axis=0)) ** 2).sum(),
        "ce_score": (zero - with_sae) / (zero - clean),
        "maxima": acts[counted].max(axis=0),
    }


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize(("prepend_bos", "context_size"), [(True, None), (False, 32)])
def test_the_check_is_what_numpy_and_the_plain_model_say(
    family_of: Callable[[str], Family],
    name: str,
    kind: str,
    prepend_bos: bool,
    context_size: int | None,
) -> None:
    family = family_of(name)
    sae = make_sae(family, kind, prepend_bos=prepend_bos, context_size=context_size)
    check = check_sae(family.model, sae)
    expected = expected_check(
        family.hf, family.model.tokenizer.hf, sae, context_size or family.model.n_ctx, prepend_bos
    )
    assert check.n_tokens == expected["n_tokens"] and check.l0 == pytest.approx(
        expected["l0"], abs=0.05
    )
    assert check.explained_variance == pytest.approx(expected["explained_variance"], abs=1e-3)
    assert check.ce_score == pytest.approx(expected["ce_score"], rel=1e-2, abs=1e-2)
    close(as_array(check.acts.maxima()), expected["maxima"], 1e-3)


def identity_sae(family: Family) -> SAE:
    """relu(x) and relu(-x): reconstructs everything."""
    eye = torch.eye(family.model.d_model)
    cfg = StandardConfig(
        d_in=len(eye),
        d_sae=2 * len(eye),
        metadata=SAEMetadata(hook_name="blocks.1.hook_resid_post"),
        apply_b_dec_to_input=False,
    )
    return StandardSAE(
        cfg,
        {
            "W_enc": torch.cat([eye, -eye], 1),
            "W_dec": torch.cat([eye, -eye]),
            "b_enc": torch.zeros(2 * len(eye)),
            "b_dec": torch.zeros(len(eye)),
        },
    )


def test_a_perfect_sae_is_good(family: Family) -> None:
    check = check_sae(family.model, identity_sae(family))
    assert check.explained_variance == pytest.approx(
        1, abs=1e-6
    ) and check.ce_score == pytest.approx(1, abs=1e-4)
    assert check.verdict.level == "good"


def test_a_random_sae_is_wrong(family: Family) -> None:
    sae = make_sae(family, "topk")
    louder = sae.tensors() | {"W_dec": 3 * sae.W_dec}
    check = check_sae(family.model, type(sae)(sae.cfg, louder))
    assert (
        check.explained_variance is not None
        and check.explained_variance < 0
        and check.verdict.level == "wrong"
    )


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.45, "fair"), (0.25, "doubtful"), (-0.5, "wrong")]
)
def test_an_sae_that_loses_much_is_told_from_a_good_one(
    family_of: Callable[[str], Family], share: float, verdict: str
) -> None:
    sae = identity_sae(family_of("glass"))
    faint = type(sae)(sae.cfg, sae.tensors() | {"W_dec": share * sae.W_dec})
    assert check_sae(family_of("glass").model, faint).verdict.level == verdict


@pytest.mark.parametrize(
    ("ratio", "off"), [(0.4, True), (0.55, False), (1.0, False), (1.9, False), (2.1, True)]
)
def test_an_l0_far_from_the_published_one_is_said(
    family_of: Callable[[str], Family], ratio: float, off: bool
) -> None:
    family = family_of("glass")
    sae = identity_sae(family)
    measured = check_sae(family.model, sae).l0
    check = check_sae(family.model, sae, published_l0=ratio * measured)
    assert check.published_l0 == ratio * measured and check.l0 == measured
    assert (
        check.verdict.level == ("doubtful" if off else "good")
        and ("were published" in check.verdict.why) is off
    )


def test_a_wrong_sae_stays_wrong_whatever_its_l0(family_of: Callable[[str], Family]) -> None:
    sae = identity_sae(family_of("glass"))
    faint = type(sae)(sae.cfg, sae.tensors() | {"W_dec": -0.5 * sae.W_dec})
    assert check_sae(family_of("glass").model, faint, published_l0=1e6).verdict.level == "wrong"


def test_a_probe_longer_than_the_context_is_cut(
    glass: LanguageModel, family_of: Callable[[str], Family]
) -> None:
    ids = glass.tokenizer.hf(PROBE_TEXT, add_special_tokens=False).input_ids
    assert len(ids) > glass.n_ctx == 128
    counted = sum(token > 3 for token in ids[1:128])  # ids 0..3 are the special ones
    assert check_sae(glass, identity_sae(family_of("glass"))).n_tokens == counted


def test_one_token_of_context_has_nothing_to_measure(gpt2: Family) -> None:
    sae = identity_sae(gpt2)
    tiny = type(sae)(
        replace(sae.cfg, metadata=replace(sae.cfg.metadata, context_size=1)), sae.tensors()
    )
    check = check_sae(gpt2.model, tiny)
    assert (
        check.n_tokens == 0
        and check.explained_variance is None
        and check.ce_score is None
        and check.l0 == 0
    )
    assert check.verdict.level == "unknown"


def test_the_check_leaves_the_model_as_before(gpt2: Family, ids: torch.Tensor) -> None:
    clean = gpt2.model.forward(ids)[0]
    check_sae(gpt2.model, make_sae(gpt2, "skip_transcoder"))
    assert torch.equal(gpt2.model.forward(ids)[0], clean)


@pytest.mark.model
@pytest.mark.slow
def test_the_embedded_sae_is_good_for_the_embedded_model(
    smollm: LanguageModel, embedded_sae: SAE
) -> None:
    check = check_sae(smollm, embedded_sae)
    assert check.verdict.level == "good" and check.l0 == pytest.approx(
        getattr(embedded_sae.cfg, "k", 32), rel=0.5
    )
    known = landmarks()
    assert known["weights_hash"] == embedded_sae.weights_hash
    assert {name: getattr(check, name) for name in known["check"]} == {
        name: pytest.approx(value, abs=0.05 if name == "l0" else 0.005)
        for name, value in known["check"].items()
    }


@pytest.mark.slow
@pytest.mark.model
def test_the_embedded_numbers_are_those_of_the_plain_model(
    smollm: LanguageModel, embedded_sae: SAE
) -> None:
    from saescope.embedded import model_dir

    hf, sae = Reference(Path(model_dir())), embedded_sae
    ids = smollm.tokenize(
        "The capital of France is Paris, and the capital of Germany is", prepend_bos=True
    ).ids[None]
    name = read_hook(sae)
    from saescope.splice import read_site

    site = read_site(smollm, sae, ids)
    acts = NumpySAE(sae).encode(flat(hf.record(ids, [name])[name]))
    assert (as_array(site.acts.to_dense())[1:] > 0).sum() == pytest.approx(
        (acts[1:] > 0).sum(), abs=2
    )
    close(as_array(site.acts.maxima()), acts.max(axis=0), 1e-3)
    loaded = load_model(device="cpu")
    close(as_array(loaded.forward(ids)[0]), as_array(hf.logits(ids)))
