"""Sets in their published forms: what they read and write, against naive formulas."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.fake_hub import FakeHub
from tests.core.oracle import Family
from tests.core.sets import written
from tests.core.sets.written import D_SAE, N_LAYERS, N_POS, D, Layer, inputs, layers
from torch import Tensor

from saescope.load import load_sae
from saescope.saes import ARCHITECTURES
from saescope.sets import SAESet, load_set

Write = Callable[[Path, list[Layer]], Path]
SETS: dict[str, tuple[Write, str, bool, str, str]] = {
    "circuit_tracer": (written.per_layer, "relu", False, "mlp.hook_in", ""),
    "circuit_tracer_jump": (
        lambda at, made: written.per_layer(at, made, activation="jump_relu"),
        "jump_relu",
        False,
        "mlp.hook_in",
        "",
    ),
    "circuit_tracer_topk_skip": (
        lambda at, made: written.per_layer(at, made, activation="topk", skip=True),
        "topk",
        True,
        "mlp.hook_in",
        "",
    ),
    "mwhanna": (written.mwhanna, "relu", False, "mlp.hook_in", ""),
    "gemma_2": (
        written.gemma_2,
        "jump_relu",
        False,
        "ln2.hook_normalized",
        "",
    ),
    "gemma_3": (written.gemma_3, "jump_relu", True, "mlp.hook_in", ""),
    "sparsify": (written.sparsify, "topk", True, "mlp.hook_in", ""),
    "own": (written.own, "relu", False, "mlp.hook_in", ""),
}
FOLDERS = {"gemma_2": "gemma-scope-2b-pt-transcoders"}


def close(ours: Tensor | None, expected: Tensor) -> None:
    assert ours is not None
    torch.testing.assert_close(ours.double(), expected.double(), rtol=1e-5, atol=1e-5)


def open_written(name: str, tmp_path: Path, **kwargs: Any) -> tuple[SAESet, list[Layer]]:
    made = layers()
    folder = SETS[name][0](tmp_path / FOLDERS.get(name, "set"), made)
    return load_set(folder, **kwargs), made


@pytest.mark.parametrize("name", [name for name in SETS if name != "gemma_2"])
def test_a_set_reads_and_writes_as_its_layers_formulas(name: str, tmp_path: Path) -> None:
    ours, made = open_written(name, tmp_path)
    check_layers(ours, made, name)


def check_layers(ours: SAESet, made: list[Layer], name: str) -> None:
    _, activation, skip, site, _ = SETS[name]
    xs, features = inputs(), torch.tensor([5, 0, D_SAE - 1])
    assert (ours.kind, ours.layers) == ("transcoders", f"0-{N_LAYERS - 1}")
    acts, outs = ours.encode(xs), ours.decode(ours.encode(xs), xs)
    for i, (member, layer) in enumerate(zip(ours.members, made, strict=True)):
        expected = layer.acts(xs[i], activation)
        skipped = xs[i].double() @ layer.W_skip.double().T
        assert (member.layer, member.read_hook) == (i, f"blocks.{i}.{site}")
        assert [*member.write_hooks] == [i]
        close(acts[i].to_dense(), expected)
        close(member.hidden_pre(xs[i], features), layer.hidden_pre(xs[i])[:, features])
        close(member.read_rows(features), layer.W_enc.T[features])
        close(member.write_rows(features, i), layer.decoders[0][features])
        close(member.bias(i), layer.b_dec)
        out = expected @ layer.decoders[0].double() + layer.b_dec.double()
        if skip:
            close(member.skip(xs[i]), skipped)
            out = out + skipped
        else:
            assert member.skip(xs[i]) is None
        close(outs[i], out)
        assert member.sae is member.sae


def check_cross_layer(ours: SAESet, made: list[Layer], *, jump: bool, skip: bool = False) -> None:
    xs, features = inputs(), torch.tensor([7, 2, 23, 2])
    assert (ours.kind, len(ours.members)) == ("cross_layer", N_LAYERS)
    acts, outs = ours.encode(xs), ours.decode(ours.encode(xs), xs)
    expected = [layer.acts(xs[i], "jump_relu" if jump else "relu") for i, layer in enumerate(made)]
    for i, (member, layer) in enumerate(zip(ours.members, made, strict=True)):
        close(acts[i].to_dense(), expected[i])
        close(member.read_rows(features), layer.W_enc.T[features])
        assert dict(member.write_hooks) == {
            to: f"blocks.{to}.hook_mlp_out" for to in range(i, N_LAYERS)
        }
        for to in range(i, N_LAYERS):
            close(member.write_rows(features, to), layer.decoders[to - i][features])
            close(member.bias(to), layer.b_dec if to == i else torch.zeros_like(layer.b_dec))
        out = layer.b_dec.double().expand_as(xs[i])
        for source in range(i + 1):
            out = out + expected[source] @ made[source].decoders[i - source].double()
        if skip:
            out = out + xs[i].double() @ layer.W_skip.double().T
        close(outs[i], out)


@pytest.mark.parametrize("jump", [True, False])
def test_every_decoder_of_a_cross_layer_transcoder_is_read(jump: bool, tmp_path: Path) -> None:
    made = layers(n_decoders=True)
    ours = load_set(written.cross_layer(tmp_path / "clt", made, jump=jump))
    check_cross_layer(ours, made, jump=jump)
    assert ours.members[0].read_hook == "blocks.0.hook_resid_mid"


def test_gemma_scope_2_has_a_cross_layer_transcoder_with_a_skip_connection(tmp_path: Path) -> None:
    made = layers(n_decoders=True)
    place = written.gemma_3_cross_layer(tmp_path / "gemma-scope-2-270m-pt/clt/width_16k", made)
    check_cross_layer(load_set(place), made, jump=True, skip=True)


def test_saes_at_one_site_of_several_layers_are_a_set(tmp_path: Path) -> None:
    made = layers()
    ours = load_set(written.own(tmp_path / "set", made, transcoder=False))
    xs, features = inputs(), torch.tensor([1, 4])
    assert ours.kind == "residual"
    for i, (member, layer) in enumerate(zip(ours.members, made, strict=True)):
        hidden = (xs[i] - layer.b_dec).double() @ layer.W_enc.double() + layer.b_enc.double()
        close(member.encode(xs[i]).to_dense(), hidden.relu())
        close(member.hidden_pre(xs[i], features), hidden[:, features])
        close(member.read_rows(features), layer.W_enc.T[features])
        assert dict(member.write_hooks) == {i: f"blocks.{i}.hook_resid_post"}


@pytest.mark.parametrize(("layers_", "there"), [("1-2", [1, 2]), ("3,0", [0, 3]), ("2", [2])])
def test_some_layers_are_taken_in_the_order_of_a_forward_pass(
    layers_: str, there: list[int], tmp_path: Path
) -> None:
    ours, made = open_written("own", tmp_path, layers=layers_)
    assert [member.layer for member in ours.members] == there
    assert [member.index for member in ours.members] == [*range(len(there))]
    features = torch.tensor([3])
    close(ours.members[-1].write_rows(features, len(there) - 1), made[there[-1]].decoders[0][[3]])


def test_of_a_cross_layer_transcoder_in_part_the_right_decoders_are_read(tmp_path: Path) -> None:
    made = layers(n_decoders=True)
    ours = load_set(written.cross_layer(tmp_path / "clt", made), layers="1,3")
    assert dict(ours.members[0].write_hooks) == {
        0: "blocks.1.hook_mlp_out",
        1: "blocks.3.hook_mlp_out",
    }
    close(ours.members[0].write_rows(torch.tensor([9]), 1), made[1].decoders[2][[9]])
    assert "only some are here" in ours.notes[0]


@pytest.mark.parametrize("name", ["gemma_2", "gemma_3", "sparsify", "mwhanna", "own"])
def test_a_set_of_a_repository_is_that_of_its_local_copy(
    name: str, tmp_path: Path, fake_hub: FakeHub
) -> None:
    made = layers()
    fake_hub.add_folder("somebody/set", SETS[name][0](tmp_path / "set", made), path="inside")
    known = {"model_name": "test/model"}
    if name == "gemma_2":
        known |= {"hook_name": "blocks.{layer}.ln2.hook_normalized"}
        known |= {"hook_name_out": "blocks.{layer}.hook_mlp_out"}
    ours = load_set(release="somebody/set", sae_id="inside", known=known)
    assert len(ours.revision) == 40 and ours.name == "somebody/set/inside"
    check_layers(ours, made, name)


def test_what_differs_by_layer_is_left_open(tmp_path: Path, fake_hub: FakeHub) -> None:
    """Gemma Scope names an L0, which every layer has another of."""
    made = layers()
    folder = written.gemma_2(tmp_path / "gemma-scope-2b-pt-transcoders", made)
    fake_hub.add_folder("google/gemma-scope-2b-pt-transcoders", folder)
    inside = "layer_{layer}/width_16k/*"
    ours = load_set(release="google/gemma-scope-2b-pt-transcoders", sae_id=inside)
    check_layers(ours, made, "gemma_2")
    check_layers(load_set(folder), made, "gemma_2")
    check_layers(load_set(folder / inside), made, "gemma_2")


def test_a_list_of_references_is_followed_to_other_repositories(
    tmp_path: Path, fake_hub: FakeHub
) -> None:
    """circuit-tracer's set for Gemma 2 is a config.yaml that names Google's files."""
    made = layers()
    place = "google/gemma-scope-2b-pt-transcoders"
    commit = fake_hub.add_folder(place, written.gemma_2(tmp_path / "theirs", made))
    files = [f"layer_{i}/width_16k/average_l0_{40 + i}/params.npz" for i in range(N_LAYERS)]
    listed = "".join(f"- hf://{place}/{file}\n" for file in files[:-1])
    config = (
        "model_kind: transcoder_set\nfeature_input_hook: ln2.hook_normalized\n"
        "feature_output_hook: hook_mlp_out\ntranscoders:\n"
        f"{listed}- hf://{place}/{files[-1]}?revision={commit}\n"
    )
    fake_hub.add("mntss/gemma-scope-transcoders", {"config.yaml": config.encode()})
    ours = load_set(release="mntss/gemma-scope-transcoders")
    check_layers(ours, made, "gemma_2")
    assert ours.notes == () and ours.model_name == "google/gemma-2-2b"
    assert ours.members[3].place.revision == commit
    (tmp_path / "config.yaml").write_text(config.replace("ln2.hook_normalized", "mlp.hook_in"))
    note = load_set(tmp_path, layers="2").notes[0]
    assert "mlp.hook_in" in note and "blocks.2.ln2.hook_normalized" in note


def test_a_member_loads_by_itself_from_its_place(tmp_path: Path) -> None:
    ours, made = open_written("circuit_tracer", tmp_path)
    alone = load_sae(**ours.members[2].place._asdict())
    close(alone.W_dec, made[2].decoders[0])
    assert alone.cfg == ours.members[2].cfg


@pytest.mark.parametrize("architecture", ["gated", "topk", "batchtopk", "jumprelu", "groupmax"])
def test_where_a_feature_fires_its_pre_activation_is_its_activation(
    architecture: str, tmp_path: Path
) -> None:
    """Also where activations carry the decoder's norm, and a gate decides."""
    made = layers()[0]
    tensors = {"W_enc": made.W_enc, "W_dec": made.decoders[0], "b_dec": made.b_dec}
    kind = ARCHITECTURES[architecture][1]
    tensors |= {name: made.b_enc * (1 + i) for i, name in enumerate(kind.biases)}
    if "threshold" in tensors:
        tensors["threshold"] = made.threshold
    knobs: dict[str, Any] = {"topk": {"k": 5}, "batchtopk": {"k": 5}, "groupmax": {"k": 6}}.get(
        architecture, {}
    )
    if "topk" in architecture:
        knobs["rescale_acts_by_decoder_norm"] = True
    cfg = ARCHITECTURES[architecture][0](d_in=D, d_sae=D_SAE, **knobs)
    sae, x, features = kind(cfg, tensors), inputs()[0], torch.arange(D_SAE)
    acts, hidden = sae.encode(x), sae.hidden_pre_of(x, features)
    fires = acts > 0
    assert fires.any()
    close(hidden[fires], acts[fires])
    step = torch.randn(D, generator=torch.Generator().manual_seed(0)) * 1e-2
    moved = sae.hidden_pre_of(x + step, features)
    close(moved - hidden, (sae.read_by(features).rows @ step).expand_as(hidden))


