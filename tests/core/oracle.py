"""Independent references: plain transformers with PyTorch hooks on its own modules, and SAEs
written out in NumPy (float64)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from saescope.models import LanguageModel
from saescope.saes import ARCHITECTURES, SAE, SAEMetadata

Array = NDArray[np.float64]
Change = Callable[[Tensor], Tensor]

LLAMA = {
    "hook_attn_out": "self_attn",
    "hook_mlp_out": "mlp",
    "hook_resid_mid": "post_attention_layernorm",
    "attn.hook_z": "self_attn.o_proj",
    "mlp.hook_in": "mlp",
    "mlp.hook_post": "mlp.down_proj",
}
GEMMA = LLAMA | {
    "hook_attn_out": "post_attention_layernorm",
    "hook_mlp_out": "post_feedforward_layernorm",
    "hook_resid_mid": "pre_feedforward_layernorm",
}
MODULES = {
    "gpt2": {
        "hook_attn_out": "attn",
        "hook_mlp_out": "mlp",
        "hook_resid_mid": "ln_2",
        "attn.hook_z": "attn.c_proj",
        "mlp.hook_in": "mlp",
        "mlp.hook_post": "mlp.c_proj",
    },
    "llama": LLAMA,
    "qwen3": LLAMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "gpt_neox": {  # attention and MLP side by side: there is no resid_mid
        "hook_attn_out": "attention",
        "hook_mlp_out": "mlp",
        "attn.hook_z": "attention.dense",
        "mlp.hook_in": "mlp",
        "mlp.hook_post": "mlp.dense_4h_to_h",
    },
}
READ = ("hook_resid_mid", "hook_resid_pre", "attn.hook_z", "mlp.hook_in", "mlp.hook_post")
"""Sites that are the input of a Hugging Face module; the others are an output."""


class Reference:
    """A fresh Hugging Face model of the same files, which no bridge ever touched."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, attn_implementation="eager"
        )
        self.hf: Any = model.eval().requires_grad_(False)
        self.kind: str = self.hf.config.model_type
        base: Any = self.hf.base_model
        self.blocks: Any = base.h if self.kind == "gpt2" else base.layers
        self.norm: Any = (
            base.ln_f
            if self.kind == "gpt2"
            else base.final_layer_norm
            if self.kind == "gpt_neox"
            else base.norm
        )
        self.unembed: Any = self.hf.get_output_embeddings()
        self.soft_cap: float | None = getattr(self.hf.config, "final_logit_softcapping", None)

    @property
    def sites(self) -> list[str]:
        return ["hook_resid_pre", "hook_resid_post", *MODULES[self.kind]]

    def module(self, hook_name: str) -> Any:
        _, layer, site = hook_name.split(".", 2)
        path = MODULES[self.kind].get(site)
        return (
            self.blocks[int(layer)] if path is None else self.blocks[int(layer)].get_submodule(path)
        )

    def logits(
        self, ids: Tensor, changes: Mapping[str, Change] | None = None, *, grad: bool = False
    ) -> Tensor:
        """Logits with the activation at each named site replaced by a function of it."""
        with ExitStack() as stack, torch.set_grad_enabled(grad):
            for hook_name, change in (changes or {}).items():
                for handle in self.attach(hook_name, change):
                    stack.callback(handle.remove)
            return self.hf(ids, use_cache=False).logits

    def record(
        self, ids: Tensor, hook_names: Sequence[str], changes: Mapping[str, Change] | None = None
    ) -> dict[str, Tensor]:
        """Activations `[batch, n_pos, d]`, heads flattened."""
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Change:
            def look(x: Tensor) -> Tensor:
                found[name] = x.detach().clone()
                return x

            return look

        with ExitStack() as stack:
            for hook_name, change in (changes or {}).items():
                for handle in self.attach(hook_name, change):
                    stack.callback(handle.remove)
            for name in hook_names:
                stack.callback(attach(self.module(name), name, keep(name)).remove)
            with torch.no_grad():
                self.hf(ids, use_cache=False)
        return found

    def attach(self, hook_name: str, change: Change) -> list[Any]:
        """Handles of the hooks that put `change(x)` in the place of x."""
        if not hook_name.endswith("hook_resid_mid"):
            return [attach(self.module(hook_name), hook_name, change)]
        # The norm's input is changed for the MLP, and the block's output by the same amount for the
        # skip path.
        delta: list[Tensor] = []

        def branch(mid: Tensor) -> Tensor:
            delta.append(change(mid) - mid)
            return mid + delta[-1]

        block = hook_name.removesuffix("hook_resid_mid")
        return [
            attach(self.module(hook_name), hook_name, branch),
            attach(
                self.module(f"{block}hook_resid_post"),
                f"{block}hook_resid_post",
                lambda x: x + delta.pop(),
            ),
        ]

    def gain(self) -> Array:
        """What the final norm multiplies with."""
        weight = as_array(self.norm.weight)
        return 1 + weight if self.kind.startswith("gemma") else weight

    @property
    def is_layer_norm(self) -> bool:
        return self.kind in ("gpt2", "gpt_neox")

    def norm_eps(self) -> float:
        return float(getattr(self.norm, "eps", None) or self.norm.variance_epsilon)


