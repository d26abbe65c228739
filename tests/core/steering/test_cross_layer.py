"""Features of a cross-layer transcoder edited, beside plain PyTorch hooks on a Hugging Face model:
the change of an activation goes to the MLPs' outputs of all later layers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.core.graphs.made import IDS, as_tokens
from tests.core.oracle import Family
from tests.core.sets import written
from torch import Tensor

from saescope.attribution import attribute
from saescope.errors import ArgumentError, ConfigError
from saescope.graphs import trace_circuit
from saescope.graphs.live import run_live, without_all
from saescope.graphs.targets import choose_targets
from saescope.graphs.trace import trace
from saescope.hooks import edit_activations
from saescope.load import load_sae
from saescope.models import LanguageModel
from saescope.records.graph import GraphSettings
from saescope.saes import SAE
from saescope.search import compare_prompts, find_causes
from saescope.sets import SAESet, load_set
from saescope.splice import write_hook
from saescope.stack import as_stack
from saescope.steering import FeatureEdit, intervene, steer
from saescope.steering.generate import Cursor, steered_by
from saescope.steering.prepare import Prepared, prepare
from saescope.steering.units import Controls, Unit

D, D_SAE, N_LAYERS = 32, 48, 3
RAW = Unit.of("raw", None, None, N_LAYERS)


def made_layers() -> list[written.Layer]:
    """A JumpReLU encoder for each of three layers, and a decoder for each layer from its own on."""
    rng = torch.Generator().manual_seed(5)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    return [
        written.Layer(
            randn(D, D_SAE) / D**0.5,
            [randn(D_SAE, D) / 3 for _ in range(N_LAYERS - layer)],
            randn(D_SAE) / 4,
            randn(D),
            torch.rand(D_SAE, generator=rng) / 4,
            randn(D, D),
        )
        for layer in range(N_LAYERS)
    ]


MADE = made_layers()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written.cross_layer(tmp_path_factory.mktemp("clt") / "clt", MADE)


def in_model(folder: Path, model: LanguageModel) -> SAESet:
    return load_set(folder, device="cpu").settled(model)


def edited(f: Tensor, edit: FeatureEdit) -> Tensor:
    """f' of an edit in raw units."""
    changed = {
        "ablate": torch.zeros_like(f),
        "clamp": torch.full_like(f, edit.strength),
        "scale": edit.strength * f,
        "add": f + edit.strength,
    }
    return changed[edit.mode]


def plain(edits: Sequence[FeatureEdit]) -> dict[str, Callable[[Tensor], Tensor]]:
    """Plain hooks: at each edited layer features are encoded from what arrives there in this very
    run, and their change times each layer's decoder row is added to that layer's MLP output."""
    changes: dict[int, list[Tensor]] = {to: [] for to in range(N_LAYERS)}

    def read(x: Tensor, layer: int) -> Tensor:
        acts = MADE[layer].acts(x[0], "jump_relu")
        for to in range(layer, N_LAYERS):
            changes[to] = changes[to] if layer else []
        for edit in (edit for edit in edits if edit.sae == layer):
            f = acts[:, edit.feature]
            at = list(edit.positions) or list(range(1, len(f)))
            delta = torch.zeros_like(f)
            delta[at] = (edited(f, edit) - f)[at]
            for to in range(layer, N_LAYERS):
                row = MADE[layer].decoders[to - layer][edit.feature].double()
                changes[to].append(delta[:, None] * row)
        return x

    def write(x: Tensor, layer: int) -> Tensor:
        return (x.double() + sum(changes[layer])).to(x.dtype) if changes[layer] else x

    hooks: dict[str, Callable[[Tensor], Tensor]] = {}
    for layer in range(N_LAYERS):
        hooks[f"blocks.{layer}.hook_resid_mid"] = partial(read, layer=layer)
        hooks[f"blocks.{layer}.hook_mlp_out"] = partial(write, layer=layer)
    return hooks


