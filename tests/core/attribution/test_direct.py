"""The direct path, in families whose final norm the bridge leaves as it is, calls twice, or does
not have."""

from pathlib import Path

import pytest
import torch
from tests.attack.families import FAMILIES, build
from tests.attack.plain import Plain
from tests.attack.test_families import make_sae
from torch import Tensor
from transformers import AutoTokenizer

from saescope.attribution import attribute
from saescope.effects import promoted_tokens
from saescope.errors import ArgumentError
from saescope.models import load_model

SITE = "blocks.1.hook_mlp_out"


def frozen_gradient(plain: Plain, ids: Tensor) -> Tensor:
    """d logit 7 of the last position / d residual stream there, each part of the final norm taken
    as the factor that it is."""
    seen: dict[str, Tensor] = {}

    def keep(module: object, args: tuple[Tensor], out: Tensor) -> Tensor:
        seen["r"] = args[0][0, -1]
        seen["leaf"] = out.detach().clone().requires_grad_()
        return seen["leaf"].clone()

    handle = plain.final_norm.register_forward_hook(keep)
    with torch.enable_grad():
        logit = plain.hf(ids, use_cache=False).logits[0, -1, 7]
        (gradient,) = torch.autograd.grad(logit, seen["leaf"])
    handle.remove()
    factors = plain.final_norm(seen["r"][None, None])[0, 0] / seen["r"]
    return (gradient[0, -1] * factors).detach()


@pytest.mark.parametrize("family", ["nanochat", "gemma4"])
def test_direct_is_right_whatever_the_final_norm_is_made_of(
    family: str, tmp_path: Path, glass_dir: Path
) -> None:
    folder = build(family, tmp_path / family, AutoTokenizer.from_pretrained(glass_dir))
    model, plain = load_model(folder, device="cpu"), Plain(folder)
    sae = make_sae(SITE, (32, 1.0))
    tokens = model.tokenize("Once upon a time", prepend_bos=True)
    found = attribute(
        model, sae, tokens, target="#7", method="direct", measure="logit", k=2, validate=False
    )
    gradient = frozen_gradient(plain, tokens.ids[None])
    assert found.features
    for each in found.features:
        expected = each.activation * float(sae.W_dec[each.feature] @ gradient)
        assert each.attribution == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("family", ["openai_gpt", "opt_narrow"])
def test_where_logits_are_no_linear_map_of_the_stream_nothing_is_promoted_or_direct(
    family: str, tmp_path: Path, glass_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = ("OPTForCausalLM", {"ffn_dim": 64, "word_embed_proj_dim": 16})
    monkeypatch.setitem(FAMILIES, "opt_narrow", narrow)
    folder = build(family, tmp_path / family, AutoTokenizer.from_pretrained(glass_dir))
    model, sae = load_model(folder, device="cpu"), make_sae(SITE, (32, 1.0))
    assert promoted_tokens(model, sae, [0, 1], 3) == [[], []]
    with pytest.raises(ArgumentError) as raised:
        attribute(model, sae, model.tokenize("Once upon a time"), method="direct")
    assert raised.value.code == "METHOD_NOT_AVAILABLE"
