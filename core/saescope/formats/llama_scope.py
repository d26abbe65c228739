"""Llama Scope on disk (OpenMOSS, arXiv:2410.20526): `hyperparams.json` and
`checkpoints/final.safetensors`.

Two gates, chosen by `source.known["gate"]`. "upstream", the default, is what the authors compute: a
feature fires when its pre-activation, at unit decoder norm and in the scale of the raw activations,
exceeds the one published theta:
threshold_i = theta * s / ||W_dec,i|| in the scale that the encoder sees. "saelens" leaves the norm
out (threshold = theta * s), as SAELens does; its L0 is not the published one (SAELens issues 482
and 483).
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saescope.errors import ArgumentError, ConfigError
from saescope.formats.agreement import agree, contradiction, layer_in
from saescope.formats.dialect import Dialect, folder_with, inside
from saescope.formats.recipe import (
    Recipe,
    Stored,
    header_of,
    matrix,
    metadata,
    need,
    place,
    stored_dtype,
    unsupported,
)
from saescope.formats.source import FileSource
from saescope.saes import JumpReLUConfig, SAEConfig, SAEMetadata

NAME = "llama_scope"
CONFIG, FILE = "hyperparams.json", "checkpoints/final.safetensors"
MODEL = "meta-llama/Llama-3.1-8B"
CONTEXT_SIZE = 1024
GATES = ("upstream", "saelens")
_PLACES = {"R": "hook_resid_post", "A": "hook_attn_out", "M": "hook_mlp_out"}
NOTES = {
    "upstream": 'Gate "upstream": thresholds at unit decoder norm, as its authors compute; '
    "sae-lens leaves the norm out.",
    "saelens": 'Gate "saelens": one threshold for all features, as sae-lens has it; its authors '
    'compute another (gate "upstream").',
}


class Norms(NamedTuple):
    """What the activations were multiplied with in training, where they are read and where they are
    written."""

    read: float
    written: float


def _recipe(source: FileSource) -> Recipe:
    file = source.at(CONFIG)
    settings = source.json(file)
    cfg = config(source, settings, (CONFIG, source.at(FILE)), model_name=MODEL, dialect=NAME)
    norms, theta = (
        _norms(source, settings, cfg),
        need(settings, "jump_relu_threshold", (int, float), file),
    )
    gate, by_norm = pick_gate(source), bool(settings.get("sparsity_include_decoder_norm", True))

    def fix(tensors: dict[str, Tensor]) -> None:
        # In float32 whatever the weights are: sae-lens rounds these to bfloat16's three digits.
        threshold = torch.full((cfg.d_sae,), float(theta), dtype=torch.float32) * (
            norms.read if gate == "saelens" else norms.written
        )
        if gate == "upstream" and by_norm:
            threshold = threshold / row_norms(tensors["W_dec"])
        tensors["threshold"] = threshold.to(tensors["W_dec"].dtype)
        fold(tensors, norms)

    return Recipe(cfg=cfg, file=source.at(FILE), stored=STORED, fix=fix)


STORED = {
    "W_enc": Stored("encoder.weight", turned=True),
    "W_dec": Stored("decoder.weight", turned=True),
    "b_enc": Stored("encoder.bias"),
    "b_dec": Stored("decoder.bias"),
}


def config(
    source: FileSource,
    settings: Mapping[str, Any],
    files: tuple[str, str],
    *,
    model_name: str,
    dialect: str,
) -> JumpReLUConfig:
    """The recipe of an lm_saes configuration and its weights, `files`; whatever would make it
    another function is refused."""
    config_file, weights_file = files
    _check(settings, config_file)
    header = header_of(source, weights_file)
    d_sae, d_in = matrix(weights_file, header, "encoder.weight")
    d_out, _ = matrix(weights_file, header, "decoder.weight")
    for key, value in (("d_model", d_in), ("d_sae", d_sae)):
        if settings.get(key) not in (None, value):
            raise ConfigError(
                f"{config_file} says {key}={settings[key]!r}, the weights have {value}.",
                code="SHAPE_MISMATCH",
                field=key,
            )
    hook_name = need(settings, "hook_point_in", str, config_file)
    hook_name_out = str(settings.get("hook_point_out") or "")
    _check_places(source, settings, weights_file=weights_file, d_in=d_in, d_sae=d_sae)
    transcoder = hook_name_out not in ("", hook_name)
    return JumpReLUConfig(
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_out if transcoder else d_in,
        dtype=stored_dtype(header, "encoder.weight"),
        apply_b_dec_to_input=False,
        transcoder=transcoder,
        metadata=_metadata(
            source, dialect, model_name, hook_name, hook_name_out if transcoder else ""
        ),
    )


def _check_places(
    source: FileSource, settings: Mapping[str, Any], *, weights_file: str, d_in: int, d_sae: int
) -> None:
    """Expansion, layers and the folder's name (...L5R...: layer 5, residual stream) against the
    rest."""
    times = settings.get("expansion_factor")
    if type(times) in (int, float):
        agree(
            ("d_model * expansion_factor", d_in * float(str(times))),
            ("the width of encoder.weight", d_sae),
            code="SHAPE_MISMATCH",
        )
    read_from, write_to = str(settings["hook_point_in"]), str(settings.get("hook_point_out") or "")
    agree(
        ("the layer in hook_point_in", layer_in(read_from)),
        ("the layer in hook_point_out", layer_in(write_to)),
    )
    folder = place(source, weights_file).removesuffix(f"/{weights_file}").rpartition("/")[2]
    match = re.search(r"(?:^|-)L(\d+)(R|A|M)(?:-|$)", folder)
    if not match:
        return
    agree(
        ("the folder's name: layer", int(match[1])),
        ("the layer in hook_point_in", layer_in(read_from)),
    )
    if not read_from.endswith(_PLACES[match[2]]):
        raise contradiction(
            (f"the folder's name: {match[0]}", match[2]), ("hook_point_in", read_from)
        )


def pick_gate(source: FileSource) -> str:
    """The gate to use: "upstream" unless the user asks for "saelens"."""
    gate = str(source.known.get("gate") or "upstream")
    if gate not in GATES:
        raise ArgumentError(
            f"There is no gate {gate!r}.",
            field="gate",
            got=gate,
            allowed=GATES,
            hint='Use gate="upstream".',
        )
    return gate


def row_norms(W_dec: Tensor) -> Tensor:
    """Norms of the decoder's rows, in float32 and in bounded memory."""
    return torch.cat([rows.float().norm(dim=-1) for rows in W_dec.split(8192)]).clamp(min=1e-8)


