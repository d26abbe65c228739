"""Gemma Scope 2 on disk: `params.safetensors` and `config.json` (SAEs, transcoders); one file a
layer for cross-layer transcoders.

The transcoders read what the MLP reads: the residual stream after `pre_feedforward_layernorm`, its
weight included.
"""

import re
from typing import Any

from saescope.errors import ConfigError
from saescope.formats.agreement import agree, contradiction
from saescope.formats.dialect import Dialect
from saescope.formats.hf_sites import hook_of, layer_of, origin
from saescope.formats.recipe import (
    Recipe,
    Stored,
    header_of,
    matrix,
    metadata,
    place,
    stored_dtype,
    unsupported,
)
from saescope.formats.source import FileSource, join
from saescope.formats.weights import TensorInfo
from saescope.saes import JumpReLUConfig, SAEConfig

NAME = "gemma_3"
FILE, CONFIG = "params.safetensors", "config.json"
CONTEXT_SIZE = 1024
NOTE_CLT = (
    "One layer of a cross-layer transcoder: its decoder is the sum over all layers "
    "that it writes to, so read its features, "
    "not its reconstruction."
)
_SKIP = "affine_skip_connection"
_CLT_FILE = re.compile(r"params_layer_(\d+)\.safetensors")
_SITES = {
    "resid_post": ("{layer}.output", ""),
    "attn_out": ("{layer}.self_attn.o_proj.input", ""),
    "mlp_out": ("{layer}.post_feedforward_layernorm.output", ""),
    "transcoder": (
        "{layer}.pre_feedforward_layernorm.output",
        "{layer}.post_feedforward_layernorm.output",
    ),
    "clt": (
        "{layer}.pre_feedforward_layernorm.output",
        "{layer}.post_feedforward_layernorm.output",
    ),
}


def _matches(names: set[str]) -> bool:
    return FILE in names or (len(names) == 1 and bool(_CLT_FILE.fullmatch(next(iter(names)))))


def _wanted(path: str) -> tuple[str, ...]:
    return (_weights_file(path),) if _is_clt(path) else (join(path, CONFIG), join(path, FILE))


def _is_clt(path: str) -> bool:
    return path.endswith(".safetensors") or bool(re.search(r"(?:^|/)clt[^/]*(?:/|$)", path))


def _weights_file(path: str) -> str:
    if _is_clt(path):
        return path if path.endswith(".safetensors") else f"{path}.safetensors"
    return join(path, FILE)


def _recipe(source: FileSource) -> Recipe:
    clt, file = _is_clt(source.path), _weights_file(source.path)
    settings, path = _settings(source, clt), place(source, file)
    header = header_of(source, file)
    d_in, d_sae = matrix(file, header, "w_enc")
    if type(settings.get("width")) is int:
        agree(
            (f"{CONFIG}: width", settings["width"]),
            ("the width of w_enc", d_sae),
            code="SHAPE_MISMATCH",
        )
    affine = _is_affine(settings, path, header)
    read_from, write_to, layer = _sites(settings, path, clt)
    model_name = _model_name(settings, path)
    hook_name, hook_name_out = _hook(read_from, model_name), _hook(write_to, model_name)
    transcoder = clt or bool(hook_name_out)
    decoder = header.get("w_dec", TensorInfo((), ""))
    cfg = JumpReLUConfig(
        d_in=d_in,
        d_sae=d_sae,
        d_out=decoder.shape[-1] if transcoder and decoder.shape else d_in,
        dtype=stored_dtype(header, "w_enc"),
        apply_b_dec_to_input=False,
        transcoder=transcoder,
        skip=affine,
        metadata=metadata(
            source,
            NAME,
            model_name=model_name,
            hook_name=hook_name,
            hook_name_out=hook_name_out,
            hf_hook_name=read_from,
            hf_hook_name_out=write_to,
            **_origin(read_from, write_to),
            prepend_bos=True,
            context_size=CONTEXT_SIZE,
            note=NOTE_CLT if clt else "",
            sums_decoders=(clt and decoder.shape[1:2] > (layer + 1,)) or None,
        ),
    )
    stored = {"W_enc": Stored("w_enc")} | {
        name: Stored(name) for name in ("b_enc", "b_dec", "threshold")
    }
    stored["W_dec"] = _decoder(decoder, cfg, layer) if clt else Stored("w_dec")
    return Recipe(
        cfg=cfg,
        file=file,
        stored=stored | ({"W_skip": Stored(_SKIP, turned=True)} if cfg.skip else {}),
    )


