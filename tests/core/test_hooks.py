"""Recorded and edited activations against PyTorch hooks on plain Hugging Face modules, and what a
block leaves behind."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.oracle import LAYER, Family, Reference, as_array, close, flat
from torch import Tensor, nn

from saescope.errors import HookError
from saescope.hooks import edit_activations, hook_shape, record_activations
from saescope.models import LanguageModel, StopForward, load_model

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


def n_hooks(model: LanguageModel) -> int:
    return sum(
        len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.bridge.hook_dict.values()
    )


def at(family: Family, site: str, layer: int = LAYER) -> str:
    if site not in family.hf.sites:
        pytest.skip(f"{family.name} has no {site}")
    return f"blocks.{layer}.{site}"


def noise(x: Tensor) -> Tensor:
    """Another value at every entry, the same for heads side by side or apart."""
    steps = torch.arange(x.numel(), dtype=torch.float64).reshape(x.shape)
    return (x * 0.7 + 0.3 * x.std() * torch.sin(steps)).to(x.dtype)


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("site", SITES)
def test_a_recorded_activation_is_the_one_of_the_hugging_face_module(
    family: Family, ids: Tensor, site: str, layer: int
) -> None:
    name = at(family, site, layer % family.model.n_layers)
    close(
        flat(record_activations(family.model, ids, [name])[name]),
        flat(family.hf.record(ids, [name])[name]),
        1e-5,
    )


def test_several_sites_are_recorded_in_one_run(family: Family, ids: Tensor) -> None:
    names = [f"blocks.{layer}.{site}" for layer in (0, 2) for site in family.hf.sites]
    ours, reference = record_activations(family.model, ids, names), family.hf.record(ids, names)
    assert list(ours) != [] and ours.keys() == reference.keys()
    for name in names:
        close(flat(ours[name]), flat(reference[name]), 1e-5)


def test_the_normalized_input_of_the_mlp_is_before_the_norms_weight(
    family: Family, ids: Tensor
) -> None:
    if not family.has_mid:
        pytest.skip("parallel blocks")
    mid = flat(family.hf.record(ids, [name := "blocks.1.hook_resid_mid"])[name])
    centred = mid - mid.mean(axis=1, keepdims=True) if family.hf.is_layer_norm else mid
    norm: Any = family.hf.module(name)
    eps = getattr(norm, "eps", None) or norm.variance_epsilon
    expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + eps)
    found = record_activations(family.model, ids, ["blocks.1.ln2.hook_normalized"])
    close(flat(found["blocks.1.ln2.hook_normalized"]), expected, 1e-5)


@pytest.mark.parametrize("site", SITES)
def test_an_edit_changes_the_logits_as_the_same_edit_in_the_hugging_face_model(
    family: Family, ids: Tensor, site: str
) -> None:
    name = at(family, site)
    with edit_activations(family.model, {name: noise}):
        ours = family.model.forward(ids)[0]
    expected = family.hf.logits(ids, {name: noise})
    assert not torch.allclose(expected, family.hf.logits(ids), atol=1e-3)
    close(flat(ours), flat(expected))


def test_an_edit_at_resid_mid_reaches_the_skip_path(family: Family, ids: Tensor) -> None:
    mid = at(family, "hook_resid_mid")
    names = ["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"]
    clean = record_activations(family.model, ids, [mid])[mid]
    with edit_activations(family.model, {mid: noise}):
        found = record_activations(family.model, ids, names)
    close(flat(found[names[0]]), flat(noise(clean)) + flat(found[names[1]]), 1e-5)


def test_edits_at_several_sites_act_together(family: Family, ids: Tensor) -> None:
    names = ["blocks.0.hook_mlp_out", "blocks.1.attn.hook_z", "blocks.2.hook_resid_pre"]
    with edit_activations(family.model, dict.fromkeys(names, noise)):
        ours = family.model.forward(ids)[0]
    close(flat(ours), flat(family.hf.logits(ids, dict.fromkeys(names, noise))))


@pytest.mark.parametrize("site", [*SITES, "ln2.hook_normalized"])
def test_an_edit_that_returns_an_equal_tensor_leaves_the_logits_bit_equal(
    family: Family, ids: Tensor, site: str
) -> None:
    name = f"blocks.1.{site}"
    if not family.has_mid and site in ("hook_resid_mid", "ln2.hook_normalized"):
        pytest.skip("parallel blocks")
    clean = family.model.forward(ids)[0]
    with edit_activations(family.model, {name: lambda x: x.clone()}):
        assert torch.equal(family.model.forward(ids)[0], clean)


class Counter:
    """How often each block and the unembedding of the bridge's own modules ran."""

    def __init__(self, model: LanguageModel) -> None:
        self.calls: dict[str, int] = {}
        original: Any = model.bridge.original_model
        self.handles = [
            module.register_forward_pre_hook(self._count(name))
            for name, module in original.named_modules()
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        ]

    def _count(self, name: str) -> Callable[..., None]:
        def count(*_: Any) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1

        return count

    def layers(self) -> set[int]:
        return {int(part) for name in self.calls for part in name.split(".") if part.isdigit()}

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize(
    ("layer", "site"),
    [(0, "hook_resid_pre"), (1, "hook_attn_out"), (1, "hook_resid_post"), (2, "hook_resid_post")],
)
def test_no_layer_above_the_recorded_one_runs(
    family: Family, ids: Tensor, layer: int, site: str
) -> None:
    with Counter(family.model) as counter:
        record_activations(family.model, ids, [f"blocks.{layer}.{site}"])
    assert max(counter.layers(), default=-1) == (layer - 1 if site == "hook_resid_pre" else layer)
    assert not any("lm_head" in name or "embed_out" in name for name in counter.calls)
    if site == "hook_attn_out":
        assert not any("mlp" in name and f".{layer}." in name for name in counter.calls)