def fold(tensors: dict[str, Tensor], norms: Norms) -> None:
    """Fold the scale of training into the weights, so that they take raw activations; thresholds
    and b_enc live in the scaled space."""
    tensors["W_enc"].mul_(norms.read)
    tensors["W_dec"].div_(norms.written)
    tensors["b_dec"].div_(norms.written)


def factor(source: FileSource, norm: object, d_model: int, what: str) -> float:
    """sqrt(d) over the average norm, which a configuration, a tensor or the catalogue says."""
    if type(norm) in (int, float) and float(str(norm)) > 0:
        return math.sqrt(d_model) / float(str(norm))
    known = source.known.get("norm_scaling_factor")
    if type(known) in (int, float) and float(str(known)) > 0:
        return float(str(known))
    raise ConfigError(
        f"Nothing says by how much the activations were scaled for training ({what}).",
        field="norm_scaling_factor",
        hint="Load it by its release, or from the hub: the catalogue knows the factor.",
    )


def _norms(source: FileSource, settings: Mapping[str, Any], cfg: SAEConfig) -> Norms:
    mode = settings.get("norm_activation", "dataset-wise")
    if mode == "inference":
        return Norms(1.0, 1.0)
    if mode != "dataset-wise":
        raise unsupported(
            "norm_activation", file=CONFIG, got=mode, allowed=["dataset-wise", "inference"]
        )
    norms = settings.get("dataset_average_activation_norm")
    norms = norms if isinstance(norms, dict) else {}
    read_norm = factor(source, norms.get("in"), cfg.d_in, "dataset_average_activation_norm.in")
    written = (
        factor(source, norms.get("out"), cfg.d_out, "dataset_average_activation_norm.out")
        if cfg.transcoder
        else read_norm
    )
    return Norms(read_norm, written)


def _check(settings: Mapping[str, Any], config_file: str) -> None:
    refused = {
        "act_fn": ("jumprelu", ["jumprelu"]),
        "use_glu_encoder": (False, ["false"]),
        "apply_decoder_bias_to_pre_encoder": (False, ["false"]),
        "use_decoder_bias": (True, ["true"]),
    }
    for key, (value, allowed) in refused.items():
        if (
            key in settings
            and (settings[key].lower() if isinstance(settings[key], str) else settings[key])
            != value
        ):
            raise unsupported(key, file=config_file, got=settings[key], allowed=allowed)


def _metadata(
    source: FileSource, dialect: str, model_name: str, hook_name: str, hook_name_out: str
) -> SAEMetadata:
    gate = pick_gate(source)
    return metadata(
        source,
        dialect,
        model_name=model_name,
        hook_name=hook_name,
        hook_name_out=hook_name_out,
        prepend_bos=True,
        context_size=CONTEXT_SIZE,
        gate=gate,
        note=NOTES[gate],
    )


DIALECT = Dialect(
    name=NAME,
    matches=folder_with(CONFIG),
    wanted=inside(CONFIG, FILE),
    recipe=_recipe,
)