def test_a_settled_set_reads_raw_activations(
    tmp_path: Path, family_of: Callable[[str], Family]
) -> None:
    """SAEs trained on TransformerLens's processed GPT-2 saw activations without their mean."""
    model = family_of("gpt2").model
    rng = torch.Generator().manual_seed(3)
    wide = [
        Layer(
            torch.randn(32, D_SAE, generator=rng) / 5,
            [torch.randn(D_SAE, 32, generator=rng)],
            torch.zeros(D_SAE),
            torch.randn(32, generator=rng),
            *layers()[0][4:],
        )
        for _ in range(3)
    ]
    metadata: dict[str, object] = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    folder = written.own(tmp_path / "set", wide, transcoder=False, d_in=32, said=metadata)
    ours = load_set(folder).settled(model)
    x, features = torch.randn(N_POS, 32, generator=rng) + 3, torch.tensor([2, 9])
    centred = x - x.mean(-1, keepdim=True) - wide[1].b_dec
    hidden = centred @ wide[1].W_enc
    member = ours.members[1]
    close(member.encode(x).to_dense(), hidden.relu())
    close(member.hidden_pre(x, features), hidden[:, features])
    step = torch.randn(32, generator=rng)
    moved = member.hidden_pre(x + step, features) - member.hidden_pre(x, features)
    close(moved, (member.read_rows(features) @ step).expand_as(moved))
