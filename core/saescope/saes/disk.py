"""The layout of SAELens 6: `cfg.json` and `sae_weights.safetensors`, both replaced whole or not at
all.

This module knows no architecture: an SAE says itself what it is on disk (`SAE.to_saelens`).
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from saescope.errors import cannot_write
from saescope.saes.config import SAEConfig, SAEMetadata

CFG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
FORMAT_VERSION = "6.54.12"
"""The SAELens whose layout this is; a reader takes a file without a version for the legacy
layout."""
SAELENS_ARCHITECTURES = {
    *("standard", "gated", "topk", "jumprelu", "temporal"),
    *("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
}
"""The architectures that sae-lens has a class for."""
_OURS = {field.name for field in fields(SAEConfig)} - {
    "metadata",
    "transcoder",
    "skip",
    "architecture",
    "d_out",
    "dtype",
}


def write(cfg: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> Path:
    """Save a configuration and weights into `folder`, which is created if need be.

    Raises:
        ResourceError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as staging:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()},
                Path(staging, WEIGHTS_FILE),
            )
            Path(staging, CFG_FILE).write_text(json.dumps(cfg, indent=1), encoding="utf-8")
            shutil.copymode(
                Path(staging, CFG_FILE), Path(staging, WEIGHTS_FILE)
            )  # safetensors lets only its owner read
            for name in (WEIGHTS_FILE, CFG_FILE):
                with Path(staging, name).open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(Path(staging, name), folder / name)
    except (OSError, SafetensorError) as error:
        choose = "Choose a folder that can be written to and has space."
        raise cannot_write("The SAE", folder, error, hint=choose) from error
    return folder


def saelens_name(architecture: str, *, transcoder: bool, skip: bool) -> str:
    """What an SAE of ours is called on disk once it is written: BatchTopK SAEs and gated
    transcoders as JumpReLU."""
    jumps = "batchtopk" in architecture or (architecture == "gated" and transcoder)
    return disk_name("jumprelu" if jumps else architecture, transcoder=transcoder, skip=skip)


def not_in_saelens(name: str) -> str:
    """What to say of an SAE that sae-lens cannot read, with the nearest form that it can; "" of one
    that it reads."""
    if name in SAELENS_ARCHITECTURES:
        return ""
    kind = name.removeprefix("topk").removeprefix("groupmax").lstrip("_")
    nearest = (
        'architecture="batchtopk", which is written as '
        f"{f'jumprelu_{kind}' if kind else 'jumprelu'}"
    )
    return (
        f"sae-lens has no architecture {name!r}: only saescope loads this SAE. The "
        "nearest form that sae-lens reads: train with "
        f"{nearest}."
    )


def shared_fields(
    cfg: SAEConfig,
    architecture: str,
    *,
    dtype: str,
    extra_metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `cfg.json` holds for every architecture, with `extra_metadata` beside the SAE's own."""
    # The dtype of the weights written now: sae-lens casts to what cfg.json says.
    written = {"dtype": dtype, "device": "cpu"} | ({"d_out": cfg.d_out} if cfg.transcoder else {})
    return (
        {name: getattr(cfg, name) for name in sorted(_OURS)}
        | written
        | {
            "metadata": _metadata(cfg.metadata) | dict(extra_metadata or {}),
            "architecture": disk_name(architecture, transcoder=cfg.transcoder, skip=cfg.skip),
        }
    )


def knobs(cfg: SAEConfig) -> dict[str, Any]:
    """Return the fields that only this architecture has."""
    own = {field.name for field in fields(cfg)} - {field.name for field in fields(SAEConfig)}
    return {name: getattr(cfg, name) for name in sorted(own)}


def disk_name(architecture: str, *, transcoder: bool, skip: bool) -> str:
    """SAELens's name: "jumprelu", "transcoder" (of the standard architecture),
    "jumprelu_skip_transcoder"."""
    if not transcoder:
        return architecture
    kind = "skip_transcoder" if skip else "transcoder"
    return kind if architecture == "standard" else f"{architecture}_{kind}"


def _metadata(metadata: SAEMetadata) -> dict[str, Any]:
    known = {
        "model_name": metadata.model_name,
        "hook_name": metadata.hook_name,
        "hook_name_out": metadata.hook_name_out,
        "prepend_bos": metadata.prepend_bos,
        "context_size": metadata.context_size,
        "neuronpedia_id": metadata.neuronpedia_id,
    }
    known |= {"fold_value_biases": metadata.fold_value_biases or None, "note": metadata.note}
    given = {name: value for name, value in known.items() if value not in ("", None)}
    return {"sae_lens_version": FORMAT_VERSION} | dict(metadata.raw) | given
