"""Writing an SAE as SAELens 6 does: `cfg.json` and `sae_weights.safetensors`, both replaced whole or not at all."""

import json
import os
import shutil
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from saescope.errors import cannot_write
from saescope.saes.base import SAE
from saescope.saes.batchtopk import BatchTopKSAE
from saescope.saes.config import SAEConfig, SAEMetadata
from saescope.saes.gated import GatedSAE
from saescope.saes.jumprelu import JumpReLUConfig, JumpReLUSAE

CFG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
FORMAT_VERSION = "6.54.12"
"""The SAELens whose layout this is; a reader takes a file without a version for the legacy layout."""
SAELENS_ARCHITECTURES = {
    *("standard", "gated", "topk", "jumprelu", "temporal"),
    *("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
}
"""Those that sae-lens has a class for."""
_OURS = {field.name for field in fields(SAEConfig)} - {
    "metadata",
    "transcoder",
    "skip",
    "architecture",
    "d_out",
    "dtype",
}


def write(sae: SAE, folder: Path) -> Path:
    """Save into `folder`, created if need be.

    Raises:
        ResourceError: the folder cannot be written.
    """
    cfg, tensors = to_saelens(sae)
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


def to_saelens(sae: SAE) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors in SAELens's terms; a BatchTopK SAE becomes the JumpReLU SAE with its threshold, as there, and a
    gated transcoder, which sae-lens does not have, the JumpReLU transcoder that computes the same."""
    if isinstance(sae, GatedSAE) and sae.cfg.transcoder:
        sae = as_jumprelu(sae)
        return _fields(sae, "jumprelu", {"training_architecture": "gated"}), sae.tensors()
    if isinstance(sae, BatchTopKSAE):
        folded = sae.fold_W_dec_norm() if sae.cfg.rescale_acts_by_decoder_norm else sae
        return _fields(
            sae, "jumprelu", {"training_architecture": sae.cfg.architecture}
        ), folded.tensors()
    own = {field.name for field in fields(sae.cfg)} - {field.name for field in fields(SAEConfig)}
    knobs = {name: getattr(sae.cfg, name) for name in sorted(own)}
    return _fields(sae, sae.cfg.architecture, {}) | knobs, sae.tensors()


def as_jumprelu(sae: GatedSAE) -> JumpReLUSAE:
    """The same function: with p = (x @ W_enc) * exp(r_mag) + b_mag, the gate x @ W_enc + b_gate > 0 is p > b_mag - exp(r_mag) * b_gate."""
    tensors = {name: tensor.float() for name, tensor in sae.tensors().items()}
    growth, b_mag = tensors.pop("r_mag").exp(), tensors.pop("b_mag")
    threshold = b_mag - growth * tensors.pop("b_gate")
    shared = {
        field.name: getattr(sae.cfg, field.name)
        for field in fields(SAEConfig)
        if field.name != "architecture"
    }
    cfg = replace(JumpReLUConfig(**shared), dtype="float32")
    changed = {"W_enc": tensors["W_enc"] * growth, "b_enc": b_mag, "threshold": threshold}
    return JumpReLUSAE(cfg, tensors | changed)


def saelens_name(architecture: str, *, transcoder: bool, skip: bool) -> str:
    """What an SAE of ours is called on disk once it is written: BatchTopK SAEs and gated transcoders as JumpReLU."""
    jumps = "batchtopk" in architecture or (architecture == "gated" and transcoder)
    return disk_name("jumprelu" if jumps else architecture, transcoder=transcoder, skip=skip)


def not_in_saelens(name: str) -> str:
    """What to say of an SAE that sae-lens cannot read, with the nearest form that it can; "" of one that it reads."""
    if name in SAELENS_ARCHITECTURES:
        return ""
    kind = name.removeprefix("topk").removeprefix("groupmax").lstrip("_")
    nearest = f'architecture="batchtopk", which is written as {f"jumprelu_{kind}" if kind else "jumprelu"}'
    return (
        f"sae-lens has no architecture {name!r}: only saescope loads this SAE. The nearest form that sae-lens reads: train with "
        f"{nearest}."
    )


def _fields(sae: SAE, architecture: str, more_metadata: dict[str, Any]) -> dict[str, Any]:
    # The dtype of the weights written now: sae-lens casts to what cfg.json says.
    written = {"dtype": str(sae.dtype).removeprefix("torch."), "device": "cpu"} | (
        {"d_out": sae.cfg.d_out} if sae.cfg.transcoder else {}
    )
    return (
        {name: getattr(sae.cfg, name) for name in sorted(_OURS)}
        | written
        | {
            "metadata": _metadata(sae.cfg.metadata) | more_metadata,
            "architecture": disk_name(
                architecture, transcoder=sae.cfg.transcoder, skip=sae.cfg.skip
            ),
        }
    )


def disk_name(architecture: str, *, transcoder: bool, skip: bool) -> str:
    """SAELens's name: "jumprelu", "transcoder" (of the standard architecture), "jumprelu_skip_transcoder"."""
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
    said = {name: value for name, value in known.items() if value not in ("", None)}
    return {"sae_lens_version": FORMAT_VERSION} | dict(metadata.raw) | said
