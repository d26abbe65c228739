"""EleutherAI's sparsify on disk: `cfg.json` and `sae.safetensors` in a folder that is called as the module that it was trained on.

It encodes `x - b_dec`, unless it is a transcoder (`transcode`): that one predicts a module's output from its input.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saescope.errors import ConfigError
from saescope.formats.hf_sites import hook_of
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
from saescope.formats.source import Source, join
from saescope.formats.weights import TensorInfo
from saescope.saes import GroupMaxConfig, SAEConfig, SAEMetadata, TopKConfig

NAME = "sparsify"
CONFIG, FILE, RUN_CONFIG = "cfg.json", "sae.safetensors", "config.json"


def matches(names: set[str]) -> bool:
    return {CONFIG, FILE} <= names


def wanted(path: str) -> tuple[str, ...]:
    return (join(path, CONFIG), join(path, FILE), join(path.rpartition("/")[0], RUN_CONFIG))


def peek(source: Source) -> tuple[SAEConfig, dict[str, TensorInfo]]:
    """Configuration and the header of the weights."""
    recipe = _recipe(source)
    return recipe.cfg, recipe.infos()


def read(source: Source, dtype: torch.dtype) -> tuple[SAEConfig, dict[str, Tensor]]:
    """Configuration and weights."""
    return _recipe(source).read(source, dtype)


def _recipe(source: Source) -> Recipe:
    config, file = source.at(CONFIG), source.at(FILE)
    said, header = source.json(config), header_of(source, file)
    _check(said)
    d_sae, d_in = matrix(file, header, "encoder.weight")
    expected = said.get("num_latents") or need(said, "d_in", int, config) * need(
        said, "expansion_factor", int, config
    )
    if (d_in, d_sae) != (said.get("d_in"), expected):
        raise ConfigError(
            f"{CONFIG} says d_in={said.get('d_in')} and {expected} latents, the weights are {d_in} by {d_sae}.",
            code="SHAPE_MISMATCH",
        )
    transcode = bool(said.get("transcode", False))
    activation = str(said.get("activation") or "topk")
    kind = {"topk": TopKConfig, "groupmax": GroupMaxConfig}.get(activation)
    if kind is None:
        raise unsupported("activation", file=config, got=activation, allowed=["topk", "groupmax"])
    decoder = header.get("W_dec", header.get("decoder.weight", TensorInfo((), ""))).shape
    cfg = kind(
        d_in=d_in,
        d_sae=d_sae,
        d_out=(decoder[1] if "W_dec" in header else decoder[0])
        if transcode and len(decoder) == 2
        else d_in,
        k=need(said, "k", int, config),
        dtype=stored_dtype(header, "encoder.weight"),
        apply_b_dec_to_input=not transcode,
        transcoder=transcode,
        skip=bool(said.get("skip_connection", False)),
        metadata=_metadata(source, said, transcode),
    )
    return Recipe(cfg=cfg, file=file, stored=_stored(header, cfg))


def _stored(header: Mapping[str, TensorInfo], cfg: SAEConfig) -> dict[str, Stored]:
    stored = {
        "W_enc": Stored("encoder.weight", turned=True),
        "b_enc": Stored("encoder.bias"),
        "b_dec": Stored("b_dec"),
    }
    # W_dec is [d_sae, d_in] already; sae-lens turns it once more.
    stored["W_dec"] = (
        Stored("decoder.weight", turned=True) if "decoder.weight" in header else Stored("W_dec")
    )
    return stored | ({"W_skip": Stored("W_skip")} if cfg.skip else {})


def _check(said: Mapping[str, Any]) -> None:
    if said.get("signed"):
        raise unsupported("signed", file=CONFIG, got=True, allowed=["false"])
    if said.get("skip_connection") and not said.get("transcode"):
        raise unsupported(
            "skip_connection", file=CONFIG, got=True, allowed=["only together with transcode"]
        )


def _metadata(source: Source, said: Mapping[str, Any], transcode: bool) -> SAEMetadata:
    run_config = join(source.folder.rpartition("/")[0], RUN_CONFIG)
    run = source.json(run_config) if source.folder and source.exists(run_config) else {}
    model_name = str(run.get("model") or source.known.get("model_name") or "")
    module = place(source, source.at(CONFIG)).removesuffix(f"/{CONFIG}").rpartition("/")[2]
    context_size = run.get("ctx_len")
    return metadata(
        source,
        NAME,
        model_name=model_name,
        hook_name=hook_of(module, "input" if transcode else "output", model_name),
        hook_name_out=hook_of(module, "output", model_name) if transcode else "",
        hookpoint=module,
        context_size=context_size if type(context_size) is int else None,
        dataset_path=str(run.get("dataset") or ""),
    )
