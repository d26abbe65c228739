"""Every architecture against its published equation, written out as a loop over positions and
features in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from saescope.saes import ARCHITECTURES, SAE, BatchTopKSAE, MatryoshkaSAE

Vector = NDArray[np.float64]
Weights = dict[str, Vector]
D_IN, D_OUT, D_SAE, N_POS = 6, 4, 15, 7

NORMALIZATIONS = (
    "none",
    "expected_average_only_in",
    "covariance_whitening",
    "constant_norm_rescale",
    "layer_norm",
)
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "standard": [{}],
    "gated": [{}],
    "jumprelu": [{}],
    "topk": [{"k": 3}, {"k": 12}, {"k": 3, "rescale_acts_by_decoder_norm": True}],
    "batchtopk": [{"k": 2.5}, {"k": 2.5, "rescale_acts_by_decoder_norm": True}],
    "matryoshka_batchtopk": [
        {"k": 2.5, "rescale_acts_by_decoder_norm": True, "matryoshka_widths": (3, 8, D_SAE)}
    ],
}
MODES = [
    {"normalize_activations": mode, "apply_b_dec_to_input": subtract}
    for mode in NORMALIZATIONS
    for subtract in (True, False)
]
CASES = [
    (architecture, options | mode)
    for architecture, variants in OPTIONS.items()
    for options in variants
    for mode in MODES
]
TRANSCODERS = [
    pytest.param(name, skip, id=f"{name}-skip-{skip}")
    for name in ("standard", "jumprelu")
    for skip in (False, True)
]


def weights(d_out: int = D_IN) -> Weights:
    rng = np.random.default_rng(0)
    return {
        "W_enc": rng.normal(size=(D_IN, D_SAE)),
        "W_dec": rng.normal(size=(D_SAE, d_out)) * rng.uniform(0.3, 3, size=(D_SAE, 1)),
        "W_skip": rng.normal(size=(d_out, D_IN)),
        "b_enc": rng.normal(size=D_SAE),
        "b_dec": rng.normal(size=d_out),
        "b_gate": rng.normal(size=D_SAE),
        "b_mag": rng.normal(size=D_SAE),
        "r_mag": 0.5 * rng.normal(size=D_SAE),
        "threshold": rng.uniform(0.2, 1.5, size=D_SAE),
    }


def inputs() -> Vector:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(N_POS, D_IN)) + 0.5) * rng.uniform(0.2, 5, size=(N_POS, 1))


def build(architecture: str, options: dict[str, Any], d_out: int = D_IN) -> tuple[SAE, Weights]:
    config_class, sae_class = ARCHITECTURES[architecture]
    cfg = config_class(d_in=D_IN, d_out=d_out, d_sae=D_SAE, dtype="float64", **options)
    named = weights(d_out)
    return sae_class(
        cfg, {name: torch.tensor(named[name]) for name in sae_class.shapes(cfg)}
    ), named


def normalized(x: Vector, mode: str) -> tuple[list[float], float, float]:
    """The normalised vector, and the factor and shift that bring a reconstruction back."""
    if mode == "constant_norm_rescale":
        norm = math.sqrt(sum(value**2 for value in x))
        return [value * math.sqrt(D_IN) / norm for value in x], norm / math.sqrt(D_IN), 0.0
    if mode == "layer_norm":
        mean = sum(x) / D_IN
        std = math.sqrt(sum((value - mean) ** 2 for value in x) / (D_IN - 1))
        return [(value - mean) / (std + 1e-5) for value in x], std, mean
    return list(x), 1.0, 0.0


def hidden_pre(z: list[float], w: Weights, cfg: dict[str, Any], bias: str = "b_enc") -> list[float]:
    """z @ W_enc + bias, with the row norm of the decoder where activations carry it."""
    pre = [sum(z[d] * w["W_enc"][d, i] for d in range(D_IN)) + w[bias][i] for i in range(D_SAE)]
    if not cfg.get("rescale_acts_by_decoder_norm"):
        return pre
    return [p * math.sqrt(sum(value**2 for value in w["W_dec"][i])) for i, p in enumerate(pre)]


def activations(architecture: str, z: list[float], w: Weights, cfg: dict[str, Any]) -> list[float]:
    if architecture == "gated":
        gate = hidden_pre(z, w, cfg, "b_gate")
        bare = [g - w["b_gate"][i] for i, g in enumerate(gate)]
        return [
            max(b * math.exp(w["r_mag"][i]) + w["b_mag"][i], 0.0) if gate[i] > 0 else 0.0
            for i, b in enumerate(bare)
        ]
    pre = hidden_pre(z, w, cfg)
    if architecture == "standard":
        return [max(p, 0.0) for p in pre]
    if architecture == "topk":
        kept = sorted(range(D_SAE), key=lambda i: -pre[i])[: cfg["k"]]
        return [max(p, 0.0) if i in kept else 0.0 for i, p in enumerate(pre)]
    return [p if p > w["threshold"][i] else 0.0 for i, p in enumerate(pre)]


def reconstruction(
    acts: list[float], w: Weights, cfg: dict[str, Any], d_out: int = D_IN
) -> list[float]:
    rows = w["W_dec"]
    if cfg.get("rescale_acts_by_decoder_norm"):
        rows = np.array([row / math.sqrt(sum(value**2 for value in row)) for row in rows])
    return [sum(acts[i] * rows[i, d] for i in range(D_SAE)) + w["b_dec"][d] for d in range(d_out)]


def naive(architecture: str, w: Weights, cfg: dict[str, Any]) -> tuple[Vector, Vector]:
    acts, out = [], []
    for x in inputs():
        z, factor, shift = normalized(x, cfg["normalize_activations"])
        if cfg["apply_b_dec_to_input"]:
            z = [z[d] - w["b_dec"][d] for d in range(D_IN)]
        acts.append(activations(architecture, z, w, cfg))
        out.append([value * factor + shift for value in reconstruction(acts[-1], w, cfg)])
    return np.array(acts), np.array(out)


def assert_equal(ours: torch.Tensor, expected: Vector) -> None:
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("architecture", "options"), CASES)
def test_encode_and_decode_follow_the_equation(architecture: str, options: dict[str, Any]) -> None:
    sae, w = build(architecture, options)
    acts, out = naive(architecture, w, options)
    x = torch.tensor(inputs())
    assert 0 < (acts > 0).mean() < 0.9, (
        "an example in which nothing or everything fires proves little"
    )
    assert_equal(sae.encode(x), acts)
    assert_equal(sae.encode_sparse(x).to_dense(), acts)
    assert_equal(sae.decode(torch.tensor(acts), like=x), out)
    assert_equal(sae(x), out)


@pytest.mark.parametrize(("architecture", "skip"), TRANSCODERS)
def test_a_transcoder_predicts_another_site(architecture: str, skip: bool) -> None:
    sae, w = build(
        architecture, {"apply_b_dec_to_input": False, "transcoder": True, "skip": skip}, D_OUT
    )
    out = []
    for x in inputs():
        predicted = reconstruction(activations(architecture, list(x), w, {}), w, {}, D_OUT)
        through = [
            sum(w["W_skip"][o, d] * x[d] for d in range(D_IN)) if skip else 0.0
            for o in range(D_OUT)
        ]
        out.append([predicted[o] + through[o] for o in range(D_OUT)])
    assert_equal(sae(torch.tensor(inputs())), np.array(out))


@pytest.mark.parametrize("rescale", [False, True])
def test_batchtopk_keeps_the_largest_of_the_whole_batch(rescale: bool) -> None:
    options = {"k": 2.5, "rescale_acts_by_decoder_norm": rescale, "apply_b_dec_to_input": True}
    sae, w = build("batchtopk", options)
    assert isinstance(sae, BatchTopKSAE)
    pre = [hidden_pre([x[d] - w["b_dec"][d] for d in range(D_IN)], w, options) for x in inputs()]
    entries = sorted(
        ((value, pos, i) for pos, row in enumerate(pre) for i, value in enumerate(row)),
        reverse=True,
    )
    expected = np.zeros((N_POS, D_SAE))
    for value, pos, i in entries[: int(2.5 * N_POS)]:
        expected[pos, i] = max(value, 0.0)
    assert_equal(sae.encode_batch(torch.tensor(inputs())).to_dense(), expected)


def test_each_matryoshka_prefix_reconstructs_alone() -> None:
    options = OPTIONS["matryoshka_batchtopk"][0]
    sae, w = build("matryoshka_batchtopk", options)
    assert isinstance(sae, MatryoshkaSAE)
    acts = sae.encode_sparse(torch.tensor(inputs()))
    assert sae.cfg.matryoshka_widths == (3, 8, D_SAE)
    for width in sae.cfg.matryoshka_widths:
        prefix = sae.decode(acts.select(acts.features < width))
        first = [
            [value if i < width else 0.0 for i, value in enumerate(row)]
            for row in acts.to_dense().tolist()
        ]
        assert_equal(prefix, np.array([reconstruction(row, w, options) for row in first]))


@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu"])
def test_folding_the_decoder_norm_scales_activations_only(architecture: str) -> None:
    sae, w = build(architecture, {})
    x, norms = torch.tensor(inputs()), np.linalg.norm(w["W_dec"], axis=1)
    before, folded = sae.encode(x), sae.fold_W_dec_norm()
    assert_equal(folded.encode(x), before.numpy() * norms)
    assert_equal(folded(x), sae(x).numpy())
    assert_equal(folded.W_dec.norm(dim=-1), np.ones(D_SAE))
    assert_equal(sae.encode(x), before.numpy())


@pytest.mark.parametrize("architecture", list(OPTIONS))
@pytest.mark.parametrize("subtract", [True, False])
def test_folding_whitening_moves_it_into_the_weights(architecture: str, subtract: bool) -> None:
    options = OPTIONS[architecture][-1] | {
        "normalize_activations": "covariance_whitening",
        "apply_b_dec_to_input": subtract,
    }
    sae, _ = build(architecture, options)
    rng = np.random.default_rng(2)
    mean, matrix = torch.tensor(rng.normal(size=D_IN)), torch.tensor(rng.normal(size=(D_IN, D_IN)))
    inverse, x = torch.linalg.inv(matrix), torch.tensor(inputs())
    folded = sae.fold_activation_whitening(mean, matrix, inverse)
    outside = sae((x - mean) @ matrix)
    assert_equal(folded.encode(x), sae.encode((x - mean) @ matrix).numpy())
    assert_equal(folded(x), (outside @ inverse + mean).numpy())


@pytest.mark.parametrize("architecture", list(OPTIONS))
def test_folding_the_scaling_factor_gives_an_sae_for_raw_activations(architecture: str) -> None:
    sae, _ = build(
        architecture,
        OPTIONS[architecture][-1] | {"normalize_activations": "expected_average_only_in"},
    )
    x = torch.tensor(inputs())
    folded = sae.fold_activation_norm_scaling_factor(0.7)
    assert_equal(folded(x), (sae(0.7 * x) / 0.7).numpy())
    # Where activations carry the decoder's norm they shrink with it.
    carried = 0.7 if OPTIONS[architecture][-1].get("rescale_acts_by_decoder_norm") else 1.0
    assert_equal(folded.encode(x), sae.encode(0.7 * x).numpy() / carried)


def test_fewer_than_k_positive_activations_stay_fewer() -> None:
    sae, w = build("topk", {"k": 12})
    acts, _ = naive(
        "topk", w, {"k": 12, "normalize_activations": "none", "apply_b_dec_to_input": True}
    )
    assert sae.encode_sparse(torch.tensor(inputs())).l0.tolist() == (acts > 0).sum(axis=1).tolist()
    assert (acts > 0).sum(axis=1).min() < 12
