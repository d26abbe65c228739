"""A language model on transformer-lens: tokens in, logits out, activations by hook name. One
forward at a time."""

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge.exceptions import StopAtLayerException as StopForward

from saescope.cancel import stop_if_cancelled
from saescope.errors import ArgumentError, HookError, ModelError, NumericError, cause_of
from saescope.finite import require_finite
from saescope.models.fires import Fires
from saescope.models.kv_cache import (
    cache_argument,
    cached_lengths,
    new_cache,
    require_growth,
    steady_tokens,
)
from saescope.models.modules import hooks_of_module
from saescope.models.partial import NOT_LOADED
from saescope.models.readout import (
    Head,
    Unembedding,
    final_scale,
    head_reads_linearly,
    read_head,
    read_readout,
    reads_linearly,
    residual_map,
)
from saescope.models.tokens import Tokenizer, Tokens
from saescope.models.weights import WeightsDigest, weights_digest
from saescope.names import nearest, split_hook

__all__ = ["SINK_FACTOR", "LanguageModel", "StopForward"]

SINK_FACTOR = 10.0
PASS_TOKENS = 1024
"""Tokens of a text that go through in one pass on a CPU; on a GPU twice as many."""
HookFunction = Callable[..., Tensor | None]
"""Takes the activation and the hook point; what it returns, if anything, stands there instead."""


