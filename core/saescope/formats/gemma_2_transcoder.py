"""Gemma Scope's transcoders: `params.npz` again; they read the MLP's input before the norm's weight, and predict its output."""

import torch
from torch import Tensor

from saescope.formats.beside import check_beside, check_width
from saescope.formats.gemma_2 import CONTEXT_SIZE, FILE, wanted, where
from saescope.formats.recipe import Recipe, Stored, header_of, matrix, metadata, stored_dtype
from saescope.formats.source import Source
from saescope.formats.weights import TensorInfo
from saescope.saes import JumpReLUConfig, SAEConfig

NAME = "gemma_2_transcoder"
_SPELLINGS = {
    "W_enc": ("w_enc", "wenc", "w_e"),
    "W_dec": ("w_dec", "wdec", "w_d"),
    "b_enc": ("b_enc", "benc", "b_e"),
    "b_dec": ("b_dec", "bdec", "b_d"),
    "threshold": ("threshold",),
}

__all__ = ["NAME", "matches", "peek", "read", "recipe", "wanted"]


def matches(names: set[str]) -> bool:
    """Never by its files, which are those of `gemma_2`: that module tells them apart by their repository."""
    return False


def peek(source: Source) -> tuple[SAEConfig, dict[str, TensorInfo]]:
    """Configuration and tensors, from the zip directory and the header of each array."""
    made = recipe(source)
    return made.cfg, made.infos()


def read(source: Source, dtype: torch.dtype) -> tuple[SAEConfig, dict[str, Tensor]]:
    """Configuration and weights."""
    return recipe(source).read(source, dtype)


def recipe(source: Source) -> Recipe:
    """Of a transcoder's params.npz."""
    file, at = source.at(FILE), where(source)
    header = header_of(source, file)
    ours = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}
    stored = {ours[name.lower()]: Stored(name) for name in header if name.lower() in ours}
    W_enc = stored.get("W_enc", Stored("W_enc")).tensor
    d_in, d_sae = matrix(file, header, W_enc)
    _, d_out = matrix(file, header, stored.get("W_dec", Stored("W_dec")).tensor)
    hook_name = f"blocks.{at.layer}.ln2.hook_normalized" if at.layer else ""
    hook_name_out = f"blocks.{at.layer}.hook_mlp_out" if at.layer else ""
    said = metadata(
        source,
        NAME,
        model_name=at.model_name,
        hook_name=hook_name,
        hook_name_out=hook_name_out,
        prepend_bos=True,
        context_size=CONTEXT_SIZE,
    )
    cfg = JumpReLUConfig(
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_out,
        dtype=stored_dtype(header, W_enc),
        apply_b_dec_to_input=False,
        transcoder=True,
        metadata=said,
    )
    check_width(at.width, d_sae)
    check_beside(source, cfg)
    return Recipe(cfg=cfg, file=file, stored=stored or {"W_enc": Stored("W_enc")})
