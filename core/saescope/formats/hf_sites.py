"""Hugging Face module names, as SAEs name the place that they were trained on, in the words of hook
names."""

import re

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)[._](\d+)(?:\.(.+))?")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|embed_in)$")
_ATTENTION = ("attn", "self_attn", "attention")
_SANDWICH = re.compile(r"gemma-?[23]", re.IGNORECASE)
"""Families whose MLP and attention outputs are normalised before they reach the residual stream."""


def hook_of(module: str, side: str, model_name: str = "") -> str:
    """The hook of a module's "input" or "output"; "" if it is not known: the user must name it.

    `layers.5` -> `blocks.5.hook_resid_post`; `layers.5.mlp` -> `blocks.5.hook_mlp_out`, or
    `blocks.5.mlp.hook_out` where the model has a norm between the two, or may have one.
    """
    if _EMBEDDING.search(module):
        return "hook_embed" if side == "output" else ""
    match = _LAYER.search(module)
    if not match:
        return ""
    block, part = f"blocks.{match[1]}.", match[2] or ""
    written_as_is = is_written_as_is(model_name)
    if part in _ATTENTION:
        return {"output": block + ("hook_attn_out" if written_as_is else "attn.hook_out")}.get(
            side, ""
        )
    sites = {
        ("", "output"): "hook_resid_post",
        ("", "input"): "hook_resid_pre",
        ("mlp", "output"): "hook_mlp_out" if written_as_is else "mlp.hook_out",
        ("mlp", "input"): "mlp.hook_in",
        ("self_attn.o_proj", "input"): "attn.hook_z",
        ("attn.c_proj", "input"): "attn.hook_z",
        ("pre_feedforward_layernorm", "output"): "mlp.hook_in",
        ("post_feedforward_layernorm", "output"): "hook_mlp_out",
        ("pre_feedforward_layernorm", "input"): "hook_resid_mid",
    }
    site = sites.get((part, side), "")
    return block + site if site else ""


def origin(module: str, side: str, *, writes: str = "") -> dict[str, str]:
    """What an SAE's metadata say of its modules, for `settle` to find their hooks in a model;
    nothing where it is no module's name."""
    if layer_of(module) is None and not _EMBEDDING.search(module):
        return {}
    sides = {"hf_module": module, "hf_side": side}
    return sides | ({"hf_module_out": writes} if writes else {})


def is_written_as_is(model_name: str) -> bool:
    """Whether the MLP's own output is what is added to the residual stream; false where the model
    is not known."""
    return bool(model_name) and not _SANDWICH.search(model_name)


def layer_of(module: str) -> int | None:
    """The layer that a module belongs to."""
    match = _LAYER.search(module)
    return int(match[1]) if match else None
