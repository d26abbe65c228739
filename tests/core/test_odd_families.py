"""Families that write into an activation later on, that have no plain middle of a block, or whose
own cache is wrong."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.attack.families import FAMILIES, GROUPED, build
from tests.attack.plain import Plain
from transformers import AutoTokenizer

from saescope.errors import ArgumentError, HookError
from saescope.hooks import edit_activations, record_activations
from saescope.models import LanguageModel, load_model
from saescope.models.kv_cache import steady_tokens
from saescope.stack import Stack
from saescope.steering.generate import Sampling, generate

IDS = torch.arange(3, 9)[None]


@pytest.fixture
def folder_of(tmp_path: Path, glass_dir: Path) -> Callable[[str], Path]:
    return lambda family: build(family, tmp_path / family, AutoTokenizer.from_pretrained(glass_dir))


def test_what_is_recorded_stays_where_a_model_adds_to_it_in_place(
    folder_of: Callable[[str], Path],
) -> None:
    """Falcon adds attention's output to the MLP's, in place."""
    folder = folder_of("falcon")
    sites = ["blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]
    found = record_activations(load_model(folder, device="cpu"), IDS, sites)
    for site in sites:
        assert torch.allclose(found[site][0], Plain(folder).record(IDS, site), atol=1e-5)


def test_a_middle_that_is_no_sum_is_not_edited(folder_of: Callable[[str], Path]) -> None:
    """GPT-1 has a norm behind the sum of the stream and attention."""
    model = load_model(folder_of("openai_gpt"), device="cpu")
    with (
        pytest.raises(HookError, match="cannot be edited") as raised,
        edit_activations(model, {"blocks.1.hook_resid_mid": lambda x: x + 1}),
    ):
        model.forward(IDS)
    assert raised.value.code == "HOOK_NOT_EDITABLE" and "hook_resid_post" in raised.value.hint


@pytest.mark.parametrize(("family", "right"), [("bamba", False), ("jamba", True), ("gpt2", True)])
def test_a_cache_whose_steps_are_wrong_is_not_used(
    family: str, right: bool, folder_of: Callable[[str], Path]
) -> None:
    folder = folder_of(family)
    hf = Plain(folder).hf
    with torch.no_grad():
        past = hf(IDS[:, :5], use_cache=True).past_key_values
        # transformers 5.24 calls it `cache`, and warns of the older name.
        named = "cache" if "cache" in signature(hf.forward).parameters else "past_key_values"
        step = hf(IDS[:, 5:], **{named: past}, use_cache=True).logits[0, -1]
        assert torch.allclose(step, hf(IDS).logits[0, -1], atol=1e-4) == right, "transformers"
    assert load_model(folder, device="cpu").caches == right


LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0, 16.0, 32.0, 64.0],
}
TWO_ROPES: dict[str, Any] = {
    "full_attention": LONG | {"original_max_position_embeddings": 24},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
ROPES: dict[str, tuple[str, dict[str, Any], float]] = {
    "phi3, 10": (
        "phi3",
        {"rope_parameters": LONG, "original_max_position_embeddings": 10},
        10,
    ),
    "llama, 24": (
        "llama",
        {"rope_parameters": LONG | {"original_max_position_embeddings": 24}},
        24,
    ),
    "gemma3, of one type of layer": ("gemma3", {"rope_parameters": TWO_ROPES}, 24),
    "llama, dynamic": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}},
        96,
    ),
    "llama, yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 24,
            }
        },
        float("inf"),
    ),
}


@pytest.mark.parametrize("case", ROPES)
def test_generation_is_that_of_full_passes_whatever_the_rotary_embedding_depends_on(
    case: str, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With longrope every position is turned otherwise once the text passes the original length."""
    family, rope, steady = ROPES[case]
    architecture, own = FAMILIES[family]
    monkeypatch.setitem(FAMILIES, family, (architecture, own | GROUPED | rope))
    folder = folder_of(family)
    model, plain = load_model(folder, device="cpu"), Plain(folder)
    assert steady_tokens(plain.hf.config) == steady
    prompt, ids = IDS[0], IDS
    monkeypatch.setattr(LanguageModel, "end_ids", torch.zeros(0, dtype=torch.long))
    n_new = 96 - len(prompt) if case == "llama, dynamic" else 30
    for _ in range(n_new):
        ids = torch.cat([ids, plain.logits(ids)[:, -1].argmax(-1)[:, None]], dim=1)
    sampling = Sampling(max_new_tokens=n_new, seeds=[0])
    (made,) = generate(Stack(model, (), ()), prompt, [{}], sampling=sampling, concept=())
    assert made.ids == ids[0, len(prompt) :].tolist()