def _decoder(info: TensorInfo, cfg: SAEConfig, layer: int) -> Stored:
    # [d_sae, n_layers, d_out]: features of layer L write to L and later; what lies below L is never
    # used.
    n_layers = info.shape[1] if len(info.shape) == 3 else layer + 1
    return Stored("w_dec", shape=(cfg.d_sae, max(n_layers, layer + 1), cfg.d_out), sum_from=layer)


def _settings(source: FileSource, clt: bool) -> dict[str, Any]:
    """config.json, where there is one."""
    name = source.at(CONFIG)
    settings = source.json(name) if not clt and source.exists(name) else {}
    architecture = settings.get("architecture", "jump_relu")
    if architecture != "jump_relu":
        raise unsupported("architecture", file=name, got=architecture, allowed=["jump_relu"])
    return settings


def _is_affine(settings: dict[str, Any], path: str, header: dict[str, TensorInfo]) -> bool:
    """Whether there is a skip connection; if its tensor is then missing, the weights are refused
    for that."""
    named = bool(re.search(r"_affine(?:/|\.|$)", path))
    said_so = settings.get("affine_connection")
    if said_so is False:
        agree(
            (f"{CONFIG}: affine_connection", False),
            (f"{_SKIP} in {FILE}", _SKIP in header),
            ("_affine in the folder's name", named),
        )
    return _SKIP in header or bool(said_so) or named


def _part(module: str) -> str:
    """The part of a block that a module belongs to."""
    if "attn" in module:
        return "attention"
    return "MLP" if "layernorm" in module or "mlp" in module else "residual stream"


def _sites(settings: dict[str, Any], path: str, clt: bool) -> tuple[str, str, int]:
    """The module that is read, the one that is written, and the layer: as config.json says, else as
    the folder is called."""
    match = re.search(r"layer_(\d+)", path.rpartition("/")[2]) or re.search(r"layer_(\d+)", path)
    kinds = (re.sub(r"_all$", "", part) for part in reversed(path.split("/")))
    kind = "clt" if clt else next((kind for kind in kinds if kind in _SITES), "")
    layer = f"model.layers.{match[1]}" if match else ""
    read_from, write_to = (
        site.format(layer=layer) for site in (_SITES[kind] if kind and layer else ("", ""))
    )
    if read_from and settings.get("hf_hook_point_in"):
        agree(
            (f"what the folder {kind!r} reads", _part(read_from)),
            (f"{CONFIG}: hf_hook_point_in", _part(str(settings["hf_hook_point_in"]))),
        )
    read_from, write_to = (
        str(settings.get("hf_hook_point_in") or read_from),
        str(settings.get("hf_hook_point_out") or write_to),
    )
    inside = layer_of(read_from)
    if match and inside is not None and inside != int(match[1]):
        raise ConfigError(
            f"{CONFIG} says {read_from}, the folder is called {match[0]}: one of them is wrong.",
            field="hf_hook_point_in",
            got=read_from,
        )
    written = layer_of(write_to)
    if None not in (inside, written) and written != inside:
        raise contradiction(
            (f"{CONFIG}: hf_hook_point_in", read_from), (f"{CONFIG}: hf_hook_point_out", write_to)
        )
    # Published SAEs repeat their own site as the output; only another one makes a transcoder.
    return (
        read_from,
        write_to if write_to != read_from else "",
        int(match[1]) if match else inside or 0,
    )


def _origin(read_from: str, write_to: str) -> dict[str, str]:
    (module, _, side), writes = read_from.rpartition("."), write_to.rpartition(".")[0]
    return origin(module, side, writes=writes)


def _hook(module: str, model_name: str) -> str:
    if not module:
        return ""
    name, _, side = module.rpartition(".")
    hook_name = hook_of(name, side, model_name or "gemma-3")
    if not hook_name:
        raise ConfigError(
            f"{CONFIG} names a place in the model that saescope does not know: {module!r}.",
            field="hf_hook_point_in",
            got=module,
            allowed=[site for pair in _SITES.values() for site in pair if site],
        )
    return hook_name


def _model_name(settings: dict[str, Any], path: str) -> str:
    match = re.search(r"gemma-scope-2-((?:270m|1b|4b|12b|27b)-(?:pt|it))", path)
    name = str(settings.get("model_name") or (f"gemma-3-{match[1]}" if match else "")).replace(
        "-v3", "-3"
    )
    if not name:
        return ""
    name = name if "/" in name else f"google/{name}"
    return (
        name.replace("-pt", "") if "270m" in name else name
    )  # the hub has google/gemma-3-270m, without "-pt"


DIALECT = Dialect(
    name=NAME,
    matches=_matches,
    wanted=_wanted,
    recipe=_recipe,
)
