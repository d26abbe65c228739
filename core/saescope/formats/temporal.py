"""Temporal SAEs on disk (canrager/temporalSAEs): `conf.yaml` and `latest_ckpt.safetensors`."""

import re

from saescope.errors import ConfigError
from saescope.formats.agreement import agree
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
)
from saescope.formats.source import FileSource
from saescope.saes import TemporalConfig

NAME = "temporal"
CONFIG, FILE = "conf.yaml", "latest_ckpt.safetensors"


def _recipe(source: FileSource) -> Recipe:
    config, file = source.at(CONFIG), source.at(FILE)
    settings, header = source.yaml(config), header_of(source, file)
    d_sae, d_in = matrix(file, header, "D")
    expected = int(
        need(settings, "llm.dimin", int, config)
        * need(settings, "sae.exp_factor", (int, float), config)
    )
    if expected != d_sae:
        raise ConfigError(
            f"{CONFIG} says d_sae = {expected}, the weights have {d_sae}.",
            code="SHAPE_MISMATCH",
            field="sae.exp_factor",
        )
    agree(
        (f"{CONFIG}: llm.dimin", settings["llm"]["dimin"]),
        ("the width of D", d_in),
        code="SHAPE_MISMATCH",
    )
    tied = need(settings, "sae.tied_weights", bool, config)
    layer = re.search(r"layer_(\d+)", place(source, config))
    if layer:
        agree(
            ("the folder's name: layer", int(layer[1])),
            (f"{CONFIG}: llm.layer", settings["llm"].get("layer")),
        )
    cfg = TemporalConfig(
        d_in=d_in,
        d_sae=d_sae,
        dtype=stored_dtype(header, "D"),
        normalize_activations="constant_scalar_rescale",
        activation_normalization_factor=float(
            need(settings, "sae.scaling_factor", (int, float), config)
        ),
        n_heads=need(settings, "sae.n_heads", int, config),
        n_attn_layers=need(settings, "sae.n_attn_layers", int, config),
        bottleneck_factor=need(settings, "sae.bottleneck_factor", int, config),
        sae_diff_type=need(settings, "sae.sae_diff_type", str, config),
        kval_topk=need(settings, "sae.kval_topk", (int, type(None)), config),
        tied_weights=tied,
        metadata=metadata(
            source, NAME, hook_name=f"blocks.{layer[1]}.hook_resid_post" if layer else ""
        ),
    )
    stored = {"W_dec": Stored("D"), "b_dec": Stored("b")} | ({} if tied else {"W_enc": Stored("E")})
    stored |= {name: Stored(name) for name in header if name.startswith("attn_layers.")}
    return Recipe(cfg=cfg, file=file, stored=_known_only(stored, cfg))


def _known_only(stored: dict[str, Stored], cfg: TemporalConfig) -> dict[str, Stored]:
    """The tensors without those that this configuration has no place for: they are then reported as
    unknown."""
    from saescope.saes import TemporalSAE

    shapes = TemporalSAE.shapes(cfg)
    return {name: stored.get(name, Stored(name)) for name in shapes}


DIALECT = Dialect(
    name=NAME,
    matches=folder_with(CONFIG, FILE),
    wanted=inside(CONFIG, FILE),
    recipe=_recipe,
)
