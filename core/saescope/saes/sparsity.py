"""`sparsity.safetensors` beside an SAE, as sae-lens writes and reads it: how often each feature
fires."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from saescope.errors import cannot_write

Densities = Sequence[float] | Float[Tensor, " d_sae"]
"""The share of positions at which each feature fires."""
SPARSITY_FILE = "sparsity.safetensors"
FLOOR = 1e-10
"""sae-lens's: a feature that never fired has -10."""


def log_sparsity(densities: Densities) -> dict[str, Tensor]:
    """log10 of the share of positions at which each feature fires."""
    return {
        "sparsity": (torch.as_tensor(densities).double() + FLOOR).log10().to(torch.float32).cpu()
    }


def write_sparsity(folder: Path, densities: Densities) -> Path:
    """Write the file into an SAE's folder, whole or not at all.

    Raises:
        ResourceError: the folder cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as staging:
            save_file(log_sparsity(densities), Path(staging, SPARSITY_FILE))
            os.replace(Path(staging, SPARSITY_FILE), folder / SPARSITY_FILE)
    except (OSError, SafetensorError) as error:
        raise cannot_write(SPARSITY_FILE, folder, error) from error
    return folder / SPARSITY_FILE