def attach(module: nn.Module, hook_name: str, change: Change) -> Any:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    def after(_: nn.Module, args: Any, out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    if hook_name.endswith(READ):
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def as_array(x: Tensor) -> Array:
    return x.detach().cpu().double().numpy()


class NumpySAE:
    """The published equations, dense, in float64."""

    def __init__(self, sae: SAE) -> None:
        self.cfg: Any = sae.cfg
        self.w: dict[str, Array] = {
            name: as_array(tensor) for name, tensor in sae.tensors().items()
        }
        norms = np.linalg.norm(self.w["W_dec"], axis=1)
        self.carried = (
            norms
            if getattr(self.cfg, "rescale_acts_by_decoder_norm", False)
            else np.ones(self.cfg.d_sae)
        )

    def scale(self, x: Array) -> tuple[Array, Array, Array]:
        """(shift, inner, outer) of each position."""
        zero, one = np.zeros((len(x), 1)), np.ones((len(x), 1))
        if self.cfg.normalize_activations == "layer_norm":
            std = x.std(axis=1, ddof=1, keepdims=True)
            return x.mean(axis=1, keepdims=True), 1 / (std + 1e-5), std
        if self.cfg.normalize_activations == "constant_norm_rescale":
            factor = np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
            return zero, factor, 1 / factor
        return zero, one, one

    def encode(self, x: Array) -> Array:
        shift, inner, _ = self.scale(x)
        z = (x - shift) * inner - (self.w["b_dec"] if self.cfg.apply_b_dec_to_input else 0)
        pre = (z @ self.w["W_enc"] + self.w["b_enc"]) * self.carried
        if self.cfg.architecture == "topk":
            kth = np.sort(pre, axis=1)[:, -self.cfg.k][:, None]
            return np.maximum(pre, 0) * (pre >= kth)
        if self.cfg.architecture == "jumprelu":
            return np.maximum(pre, 0) * (pre > self.w["threshold"])
        return np.maximum(pre, 0)

    def rows(self) -> Array:
        """d sae_out / d f_i before a position's own scale."""
        return self.w["W_dec"] / self.carried[:, None]

    def directions(self, x: Array) -> Array:
        """W_dec_i of the contract at each position, `[n_pos, d_sae, d_out]`."""
        return self.scale(x)[2][:, :, None] * self.rows()[None]

    def decode(self, acts: Array, x: Array) -> Array:
        shift, _, outer = self.scale(x)
        out = (acts @ self.rows() + self.w["b_dec"]) * outer + shift
        return out + x @ self.w["W_skip"].T if self.cfg.skip else out

    def __call__(self, x: Array) -> Array:
        return self.decode(self.encode(x), x)


@dataclass(frozen=True)
class Family:
    """A model as saescope loads it, beside the plain one of the same files."""

    name: str
    folder: Path
    model: LanguageModel
    hf: Reference

    @property
    def has_mid(self) -> bool:
        return self.name != "neox"


@dataclass(frozen=True)
class Kind:
    """An SAE to test with: where it sits and what it is."""

    site: str
    architecture: str
    options: Mapping[str, Any]
    site_out: str = ""


KINDS = {
    "standard": Kind("hook_resid_pre", "standard", {}),
    "layer_norm": Kind("hook_resid_mid", "jumprelu", {"normalize_activations": "layer_norm"}),
    "topk": Kind("hook_resid_post", "topk", {"k": 6}),
    "constant_norm": Kind(
        "hook_attn_out", "standard", {"normalize_activations": "constant_norm_rescale"}
    ),
    "rescaled": Kind("hook_mlp_out", "topk", {"k": 6, "rescale_acts_by_decoder_norm": True}),
    "hook_z": Kind("attn.hook_z", "jumprelu", {}),
    "skip_transcoder": Kind(
        "mlp.hook_in",
        "standard",
        {"transcoder": True, "skip": True, "apply_b_dec_to_input": False},
        "hook_mlp_out",
    ),
}
LAYER = 1
FAMILIES = ("glass", "gpt2", "gemma2", "gemma3", "llama", "qwen3", "neox")
CASES = [
    (name, kind)
    for name in FAMILIES
    for kind in KINDS
    if name in ("gpt2", "gemma2") or kind in ("standard", "hook_z")
]
"""For what is slow: every kind of SAE in two families that differ in everything, and two kinds in
every family."""


def make_sae(
    family: Family,
    kind: str,
    *,
    layer: int = LAYER,
    d_sae: int = 48,
    seed: int = 0,
    **metadata: Any,
) -> SAE:
    """A random SAE at home in the scale of its site, of which about a third of the features
    fire."""
    what = KINDS[kind]
    hook_name = f"blocks.{layer}.{what.site}"
    hook_name_out = f"blocks.{layer}.{what.site_out}" if what.site_out else ""
    found = family.hf.record(
        torch.arange(20, 52)[None], [hook_name, *([hook_name_out] if hook_name_out else [])]
    )
    x, y = as_array(found[hook_name])[0], as_array(found[hook_name_out or hook_name])[0]
    rng = np.random.default_rng(seed)
    config_class, sae_class = ARCHITECTURES[what.architecture]
    normalised = "normalize_activations" in what.options
    size_in, size_out = (1.0, 1.0) if normalised else (float(x.std()), float(y.std()))
    tensors = {
        "W_enc": rng.normal(size=(x.shape[1], d_sae)) / np.sqrt(x.shape[1]),
        "W_dec": 0.3
        * rng.normal(size=(d_sae, y.shape[1]))
        * size_out
        / size_in
        * rng.uniform(0.5, 2, size=(d_sae, 1)),
        "W_skip": 0.3
        * rng.normal(size=(y.shape[1], x.shape[1]))
        / np.sqrt(x.shape[1])
        * size_out
        / size_in,
        "b_enc": (rng.normal(size=d_sae) * 0.2 - 0.3) * size_in,
        "b_dec": 0.2 * rng.normal(size=y.shape[1]) * size_out,
        "threshold": rng.uniform(0.05, 0.4, size=d_sae) * size_in,
    }
    cfg = config_class(
        d_in=x.shape[1],
        d_out=y.shape[1],
        d_sae=d_sae,
        metadata=SAEMetadata(hook_name=hook_name, hook_name_out=hook_name_out, **metadata),
        **what.options,
    )
    named = {
        name: torch.tensor(tensors[name], dtype=torch.float32) for name in sae_class.shapes(cfg)
    }
    return sae_class(cfg, named)


def flat(x: Tensor) -> Array:
    """Positions in rows, heads flattened."""
    return as_array(x.reshape(x.shape[0] * x.shape[1], -1))


def replaced_by(array: Array) -> Change:
    """A change that puts `array` (positions in rows) there."""
    return lambda x: torch.tensor(array).reshape(x.shape).to(x)


def shifted_by(array: Array) -> Change:
    return lambda x: (x.double() + torch.tensor(array).reshape(x.shape)).to(x.dtype)


def close(ours: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Equal to `tolerance` of the largest value."""
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert a.shape == b.shape
    scale = max(float(np.abs(b).max(initial=0)), 1e-9)
    np.testing.assert_allclose(a, b, atol=tolerance * scale, rtol=0)


def softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def kl(p_logits: Array, q_logits: Array) -> Array:
    """KL(softmax(p) || softmax(q)) in nats."""
    p, q = softmax(p_logits), softmax(q_logits)
    return (p * (np.log(p) - np.log(q))).sum(axis=-1)


def cross_entropy(logits: Array, ids: Array) -> Array:
    """Next-token losses of positions 0..n-2."""
    p = softmax(logits[:-1])
    return -np.log(p[np.arange(len(p)), ids[1:].astype(int)])