def test_the_counter_itself_sees_a_whole_run(family: Family, ids: Tensor) -> None:
    with Counter(family.model) as counter:
        family.model.forward(ids)
    assert counter.layers() == set(range(family.model.n_layers))
    assert any("lm_head" in name or "embed_out" in name for name in counter.calls)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("blocks.1.hook_resid_pots", "blocks.1.hook_resid_post"),
        ("blocks.1.hook_mlpout", "blocks.1.hook_mlp_out"),
        ("blocks.1.attn.hook_Z", "blocks.1.attn.hook_z"),
        ("block.2.hook_resid_pre", "blocks.2.hook_resid_pre"),
        ("blocks.9.hook_resid_pre", "blocks.2.hook_resid_pre"),
        ("layer 2", "blocks.2.hook_resid_post"),
        ("L9", "blocks.2.hook_resid_post"),
        ("middle", "blocks.1.hook_resid_post"),
    ],
)
def test_an_unknown_hook_names_the_nearest(
    gpt2: Family, ids: Tensor, wrong: str, meant: str
) -> None:
    for use in (
        lambda: record_activations(gpt2.model, ids, [wrong]),
        lambda: edit_activations(gpt2.model, {wrong: noise}).__enter__(),
    ):
        with pytest.raises(HookError) as caught:
            use()
        assert caught.value.code == "HOOK_NOT_FOUND" and caught.value.got == wrong
        assert meant in caught.value.hint and "layers are 0..2" in caught.value.hint
    assert n_hooks(gpt2.model) == 0


def test_a_hook_that_this_set_up_never_fires_is_refused(gpt2: Family, ids: Tensor) -> None:
    with pytest.raises(HookError, match="never fires"):
        record_activations(gpt2.model, ids, ["blocks.1.hook_mlp_in"])


def test_an_edit_that_never_ran_is_an_error(gpt2: Family, ids: Tensor) -> None:
    with (
        pytest.raises(HookError) as caught,
        edit_activations(gpt2.model, {"blocks.1.hook_resid_pre": noise}),
    ):
        pass
    assert caught.value.code == "HOOK_NEVER_FIRED"
    with (
        pytest.raises(HookError) as caught,
        edit_activations(gpt2.model, {"blocks.2.hook_resid_pre": noise}),
    ):
        record_activations(gpt2.model, ids, ["blocks.0.hook_resid_post"])
    assert caught.value.code == "HOOK_NEVER_FIRED" and caught.value.got == "blocks.2.hook_resid_pre"