def firing(ours: SAESet, model: LanguageModel, layer: int, n: int) -> list[int]:
    """Features that fire most in the prompt."""
    seen: list[Tensor] = []
    hook = (ours.members[layer].read_hook, lambda x, hook: seen.append(x.clone()))
    model.run(model.batch(IDS), [hook])
    return MADE[layer].acts(seen[0][0], "jump_relu")[1:].sum(0).topk(n).indices.tolist()


def mixed(ours: SAESet, model: LanguageModel) -> Mapping[str, list[FeatureEdit]]:
    """Edits of each kind, at one layer and at all of them, everywhere and at named positions."""
    low, mid, top = (firing(ours, model, layer, 3) for layer in range(N_LAYERS))
    return {
        "one layer": [FeatureEdit(low[0], mode="ablate")],
        "a named position": [FeatureEdit(mid[0], mode="ablate", positions=(4, 6), sae=1)],
        "every mode": [
            FeatureEdit(low[0], mode="scale", strength=2.5),
            FeatureEdit(low[1], mode="ablate", positions=(2, 5)),
            FeatureEdit(mid[0], mode="clamp", strength=1.5, sae=1),
            FeatureEdit(mid[1], mode="scale", strength=-1.0, sae=1),
            FeatureEdit(top[0], mode="add", strength=0.7, sae=2),
            FeatureEdit(top[1], mode="ablate", sae=2),
        ],
    }


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_an_edit_goes_to_the_outputs_of_all_later_layers(
    name: str, folder: Path, family_of: Callable[[str], Family]
) -> None:
    family = family_of(name)
    ours = in_model(folder, family.model)
    clean = family.hf.logits(IDS[None])[0, -1]
    for which, edits in mixed(ours, family.model).items():
        want = family.hf.logits(IDS[None], plain(edits))[0, -1]
        target = int((want - clean).abs().argmax())
        done = intervene(
            family.model,
            ours.saes,
            as_tokens(),
            edits,
            unit="raw",
            target=target,
            measure="logit",
            n_controls=3,
        )
        assert abs(float(want[target] - clean[target])) > 0.02, which
        assert done.effect == pytest.approx(float(want[target] - clean[target]), abs=2e-4), which
        assert done.touched and done.control.n == 3
        for row in done.after.top:
            assert row.logit == pytest.approx(float(want[row.id]), abs=2e-4), which


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_a_text_is_written_token_by_token_with_its_features_changed(
    name: str, folder: Path, family_of: Callable[[str], Family]
) -> None:
    """With a cache of keys and values as without one, beside greedy search on the plain model."""
    family = family_of(name)
    ours = in_model(folder, family.model)
    edits = [
        FeatureEdit(firing(ours, family.model, 0, 1)[0], mode="scale", strength=4.0),
        FeatureEdit(firing(ours, family.model, 1, 1)[0], mode="add", strength=2.0, sae=1),
    ]
    ids = IDS
    for _ in range(6):
        ids = torch.cat([ids, family.hf.logits(ids[None], plain(edits))[0, -1].argmax()[None]])
    want = family.model.tokenizer.join(ids[len(IDS) :].tolist())
    for cached in (True, False):
        done = steer(
            family.model,
            ours.saes,
            as_tokens(),
            edits,
            unit="raw",
            max_new_tokens=6,
            n_controls=0,
            use_cache=cached,
        )
        assert done.steered[0].text == want
    assert done.baseline.text != want


def ready(model: LanguageModel, saes: Sequence[SAE], edits: Sequence[FeatureEdit]) -> Prepared:
    return prepare(as_stack(model, saes), as_tokens(), edits, unit=RAW, controls=Controls(0, 0))


