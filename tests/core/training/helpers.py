"""A small dictionary-learning problem and runs on it."""

from typing import Any

import torch
from torch import Tensor

from saescope.training import TrainConfig

D_IN, D_SAE, BATCH = 16, 48, 64
KNOBS: dict[str, dict[str, Any]] = {
    "topk": {"k": 3.0},
    "batchtopk": {"k": 3.0},
    "matryoshka_batchtopk": {"k": 3.0, "matryoshka_widths": (12, 24)},
    "standard": {"l1_coefficient": 1.0},
    "gated": {"l1_coefficient": 1.0},
    "jumprelu": {"l0_coefficient": 0.3},
}


def true_features(n: int = 32, d: int = D_IN) -> Tensor:
    return torch.nn.functional.normalize(
        torch.randn(n, d, generator=torch.Generator().manual_seed(1)), dim=1
    )


def batches(
    n: int, *, seed: int = 0, size: int = BATCH, features: Tensor | None = None
) -> list[Tensor]:
    """Sparse positive combinations of the true features, off the origin."""
    rows = true_features() if features is None else features
    generator = torch.Generator().manual_seed(seed)
    made: list[Tensor] = []
    for _ in range(n):
        fires = torch.rand(size, len(rows), generator=generator) < 0.08
        made.append(
            (fires * (0.5 + torch.rand(size, len(rows), generator=generator))) @ rows * 3 + 0.5
        )
    return made


def config(architecture: str = "topk", *, n_steps: int = 30, **knobs: Any) -> TrainConfig:
    chosen: dict[str, Any] = {
        "hook_name": "blocks.1.hook_resid_post",
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "training_tokens": n_steps * BATCH,
        "batch_size": BATCH,
        "lr": 3e-3,
        **KNOBS[architecture],
        **knobs,
    }
    return TrainConfig(**chosen)