class LanguageModel:
    """Handle on a `TransformerBridge` and the raw tokenizer beside it (the bridge's own copy adds
    BOS by itself)."""

    def __init__(
        self,
        bridge: Any,
        tokenizer: Tokenizer,
        *,
        name: str,
        handle: str,
        revision: str,
        identities: frozenset[str],
    ) -> None:
        self.bridge = bridge
        self.tokenizer = tokenizer
        self.n_ctx = tokenizer.n_ctx
        self.pass_tokens = PASS_TOKENS if self.device.type == "cpu" else 2 * PASS_TOKENS
        """Tokens of the longest text that goes through in one pass; a longer one goes in chunks of
        half as many, where the model can (`chunks_up_to`)."""
        self.name = name
        self.handle = handle
        self.revision = revision
        self.identities = identities
        """Names under which an SAE may mean this model; empty if the folder does not tell."""
        self.n_loaded = self.n_layers
        """How many of its first layers have weights: all, unless it was loaded up to a hook."""
        self.lock = threading.RLock()
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Trailing shape of the activation at each hook that was measured."""
        self.n_editing = 0
        """Blocks under way in which activations are edited: what is measured once for all must not
        be measured there."""
        self.mid_edits: dict[str, Tensor] = {}
        """What the last edit at each `hook_resid_mid` asked for, in the forward pass under way."""
        self.of_modules: dict[tuple[str, str], tuple[str, ...]] = {}
        """Hooks that carry a module's input or output, where that was asked."""
        self.widens: dict[tuple[str, str], bool] = {}
        """Whether a forward pass may be widened at a site (what is read, what is written), where
        that was tried."""
        self.fires = Fires()
        """How often each hook fired in the pass that compared the model with transformers."""
        self.notes: tuple[str, ...] = ()
        """Warnings about the files of its weights."""
        self.sink_factor = SINK_FACTOR
        """Times the typical norm at a site beyond which a position is left out as an attention
        sink; 0: none is."""
        self.typical_norms: dict[str, float] = {}
        """The typical norm at each hook that was measured (`saescope.sinks`)."""

    @property
    def device(self) -> torch.device:
        return next(self.bridge.original_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.bridge.original_model.parameters()).dtype

    @property
    def n_layers(self) -> int:
        return int(self.bridge.cfg.n_layers)

    @property
    def whole(self) -> bool:
        return self.n_loaded == self.n_layers

    @property
    def d_model(self) -> int:
        return int(self.bridge.cfg.d_model)

    @property
    def d_vocab(self) -> int:
        return int(self.bridge.W_U.shape[1])

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for what its files leave in doubt, given when it is loaded."""
        return (*self.notes, *self.tokenizer.warnings)

    @property
    def weights_hash(self) -> str:
        """sha256 of its weights, in the dtype in which they are used, as far as they are loaded; of
        configuration and tokenizer it knows nothing, which `model_fingerprint` does."""
        return self.digest(self.n_loaded).hexdigest()

    def digest(self, n_layers: int) -> WeightsDigest:
        """The hash of its weights without the layers from `n_layers` on."""
        later = () if n_layers == self.n_layers else self.bridge.blocks[n_layers:]
        return weights_digest(self.bridge.original_model, without=[*later])

    @cached_property
    def weights_bytes(self) -> int:
        # By storage: the bridge's q, k and v are views of a joint projection, and an unembedding
        # may be the embedding.
        tensors = [p for p in self.bridge.original_model.parameters() if not p.is_meta]
        storages = [p.untyped_storage() for p in tensors]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    @cached_property
    def readout(self) -> Unembedding:
        with self.lock, torch.no_grad():
            return read_readout(self.bridge, self.d_model, self.device, self.dtype)

    @cached_property
    def head(self) -> Head:
        with self.lock:
            return read_head(self.bridge, self.readout.W_U)

    def caches_up_to(self, n_tokens: int) -> bool:
        """Whether it generates rightly from a cache until the text has so many tokens."""
        return n_tokens <= steady_tokens(self.bridge.original_model.config) and self.caches

    @cached_property
    def caches(self) -> bool:
        """Whether the model generates rightly from a cache whose growth can be checked; a purely
        recurrent one cannot."""
        hf = self.bridge.original_model
        supported = getattr(self.bridge.adapter, "supports_kv_cache", True)
        checked = bool(supported and cache_argument(hf) and cached_lengths(new_cache(hf)))
        try:
            return checked and self._steps_are_right()
        except ModelError as error:
            # RecurrentGemma keeps the state of its recurrent layers elsewhere: in the cache they
            # have no length, or one of 0 (before transformers 5.24).
            has_lengths = all(hasattr(layer, "get_seq_length") for layer in new_cache(hf).layers)
            if has_lengths and not error.facts.get("some_alone"):
                raise
            return False

    def _steps_are_right(self) -> bool:
        """Whether steps with a cache give the logits of a full pass, on a few tokens: in
        transformers' Bamba they do not."""
        ids = self.batch(torch.arange(1, 9) % self.d_vocab)
        logits = expected = self.forward(ids, last=1)[0]
        past = None
        for fed in (ids[:, :6], ids[:, 6:7], ids[:, 7:]):
            logits, past = self.forward(fed, past=past, use_cache=True, last=1)
        most_off = torch.finfo(expected.dtype).eps ** 0.5 * float(expected.abs().max())
        return torch.allclose(logits, expected, rtol=0, atol=most_off)

    def chunks_up_to(self, n_tokens: int) -> bool:
        """Whether a text of so many tokens may be read in chunks, each of which finds the keys and
        values of those before it."""
        return self.caches_up_to(n_tokens) and self.chunks

    @cached_property
    def chunks(self) -> bool:
        """Whether chunks of several tokens give the logits of a full pass at every position, on a
        few tokens: some recurrent layers begin anew with each."""
        ids = self.batch(torch.arange(1, 9) % self.d_vocab)
        expected, past, parts = self.forward(ids)[0], None, list[Tensor]()
        for fed in ids.split(3, dim=1):
            logits, past = self.forward(fed, past=past, use_cache=True)
            parts.append(logits)
        most_off = torch.finfo(expected.dtype).eps ** 0.5 * float(expected.abs().max())
        return torch.allclose(torch.cat(parts, dim=1), expected, rtol=0, atol=most_off)

    def passes(self, n_tokens: int) -> list[tuple[int, int]]:
        """The first position, and the one after the last, of each pass by which a text of so many
        tokens is read: one pass, or chunks.

        Ask before activations are edited: the first time it runs the model.
        """
        if n_tokens <= self.pass_tokens or not self.chunks_up_to(n_tokens):
            return [(0, n_tokens)]
        size = self.pass_tokens // 2
        return [(at, min(at + size, n_tokens)) for at in range(0, n_tokens, size)]

    def new_cache(self) -> Any:
        """An empty cache of keys and values."""
        return new_cache(self.bridge.original_model)

    def hooks_of_module(self, module: str, side: str) -> tuple[str, ...]:
        """Hooks whose tensor is the "input" or "output" of a module of the Hugging Face model, the
        usual name first."""
        if (module, side) not in self.of_modules:
            with self.lock:
                self.of_modules[module, side] = hooks_of_module(self.bridge, module, side)
        return self.of_modules[module, side]

    @cached_property
    def reads_linearly(self) -> bool:
        """Whether the logits come from the residual stream as `readout` says, on a few tokens;
        BERT's head has layers of its own."""
        with self.lock:
            if self.whole:
                return reads_linearly(self.bridge, self.readout, self.n_layers - 1)
            return head_reads_linearly(self.bridge, self.readout, self.n_loaded)

    def final_scale(self, resid: Float[Tensor, " d_model"]) -> float:
        """What the final norm divides this by (its numerator, where the norm takes the mean
        out)."""
        with self.lock:
            return final_scale(self.bridge, self.readout, resid)

    def residual_map(self, hook_name: str) -> Callable[[Tensor], Tensor] | None:
        """The linear map from a change at a hook, `[n, d]`, to that of the residual stream; None
        without one there, or on to the logits."""
        return residual_map(self.bridge, hook_name) if self.reads_linearly else None

    def tokenize(
        self,
        text: str,
        *,
        prepend_bos: bool | None = None,
        chat: bool = False,
        limit: int | None = None,
    ) -> Tokens:
        """Tokens of `text`, the first `limit` of them if given; `prepend_bos=None` follows the
        model's own tokenizer."""
        return self.tokenizer.tokenize(text, prepend_bos=prepend_bos, chat=chat, limit=limit)

    def token_text(self, token_id: int) -> str:
        return self.tokenizer.text(token_id)

    def single_token(self, text: str, field: str = "") -> int:
        """The id of a text that is exactly one token, or of "#id"; an error names `field`."""
        return self.tokenizer.single(text, self.d_vocab, field)

    def token_id(self, named: int | str, field: str = "") -> int:
        """The id of a token by text or id.

        Raises:
            ArgumentError: as `single_token`; TOKEN_OUT_OF_RANGE.
        """
        if isinstance(named, str):
            return self.single_token(named, field)
        if not 0 <= named < self.d_vocab:
            raise ArgumentError(
                f"Token id {named} is outside the vocabulary.",
                code="TOKEN_OUT_OF_RANGE",
                field=field,
                got=named,
                allowed=f"0..{self.d_vocab - 1}",
                hint="Give the token as text.",
            )
        return named

    def batch(self, ids: Int[Tensor, "*n_pos"]) -> Int[Tensor, "batch n_pos"]:
        """Put ids on the model's device, with a batch dimension: [1, n]."""
        return (ids if ids.ndim == 2 else ids[None]).to(self.device)

    def forward(
        self,
        ids: Int[Tensor, "batch n_new"],
        *,
        mask: Bool[Tensor, "batch n_pos"] | None = None,
        past: Any = None,
        use_cache: bool = False,
        last: int = 0,
        grad: bool = False,
    ) -> tuple[Float[Tensor, "n_rows n_out d_vocab"], Any]:
        """Logits (of the `last` positions only, if given) and the KV cache; more rows than `ids`
        where an edit widens the batch.

        Raises:
            NumericError: a logit is NaN or infinite.
            ArgumentError: as `attention_mask`.
            ModelError: the cache did not grow by the tokens fed.
            Cancelled: the caller gave up before this forward.
        """
        stop_if_cancelled()
        extra: dict[str, Any] = {"logits_to_keep": last} if last else {}
        before: list[int] = []
        if use_cache:
            past = self.new_cache() if past is None else past
            before = cached_lengths(past)
            extra |= {"use_cache": True, cache_argument(self.bridge.original_model): past}
        with self.lock, torch.set_grad_enabled(grad):
            attention = None if mask is None else self.attention_mask(mask)
            logits = self.bridge(ids, return_type="logits", attention_mask=attention, **extra)
        if use_cache:
            require_growth(past, before=before, fed=ids.shape[1])
        require_finite(logits, _not_finite)
        return logits, past if use_cache else None

    def run(
        self,
        ids: Int[Tensor, "batch n_pos"],
        hooks: Sequence[tuple[str, HookFunction]],
        *,
        mask: Bool[Tensor, "batch n_pos"] | None = None,
        past: Any = None,
        grad: bool = False,
    ) -> None:
        """A forward pass with functions at hooks; whoever raises StopForward in one ends it there.
        With a cache, `past`, the ids are those that follow on it, and the layers that the pass
        reaches write to it.

        Raises:
            ArgumentError: as `attention_mask`.
        """
        attention = None if mask is None else self.attention_mask(mask)
        extra: dict[str, Any] = {}
        if past is not None:
            named = cache_argument(self.bridge.original_model)
            extra = {"use_cache": True, named: past, "logits_to_keep": 1}
        stop_if_cancelled()
        with self.lock, torch.set_grad_enabled(grad), self.hooked(hooks):
            self.bridge(self.batch(ids), attention_mask=attention, **extra)

    def hooked(self, hooks: Sequence[tuple[str, HookFunction]]) -> AbstractContextManager[object]:
        """Functions at hooks while the block runs: what one returns stands there instead."""
        return self.bridge.hooks(fwd_hooks=[*hooks])

    @property
    def frozen_hooks(self) -> list[str]:
        """Hooks of attention patterns, of what makes them, of gates on attention, and of the scales
        of norms: with these held as they were, and the MLPs' outputs too, what is left of a forward
        pass is linear. In some families the pattern can be seen but not held: there its queries and
        keys are."""
        return [
            name
            for name, times in self.fires.times.items()
            if times == 1 and name.endswith(_HELD) and not name.endswith(_IN_THE_PATTERN)
        ]

    def has_hook(self, hook_name: str) -> bool:
        return hook_name in self.bridge.hook_dict

    @property
    def end_ids(self) -> Int[Tensor, " n"]:
        """The tokens that end a generation, the tokenizer's and those that the model names."""
        eos = self.bridge.original_model.generation_config.eos_token_id
        listed = eos if isinstance(eos, list) else [eos]
        ends = sorted({i for i in (*listed, self.tokenizer.eos_id) if i is not None})
        return torch.tensor(ends, dtype=torch.long, device=self.device)

    def attention_mask(
        self, mask: Bool[Tensor, "batch n_pos"]
    ) -> Int[Tensor, "batch n_pos"] | None:
        """A mask of padding as the model takes it; none where it sees no padding anyway, or where
        it would misread one.

        Raises:
            ArgumentError: what is left out is not at the end, and the model counts or sees it; or
                it makes a row so long that the rotary embedding is another one.
        """
        self._require_steady(mask)
        if self.fires.padded:
            return mask.long().to(self.device)
        if not bool((mask.long().cummin(dim=1).values == mask.long()).all()):
            raise ArgumentError(
                f"{self.name} does not leave out padding on the left: a padded row "
                "gives other numbers than alone.",
                code="PADDING_NOT_HEEDED",
                field="mask",
                hint="Pad on the right, or run rows of one length together.",
            )
        # a causal model does not see what comes later; GPT-1 with a mask, even of ones, would
        return None

    def _require_steady(self, mask: Bool[Tensor, "batch n_pos"]) -> None:
        steady = steady_tokens(self.bridge.original_model.config)
        if mask.shape[1] > steady and bool((mask.sum(dim=1) <= steady).any()):
            raise ArgumentError(
                f"{self.name} turns all positions otherwise in rows of more than {steady:.0f} "
                f"tokens: a shorter one that is padded to {mask.shape[1]} gives other numbers than "
                "alone.",
                code="PADDING_NOT_HEEDED",
                field="mask",
                hint="Run rows of one length together.",
            )

    def value_bias(self, hook_name: str) -> Float[Tensor, " d_z"]:
        """What attention's z at this hook owes to the value bias: b_V + ln1.b @ W_V of each head,
        as attention sums to 1; 0 elsewhere."""
        layer, site = split_hook(hook_name)
        if layer is None or site not in ("attn.z", "attn.v"):
            return torch.zeros(1, device=self.device)
        block = self.bridge.blocks[layer]
        norm_bias = getattr(getattr(block, "ln1", None), "bias", None)
        with torch.no_grad():
            try:
                bias = getattr(block.attn, "b_V", None)
                z_bias = torch.zeros(1, 1, device=self.device) if bias is None else bias.float()
                if norm_bias is not None:
                    W_V = block.attn.W_V.float()
                    z_bias = z_bias + torch.einsum("d,hde->he", norm_bias.float(), W_V)
            except (AttributeError, NotImplementedError) as error:
                raise ModelError(
                    f"In {self.name} z has no constant part that the value bias makes, "
                    f"and the SAE at {hook_name} was trained without it: "
                    f"{cause_of(error)}",
                    code="UNSUPPORTED_MODEL",
                    field="model",
                    got=self.name,
                    hint="Use the SAE with its own model.",
                ) from error
        # Several heads may share one head of values.
        shared = int(self.bridge.cfg.n_heads) // len(z_bias) if z_bias.numel() > 1 else 1
        return z_bias.repeat_interleave(shared, dim=0).flatten()

    def require_hook(self, hook_name: str) -> None:
        """Raises HookError where the model has no such hook, cannot fire it as it is set up, or
        fires it several times in one pass; ModelError where its layer is not loaded."""
        if self.n_loaded <= (split_hook(hook_name)[0] or 0) < self.n_layers:
            raise self.more_needed()
        try:
            with self.lock, self.bridge.hooks(fwd_hooks=[(hook_name, _untouched)]):
                pass
        except KeyError:
            raise self._no_hook(hook_name) from None
        except ValueError as error:
            raise HookError(
                f"{hook_name!r} never fires as this model is set up.",
                field="hook_name",
                got=hook_name,
                hint="A transcoder reads blocks.L.mlp.hook_in (after the norm's weight) or "
                "blocks.L.ln2.hook_normalized (before).",
            ) from error
        if (times := self.fires.times.get(hook_name, 0)) > 1:
            raise HookError(
                f"{hook_name!r} fires {times} times in a forward pass of {self.name}, "
                "which runs that part of itself again and again: "
                "there is no single activation there.",
                code="HOOK_REPEATED",
                field="hook_name",
                got=hook_name,
                allowed=self._offered(hook_name),
                hint=f"Use a site that is passed once ({self._nearest(hook_name)}), or "
                "another model.",
            )

    def more_needed(self) -> ModelError:
        """What is said where a layer would have to run that was not loaded."""
        return ModelError(
            f"Of {self.name} the layers 0 to {self.n_loaded - 1} of {self.n_layers} are loaded, "
            "and this needs the others too.",
            code=NOT_LOADED,
            field="model",
            got=self.n_loaded,
            allowed=self.n_layers,
            hint=f'Load all of it: ss.load_model("{self.handle}") without up_to.',
            facts={"handle": self.handle},
        )

    def _no_hook(self, hook_name: str) -> HookError:
        layers = f"; layers are 0..{self.n_layers - 1}" if self._layers else ""
        return HookError(
            f"{self.name} has no hook {hook_name!r}.",
            field="hook_name",
            got=hook_name,
            allowed=self._offered(hook_name),
            hint=f"Use a hook that there is (nearest: {self._nearest(hook_name)}){layers}.",
        )

    def _nearest(self, hook_name: str) -> str:
        return ", ".join(self._offered(hook_name)) or "none"

    def _offered(self, hook_name: str) -> list[str]:
        """Hooks that can be used: those with names most like `hook_name`, else the residual stream
        after a layer."""
        return nearest(hook_name, self._hook_names(), 3) or self._sites_of(hook_name)

    @property
    def _layers(self) -> list[int]:
        """The layers that are in one row, each passed once; a model that runs them again and again
        has none."""
        return [
            i for i in range(self.n_layers) if f"blocks.{i}.hook_resid_post" in self.fires.sites
        ]

    def _sites_of(self, hook_name: str) -> list[str]:
        """The residual stream after the layer that `hook_name` has the number of ("layer 2"), else
        after the middle one."""
        number = re.search(r"\d+", hook_name)
        layer = int(number[0]) if number else self.n_layers // 2
        return [f"blocks.{min(layer, self.n_layers - 1)}.hook_resid_post"] if self._layers else []

    def _hook_names(self) -> list[str]:
        names = [
            f"blocks.{i}.{'hook_' if '.' not in site else ''}{site}"
            for i in range(self.n_layers)
            for site in _SITES
        ]
        others = sorted(name for name in self.fires.sites if split_hook(name)[0] is None)
        return [*(name for name in names if name in self.fires.sites), *others]


_SITES = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "attn.hook_z",
    "mlp.hook_in",
    "mlp.hook_post",
    "ln2.hook_normalized",
)


_HELD = (
    ".hook_pattern",
    ".hook_scale",
    "attn.q.hook_out",
    "attn.k.hook_out",
    "attn.gate.hook_out",
    "attn.hook_q_gate",
)
_IN_THE_PATTERN = ("q_norm.hook_scale", "k_norm.hook_scale")


def _untouched(x: Tensor, hook: object) -> None:
    return None


def _not_finite() -> NumericError:
    return NumericError(
        "The model's logits are not finite.",
        hint='Use a smaller strength, or load the model with dtype="float32".',
    )
