"""Cached generation sees what an uncached pass sees, and a cache that does not grow is an error."""

from typing import Any

import pytest
import torch
from tests.core.oracle import Family

from saescope.errors import ModelError
from saescope.models.kv_cache import cached_lengths, new_cache, require_growth

N_PROMPT, N_NEW = 5, 12
"""More in all than the sliding window of 8 that two of the families have."""


def test_cached_logits_are_those_of_the_whole_text(family: Family) -> None:
    model = family.model
    ids = model.batch(torch.arange(3, 3 + N_PROMPT + N_NEW))
    whole, _ = model.forward(ids)
    logits, past = model.forward(ids[:, :N_PROMPT], use_cache=True, last=1)
    assert torch.allclose(logits[:, -1], whole[:, N_PROMPT - 1], atol=1e-4)
    for i in range(N_PROMPT, ids.shape[1]):
        logits, past = model.forward(ids[:, i : i + 1], past=past, use_cache=True, last=1)
        assert torch.allclose(logits[:, -1], whole[:, i], atol=1e-4), i
    assert set(cached_lengths(past)) == {ids.shape[1]}


def test_a_cache_that_does_not_grow_is_an_error(
    llama: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bridge = llama.model, llama.model.bridge
    ids = model.batch(torch.arange(3, 9))

    class Forgetful:
        """Hands everything on but the cache, as a layer that looks for it under another name."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            kept = {k: v for k, v in kwargs.items() if k not in ("cache", "past_key_values")}
            return bridge(*args, **kept)

        def __getattr__(self, name: str) -> Any:
            return getattr(bridge, name)

    monkeypatch.setattr(model, "bridge", Forgetful())
    with pytest.raises(ModelError) as error:
        model.forward(ids, use_cache=True)
    assert error.value.code == "CACHE_MISMATCH" and "constraints.txt" in error.value.hint


def test_growth_is_counted_token_by_token(llama: Family) -> None:
    cache = new_cache(llama.model.bridge.original_model)
    ids = llama.model.batch(torch.arange(3, 9))
    _, past = llama.model.forward(ids, past=cache, use_cache=True)
    n = ids.shape[1]
    require_growth(past, before=[0] * len(cached_lengths(past)), fed=n)
    with pytest.raises(ModelError, match="when 5 were fed"):
        require_growth(past, before=[0] * len(cached_lengths(past)), fed=n - 1)