def test_an_edit_that_changes_nothing_leaves_every_logit_as_it_is(
    folder: Path, llama: Family
) -> None:
    model = llama.model
    saes, ids = in_model(folder, model).saes, model.batch(IDS)
    edits = [FeatureEdit(3, strength=0.0), FeatureEdit(5, mode="scale", strength=1.0, sae=1)]
    clean = model.forward(ids)[0]
    plans = ready(model, saes, edits).plans
    with steered_by(as_stack(model, saes), [plans], Cursor(torch.ones_like(ids, dtype=torch.bool))):
        assert torch.equal(model.forward(ids)[0], clean)
    done = intervene(model, saes, as_tokens(), edits, unit="raw", n_controls=0)
    assert done.effect == 0 and done.kl == 0 and not done.touched


def test_after_an_exception_at_a_later_layer_the_model_is_as_before(
    folder: Path, llama: Family
) -> None:
    model = llama.model
    saes, ids = in_model(folder, model).saes, model.batch(IDS)
    clean = model.forward(ids)[0]
    plans = ready(model, saes, [FeatureEdit(firing(in_model(folder, model), model, 0, 1)[0], 3.0)])
    cursor = Cursor(torch.ones_like(ids, dtype=torch.bool))

    def fail(x: Tensor) -> Tensor:
        raise ValueError("half way up")

    with (
        pytest.raises(ValueError, match="half way up"),
        steered_by(as_stack(model, saes), [plans.plans], cursor),
        edit_activations(model, {write_hook(saes[1]): fail}),
    ):
        model.forward(ids)
    assert torch.equal(model.forward(ids)[0], clean)


def test_a_control_is_as_large_at_every_layer(folder: Path, gpt2: Family) -> None:
    saes = in_model(folder, gpt2.model).saes
    chosen = firing(in_model(folder, gpt2.model), gpt2.model, 0, 1)
    found = prepare(
        as_stack(gpt2.model, saes),
        as_tokens(),
        [FeatureEdit(chosen[0], mode="ablate")],
        unit=RAW,
        controls=Controls(2, 0),
    )
    for plans, drawn in zip(found.controls, found.drawn, strict=True):
        rows = {0: plans[0].rows, **dict(enumerate(plans[0].later.values(), 1))}
        for later, row in rows.items():
            own = MADE[0].decoders[later]
            assert torch.allclose(row.norm(), own[chosen[0]].norm())
            other = own[drawn[0].feature]
            assert torch.allclose(row[0] / row.norm(), other / other.norm(), atol=1e-6)


def test_a_graph_says_of_a_feature_what_intervene_measures(folder: Path, gpt2: Family) -> None:
    model = gpt2.model
    ours = in_model(folder, model)
    named = [model.token_text(i) for i in (411, 97)]
    settings = GraphSettings(most_measured=6, n_controls=0)
    graph = trace_circuit(
        model, ours, as_tokens(), targets=[named[0]], against=named[1], settings=settings
    )
    measured = [n for n in graph.nodes if n.kind == "feature" and n.effect and abs(n.effect.free)]
    assert len(measured) >= 3
    for node in measured:
        assert node.effect and node.sae is not None and node.feature is not None
        edit = FeatureEdit(node.feature, mode="ablate", positions=(node.pos,), sae=node.sae)
        done = intervene(
            model,
            ours.saes,
            as_tokens(),
            [edit],
            target=named[0],
            against=named[1],
            n_controls=0,
        )
        assert done.effect == pytest.approx(-node.effect.free, abs=1e-4)
        assert node.lost == pytest.approx(node.effect.free, abs=1e-4)


