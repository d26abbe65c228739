"""The sites of any family's blocks in a plain Hugging Face model, by the names of its own modules
and by nothing of a bridge."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]
ATTENTION = ("self_attn", "self_attention", "attn", "attention")
MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
OUTPUT = ("o_proj", "dense", "c_proj", "out_proj", "attention.out_proj", "Wo")
FINAL_NORMS = (
    "norm",
    "ln_f",
    "final_layernorm",
    "final_layer_norm",
    "norm_f",
    "embedding_norm",
    "final_norm",
    "ln_out",
    "layer_norm",
)
FLAT_MLP = ("opt", "xglm")
"""Families whose block has no module for its MLP: fc1 and fc2 stand in it side by side."""
SCALED = {"granite": 0.5}
"""What attention and the MLP write is multiplied by this before it is added; the hooks stand behind
that."""
DOWN = ("down_proj", "dense_4h_to_h", "c_proj", "fc_out", "fc2", "w2", "Wo", "proj_2")
FLAT_SITES = {
    "hook_mlp_out": ("fc2", False),
    "mlp.hook_in": ("fc1", True),
    "mlp.hook_post": ("fc2", True),
}
ADDED_BY = {
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma4": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "exaone4": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "flex_olmo": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo3": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "glm4": ("post_self_attn_layernorm", "post_mlp_layernorm"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),  # these modules add the residual
    "mpt": ("attn", "ffn.down_proj"),  # its MLP adds the residual
    "olmo_hybrid": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "afmoe": ("post_attention_layernorm", "post_mlp_layernorm"),
}
"""What attention and the MLP add to the residual stream is the output of these, norms for the most
part."""


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
        """The module of a site, and whether the site is its input; None where the family has no
        such module."""
        _, layer, site = hook_name.split(".", 2)
        block = self.blocks[int(layer)]
        attention, mlp = _child(block, ATTENTION), _child(block, MLP)
        added = ADDED_BY.get(self.family)
        if self.family in FLAT_MLP and site in FLAT_SITES:
            name, is_input = FLAT_SITES[site]
            return block.get_submodule(name), is_input
        if site == "hook_resid_mid":
            return None
        places: dict[str, tuple[nn.Module | None, bool]] = {
            "hook_resid_pre": (block, True),
            "hook_resid_post": (block, False),
            "hook_attn_out": (_child(block, added[:1]) if added else attention, False),
            "hook_mlp_out": (_child(block, added[1:]) if added else mlp, False),
            "attn.hook_z": (attention and _child(attention, OUTPUT), True),
            "mlp.hook_in": (mlp, True),
            "mlp.hook_post": (mlp and _child(mlp, DOWN), True),
        }
        module, is_input = places[site]
        return None if module is None else (module, is_input)

    @property
    def factor_sites(self) -> tuple[str, ...]:
        return ("hook_attn_out", "hook_mlp_out") if self.family in SCALED else ()

    def logits(self, ids: Tensor, changes: Mapping[str, Change] | None = None) -> Tensor:
        """Logits with the activation at each named site replaced by a function of it."""
        with torch.no_grad():
            return self._run(ids, changes or {})

    def record(self, ids: Tensor, hook_name: str) -> Tensor:
        """The activation at a site, heads flattened: `[n_pos, d]`."""
        found: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            found.append(x.detach().clone())
            return x

        self.logits(ids, {hook_name: keep})
        return found[0].reshape(ids.shape[1], -1)

    def has(self, path: str) -> bool:
        """Whether the family has a module for that part of a block."""
        return self._module(path) is not None

    def module(self, ids: Tensor, path: str, side: str) -> Tensor:
        """What enters or leaves "layers.1", or its attention or MLP ("layers.1.mlp"), heads
        flattened."""
        module, found = self._module(path), list[Tensor]()
        assert module is not None, f"the plain model has no {path}"

        def keep(x: Tensor) -> Tensor:
            found.append(x.detach().clone())
            return x

        handle = _attach((module, side == "input"), keep)
        self.logits(ids)
        handle.remove()
        return found[0].reshape(ids.shape[1], -1)

    def _module(self, path: str) -> nn.Module | None:
        _, layer, part = (*path.split("."), "")[:3]
        block = self.blocks[int(layer)]
        return _child(block, {"attn": ATTENTION, "mlp": MLP}[part]) if part else block

    def gradient(self, ids: Tensor, hook_name: str, change: Tensor) -> Tensor:
        """d logit 7 of the last position / d site, with a change added there."""
        leaf: list[Tensor] = []

        def attach(x: Tensor) -> Tensor:
            leaf.append((x + change.reshape(x.shape)).detach().requires_grad_())
            return leaf[0].clone()

        with torch.enable_grad():
            logits = self._run(ids, {hook_name: attach})
            (gradient,) = torch.autograd.grad(logits[0, -1, 7], leaf[0])
        return gradient

    @property
    def final_norm(self) -> Any:
        base = self.hf.base_model if self.family != "llama4" else self.hf.model
        base = getattr(base, "decoder", base)
        there = dict(base.named_children())
        return next((there[name] for name in FINAL_NORMS if name in there), None)

    def unembed(self, residual: Tensor) -> Tensor:
        """What the final norm and the unembedding make of a residual stream, before any soft
        cap."""
        norm = self.final_norm
        with torch.no_grad():
            normed = residual if norm is None else norm(residual[None])[0]
            head = self.hf.get_output_embeddings()
            return head(normed)

    def _run(self, ids: Tensor, changes: Mapping[str, Change]) -> Tensor:
        with ExitStack() as stack:
            for name, change in changes.items():
                place = self.place(name)
                assert place, "the plain model has no such site"
                scale = SCALED[self.family] if name.split(".", 2)[2] in self.factor_sites else 1.0
                stack.callback(_attach(place, _behind(scale, change)).remove)
            return self.hf(ids, use_cache=False).logits


def _behind(scale: float, change: Change) -> Change:
    """The change as it is before the model multiplies by `scale`."""
    return change if scale == 1 else lambda x: change(x * scale) / scale


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
        if isinstance(out, tuple | list):
            return type(out)([change(out[0]), *out[1:]])
        return change(out)

    if is_input:
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)
