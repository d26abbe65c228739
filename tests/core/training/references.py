"""What sae-lens computed, as scripts/make_training_references.py stored it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from torch import Tensor

from saescope.training.objective import Batch, Coefficients, Objective, Params

FILES = sorted((Path(__file__).parents[2] / "data" / "training").glob("*.safetensors"))
OURS = {"W_enc": "encoder", "W_dec": "decoder"}


class Reference(NamedTuple):
    objective: Objective
    params: Params
    batch: Batch
    dead: Tensor | None
    coefficients: Coefficients
    losses: dict[str, Tensor]
    grads: dict[str, Tensor]


def load(path: Path) -> Reference:
    with safe_open(path, framework="pt") as file:
        case: dict[str, Any] = json.loads(file.metadata()["case"])
        names = [*file.keys()]  # it is no dict
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
    known: dict[str, Any] = case["objective"]
    known["k"] = float(known.get("k", 0))
    known["matryoshka_widths"] = tuple(known.get("matryoshka_widths", ()))
    x = tensors["x"]
    return Reference(
        Objective(**known),
        _ours(tensors, "param."),
        Batch(x, tensors["y"] if known["d_out"] != known["d_in"] else x),
        tensors.get("dead"),
        Coefficients(case["sparsity"], case["revival"]),
        {
            name.removeprefix("loss."): value.squeeze()
            for name, value in tensors.items()
            if name.startswith("loss.") and float(value)
        },
        _ours(tensors, "grad."),
    )


def _ours(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    named = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    return {
        OURS.get(name, name): tensor.T.contiguous() if name == "W_enc" else tensor
        for name, tensor in named.items()
    }


def relative(got: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
