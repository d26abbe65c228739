"""Several changes of one text in one pass give what each gives alone, in families that keep
something of the batch that came in."""

from pathlib import Path

import pytest
import torch
from tests.attack.families import build
from tests.attack.plain import Plain
from torch import Tensor
from transformers import AutoTokenizer

from saescope.models import LanguageModel, load_model
from saescope.saes import SAEMetadata, TopKConfig, TopKSAE
from saescope.stack import as_stack
from saescope.variants import Variant, run_variants, widens

FAMILIES = (
    *("bloom", "opt", "falcon", "gpt2", "gpt_neox", "gptj", "llama"),
    *("gemma2", "mpt", "olmo2", "phi", "qwen3", "xglm"),
)
KEEP_THE_BATCH = {("bloom", "blocks.0.hook_resid_post"), ("opt", "blocks.0.hook_mlp_out")}
"""Where a pass that is widened midway fails or mixes rows up."""
SITES = ("blocks.0.hook_resid_post", "blocks.0.hook_mlp_out", "blocks.1.hook_attn_out")
D, N_POS, N_VARIANTS = 32, 6, 3


@pytest.fixture(scope="module", params=FAMILIES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, glass_dir: Path
) -> tuple[LanguageModel, Plain]:
    """One folder, loaded by us, and as a plain Hugging Face model."""
    folder = tmp_path_factory.mktemp("family") / request.param
    build(request.param, folder, AutoTokenizer.from_pretrained(glass_dir))
    return load_model(folder, device="cpu"), Plain(folder)


def random_sae(hook_name: str) -> TopKSAE:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "W_enc": torch.randn(D, 48, generator=draw),
        "W_dec": torch.randn(48, D, generator=draw),
        "b_enc": torch.zeros(48),
        "b_dec": torch.zeros(D),
    }
    return TopKSAE(
        TopKConfig(d_in=D, d_sae=48, k=4, metadata=SAEMetadata(hook_name=hook_name)), tensors
    )


def added(changes: Tensor) -> list[Variant]:
    """One variant for each change, the same whatever the SAE sees."""
    return [{0: lambda site, change=change: change} for change in changes]


@pytest.mark.parametrize("hook_name", SITES)
def test_each_row_is_what_a_plain_model_gives_with_that_change(
    pair: tuple[LanguageModel, Plain], hook_name: str
) -> None:
    model, plain = pair
    ids = torch.arange(3, 3 + N_POS)[None]
    changes = torch.randn(N_VARIANTS, N_POS, D, generator=torch.Generator().manual_seed(1))
    sae = random_sae(hook_name)
    stack = as_stack(model, sae)
    clean, changed = run_variants(stack, ids, stack.read(ids), added(changes), position=-1)
    for i, change in enumerate(changes):

        def add(x: Tensor, change: Tensor = change) -> Tensor:
            return x + change.reshape(x.shape)

        assert torch.allclose(clean[i], plain.logits(ids)[0, -1], atol=1e-4)
        alone = plain.logits(ids, {hook_name: add})[0, -1]
        assert (alone - clean[i]).abs().max() > 1e-3, "the change did nothing"
        assert torch.allclose(changed[i], alone, atol=1e-4)
    if (plain.family, hook_name) in KEEP_THE_BATCH:
        assert not widens(model, sae)
