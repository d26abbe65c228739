"""Random problems for one step of every architecture, with dead features."""

from typing import Any

import torch
from torch import Tensor

from saescope.training.objective import (
    Batch,
    Coefficients,
    Dead,
    Objective,
    Params,
    initial_params,
)

COEFFICIENTS = Coefficients(sparsity=0.7, revival=0.4)
WIDTHS = {"k": 4.0, "matryoshka_widths": (10, 40, 96)}
CASES: dict[str, dict[str, Any]] = {
    "standard": {"architecture": "standard"},
    "standard l2": {"architecture": "standard", "lp_norm": 2.0},
    "standard ghost": {"architecture": "standard", "revival": "ghost"},
    "gated": {"architecture": "gated"},
    "topk": {"architecture": "topk", "k": 5.0},
    "topk auxk": {"architecture": "topk", "k": 5.0, "revival": "auxk"},
    "topk plain auxk": {
        "architecture": "topk",
        "k": 5.0,
        "revival": "auxk",
        "rescale_acts_by_decoder_norm": False,
    },
    "topk of nearly all": {"architecture": "topk", "k": 80.0},
    "batchtopk auxk": {"architecture": "batchtopk", "k": 4.5, "revival": "auxk"},
    "batchtopk of nearly all": {"architecture": "batchtopk", "k": 70.0},
    "matryoshka auxk": {"architecture": "matryoshka_batchtopk", "revival": "auxk", **WIDTHS},
    "matryoshka auxk per prefix": {
        "architecture": "matryoshka_batchtopk",
        "revival": "auxk",
        "use_matryoshka_aux_loss": True,
        **WIDTHS,
    },
    "jumprelu step": {"architecture": "jumprelu", "jumprelu_bandwidth": 0.3},
    "jumprelu tanh": {
        "architecture": "jumprelu",
        "jumprelu_sparsity_loss_mode": "tanh",
        "jumprelu_ste_to_input": True,
    },
    "jumprelu quadratic": {
        "architecture": "jumprelu",
        "jumprelu_sparsity_loss_mode": "quadratic",
        "target_l0": 7.0,
        "revival": "pre_act",
    },
}
SITES: dict[str, dict[str, Any]] = {
    "sae": {"d_out": 24},
    "transcoder": {"d_out": 16, "apply_b_dec_to_input": False},
    "skip transcoder": {"d_out": 16, "apply_b_dec_to_input": False, "skip": True},
}


def random_case(case: str, site: str) -> tuple[Objective, Params, Batch, Tensor]:
    torch.manual_seed(len(case) + len(site))
    objective = Objective(d_in=24, d_sae=96, **CASES[case], **SITES[site])
    params = initial_params(objective, seed=0)
    for tensor in params.values():
        tensor.add_(torch.randn_like(tensor) * 0.2)
    x = torch.randn(50, 24) + 0.2
    return (
        objective,
        params,
        Batch(x, x if site == "sae" else torch.randn(50, 16)),
        torch.rand(96) < 0.4,
    )


def revived(mask: Tensor | None) -> Dead | None:
    return None if mask is None else Dead(mask, len(mask))
