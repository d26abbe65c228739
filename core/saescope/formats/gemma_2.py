"""Gemma Scope on disk: `params.npz`; layer, site and model are in the names of repository and folder (arXiv:2408.05147)."""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from saescope.formats.recipe import Recipe, Stored, header_of, matrix, metadata, place, stored_dtype
from saescope.formats.source import Source, join
from saescope.formats.weights import TensorInfo
from saescope.saes import JumpReLUConfig, SAEConfig

NAME = "gemma_2"
FILE = "params.npz"
CONTEXT_SIZE = 1024
_REPOSITORY = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)\b")


class Where(NamedTuple):
    """What the names on the way to the file say."""

    model_name: str
    site: str
    """"res", "mlp", "att", "transcoders", or "" if no name says it."""
    layer: str
    embedding: bool


def matches(names: set[str]) -> bool:
    return FILE in names


def wanted(path: str) -> tuple[str, ...]:
    return (join(path, FILE),)


def peek(source: Source) -> tuple[SAEConfig, dict[str, TensorInfo]]:
    """Configuration and tensors, from the zip directory and the header of each array."""
    recipe = _recipe(source)
    return recipe.cfg, recipe.infos()


def read(source: Source, dtype: torch.dtype) -> tuple[SAEConfig, dict[str, Tensor]]:
    """Configuration and weights."""
    return _recipe(source).read(source, dtype)


def where(source: Source) -> Where:
    """Layer, site and model as the names say."""
    path = place(source, source.at(FILE))
    found = _REPOSITORY.search(path)
    size, kind, site = found.groups() if found else ("", "", "")
    layer = re.search(r"\blayer_(\d+)\b", path)
    model_name = f"google/gemma-2-{size}{'-it' if kind == 'it' else ''}" if size else ""
    return Where(
        model_name,
        site,
        layer[1] if layer else "",
        bool(re.search(r"(?:^|/)embedding(?:/|$)", path)),
    )


def _recipe(source: Source) -> Recipe:
    file = source.at(FILE)
    at = where(source)
    if at.site == "transcoders" or str(source.known.get("hook_name_out") or ""):
        from saescope.formats.gemma_2_transcoder import recipe

        return recipe(source)
    header = header_of(source, file)
    # Published files spell the matrices W_enc, W_dec; some conversions w_enc, w_dec.
    W_enc, W_dec = (name if name in header else name.lower() for name in ("W_enc", "W_dec"))
    d_in, d_sae = matrix(file, header, W_enc)
    sites = {
        "res": f"blocks.{at.layer}.hook_resid_post",
        "mlp": f"blocks.{at.layer}.hook_mlp_out",
        "att": f"blocks.{at.layer}.attn.hook_z",
    }
    hook_name = "hook_embed" if at.embedding else sites.get(at.site, "") if at.layer else ""
    cfg = JumpReLUConfig(
        d_in=d_in,
        d_sae=d_sae,
        dtype=stored_dtype(header, W_enc),
        apply_b_dec_to_input=False,
        reshape_activations="hook_z" if hook_name.endswith("hook_z") else "none",
        metadata=metadata(
            source,
            NAME,
            model_name=at.model_name,
            hook_name=hook_name,
            prepend_bos=True,
            context_size=CONTEXT_SIZE,
        ),
    )
    stored = {"W_enc": Stored(W_enc), "W_dec": Stored(W_dec)} | {
        name: Stored(name) for name in ("b_enc", "b_dec", "threshold")
    }
    return Recipe(
        cfg=cfg, file=file, stored=stored, fix=_scale_embedding if at.embedding else lambda _: None
    )


def _scale_embedding(tensors: dict[str, Tensor]) -> None:
    # Trained on rows of the embedding matrix; the model multiplies them by sqrt(d_model) before anything sees them.
    factor = tensors["W_dec"].shape[1] ** 0.5
    tensors["W_enc"].div_(factor)
    tensors["W_dec"].mul_(factor)