def test_a_row_that_padding_would_make_too_long_for_its_rotary_embedding_is_refused(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rope, steady = ROPES["llama, 24"]
    monkeypatch.setitem(FAMILIES, "llama", ("LlamaForCausalLM", GROUPED | rope))
    model, site = load_model(folder_of("llama"), device="cpu"), "blocks.1.hook_resid_post"
    alone = record_activations(model, IDS, [site])[site]
    for n_pos in (int(steady), int(steady) + 1):
        ids = torch.nn.functional.pad(IDS, (0, n_pos - IDS.shape[1]))
        mask = torch.arange(n_pos)[None] < IDS.shape[1]
        if n_pos == steady:
            found = record_activations(model, ids, [site], mask=mask)[site]
            assert torch.allclose(found[:, : IDS.shape[1]], alone, atol=1e-4)
        else:
            with pytest.raises(ArgumentError, match="more than 24 tokens") as raised:
                record_activations(model, ids, [site], mask=mask)
            assert raised.value.code == "PADDING_NOT_HEEDED"


@pytest.mark.parametrize("family", ["openai_gpt", "rwkv", "recurrent_gemma"])
def test_rows_are_not_padded_on_the_left_where_that_is_seen(
    family: str, folder_of: Callable[[str], Path]
) -> None:
    """GPT-1 on transformer-lens attends to what a mask leaves out, and to what comes later; the
    others keep a state of it."""
    model, n = load_model(folder_of(family), device="cpu"), IDS.shape[1]
    site, padding = "blocks.1.hook_resid_post", torch.zeros(1, 2, dtype=torch.long)
    if family == "openai_gpt":
        site = "blocks.1.hook_mlp_out"
    left = torch.tensor([[False] * 2 + [True] * n])
    for use in (model.forward, lambda ids, mask: record_activations(model, ids, [site], mask=mask)):
        with pytest.raises(ArgumentError, match="padding on the left") as raised:
            use(torch.cat([padding, IDS], dim=1), mask=left)
        assert raised.value.code == "PADDING_NOT_HEEDED"
    right = torch.cat([IDS, padding], dim=1)
    found = record_activations(model, right, [site], mask=left.flip(1))[site]
    alone = record_activations(model, IDS, [site])[site]
    assert torch.allclose(found[:, :n], alone, atol=1e-4)


def test_a_model_that_keeps_its_state_elsewhere_generates_without_a_cache(
    folder_of: Callable[[str], Path],
) -> None:
    """RecurrentGemma's recurrent layers leave the cache empty."""
    folder = folder_of("recurrent_gemma")
    model = load_model(folder, device="cpu")
    assert not model.caches
    ids = torch.arange(3, 23)[None]
    assert torch.allclose(model.forward(ids)[0], Plain(folder).logits(ids), atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "mamba", "opt", "mpt", "bloom", "gemma3"])
def test_rows_that_are_padded_on_the_left_give_what_they_give_alone(
    family: str, folder_of: Callable[[str], Path]
) -> None:
    model, site = load_model(folder_of(family), device="cpu"), "blocks.1.hook_resid_post"
    ids = torch.arange(3, 17)[None]  # longer than Gemma 3's window here
    padded = torch.cat([ids[:, :4], ids], dim=1)
    mask = torch.tensor([[False] * 4 + [True] * ids.shape[1]])
    found = record_activations(model, padded, [site], mask=mask)[site][:, 4:]
    alone = record_activations(model, ids, [site])[site]
    assert torch.allclose(found, alone, atol=1e-4 * float(alone.abs().max()))
