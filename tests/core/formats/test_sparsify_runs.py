"""What sparsify kept in the training run's config.json: before February 2025 only there it says
that an SAE is a transcoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import saescope as ss
from saescope.errors import ConfigError

D, N, K = 8, 24, 4


def write(folder: Path, cfg: dict[str, Any], run: dict[str, Any] | None) -> dict[str, torch.Tensor]:
    """A sparsify SAE in `folder`, its run's configuration in the folder above."""
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "encoder.weight": torch.randn(N, D, generator=draw),
        "encoder.bias": torch.randn(N, generator=draw),
        "W_dec": torch.randn(N, D, generator=draw),
        "b_dec": torch.randn(D, generator=draw),
    }
    save_file(tensors, folder / "sae.safetensors")
    said = {"expansion_factor": 3, "num_latents": 0, "k": K, "d_in": D}
    (folder / "cfg.json").write_text(json.dumps(said | cfg))
    if run is not None:
        (folder.parent / "config.json").write_text(json.dumps(run))
    return tensors


def top_k(hidden_pre: torch.Tensor) -> torch.Tensor:
    top = hidden_pre.topk(K, dim=-1)
    return torch.zeros_like(hidden_pre).scatter(-1, top.indices, top.values.relu())


@pytest.mark.parametrize(
    ("cfg", "run", "centred", "transcoder"),
    [
        ({}, {"transcode": True, "hookpoints": ["layers.0.mlp"]}, True, True),
        ({"transcode": True}, {"transcode": True, "hookpoints": ["layers.0.mlp"]}, False, True),
        ({}, {"hookpoints": ["layers.0.mlp"]}, True, False),
        ({"transcode": False}, None, True, False),
    ],
)
def test_an_old_transcoder_is_known_by_its_run_and_encodes_without_its_b_dec(
    tmp_path: Path,
    cfg: dict[str, Any],
    run: dict[str, Any] | None,
    centred: bool,
    transcoder: bool,
) -> None:
    folder = tmp_path / "run" / "layers.0.mlp"
    t = write(folder, cfg, run)
    sae = ss.load_sae(folder)
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(1))
    read = x - t["b_dec"] if centred else x
    expected = top_k(read @ t["encoder.weight"].T + t["encoder.bias"])
    assert sae.cfg.transcoder == transcoder
    assert torch.allclose(sae.encode(x), expected, atol=1e-5)


def test_a_run_that_contradicts_the_sae_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "layers.0.mlp"
    write(folder, {"transcode": False}, {"transcode": True, "hookpoints": ["layers.0.mlp"]})
    with pytest.raises(ConfigError, match="one of them is wrong"):
        ss.load_sae(folder)
