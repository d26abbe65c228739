"""The fast path (Hugging Face modules, SDPA, stopped at the hook) against the bridge's hooks, in
every family."""

from collections.abc import Callable

import pytest
import torch
from tests.core.oracle import Family
from torch import Tensor

from saescope.activations import Harvester
from saescope.errors import HookError, SaescopeError
from saescope.hooks import edit_activations, record_activations
from saescope.models import LanguageModel, model_fingerprint
from saescope.models.plain import PlainModel, plain_model

FAST = ("glass", "gpt2", "gemma3", "llama", "qwen3", "neox")
IDS = torch.randint(4, 1000, (3, 40), generator=torch.Generator().manual_seed(1))


def differences(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference at any position, relative to that position's norm."""
    flat = {name: x.flatten(2) for name, x in reference.items()}
    return {
        name: float(((ours[name] - x).norm(dim=-1) / x.norm(dim=-1)).max())
        for name, x in flat.items()
    }


@pytest.mark.parametrize("name", FAST)
def test_the_fast_path_gives_what_the_bridge_gives(
    family_of: Callable[[str], Family], name: str
) -> None:
    family = family_of(name)
    hooks = [
        f"blocks.{layer}.{site}"
        for layer in (0, 1, family.model.n_layers - 1)
        for site in family.hf.sites
    ]
    harvester = Harvester(family.model, hooks, 40)
    assert harvester.plain is not None
    ours, reference = harvester(IDS), record_activations(family.model, IDS, hooks)
    assert list(ours) == hooks and all(
        x.shape[:2] == IDS.shape and x.ndim == 3 for x in ours.values()
    )
    assert max(differences(ours, reference).values()) < 1e-5


def test_an_architecture_without_sdpa_falls_back_to_the_bridge(
    family_of: Callable[[str], Family],
) -> None:
    model = family_of("gemma2").model
    harvester = Harvester(model, ["blocks.1.hook_resid_post"], 40)
    assert harvester.plain is None
    assert torch.equal(
        harvester(IDS)["blocks.1.hook_resid_post"],
        record_activations(model, IDS, ["blocks.1.hook_resid_post"]).popitem()[1],
    )


@pytest.mark.parametrize("hook", ["blocks.1.ln2.hook_normalized", "blocks.1.attn.hook_q"])
def test_a_hook_that_no_module_has_falls_back_to_the_bridge(gpt2: Family, hook: str) -> None:
    harvester = Harvester(gpt2.model, [hook], 40)
    assert harvester.plain is None
    assert (
        max(differences(harvester(IDS), record_activations(gpt2.model, IDS, [hook])).values()) == 0
    )


def test_a_fast_path_that_gives_something_else_is_not_used(
    llama: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = PlainModel.__call__
    monkeypatch.setattr(
        PlainModel,
        "__call__",
        lambda self, ids: {name: x * 1.01 for name, x in run(self, ids).items()},
    )
    assert Harvester(llama.model, ["blocks.1.hook_resid_post"], 40).plain is None


@pytest.mark.parametrize("name", FAST)
def test_the_model_runs_no_further_than_the_last_hook(
    family_of: Callable[[str], Family], name: str
) -> None:
    model = family_of(name).model
    plain = plain_model(model, ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"])
    assert plain is not None
    ran: list[str] = []
    for path, module in plain.root.named_modules():
        module.register_forward_hook(lambda *_, path=path: ran.append(path))
    assert len(plain(IDS)) == 2
    blocks = {path for path in ran if path.rsplit(".", 1)[-1].isdigit()}
    assert {path.rsplit(".", 1)[-1] for path in blocks} == {"0"} and not any(
        "lm_head" in path or "embed_out" in path for path in ran
    )


def test_bridge_and_fast_path_do_not_see_each_others_hooks(llama: Family) -> None:
    hook = "blocks.1.hook_resid_post"
    harvester = Harvester(llama.model, [hook], 40)
    before, logits = harvester(IDS)[hook], llama.model.forward(IDS)[0]
    with edit_activations(llama.model, {"blocks.0.hook_resid_post": lambda x: x * 2}):
        assert torch.equal(harvester(IDS)[hook], before)
        assert not torch.equal(llama.model.forward(IDS)[0], logits)
    assert torch.equal(llama.model.forward(IDS)[0], logits)
    assert llama.model.bridge.original_model.config._attn_implementation == "eager"


def test_the_fast_path_shares_the_weights(gpt2: Family) -> None:
    plain = plain_model(gpt2.model, ["blocks.1.hook_resid_post"])
    assert plain is not None
    theirs = {p.data_ptr() for p in gpt2.model.bridge.original_model.parameters()}
    assert {p.data_ptr() for p in plain.root.parameters()} <= theirs


def test_products_that_onednn_does_are_the_same_as_those_of_torch(
    gpt2: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = "blocks.1.hook_resid_post"
    found = [Harvester(gpt2.model, [hook], 40)(IDS)]
    monkeypatch.setattr("saescope.models.plain.ONEDNN", False)
    found.append(Harvester(gpt2.model, [hook], 40)(IDS))
    assert differences(found[0], found[1])[hook] < 1e-5


def test_an_unknown_hook_names_the_nearest(glass: LanguageModel) -> None:
    with pytest.raises(HookError, match="no hook"):
        Harvester(glass, ["blocks.1.hook_resid_pst"], 16)
    with pytest.raises(SaescopeError, match="No hook"):
        Harvester(glass, [], 16)


def test_the_fingerprint_of_a_model_changes_with_its_weights(gpt2: Family) -> None:
    first = model_fingerprint(gpt2.model)
    assert model_fingerprint(gpt2.model) == first
    weight = next(gpt2.model.bridge.original_model.parameters())
    with torch.no_grad():
        weight += 1e-3
        changed = model_fingerprint(gpt2.model)
        weight -= 1e-3
    assert changed != first