def test_many_nodes_of_a_graph_are_ablated_as_intervene_does_it(folder: Path, gpt2: Family) -> None:
    """Each loses what it has left in the run in which those below it are gone."""
    model, ours = gpt2.model, in_model(folder, gpt2.model)
    settings = GraphSettings(most_targets=1, n_controls=0)
    clean = model.forward(model.batch(IDS))[0][0, -1]
    targets = choose_targets(model, clean, named=(), against=None, settings=settings)
    traced = trace(model, ours, as_tokens(), targets, settings)
    columns = traced.store.columns
    chosen = torch.arange(0, columns.n_features, 5)
    live = run_live(traced.clean, 1, without_all(columns, [chosen]), hold_attention=False)
    places = [columns.place(column) for column in chosen.tolist()]
    edits = [
        FeatureEdit(each.feature, mode="ablate", positions=(each.pos,), sae=each.owner)
        for each in places
    ]
    token = targets[0].token
    done = intervene(
        model, ours.saes, as_tokens(), edits, target=token, measure="logit", n_controls=0
    )
    assert len({edit.sae for edit in edits}) == N_LAYERS
    assert done.effect == pytest.approx(float(live.logits[0, token] - clean[token]), abs=2e-4)


def test_layers_that_are_loaded_one_by_one_make_the_graph_of_the_set(
    folder: Path, gpt2: Family
) -> None:
    model, ours = gpt2.model, in_model(folder, gpt2.model)
    settings = GraphSettings(most_targets=2, most_measured=2, n_controls=0)
    one, other = (
        trace_circuit(model, of, as_tokens(), settings=settings) for of in (ours, ours.saes)
    )
    assert one.kind == other.kind == "cross_layer"
    assert [(edge.source, edge.target) for edge in one.edges] == [
        (edge.source, edge.target) for edge in other.edges
    ]
    assert [edge.weight for edge in one.edges] == pytest.approx(
        [edge.weight for edge in other.edges], abs=1e-5
    )


def test_of_some_layers_alone_features_still_write_at_every_later_one(
    folder: Path, gpt2: Family
) -> None:
    model = gpt2.model
    low = firing(in_model(folder, model), model, 0, 1)[0]
    some = load_set(folder, device="cpu", layers="0,2").settled(model)
    assert "writes there too" in some.notes[0]
    edits = [FeatureEdit(low, mode="ablate")]
    clean, want = (gpt2.hf.logits(IDS[None], hooks)[0, -1] for hooks in ({}, plain(edits)))
    target = int((want - clean).abs().argmax())
    done = intervene(
        model, some.saes, as_tokens(), edits, target=target, measure="logit", n_controls=0
    )
    assert done.effect == pytest.approx(float(want[target] - clean[target]), abs=2e-4)


def test_what_looks_at_one_site_alone_is_refused(folder: Path, gpt2: Family) -> None:
    sae, model = load_sae(folder / "W_enc_1.safetensors", device="cpu"), gpt2.model
    for call in (
        lambda: attribute(model, sae, as_tokens()),
        lambda: compare_prompts(model, sae, as_tokens(), as_tokens(IDS.flip(0))),
        lambda: find_causes(model, sae, [model.token_text(97)]),
    ):
        with pytest.raises(ConfigError, match="the first alone") as refused:
            call()
        assert refused.value.code == "CROSS_LAYER_FEATURE" and refused.value.hint


def test_what_cannot_be_edited_is_refused(tmp_path: Path, folder: Path, gpt2: Family) -> None:
    sae = load_sae(folder / "W_enc_1.safetensors", device="cpu")
    assert sae.decoders and sae.decoders.n == 2
    moved = sae.with_metadata(sae.cfg.metadata)
    assert moved.decoders is sae.decoders
    copies = [load_sae(sae.save(tmp_path / "saved"), device="cpu"), sae.fold_W_dec_norm()]
    for copy in copies:
        with pytest.raises(ConfigError, match="sum of its decoders alone") as alone:
            intervene(gpt2.model, copy, as_tokens(), [FeatureEdit(1, mode="ablate")])
        assert alone.value.code == "CROSS_LAYER_FEATURE" and alone.value.hint
    with pytest.raises(ArgumentError, match="at each of 2 layers") as projected:
        intervene(gpt2.model, sae, as_tokens(), [FeatureEdit(1, mode="project_out")])
    assert projected.value.code == "INVALID_CHOICE"
    assert load_sae(folder / "W_enc_2.safetensors", device="cpu").decoders is None
