"""Gemma Scope on disk: `params.npz`; layer, site and model are in the names of repository and
folder (arXiv:2408.05147)."""

import re
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from saescope.formats.agreement import agree_along, contradiction
from saescope.formats.beside import check_width, neighbours
from saescope.formats.dialect import Dialect, folder_with, never
from saescope.formats.recipe import Recipe, Stored, header_of, matrix, metadata, place, stored_dtype
from saescope.formats.source import FileSource, join
from saescope.saes import JumpReLUConfig

NAME = "gemma_2"
FILE = "params.npz"
CONTEXT_SIZE = 1024
_LAYER = re.compile(r"\blayer_(\d+)\b")
_WIDTH = re.compile(r"\bwidth_(\d+[km])\b")
_REPOSITORY = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)\b")
_SPELLINGS = {
    "W_enc": ("w_enc", "wenc", "w_e"),
    "W_dec": ("w_dec", "wdec", "w_d"),
    "b_enc": ("b_enc", "benc", "b_e"),
    "b_dec": ("b_dec", "bdec", "b_d"),
    "threshold": ("threshold",),
}


class _Where(NamedTuple):
    """What the names on the way to the file say."""

    model_name: str
    site: str
    """"res", "mlp", "att", "transcoders", or "" if no name says it."""
    layer: str
    embedding: bool
    width: str
    """"16k", or "" if no name says it."""


def _wanted(path: str) -> tuple[str, ...]:
    return (join(path, FILE), *neighbours(join(path, FILE)))


def _where(source: FileSource) -> _Where:
    """Layer, site and model as the names say."""
    path = place(source, source.at(FILE))
    match = next(reversed([*_REPOSITORY.finditer(path)]), None)
    size, kind, site = match.groups() if match else ("", "", "")
    inside = path[match.end() :] if match else path
    for pattern in (_LAYER, _WIDTH):
        agree_along(inside, pattern)
    layer, width = _LAYER.search(inside), _WIDTH.search(inside)
    embedding = bool(re.search(r"(?:^|/)embedding(?:/|$)", inside))
    if embedding and (layer or site not in ("", "res")):
        raise contradiction(
            ("the folder's name", "embedding"), ("another name", layer[0] if layer else site)
        )
    model_name = f"google/gemma-2-{size}{'-it' if kind == 'it' else ''}" if size else ""
    return _Where(
        model_name,
        site,
        layer[1] if layer else "",
        embedding,
        width[1] if width else "",
    )


def _recipe(source: FileSource) -> Recipe:
    file = source.at(FILE)
    at = _where(source)
    if _is_transcoder(source, at):
        return _transcoder(source)
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
    meta = metadata(
        source,
        NAME,
        model_name=at.model_name,
        hook_name=hook_name,
        prepend_bos=True,
        context_size=CONTEXT_SIZE,
    )
    cfg = JumpReLUConfig(
        d_in=d_in,
        d_sae=d_sae,
        dtype=stored_dtype(header, W_enc),
        apply_b_dec_to_input=False,
        reshape_activations="hook_z" if meta.hook_name.endswith("hook_z") else "none",
        metadata=meta,
    )
    check_width(at.width, d_sae)
    stored = {"W_enc": Stored(W_enc), "W_dec": Stored(W_dec)} | {
        name: Stored(name) for name in ("b_enc", "b_dec", "threshold")
    }
    # In a folder of another name the user says where it belongs.
    fix = _scale_embedding if meta.hook_name == "hook_embed" else lambda _: None
    return Recipe(cfg=cfg, file=file, stored=stored, fix=fix)


def _transcoder(source: FileSource) -> Recipe:
    """Reads the MLP's input before the norm's weight, and predicts its output."""
    file, at = source.at(FILE), _where(source)
    header = header_of(source, file)
    ours = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}
    stored = {ours[name.lower()]: Stored(name) for name in header if name.lower() in ours}
    W_enc = stored.get("W_enc", Stored("W_enc")).tensor
    d_in, d_sae = matrix(file, header, W_enc)
    _, d_out = matrix(file, header, stored.get("W_dec", Stored("W_dec")).tensor)
    hook_name = f"blocks.{at.layer}.ln2.hook_normalized" if at.layer else ""
    hook_name_out = f"blocks.{at.layer}.hook_mlp_out" if at.layer else ""
    meta = metadata(
        source,
        f"{NAME}_transcoder",
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
        metadata=meta,
    )
    check_width(at.width, d_sae)
    return Recipe(cfg=cfg, file=file, stored=stored or {"W_enc": Stored("W_enc")})


def _is_transcoder(source: FileSource, at: _Where) -> bool:
    """Whether it is a transcoder, as the name of the repository tells; in a folder of another name
    the user says where it writes to."""
    writes = str(source.known.get("hook_name_out") or "")
    if writes and (at.embedding or at.site not in ("", "transcoders")):
        raise contradiction(
            ("the repository's name", at.site or "embedding"), ("hook_name_out", writes)
        )
    return at.site == "transcoders" or bool(writes)


def _scale_embedding(tensors: dict[str, Tensor]) -> None:
    # Trained on rows of the embedding matrix; the model multiplies them by sqrt(d_model) before
    # anything sees them.
    factor = tensors["W_dec"].shape[1] ** 0.5
    tensors["W_enc"].div_(factor)
    tensors["W_dec"].mul_(factor)


SAES = Dialect(
    name=NAME,
    matches=folder_with(FILE),
    wanted=_wanted,
    recipe=_recipe,
)
TRANSCODERS = replace(SAES, name=f"{NAME}_transcoder", matches=never, recipe=_transcoder)
"""The transcoders' files are alike: the catalogue says which they are, `_is_transcoder` finds
out."""
