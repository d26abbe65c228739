"""What is no set is refused with a code, before a weight is read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.core.fake_hub import FakeHub
from tests.core.sets import written
from tests.core.sets.written import D_SAE, layers

from saescope.errors import SaescopeError
from saescope.layers import number_by, number_in, parse_layers
from saescope.layers import written as as_written
from saescope.models import LanguageModel
from saescope.sets import load_set


def refusal(call: Callable[[], object]) -> SaescopeError:
    with pytest.raises(SaescopeError) as caught:
        call()
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("layers_", "chosen"),
    [("all", None), ("0-2", {0, 1, 2}), ("3,7", {3, 7}), (" 1, 4-5 ", {1, 4, 5}), ("6", {6})],
)
def test_layers_are_all_a_range_or_a_list(layers_: str, chosen: set[int] | None) -> None:
    assert parse_layers(layers_) == chosen


@pytest.mark.parametrize(
    "layers_", ["", "-1", "3-1", "a", "1,,2", "1.5", "all,3", "1-2-3", "99999"]
)
def test_other_layers_are_refused(layers_: str) -> None:
    assert refusal(lambda: parse_layers(layers_)).code == "INVALID_LAYERS"


def test_layers_are_written_as_they_are_read() -> None:
    for text in ("0-11", "3,7", "0-1,4,8-9", "5"):
        assert as_written(sorted(parse_layers(text) or [])) == text


@pytest.mark.parametrize(
    ("path", "layer"),
    [
        ("layer_3", 3),
        ("layers.11.mlp", 11),
        ("blocks.5.hook_resid_pre", 5),
        ("W_enc_7.safetensors", 7),
        ("params_layer_2.safetensors", 2),
        ("layer_4_width_16k_l0_small", 4),
        ("layer_6/width_16k/average_l0_71", 6),
        ("resid_post_layer_9/trainer_0", 9),
        ("layer8.sae.pt", 8),
        ("12", 12),
        ("gemma-2/average", None),
    ],
)
def test_the_layer_is_read_off_a_name(path: str, layer: int | None) -> None:
    assert number_in(path) == layer


def test_a_pattern_names_one_layer_throughout() -> None:
    assert number_by("l{layer}/a_{layer}", "l3/a_3") == 3
    assert number_by("l{layer}/a_{layer}", "l3/a_4") is None
    assert number_by("l{layer}/*_x", "l10/y_x") == 10
    assert number_by("l{layer}/*", "l10/y/z") is None


def test_a_layer_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    written.own(tmp_path / "set", layers())
    error = refusal(lambda: load_set(tmp_path / "set", layers="2-6"))
    assert (error.code, error.got, error.allowed) == ("LAYER_NOT_FOUND", "4-6", "0-3")


def test_a_folder_whose_name_and_files_say_different_layers_is_refused(tmp_path: Path) -> None:
    folder = written.own(tmp_path / "set", layers())
    (folder / "layer_3").rename(folder / "layer_5")
    error = refusal(lambda: load_set(folder))
    assert error.code == "CONFIG_INVALID" and "layer" in error.message and "is 3" in error.message


def test_two_saes_of_one_layer_ask_which(tmp_path: Path) -> None:
    made = layers()
    written.gemma_3(tmp_path / "set", made)
    for place in [*(tmp_path / "set").iterdir()]:
        place.rename(place.with_name(place.name.replace("small", "big")))
    written.gemma_3(tmp_path / "set", made)
    error = refusal(lambda: load_set(tmp_path / "set"))
    assert error.code == "AMBIGUOUS_SET"
    assert "layer_{layer}_width_16k_l0_big_affine" in error.hint
    ours = load_set(tmp_path / "set/layer_{layer}_width_16k_l0_big_affine")
    assert ours.layers == "0-3"


def test_transcoders_and_saes_are_no_set(tmp_path: Path) -> None:
    made = layers()
    written.own(tmp_path / "set", made[:2])
    written.own(tmp_path / "other", made, transcoder=False)
    (tmp_path / "other/layer_3").rename(tmp_path / "set/layer_3")
    error = refusal(lambda: load_set(tmp_path / "set"))
    assert error.code == "MIXED_SET" and "transcoder" in error.message


def test_saes_of_two_models_are_no_set(tmp_path: Path) -> None:
    folder = written.own(tmp_path / "set", layers())
    cfg = folder / "layer_1/cfg.json"
    cfg.write_text(cfg.read_text().replace("test/model", "other/model"))
    error = refusal(lambda: load_set(folder))
    assert error.code == "MIXED_SET" and "the model" in error.message


def test_a_folder_without_saes_is_no_set(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    assert refusal(lambda: load_set(tmp_path / "set")).code == "SET_NOT_FOUND"
    assert refusal(lambda: load_set(tmp_path / "none")).code == "FILE_MISSING"
    assert refusal(lambda: load_set(tmp_path / "l{layer}")).code == "SET_NOT_FOUND"
    assert refusal(load_set).code == "INVALID_ARGUMENT"
    assert refusal(lambda: load_set(tmp_path, sae_id="x")).code == "INVALID_ARGUMENT"


def test_a_release_is_looked_up(fake_hub: FakeHub) -> None:
    assert refusal(lambda: load_set(release="gpt2-smal-res-jb")).code == "RELEASE_NOT_FOUND"
    error = refusal(lambda: load_set(release="gpt2-small-res-jb"))
    assert error.code == "AMBIGUOUS_SET" and "blocks.{layer}.hook_resid_p" in error.hint


def test_decoders_that_disagree_on_the_last_layer_are_refused(tmp_path: Path) -> None:
    folder = written.cross_layer(tmp_path / "clt", layers(n_decoders=True))
    file = folder / "W_dec_1.safetensors"
    save_file({"W_dec_1": load_file(file)["W_dec_1"][:, :2].contiguous()}, file)
    error = refusal(lambda: load_set(folder))
    assert error.code == "SHAPE_MISMATCH" and "last layer that layer 1 writes" in error.message


def test_a_joint_topk_cross_layer_transcoder_is_refused_by_its_activation(tmp_path: Path) -> None:
    folder = written.cross_layer(tmp_path / "clt", layers(n_decoders=True), jump=False)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("relu", "topk"))
    error = refusal(lambda: load_set(folder))
    assert error.code == "UNSUPPORTED_ARCHITECTURE" and error.got == "topk"


@pytest.mark.parametrize(
    "uri", ["layer_0.safetensors", "http://x/y/z", "hf://owner/name", "../../secret"]
)
def test_a_reference_that_leads_elsewhere_is_refused(uri: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"transcoders: ['{uri}']\n")
    assert refusal(lambda: load_set(tmp_path)).code == "TRANSCODER_SET_REFERENCES"


def test_a_torn_header_is_refused_at_the_opening(tmp_path: Path) -> None:
    folder = written.own(tmp_path / "set", layers())
    (folder / "layer_2/sae_weights.safetensors").write_bytes(b"torn")
    assert refusal(lambda: load_set(folder)).code == "FILE_CORRUPT"


@pytest.mark.parametrize("scale", ["layer_norm", "constant_norm_rescale"])
def test_rows_of_saes_that_scale_by_position_are_refused(scale: str, tmp_path: Path) -> None:
    made = layers()
    folder = written.own(tmp_path / "set", made, transcoder=False, normalize_activations=scale)
    member, features = load_set(folder).members[0], torch.tensor([0])
    for call in (
        lambda: member.read_rows(features),
        lambda: member.write_rows(features, 0),
        lambda: member.bias(0),
    ):
        assert refusal(call).code == "GRAPH_UNSUPPORTED_SAE"
    x = written.inputs()[0]
    assert member.hidden_pre(x, features).shape == (len(x), 1)


def test_a_feature_or_a_target_that_is_not_there_is_refused(tmp_path: Path) -> None:
    ours = load_set(written.cross_layer(tmp_path / "clt", layers(n_decoders=True)))
    last = ours.members[3]
    for wrong in (-1, D_SAE):
        error = refusal(lambda wrong=wrong: last.write_rows(torch.tensor([wrong]), 3))
        assert error.code == "FEATURE_OUT_OF_RANGE"
    assert refusal(lambda: last.write_rows(torch.tensor([0]), 2)).code == "NOT_WRITTEN"
    assert refusal(lambda: ours.of_layer(9)).code == "LAYER_NOT_FOUND"


def test_a_site_that_no_file_names_is_said_for_all_layers(tmp_path: Path) -> None:
    folder = written.own(tmp_path / "set", layers(), transcoder=False)
    for place in folder.iterdir():
        cfg = json.loads((place / "cfg.json").read_text())
        del cfg["metadata"]["hook_name"]
        (place / "cfg.json").write_text(json.dumps(cfg))
    assert refusal(lambda: load_set(folder)).code == "HOOK_UNKNOWN"
    ours = load_set(folder, known={"hook_name": "blocks.{layer}.hook_resid_mid"})
    assert [member.read_hook for member in ours.members] == [
        f"blocks.{i}.hook_resid_mid" for i in range(4)
    ]


def test_a_set_settles_at_the_hooks_of_its_model(tmp_path: Path, glass: LanguageModel) -> None:
    ours = load_set(written.sparsify(tmp_path / "set", layers()))
    settled = ours.settled(glass)
    assert [each.read_hook for each in settled.members] == [
        f"blocks.{i}.mlp.hook_in" for i in range(4)
    ]
    assert settled.members[1].write_hooks == {1: "blocks.1.hook_mlp_out"}
