"""Logits and their reading against plain Hugging Face models, in every family."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.oracle import Family, Reference, as_array, close, softmax
from torch import Tensor

from saescope.errors import ArgumentError, NumericError
from saescope.hooks import edit_activations
from saescope.models import Target, load_model, read_token, resolve_position, top_tokens


def test_logits_are_those_of_the_plain_model(family: Family, ids: Tensor) -> None:
    close(as_array(family.model.forward(ids)[0]), as_array(family.hf.logits(ids)), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_logits_in_another_dtype_are_those_of_the_plain_model_in_it(
    family: Family, ids: Tensor, dtype: torch.dtype
) -> None:
    model = load_model(family.folder, device="cpu", dtype=str(dtype).removeprefix("torch."))
    ours, expected = model.forward(ids)[0], Reference(family.folder, dtype).logits(ids)
    assert model.dtype == ours.dtype == dtype
    close(as_array(ours), as_array(expected), 1e-6 if dtype == torch.float64 else 3e-2)


def test_a_cached_forward_gives_the_same_logits(family: Family, ids: Tensor) -> None:
    whole = family.model.forward(ids)[0]
    _, past = family.model.forward(ids[:, :7], use_cache=True)
    rest, _ = family.model.forward(ids[:, 7:], use_cache=True, past=past)
    close(as_array(rest), as_array(whole[:, 7:]))


def test_only_the_last_logits_are_computed_when_asked(family: Family, ids: Tensor) -> None:
    last = family.model.forward(ids, last=2)[0]
    assert last.shape[1] == 2
    close(as_array(last), as_array(family.hf.logits(ids)[:, -2:]), 1e-5)


def test_left_padding_with_a_mask_gives_the_numbers_of_the_text_alone(
    family: Family, ids: Tensor
) -> None:
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
    mask = torch.tensor([[False] * 3 + [True] * ids.shape[1]])
    close(
        as_array(family.model.forward(padded, mask=mask)[0][:, 3:]), as_array(family.hf.logits(ids))
    )


def test_infinite_logits_are_an_error(gpt2: Family, ids: Tensor) -> None:
    with (
        pytest.raises(NumericError),
        edit_activations(gpt2.model, {"blocks.1.hook_resid_pre": lambda x: x * torch.inf}),
    ):
        gpt2.model.forward(ids)


def test_sizes_are_those_of_the_configuration(family: Family) -> None:
    config: Any = family.hf.hf.config
    model = family.model
    assert (model.n_layers, model.d_model, model.d_vocab) == (
        config.num_hidden_layers,
        config.hidden_size,
        config.vocab_size,
    )
    assert model.n_ctx == config.max_position_embeddings
    plain = sum({p.data_ptr(): p.nbytes for p in family.hf.hf.parameters()}.values())
    qkv = [
        p.nbytes for name, p in family.hf.hf.named_parameters() if "query_key_value" in name
    ]  # of which the bridge keeps copies
    assert model.weights_bytes == plain + sum(qkv)
    assert model.handle == family.folder.name and model.dtype == torch.float32


def test_a_predicted_token_is_read_with_logit_probability_and_rank(
    family: Family, ids: Tensor
) -> None:
    logits = family.model.forward(ids)[0][0, -1]
    expected = as_array(family.hf.logits(ids))[0, -1]
    order, probs = np.argsort(-expected, kind="stable"), softmax(expected)
    top = top_tokens(family.model, logits, 5)
    assert [token.id for token in top] == order[:5].tolist() and [token.rank for token in top] == [
        1,
        2,
        3,
        4,
        5,
    ]
    close([token.prob for token in top], probs[order[:5]])
    token = read_token(family.model, logits, 300)
    assert token.rank == 1 + int(
        (expected > expected[300]).sum()
    ) and token.token == family.model.token_text(300)
    close([token.logit, token.prob], [expected[300], probs[300]])


def test_an_effect_is_the_targets_log_probability_its_logit_or_the_difference_of_two() -> None:
    logits = torch.tensor([[1.0, 5.0, 2.5]])
    assert Target(1, measure="logit").of(logits).tolist() == [5.0]
    assert Target(1, 2).of(logits).tolist() == [2.5]
    assert Target(1).of(logits + 100).item() == pytest.approx(-math.log1p(0.018315638 + 0.0820850))


@pytest.mark.parametrize(("position", "expected"), [(0, 0), (3, 3), (-1, 3), (-4, 0)])
def test_positions_count_from_either_end(position: int, expected: int) -> None:
    assert resolve_position(position, 4) == expected


@pytest.mark.parametrize("position", [4, -5])
def test_a_position_outside_is_refused(position: int) -> None:
    with pytest.raises(ArgumentError) as caught:
        resolve_position(position, 4)
    assert caught.value.code == "POSITION_OUT_OF_RANGE" and caught.value.allowed == "-4..3"


def test_the_readout_is_the_final_norms_weight_and_the_unembedding(family: Family) -> None:
    readout = family.model.readout
    close(as_array(readout.gain), family.hf.gain(), 1e-5)
    close(as_array(readout.W_U), as_array(family.hf.unembed.weight).T)
    assert readout.centred is family.hf.is_layer_norm


@pytest.mark.parametrize(
    "site",
    [
        "hook_resid_pre",
        "hook_resid_mid",
        "hook_resid_post",
        "hook_attn_out",
        "hook_mlp_out",
        "attn.hook_z",
    ],
)
def test_a_change_at_a_site_reaches_the_residual_stream_as_in_the_plain_model(
    family: Family, ids: Tensor, site: str
) -> None:
    if site not in family.hf.sites:
        pytest.skip("parallel blocks")
    name, after = f"blocks.1.{site}", "blocks.1.hook_resid_post"
    to_residual = family.model.residual_map(name)
    if site == "attn.hook_z" and family.name.startswith("gemma"):
        assert to_residual is None  # a norm lies between
        return
    assert to_residual is not None
    # The last position's own MLP would answer: take what arrives before it, where the block has
    # such a place.
    seen = "blocks.1.hook_attn_out" if site == "attn.hook_z" else name
    width = family.hf.record(ids, [name])[name].shape[-1]
    change = torch.randn(1, width, generator=torch.Generator().manual_seed(0))
    clean = family.hf.record(ids, [seen, after])
    moved = family.hf.record(ids, [seen, after], {name: lambda x: x + change})
    expected = moved[seen] - clean[seen] if site == "attn.hook_z" else change.expand_as(clean[seen])
    close(as_array(to_residual(change)), as_array(expected[0, -1:]), 1e-4)
