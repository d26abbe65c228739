"""The sites of any family's blocks in a plain Hugging Face model, by the names of its own modules and by nothing of a bridge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]
ATTENTION = ("self_attn", "self_attention", "attn", "attention")
MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
OUTPUT = ("o_proj", "dense", "c_proj", "out_proj", "attention.out_proj", "Wo")
FLAT_MLP = ("opt", "xglm")
"""Families whose block has no module for its MLP: fc1 and fc2 stand in it side by side."""
SCALED = {"granite": 0.5}
"""What attention and the MLP write is multiplied by this before it is added; the hooks stand behind that."""
DOWN = ("down_proj", "dense_4h_to_h", "c_proj", "fc_out", "fc2", "w2", "Wo", "proj_2")
FLAT_SITES = {
    "hook_mlp_out": ("fc2", False),
    "mlp.hook_in": ("fc1", True),
    "mlp.hook_post": ("fc2", True),
}
NORMED_BEFORE_ADDED = {
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma4": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "exaone4": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "flex_olmo": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo3": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "glm4": ("post_self_attn_layernorm", "post_mlp_layernorm"),
    "olmo_hybrid": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "afmoe": ("post_attention_layernorm", "post_mlp_layernorm"),
}
"""What attention and the MLP add to the residual stream is the output of these norms."""


class Plain:
    """A fresh Hugging Face model of a folder, which no bridge ever touched."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        self.hf: Any = model.eval().requires_grad_(False)
        self.family = folder.name

    @property
    def blocks(self) -> nn.ModuleList:
        return next(
            module
            for name, module in self.hf.named_modules()
            if isinstance(module, nn.ModuleList)
            and name.rpartition(".")[2] in ("layers", "h", "blocks")
        )

    def place(self, hook_name: str) -> tuple[nn.Module, bool] | None:
        """The module of a site, and whether the site is its input; None where the family has no such module."""
        _, layer, site = hook_name.split(".", 2)
        block = self.blocks[int(layer)]
        attention, mlp = _child(block, ATTENTION), _child(block, MLP)
        norms = NORMED_BEFORE_ADDED.get(self.family)
        if self.family in FLAT_MLP and site in FLAT_SITES:
            name, is_input = FLAT_SITES[site]
            return block.get_submodule(name), is_input
        places: dict[str, tuple[nn.Module | None, bool]] = {
            "hook_resid_pre": (block, True),
            "hook_resid_post": (block, False),
            "hook_attn_out": (_child(block, norms[:1]) if norms else attention, False),
            "hook_mlp_out": (_child(block, norms[1:]) if norms else mlp, False),
            "attn.hook_z": (attention and _child(attention, OUTPUT), True),
            "mlp.hook_in": (mlp, True),
            "mlp.hook_post": (mlp and _child(mlp, DOWN), True),
        }
        module, is_input = places[site]
        return None if module is None else (module, is_input)

    def logits(self, ids: Tensor, changes: dict[str, Change] | None = None) -> Tensor:
        """Logits with the activation at each named site replaced by a function of it."""
        places = [(self.place(name), change) for name, change in (changes or {}).items()]
        handles = [_attach(place, change) for place, change in places if place]
        assert len(handles) == len(places), "the plain model has no such site"
        try:
            with torch.no_grad():
                return self.hf(ids, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    there = dict(module.named_modules())
    return next((there[name] for name in names if name in there), None)


def _attach(place: tuple[nn.Module, bool], change: Change) -> Any:
    module, is_input = place

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        name = next(iter(kwargs)) if "hidden_states" not in kwargs else "hidden_states"
        return args, kwargs | {name: change(kwargs[name])}

    def after(_: nn.Module, args: Any, out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    if is_input:
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)
