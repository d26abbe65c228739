"""Loss terms and gradients of sae-lens 6.54 on small random batches, for tests/core/training.

sae-lens pins transformer-lens < 4, so this runs in an environment of its own (pip install
sae-lens==6.54.12):

    python scripts/make_training_references.py     # rewrites tests/data/training

sae-lens trains no transcoders: for those its own encode, decode and auxiliary losses are called
with the output site as target. Gated transcoders are written out below, since its gated loss takes
one tensor for input and target.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import TrainStepInput
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from safetensors.torch import save_file
from torch import Tensor, nn

DATA = Path(__file__).parent.parent / "tests" / "data" / "training"
D_IN, D_OUT, D_SAE, N_POS = 8, 6, 24, 12
SPARSITY, REVIVAL = 1.7, 0.6
CLASSES = {
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig),
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    "matryoshka_batchtopk": (MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig),
}
WIDTHS = {"matryoshka_widths": [4, 12, 24]}
JUMP = {"jumprelu_bandwidth": 0.8}
CASES: dict[str, dict[str, Any]] = {
    "standard": {},
    "standard_l2": {"lp_norm": 2.0},
    "standard_no_b_dec_in": {"apply_b_dec_to_input": False},
    "gated": {},
    "gated_no_b_dec_in": {"apply_b_dec_to_input": False},
    "topk": {"k": 3},
    "topk_auxk": {"k": 3, "auxk": True},
    "topk_auxk_plain": {"k": 3, "auxk": True, "rescale_acts_by_decoder_norm": False},
    "topk_few_positive": {"k": 20},
    "batchtopk": {"k": 2.5},
    "batchtopk_auxk": {"k": 2.5, "auxk": True},
    "batchtopk_plain": {"k": 2.5, "rescale_acts_by_decoder_norm": False},
    "matryoshka_batchtopk": {"k": 4, **WIDTHS},
    "matryoshka_batchtopk_auxk": {"k": 4, "auxk": True, **WIDTHS},
    "matryoshka_batchtopk_auxk_per_prefix": {
        "k": 4,
        "auxk": True,
        "use_matryoshka_aux_loss": True,
        **WIDTHS,
    },
    "jumprelu_step": JUMP,
    "jumprelu_step_to_input": {"jumprelu_ste_to_input": True, **JUMP},
    "jumprelu_tanh": {"jumprelu_sparsity_loss_mode": "tanh", **JUMP},
    "jumprelu_tanh_to_input": {
        "jumprelu_sparsity_loss_mode": "tanh",
        "jumprelu_ste_to_input": True,
        **JUMP,
    },
    "jumprelu_quadratic": {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 5.0, **JUMP},
    "jumprelu_pre_act": {"pre_act": True, **JUMP},
}
TRANSCODERS = (
    "standard",
    "gated",
    "topk_auxk",
    "batchtopk_auxk",
    "matryoshka_batchtopk_auxk_per_prefix",
    "jumprelu_quadratic",
    "jumprelu_pre_act",
)


def architecture_of(case: str) -> str:
    return next(name for name in sorted(CLASSES, key=len, reverse=True) if case.startswith(name))


def make(case: str, transcoder: bool) -> Any:
    """A training SAE of sae-lens with random weights."""
    sae_class, config_class = CLASSES[architecture_of(case)]
    knobs = {name: value for name, value in CASES[case].items() if name not in ("auxk", "pre_act")}
    if "pre_act" in CASES[case]:
        knobs["pre_act_loss_coefficient"] = REVIVAL
    if "auxk" in CASES[case]:
        knobs["aux_loss_coefficient"] = REVIVAL
    if transcoder:
        knobs["apply_b_dec_to_input"] = False
    knobs = {
        name: list(value) if isinstance(value, list) else value for name, value in knobs.items()
    }
    sae = sae_class(config_class(d_in=D_IN, d_sae=D_SAE, **knobs))
    if transcoder:
        sae.W_dec = nn.Parameter(torch.zeros(D_SAE, D_OUT))
        sae.b_dec = nn.Parameter(torch.zeros(D_OUT))
        sae.process_sae_in = lambda x: x
    for name, parameter in sae.named_parameters():
        parameter.data = torch.randn_like(parameter) * (0.3 if name != "W_dec" else 0.6)
    if "threshold" in dict(sae.named_parameters()):
        sae.threshold.data.abs_()
    return sae


def step(x: Tensor, coefficients: dict[str, float], dead: Tensor | None) -> TrainStepInput:
    return TrainStepInput(
        sae_in=x,
        coefficients=coefficients,
        dead_neuron_mask=dead,
        n_training_steps=0,
        is_logging_step=False,
    )


def total(
    sae: Any, x: Tensor, y: Tensor, dead: Tensor | None, skip: Tensor | None
) -> dict[str, Tensor]:
    """Every loss term."""
    coefficients = dict.fromkeys(sae.get_coefficients(), SPARSITY)
    if y is x:
        return sae.training_forward_pass(step(x, coefficients, dead)).losses
    residual = y if skip is None else y - x @ skip.T
    acts, hidden_pre = sae.encode_with_hidden_pre(x)
    out = sae.decode(acts)
    losses = {"mse_loss": (out - residual).square().sum(-1).mean()}
    if isinstance(sae, GatedTrainingSAE):
        gate = torch.relu(x @ sae.W_enc + sae.b_gate)
        losses["l1_loss"] = SPARSITY * (gate * sae.W_dec.norm(dim=1)).sum(-1).mean()
        losses["auxiliary_reconstruction_loss"] = (
            (gate @ sae.W_dec + sae.b_dec - residual).square().sum(-1).mean()
        )
        return losses
    # The residual keeps its gradient to W_skip out of AuxK through the detach inside.
    losses |= sae.calculate_aux_loss(step(residual, coefficients, dead), acts, hidden_pre, out)
    if isinstance(sae, MatryoshkaBatchTopKTrainingSAE):
        for width, inner in sae._iterable_decode(acts):
            losses[f"inner_mse_loss_{width}"] = (inner - residual).square().sum(-1).mean()
    return losses


def reference(
    case: str, *, transcoder: bool, skip: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    torch.manual_seed(sum(map(ord, case)) + transcoder + 2 * skip)
    sae = make(case, transcoder)
    x = torch.randn(N_POS, D_IN) + 0.3
    y = torch.randn(N_POS, D_OUT) if transcoder else x
    revived = "auxk" in CASES[case] or "pre_act" in CASES[case]
    dead = torch.rand(D_SAE) < 0.4 if revived else None
    W_skip = nn.Parameter(torch.randn(D_OUT, D_IN) * 0.3) if skip else None
    losses = total(sae, x, y, dead, W_skip)
    sum(losses.values()).backward()
    params = dict(sae.named_parameters()) | ({"W_skip": W_skip} if W_skip is not None else {})
    tensors = {"x": x, "y": y.clone()} | ({"dead": dead} if dead is not None else {})
    tensors |= {f"loss.{name}": value.detach().reshape(1) for name, value in losses.items()}
    for name, parameter in params.items():
        assert parameter.grad is not None, name
        tensors |= {f"param.{name}": parameter.detach(), f"grad.{name}": parameter.grad}
    objective = {
        name: value for name, value in CASES[case].items() if name not in ("auxk", "pre_act")
    }
    objective |= {
        "architecture": architecture_of(case),
        "d_in": D_IN,
        "d_sae": D_SAE,
        "d_out": y.shape[1],
        "skip": skip,
    }
    objective["revival"] = (
        "auxk" if "auxk" in CASES[case] else "pre_act" if "pre_act" in CASES[case] else "none"
    )
    if transcoder:
        objective["apply_b_dec_to_input"] = False
    # One key: safetensors writes several in any order, and the same run should give the same bytes.
    said = {"case": json.dumps({"objective": objective, "sparsity": SPARSITY, "revival": REVIVAL})}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, said


def main() -> None:
    warnings.simplefilter("ignore")
    DATA.mkdir(parents=True, exist_ok=True)
    kinds = [(case, False, False) for case in CASES]
    kinds += [(case, True, skip) for case in TRANSCODERS for skip in (False, True)]
    for case, transcoder, skip in kinds:
        name = case + ("_skip" if skip else "") + ("_transcoder" if transcoder else "")
        tensors, said = reference(case, transcoder=transcoder, skip=skip)
        save_file(tensors, DATA / f"{name}.safetensors", metadata=said)
        print(
            name,
            {
                key: round(float(value), 4)
                for key, value in tensors.items()
                if key.startswith("loss.")
            },
        )


if __name__ == "__main__":
    main()
