"""One layer of a cross-layer transcoder of circuit-tracer's form: `W_enc_{L}.safetensors`,
`W_dec_{L}.safetensors`, `config.yaml`."""

import re
from typing import Any

from saescope.errors import FormatError
from saescope.formats.agreement import contradiction
from saescope.formats.dialect import Dialect, file_named
from saescope.formats.gemma_3 import NOTE_CLT
from saescope.formats.recipe import (
    Recipe,
    Stored,
    header_of,
    matrix,
    metadata,
    need,
    stored_dtype,
    unsupported,
)
from saescope.formats.source import FileSource, join
from saescope.formats.weights import TensorInfo
from saescope.saes import JumpReLUConfig, StandardConfig

NAME = "mntss_clt_layer_transcoder"
CONFIG = "config.yaml"
_ENCODER = re.compile(r"W_enc_(\d+)\.safetensors")


def _wanted(path: str) -> tuple[str, ...]:
    match = _layer(path)
    return _files(path.rpartition("/")[0], int(match[1])) if match else ()


def _files(folder: str, layer: int) -> tuple[str, ...]:
    return tuple(
        join(folder, name)
        for name in (CONFIG, f"W_enc_{layer}.safetensors", f"W_dec_{layer}.safetensors")
    )


def _where(path: str) -> tuple[str, int]:
    """The folder, and the layer: the catalogue says "5", a user the encoder's file."""
    match = _layer(path)
    if not match:
        raise FormatError(
            f"{path!r} names no layer of a cross-layer transcoder.",
            code="AMBIGUOUS_SAE",
            field="path",
            got=path,
            allowed="W_enc_<layer>.safetensors",
            hint='Name its encoder: ".../W_enc_5.safetensors".',
        )
    return path.rpartition("/")[0], int(match[1])


def _layer(path: str) -> re.Match[str] | None:
    name = path.rpartition("/")[2]
    return _ENCODER.fullmatch(name) or re.fullmatch(r"(?:layer_)?(\d+)", name)


def _check_activation(settings: dict[str, Any], jump: bool) -> None:
    activation = settings.get("activation")
    if activation not in (None, "relu", "jump_relu", "jumprelu"):
        raise unsupported("activation", file=CONFIG, got=activation, allowed=["relu", "jump_relu"])
    if activation is not None and jump == (activation == "relu"):
        raise contradiction(
            (f"{CONFIG}: activation", activation), ("a threshold in the encoder's file", jump)
        )


def _recipe(source: FileSource) -> Recipe:
    folder, layer = _where(source.path)
    config, encoder_file, decoder_file = _files(folder, layer)
    settings = source.yaml(config)
    if settings.get("model_kind", "cross_layer_transcoder") != "cross_layer_transcoder":
        raise unsupported(
            "model_kind",
            file=config,
            got=settings["model_kind"],
            allowed=["cross_layer_transcoder"],
        )
    encoder, decoder = header_of(source, encoder_file), header_of(source, decoder_file)
    d_sae, d_in = matrix(encoder_file, encoder, f"W_enc_{layer}")
    on_disk = decoder.get(f"W_dec_{layer}", TensorInfo((), "")).shape
    n_layers, d_out = on_disk[1:] if len(on_disk) == 3 else (1, d_in)
    jump = f"threshold_{layer}" in encoder
    _check_activation(settings, jump)
    cfg = (JumpReLUConfig if jump else StandardConfig)(
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_out,
        dtype=stored_dtype(encoder, f"W_enc_{layer}"),
        apply_b_dec_to_input=False,
        transcoder=True,
        metadata=metadata(
            source,
            NAME,
            model_name=need(settings, "model_name", str, config),
            hook_name=f"blocks.{layer}.{need(settings, 'feature_input_hook', str, config)}",
            hook_name_out=f"blocks.{layer}.{need(settings, 'feature_output_hook', str, config)}",
            note=NOTE_CLT,
            sums_decoders=n_layers > 1 or None,
        ),
    )
    stored = {
        "W_enc": Stored(f"W_enc_{layer}", turned=True),
        "b_enc": Stored(f"b_enc_{layer}"),
        "b_dec": Stored(f"b_dec_{layer}"),
        "W_dec": Stored(f"W_dec_{layer}", shape=(d_sae, n_layers, d_out), sum_from=0),
    }
    stored |= {"threshold": Stored(f"threshold_{layer}")} if jump else {}
    return Recipe(cfg=cfg, file=encoder_file, stored=stored, other={f"W_dec_{layer}": decoder_file})


DIALECT = Dialect(
    name=NAME,
    matches=file_named(_ENCODER),
    wanted=_wanted,
    recipe=_recipe,
)
