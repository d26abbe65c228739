"""Families that write into an activation later on, that have no plain middle of a block, or whose own cache is wrong."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest
import torch
from tests.attack.families import build
from tests.attack.plain import Plain
from transformers import AutoTokenizer

from saescope.errors import HookError
from saescope.hooks import edit_activations, record_activations
from saescope.models import load_model

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
