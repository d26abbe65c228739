"""The key and value cache of generation: how a model takes it, and the proof that it grew by what
was fed."""

import inspect
from collections.abc import Generator, Mapping
from functools import cache
from typing import Any

from saescope.errors import ModelError

_NAMES = ("cache", "past_key_values")
"""What `forward` calls its cache: the first since transformers 5.24, the second before; older ones
are renamed to them."""
_SWITCHES = {
    "longrope": "original_max_position_embeddings",
    "dynamic": "max_position_embeddings",
}
"""Kinds of rotary embedding that turn every position otherwise in a text that is longer than this
field of the configuration says."""


def cache_argument(hf: Any) -> str:
    """The argument by which the model's `forward` takes a cache, or "" where it takes none."""
    parameters = inspect.signature(type(hf).forward).parameters
    return next((name for name in _NAMES if name in parameters), "")


def steady_tokens(config: Any) -> float:
    """The length up to which keys that are cached stay right: in a longer text the rotary embedding
    of earlier positions is another one."""
    return min(_steady(config.to_dict(), {}), default=float("inf"))


def _steady(rope: Mapping[str, Any], around: Mapping[str, Any]) -> Generator[float]:
    """Yield that length for each rotary embedding in a configuration or a part of it; some models
    have one for each type of layer. `around` has what stands outside of the part."""
    known = {**around, **{name: rope[name] for name in _SWITCHES.values() if rope.get(name)}}
    kind = rope.get("rope_type") or rope.get("type")
    if isinstance(kind, str) and kind in _SWITCHES:
        yield known.get(_SWITCHES[kind], 0)
    for part in rope.values():
        if isinstance(part, Mapping):
            yield from _steady(part, known)


def new_cache(hf: Any) -> Any:
    """An empty cache with a layer of the right kind (full, sliding, recurrent) for each of the
    model's."""
    from transformers import DynamicCache

    return DynamicCache(config=hf.config)


def no_cache(hf: Any) -> dict[str, Any]:
    """Arguments by which a model keeps no keys and values. A cache of its own keeps transformers
    from looking for several texts in a row, for which the host would wait for an accelerator."""
    name = cache_argument(hf)
    return {"use_cache": False} | ({name: _keeps_nothing()()} if name else {})


@cache
def _keeps_nothing() -> type[Any]:
    from transformers import DynamicCache

    class KeepsNothing(DynamicCache):
        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> Any:
            return key_states, value_states

    return KeepsNothing


def cached_lengths(cache: Any) -> list[int]:
    """Tokens that each attention layer has seen; a sliding window counts those too that it has let
    go."""
    return [int(layer.get_seq_length()) for layer in cache.layers if _counts(layer)]


def require_growth(cache: Any, *, before: list[int], fed: int) -> None:
    """Raises ModelError unless every attention layer grew by exactly the tokens fed, and every
    recurrent one keeps a state."""
    after = cached_lengths(cache)
    idle = [i for i, layer in enumerate(cache.layers) if not _has_state(layer)]
    if after and after == [n + fed for n in before] and not idle:
        return
    raise ModelError(
        f"The cache of keys and values went from {before} to {after} tokens a layer "
        f"when {fed} were fed" + (f"; layers {idle} keep no state." if idle else "."),
        code="CACHE_MISMATCH",
        field="model",
        hint="This version of transformers or transformer-lens hands the cache on in "
        "another way: install the versions "
        "of constraints.txt; the library also generates with use_cache=False, slowly.",
        facts={"some_alone": 0 in after and any(after)},
    )


def first_cached(cache: Any) -> int:
    """The first attention layer: positions are counted by what it has in the cache."""
    return next(i for i, layer in enumerate(cache.layers) if _counts(layer))


def require_reach(cache: Any, *, n_tokens: int, below: int) -> None:
    """Raises ModelError unless all attention layers before layer `below` have seen so many tokens,
    and those from there on so many or none."""
    seen = {
        i: int(layer.get_seq_length()) for i, layer in enumerate(cache.layers) if _counts(layer)
    }
    if all(n == n_tokens or (n == 0 and i >= below) for i, n in seen.items()):
        return
    raise ModelError(
        f"After {n_tokens} tokens in chunks the cache of keys and values has "
        f"{[*seen.values()]} a layer.",
        code="CACHE_MISMATCH",
        field="model",
        hint="This version of transformers or transformer-lens hands the cache on in "
        "another way: install the versions of constraints.txt, or read a shorter text.",
    )


def translate_cache_argument(bridge: Any) -> None:
    """Let transformer-lens's own layers find the cache under the name that transformers 5.24 gave
    it.

    They look for the old name in their call and would leave the cache empty; the module of
    transformers below them, which some families go on to, takes the new name again.
    """
    from transformer_lens.model_bridge.generalized_components import AttentionBridge
    from transformer_lens.model_bridge.generalized_components.gated_delta_net import (
        GatedDeltaNetBridge,
    )

    if cache_argument(bridge.original_model) != "cache":
        return
    old_names = {AttentionBridge: "past_key_values", GatedDeltaNetBridge: "cache_params"}
    for module in bridge.modules():
        for kind, old in old_names.items():
            if isinstance(module, kind):
                _rename(module, "cache", old)
                _rename(module.original_component, old, "cache")


def _rename(module: Any, name: str, to: str) -> None:
    def renamed(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {to if key == name else key: value for key, value in kwargs.items()}

    if module is not None:
        module.register_forward_pre_hook(renamed, with_kwargs=True)


def _counts(layer: Any) -> bool:
    return hasattr(layer, "get_seq_length")


def _has_state(layer: Any) -> bool:
    """False for a recurrent layer that was never written to; attention is counted, a layer without
    either has nothing to keep."""
    state = getattr(layer, "has_previous_state", True)
    return all(state.values()) if isinstance(state, dict) else bool(state)
