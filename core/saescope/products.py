"""The one dense product that encoding, training and reading text are made of: `a @ rows.T + bias`.

torch sends float32 products on a CPU to MKL, whose AVX-512 kernels do not run on AMD processors:
there oneDNN, which torch ships as well, takes half the time (Zen 5: 26 against 58 ms for 512 x 576
x 9216). Both are plain float32. The choice depends on nothing but the machine, so that two runs of
one seed stay equal.
"""

import platform

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_X86 = platform.machine().lower() in ("x86_64", "amd64")
ONEDNN = (
    _X86 and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def times_rows(
    a: Float[Tensor, "*n d"],
    rows: Float[Tensor, "n_rows d"],
    bias: Float[Tensor, " n_rows"] | None = None,
) -> Float[Tensor, "*n n_rows"]:
    """`a @ rows.T + bias`; either may be a transposed view."""
    plain = a.device.type == "cpu" and a.dtype == torch.float32 and a.numel() and rows.numel()
    if (
        ONEDNN
        and plain
        and not (torch.is_grad_enabled() and (a.requires_grad or rows.requires_grad))
    ):
        return torch.ops.mkldnn._linear_pointwise(a, rows, bias, "none", [], "")
    return F.linear(a, rows, bias)
