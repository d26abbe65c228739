"""Every family x site x operation gives what plain PyTorch hooks on a fresh Hugging Face model
give, or refuses with a code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.attack.conftest import Attack
from tests.attack.families import FAMILIES, build
from tests.attack.plain import Plain
from torch import Tensor
from transformers import AutoTokenizer

from saescope.attribution.gradients import Metric, site_gradients
from saescope.errors import HookError, ModelError
from saescope.evals import evaluate
from saescope.hooks import hook_shape, record_activations
from saescope.models import LanguageModel, Target, load_model
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE
from saescope.splice import write_hook
from saescope.stack import as_stack
from saescope.steering import FeatureEdit, steer
from saescope.variants import Variant, run_variants

QUICK = (
    "bloom",
    "exaone4",
    "falcon",
    "falcon_new",
    "gpt_bigcode",
    "granite",
    "llama4",
    "mamba",
    "nanochat",
    "olmo",
    "opt",
    "openai_gpt",
)
SAMPLE = ("bloom", "exaone4", "falcon_new", "mamba", "openai_gpt")
"""A bias from positions, norms behind the blocks, a refusal, no attention, a head of its own: the
slow tier tries the rest of QUICK."""
REFUSED = ("falcon_new", "helium", "opt_post", "persimmon", "phimoe")
"""Families that transformer-lens does not hold, or fails on."""
OWN_HEADS = ("modernbert_decoder", "openai_gpt")
"""Families with more than a norm and a matrix between the residual stream and the logits, or with
norms behind the sums."""
SITES = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "attn.hook_z",
    "mlp.hook_in",
    "mlp.hook_post",
)
IDS = torch.tensor([[2, 185, 552, 116, 214, 63, 470, 99, 300, 41, 77]])
N_FEATURES = 8
TOLERANCE = 2e-4


def close(ours: Tensor, expected: Tensor) -> None:
    """Equal to a small part of the largest value."""
    assert ours.shape == expected.shape
    off = float((ours - expected).abs().max() / expected.abs().max().clamp_min(1e-9))
    assert off < TOLERANCE, f"off by {off:.1e}"


def make_sae(hook_name: str, size: tuple[int, float]) -> SAE:
    d_in, scale = size
    draw = torch.Generator().manual_seed(0)
    weights = {
        "W_enc": torch.randn(d_in, N_FEATURES, generator=draw) / d_in**0.5,
        "W_dec": torch.randn(N_FEATURES, d_in, generator=draw) * scale,
        "b_enc": torch.zeros(N_FEATURES),
        "b_dec": torch.zeros(d_in),
    }
    metadata = SAEMetadata(hook_name=hook_name, prepend_bos=False)
    return StandardSAE(StandardConfig(d_in=d_in, d_sae=N_FEATURES, metadata=metadata), weights)


def check_record(model: LanguageModel, sae: SAE, plain: Plain) -> None:
    found = record_activations(model, IDS, [write_hook(sae)])[write_hook(sae)]
    close(found.reshape(IDS.shape[1], -1), plain.record(IDS, write_hook(sae)))


def check_variants(model: LanguageModel, sae: SAE, plain: Plain) -> None:
    """As ablation and intervene run them."""
    there = record_activations(model, IDS, [write_hook(sae)])[write_hook(sae)]
    noise = torch.randn(3, IDS.shape[1], sae.cfg.d_in, generator=torch.Generator().manual_seed(1))
    changes = noise * there.std()
    stack = as_stack(model, sae)
    variants: list[Variant] = [{0: lambda site, change=change: change} for change in changes]
    clean, changed = run_variants(stack, IDS, stack.read(IDS), variants, position=-1)
    expected = [plain.logits(IDS, {write_hook(sae): _plus(change)})[0, -1] for change in changes]
    close(changed, torch.stack(expected))
    close(clean[0], plain.logits(IDS)[0, -1])


def check_gradient(model: LanguageModel, sae: SAE, plain: Plain) -> None:
    """As integrated gradients run them: several rows at once."""
    there = record_activations(model, IDS, [write_hook(sae)])[write_hook(sae)]
    changes = torch.stack([torch.zeros(IDS.shape[1], sae.cfg.d_in), -0.3 * there[0].flatten(1)])
    (found,), _ = site_gradients(
        as_stack(model, sae), IDS, Metric(Target(7, measure="logit"), -1), changes
    )
    expected = plain.gradient(IDS, write_hook(sae), -0.3 * there[0])
    close(found[1], expected.reshape(found[1].shape))


def check_evaluation(model: LanguageModel, sae: SAE, plain: Plain) -> None:
    ids = IDS.int()
    ce = evaluate(model, sae, ids, baselines=False, include_special=True).ce
    assert ce
    for found, changes in ((ce.clean, {}), (ce.zero_ablation, {write_hook(sae): torch.zeros_like})):
        logits = plain.logits(IDS, changes)[0, :-1]
        expected = torch.nn.functional.cross_entropy(logits, IDS[0, 1:])
        assert abs(found - float(expected)) < 1e-3 * max(1.0, float(expected))


def check_steering(model: LanguageModel, sae: SAE, plain: Plain) -> None:
    """Four tokens, with the cache, against full forward passes."""
    tokens = model.tokenize("Once upon a time there was a", prepend_bos=True)
    edit = FeatureEdit(3, strength=2.0)
    arms = steer(model, sae, tokens, [edit], max_new_tokens=4, n_controls=0, concept_tokens=[7])
    push = 2.0 * arms.unit_values[0] * sae.directions(torch.tensor([3]))[0]
    special, stop = set(model.tokenizer.special_ids.tolist()), model.tokenizer.eos_id
    for arm, change in ((arms.baseline, 0 * push), (arms.steered[0], push)):
        ids = tokens.ids[None]
        for _ in range(4):
            counted = torch.tensor([i > 0 and int(t) not in special for i, t in enumerate(ids[0])])
            edits = {write_hook(sae): _plus(counted[:, None] * change)}
            ids = torch.cat([ids, plain.logits(ids, edits)[:, -1:].argmax(-1)], dim=1)
            if int(ids[0, -1]) == stop:
                break
        written = ids[0, len(tokens) :].tolist()
        assert arm.text == model.tokenizer.join([i for i in written if i != stop])


def _plus(change: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: x + change.reshape(x.shape)


QUICK_CHECKS = (check_record, check_variants)
CHECKS = (check_record, check_variants, check_gradient, check_evaluation, check_steering)


def check_readout(model: LanguageModel, plain: Plain) -> None:
    """Along directions that the final norm's scale does not see, a step of the residual stream
    moves the logits as we say."""
    r = record_activations(model, IDS, ["unembed.hook_in"])["unembed.hook_in"][0, 3]
    draw = torch.Generator().manual_seed(2)
    r = torch.randn(r.shape, generator=draw)
    steps = torch.randn(4, len(r), generator=draw)
    numerator = r - r.mean() if model.readout.centred else r
    steps = steps - steps.mean(-1, keepdim=True) if model.readout.centred else steps
    if plain.final_norm is not None:
        steps = steps - (steps @ numerator)[:, None] * numerator / (numerator @ numerator)
    found = model.readout.logit_effects(steps)
    expected = plain.unembed(r + 1e-2 * steps) - plain.unembed(r - 1e-2 * steps)
    for ours, theirs in zip(found, expected, strict=True):
        assert float(torch.cosine_similarity(ours, theirs, dim=0)) > 0.9999


MODULES = ("layers.1", "layers.1.attn", "layers.1.mlp")


def check_module(model: LanguageModel, plain: Plain, module: str, side: str) -> None:
    """The hook that is given for a module carries what that module reads or gives in the plain
    model."""
    hook_names = model.hooks_of_module(module, side)
    if not plain.has(module):
        assert not hook_names
        return
    found = record_activations(model, IDS, hook_names[:1])[hook_names[0]]
    close(found.reshape(IDS.shape[1], -1), plain.module(IDS, module, side))


def attack_family(family: str, folder: Path, attack: Attack, *, quick: bool = False) -> None:
    if family in REFUSED:
        with attack.case(f"{family} refused"), pytest.raises(ModelError) as raised:
            load_model(folder, device="cpu")
        assert raised.value.code == "UNSUPPORTED_MODEL" and FAMILIES[family][0] in str(raised.value)
        return
    model, plain = load_model(folder, device="cpu"), Plain(folder)
    with attack.case(f"{family} readout"):
        assert model.reads_linearly == (family not in OWN_HEADS)
        if model.reads_linearly:
            check_readout(model, plain)
    for module in MODULES:
        for side in ("input", "output"):
            with attack.case(f"{family} {module} {side}"):
                check_module(model, plain, module, side)
    for site in SITES:
        try:
            shape = hook_shape(model, f"blocks.1.{site}")
            there = record_activations(model, IDS, [f"blocks.1.{site}"])[f"blocks.1.{site}"]
        except HookError:
            continue  # the family has no such site, and says so
        sae = make_sae(f"blocks.1.{site}", (int(torch.Size(shape).numel()), float(there.std())))
        checks = QUICK_CHECKS if quick and site != "hook_mlp_out" else CHECKS
        for check in checks if plain.place(f"blocks.1.{site}") else ():
            with attack.case(f"{family} {site} {check.__name__}"):
                try:
                    check(model, sae, plain)
                except (HookError, ModelError) as error:
                    assert error.code in ("HOOK_NOT_EDITABLE", "CACHE_MISMATCH")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory, glass_dir: Path) -> Callable[[str], Path]:
    tokenizer: Any = AutoTokenizer.from_pretrained(glass_dir)
    root = tmp_path_factory.mktemp("families")
    return lambda family: build(family, root / family, tokenizer)


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.slow) for name in QUICK],
)
def test_a_sample_of_families_against_plain_hooks(
    family: str, folder_of: Callable[[str], Path], attack: Attack
) -> None:
    attack_family(family, folder_of(family), attack, quick=True)


@pytest.mark.attack
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in QUICK])
def test_every_family_against_plain_hooks(
    family: str, folder_of: Callable[[str], Path], attack: Attack
) -> None:
    attack_family(family, folder_of(family), attack)
