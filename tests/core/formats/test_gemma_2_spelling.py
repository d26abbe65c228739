"""Gemma Scope's matrices are spelt W_enc on the hub and w_enc in some conversions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saescope.load import load_sae


@pytest.mark.parametrize("spell", [str, str.lower], ids=["as published", "lower case"])
def test_either_spelling_loads_the_same_matrices(tmp_path: Path, spell: type[str]) -> None:
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (4, 6), "W_dec": (6, 4), "b_enc": (6,), "b_dec": (4,), "threshold": (6,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    spelt: dict[str, Any] = {
        spell(name) if name.startswith("W") else name: array for name, array in arrays.items()
    }
    np.savez(tmp_path / "params.npz", **spelt)
    sae = load_sae(tmp_path)
    assert np.array_equal(sae.W_enc.numpy(), arrays["W_enc"])
    assert np.array_equal(sae.W_dec.numpy(), arrays["W_dec"])