def test_a_recording_that_never_fired_is_an_error(gpt2: Family, ids: Tensor) -> None:
    # Stopping below the wanted hook is one way in which it never fires.
    def stop(x: Tensor) -> Tensor:
        raise StopForward(x)

    with (
        pytest.raises(HookError) as caught,
        edit_activations(gpt2.model, {"blocks.0.hook_resid_post": stop}),
    ):
        record_activations(gpt2.model, ids, ["blocks.1.hook_resid_post"])
    assert (
        caught.value.code == "HOOK_NEVER_FIRED" and caught.value.got == "blocks.1.hook_resid_post"
    )


class Interrupted(Exception):
    pass


def fail(x: Tensor) -> Tensor:
    raise Interrupted


@pytest.mark.parametrize("where", ["before", "in the hook", "after"])
def test_after_an_exception_the_model_is_as_before(family: Family, ids: Tensor, where: str) -> None:
    clean = family.model.forward(ids)[0]
    names = ["blocks.1.hook_resid_post", "blocks.1.attn.hook_z"]
    edit = fail if where == "in the hook" else noise
    with pytest.raises(Interrupted), edit_activations(family.model, dict.fromkeys(names, edit)):
        if where == "before":
            raise Interrupted
        family.model.forward(ids)
        raise Interrupted
    assert n_hooks(family.model) == 0
    assert torch.equal(family.model.forward(ids)[0], clean)
    assert not any(
        parameter.requires_grad for parameter in family.model.bridge.original_model.parameters()
    )


def test_an_unknown_hook_among_known_ones_leaves_nothing_behind(gpt2: Family) -> None:
    with (
        pytest.raises(HookError),
        edit_activations(gpt2.model, {"blocks.0.hook_resid_pre": noise, "nowhere": noise}),
    ):
        pass
    assert n_hooks(gpt2.model) == 0


def test_a_users_own_hook_stays_and_composes(gpt2: Family, ids: Tensor) -> None:
    name, bridge = "blocks.1.hook_resid_post", gpt2.model.bridge
    own = bridge.hook_dict["blocks.1.hook_out"]
    own.add_hook(lambda x, hook: x * 1.5)
    try:
        alone = gpt2.model.forward(ids)[0]
        with edit_activations(gpt2.model, {name: noise}):
            ours = gpt2.model.forward(ids)[0]
        assert len(own.fwd_hooks) == 1
        assert torch.equal(gpt2.model.forward(ids)[0], alone)
    finally:
        own.remove_hooks()
    close(flat(ours), flat(gpt2.hf.logits(ids, {name: lambda x: noise(x * 1.5)})))


def test_two_threads_at_once_each_get_their_own_numbers(gpt2: Family, ids: Tensor) -> None:
    clean, name = gpt2.model.forward(ids)[0], "blocks.1.hook_resid_pre"
    with edit_activations(gpt2.model, {name: noise}):
        edited = gpt2.model.forward(ids)[0]
    wrong: list[str] = []

    def plain() -> None:
        wrong.extend(
            "plain" for _ in range(30) if not torch.equal(gpt2.model.forward(ids)[0], clean)
        )

    def steered() -> None:
        for _ in range(30):
            with edit_activations(gpt2.model, {name: noise}):
                if not torch.equal(gpt2.model.forward(ids)[0], edited):
                    wrong.append("steered")
            record_activations(gpt2.model, ids, [name])

    threads = [threading.Thread(target=work) for work in (plain, steered, plain)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_hook_shapes_are_those_of_the_heads(family: Family) -> None:
    config: Any = family.hf.hf.config
    heads = (
        config.num_attention_heads,
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
    )
    assert hook_shape(family.model, "blocks.0.attn.hook_z") == heads
    assert hook_shape(family.model, "blocks.0.hook_resid_pre") == (config.hidden_size,)


def test_recording_in_half_precision_gives_the_models_own_values(gpt2: Family, ids: Tensor) -> None:
    model = load_model(gpt2.folder, device="cpu", dtype="bfloat16")
    reference = Reference(gpt2.folder, torch.bfloat16)
    name = "blocks.2.hook_resid_post"
    found = record_activations(model, ids, [name])[name]
    assert found.dtype == torch.bfloat16
    close(as_array(found), as_array(reference.record(ids, [name])[name]), 1e-2)
