"""OpenAI's GPT-2 SAEs (openai/sparse_autoencoder, arXiv:2406.04093): `{layer}.pt` in a folder that
is called as the location.

Versions 1 and 4 are ReLU on raw activations; version 5 is TopK on layer-normalised ones.
"""

import re
from collections.abc import Mapping
from typing import Any

from saescope.errors import ConfigError
from saescope.formats.agreement import agree, contradiction
from saescope.formats.beside import check_width, with_neighbours
from saescope.formats.dialect import Dialect, file_named
from saescope.formats.pickles import open_pickle
from saescope.formats.recipe import (
    Recipe,
    Stored,
    matrix,
    metadata,
    place,
    stored_dtype,
    unsupported,
)
from saescope.formats.source import FileSource
from saescope.saes import SAEConfig, StandardConfig, TopKConfig

NAME = "openai_gpt2"
_FILE = re.compile(r"(\d+)\.pt")
_SITES = {
    "resid_post_mlp": "hook_resid_post",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_delta_attn": "hook_attn_out",
    "mlp_post_act": "mlp.hook_post",
}


def _recipe(source: FileSource) -> Recipe:
    with open_pickle(source, source.path) as weights:
        header, values = weights.header, weights.values
    d_sae, d_in = matrix(source.path, header, "encoder.weight")
    shared: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": stored_dtype(header, "encoder.weight"),
        "metadata": metadata(source, NAME, model_name="gpt2", hook_name=_hook(source)),
    }
    stored = {
        "W_enc": Stored("encoder.weight", turned=True),
        "b_enc": Stored("latent_bias"),
        "b_dec": Stored("pre_bias"),
    }
    # With tied weights the decoder is saved under the encoder's name, inside the decoder.
    tied = "decoder.linear.weight" in header
    stored["W_dec"] = (
        Stored("decoder.linear.weight") if tied else Stored("decoder.weight", turned=True)
    )
    cfg = _activation(values, shared)
    _check_names(source, cfg)
    return Recipe(
        cfg=cfg, file=source.path, stored=stored, ignored=["stats_last_nonzero", "latents_*"]
    )


def _activation(values: Mapping[str, Any], shared: Mapping[str, Any]) -> SAEConfig:
    activation = values.get("activation", "ReLU")
    k_beside = values.get("activation_state_dict.k")
    if activation == "ReLU":
        if k_beside is not None:
            raise contradiction(
                ("the file's activation", activation), ("its activation_state_dict.k", k_beside)
            )
        return StandardConfig(**shared)
    if activation != "TopK":
        raise unsupported("activation", file="the file", got=activation, allowed=["ReLU", "TopK"])
    after, k = values.get("activation_state_dict.postact_fn", "ReLU"), k_beside
    if after != "ReLU":
        raise unsupported("postact_fn", file="the file", got=after, allowed=["ReLU"])
    if type(k) is not int:
        raise ConfigError(
            f"The file has TopK without a whole number k, got {k!r}.", field="k", got=k
        )
    # As upstream: an SAE with TopK is one that sees layer-normalised activations.
    return TopKConfig(k=k, normalize_activations="layer_norm", **shared)


def _check_names(source: FileSource, cfg: SAEConfig) -> None:
    """Version and width in the names of the folders against what the file holds."""
    path = place(source, source.path)
    for match in re.finditer(r"_v(1|4|5)(?:_(\d+k))?(?=[/_]|$)", path):
        expected = "topk" if match[1] == "5" else "standard"
        agree(
            (f"the activation of version {match[1]}, as the folder is called", expected),
            ("the activation in the file", cfg.architecture),
        )
        check_width(match[2] or "", cfg.d_sae)


def _hook(source: FileSource) -> str:
    layer, path = _FILE.search(source.path), place(source, source.path)
    names = [name for name in _SITES if re.search(rf"(?:^|[/_]){name}(?:_v\d|/|_)", path)]
    agree(*(("the folder's name", name) for name in names))
    site = _SITES[names[0]] if names else ""
    return f"blocks.{layer[1]}.{site}" if layer and site else ""


DIALECT = Dialect(
    name=NAME,
    matches=file_named(_FILE),
    wanted=with_neighbours,
    recipe=_recipe,
)
