"""What the names of a published SAE say of it, dialect by dialect: its site, width, architecture
and weights file.

The sites are those that the SAEs were trained on, also where SAELens names another: a Gemma Scope 2
transcoder reads the MLP's normalised input (`mlp.hook_in`), not the residual stream before the
norm. Where only the SAE's own files know, the answer is empty.
"""

import re
from typing import NamedTuple


class PublishedName(NamedTuple):
    """The names under which an SAE is published."""

    dialect: str
    release: str
    repo_id: str
    sae_id: str
    path: str


_LAYER = re.compile(r"(?:layer_?|^l|/L|blocks\.)(\d+)")
_HOOK = re.compile(r"blocks\.\d+\.hook_(?:resid_pre|resid_mid|resid_post|attn_out|mlp_out)")
_WIDTHS = {"4k": 12, "16k": 14, "32k": 15, "65k": 16, "131k": 17, "262k": 18, "524k": 19, "1m": 20}
"""Gemma Scope's names of powers of two."""
_N_FEATURES = re.compile(
    r"hook_[a-z_]+_(\d{3,})(?:[:_]|$)|_ds(\d+)_|2pow(\d+)|-W(\d+)K-|[_-](\d+)x$|w-(32)k-|v5_(\d+)k_"
)
_LLAMA_D_MODEL = 4096
_SITES = {
    "gemma_3": {
        "resid_post": "hook_resid_post",
        "attn_out": "attn.hook_z",
        "mlp_out": "hook_mlp_out",
        "transcoder": "mlp.hook_in",
    },
    "gemma_2": {"res": "hook_resid_post", "att": "attn.hook_z", "mlp": "hook_mlp_out"},
    "llama_scope": {"R": "hook_resid_post", "A": "hook_attn_out", "M": "hook_mlp_out"},
}
_ONE_SITE = {
    **dict.fromkeys(
        (
            "dictionary_learning_1",
            "qwen_scope",
            "llama_scope_r1_distill",
            "goodfire",
            "deepseek_r1",
            "temporal",
        ),
        "hook_resid_post",
    ),
    "gemma_2_transcoder": "ln2.hook_normalized",
    "mwhanna_transcoder": "mlp.hook_in",
    "connor_rob_hook_z": "attn.hook_z",
}
_ARCHITECTURES = {
    "gemma_2": "jumprelu",
    "gemma_2_transcoder": "jumprelu_transcoder",
    "llama_scope": "jumprelu",
    "llama_scope_r1_distill": "jumprelu",
    "qwen_scope": "topk",
    "mwhanna_transcoder": "transcoder",
    "mntss_clt_layer_transcoder": "transcoder",
    "connor_rob_hook_z": "standard",
    "goodfire": "standard",
    "deepseek_r1": "standard",
    "temporal": "temporal",
}
_NAMED_ARCHITECTURES = (
    ("matryoshka", "matryoshka_batchtopk"),
    ("_topk_", "topk"),
    ("_vanilla_", "standard"),
    ("_standard_", "standard"),
    ("_panneal_", "standard"),
    ("_gated_", "gated"),
    ("-v5-", "topk"),
    ("-res-jb", "standard"),
    ("-mlp-tm", "standard"),
)
_WEIGHTS = {
    "sae_lens": "{path}/sae_weights.safetensors",
    "gemma_3": "{path}/params.safetensors",
    "gemma_2": "{path}/params.npz",
    "gemma_2_transcoder": "{path}/params.npz",
    "dictionary_learning_1": "{path}/ae.pt",
    "llama_scope": "{path}/checkpoints/final.safetensors",
    "llama_scope_r1_distill": "{path}/sae_weights.safetensors",
    "mntss_clt_layer_transcoder": "W_enc_{path}.safetensors",
    "temporal": "{path}/latest_ckpt.safetensors",
}


def layer(place: PublishedName) -> int | None:
    """The layer in the names; None for embeddings."""
    for name in (place.sae_id, place.path):
        match = _LAYER.search(name)
        if match:
            return int(match[1])
    return None


def hook_name(place: PublishedName) -> str:
    """The site that the SAE reads; "" if its names do not say."""
    at, site = layer(place), _ONE_SITE.get(place.dialect, "")
    if place.dialect == "sae_lens":
        match = _HOOK.search(place.sae_id)
        return match[0] if match else ""
    if place.dialect == "gemma_2":
        if place.path.startswith("embedding"):
            return "hook_embed"
        site = _SITES["gemma_2"][place.repo_id.rpartition("-")[2]]
    elif place.dialect == "gemma_3":
        site = _SITES["gemma_3"][place.path.partition("/")[0].removesuffix("_all")]
    elif place.dialect == "llama_scope":
        site = _SITES["llama_scope"][place.repo_id.split("-")[-2][-1]]
    return f"blocks.{at}.{site}" if site and at is not None else ""


def d_sae(place: PublishedName) -> int | None:
    """The number of features, where a name states it."""
    gemma = (
        re.search(r"width_(\d+[km])\b", place.path.replace("_l0", "/"))
        if place.dialect.startswith("gemma")
        else None
    )
    if gemma:
        return 1 << _WIDTHS[gemma[1]]
    match = _N_FEATURES.search(f"{place.repo_id}/{place.path}")
    if match is None or place.dialect == "llama_scope_r1_distill":
        return None
    plain, ds, power, thousands, factor, w32, v5 = match.groups()
    if plain or ds:
        return int(plain or ds)
    if power:
        return 1 << int(power)
    return int(factor) * _LLAMA_D_MODEL if factor else int(thousands or w32 or v5) * 1024


def architecture(place: PublishedName) -> str:
    """SAELens's name of the architecture; "" if the names do not say."""
    if place.dialect == "gemma_3":
        kind = (
            "jumprelu_skip_transcoder" if place.path.endswith("_affine") else "jumprelu_transcoder"
        )
        return kind if place.path.startswith("transcoder") else "jumprelu"
    if place.dialect in _ARCHITECTURES:
        return _ARCHITECTURES[place.dialect]
    names = f"{place.release}/{place.path}".lower()
    return next((architecture for word, architecture in _NAMED_ARCHITECTURES if word in names), "")


def weights_file(dialect: str, path: str) -> str:
    """The file that holds the weights, relative to the repository root."""
    return _WEIGHTS.get(dialect, "{path}").format(path=path)
