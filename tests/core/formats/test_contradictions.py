"""Two fields, two files, or a file and its folder that contradict each other: refused, and both are
named."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.core.formats.trees import assert_close, load_place, pickles_allowed, random_weights

from saescope.errors import ConfigError
from saescope.load import load_sae
from saescope.saes import SAE

SAELENS = Path(__file__).parents[2] / "data" / "saelens"
DIALECTS = Path(__file__).parents[2] / "data" / "dialects"
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "home"))
    with pickles_allowed(monkeypatch.setenv, monkeypatch.setattr):
        yield


def edit(file: Path, change: Edit) -> None:
    is_json = file.suffix == ".json"
    said = json.loads(file.read_text()) if is_json else yaml.safe_load(file.read_text())
    change(said)
    file.write_text(json.dumps(said) if is_json else yaml.safe_dump(said))


def refused(
    place: Path, *words: str, known: dict[str, Any] | None = None, code: str = "CONFIG_INVALID"
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sae(place, device="cpu", known=known)
    assert caught.value.code == code, caught.value
    for word in (*words, "one of them is wrong"):
        assert word in caught.value.message


CFG: dict[str, tuple[str, dict[str, Any], tuple[str, str]]] = {
    **{
        f"{word} with topk": (
            "legacy_topk",
            {"architecture": word},
            ("architecture", "activation_fn_str"),
        )
        for word in ("jumprelu", "gated", "transcoder", "skip_transcoder", "batchtopk", "anything")
    },
    "topk with relu": (
        "legacy_topk_architecture",
        {"activation_fn_str": "relu"},
        ("architecture", "activation_fn_str"),
    ),
    "two k": ("legacy_topk", {"k": 6}, ("k", "activation_fn_kwargs.k")),
    "two activations": (
        "legacy_topk",
        {"activation_fn": "relu"},
        ("activation_fn_str", "activation_fn"),
    ),
    "two hooks": (
        "legacy_standard",
        {"hook_point": "blocks.2.hook_resid_pre"},
        ("hook_name", "hook_point"),
    ),
    "another layer": ("legacy_standard", {"hook_layer": 2}, ("hook_name", "hook_layer")),
    "another layer, oldest": (
        "legacy_oldest",
        {"hook_point_layer": 2},
        ("hook_point", "hook_point_layer"),
    ),
    "expansion": ("legacy_oldest", {"expansion_factor": 4}, ("d_sae", "expansion_factor")),
    "a transcoder by its flag": (
        "legacy_standard",
        {"is_transcoder": True, "d_out": 16},
        ("architecture", "is_transcoder"),
    ),
    "a transcoder by where it writes, oldest": (
        "legacy_oldest",
        {"hook_point_out": "blocks.0.hook_mlp_out"},
        ("architecture", "hook_point_out"),
    ),
    "a transcoder by where it writes": (
        "standard",
        {"hook_name_out": "blocks.0.hook_mlp_out"},
        ("architecture", "hook_name_out"),
    ),
    "a scale that is not there": (
        "legacy_standard",
        {"finetuning_scaling_factor": True},
        ("finetuning_scaling_factor", "scaling_factor in sae_weights.safetensors"),
    ),
    "hook_z elsewhere": (
        "standard",
        {"reshape_activations": "hook_z"},
        ("reshape_activations", "metadata.hook_name"),
    ),
    "model twice": ("standard", {"model_name": "gpt2"}, ("model_name", "metadata.model_name")),
    "hook twice": (
        "topk",
        {"hook_name": "blocks.0.hook_resid_post"},
        ("hook_name", "metadata.hook_name"),
    ),
}


@pytest.mark.parametrize("case", CFG)
def test_cfg_json_that_contradicts_itself(case: str, tmp_path: Path) -> None:
    template, changes, words = CFG[case]
    folder = Path(copytree(SAELENS / template, tmp_path / template))
    edit(folder / "cfg.json", lambda said: said.update(changes))
    refused(folder, *words)


@pytest.mark.parametrize("text", ['{"k": 6, "k": 5', '{"architecture": "gated", "k": 5'])
def test_a_key_that_stands_there_twice(text: str, tmp_path: Path) -> None:
    folder = Path(copytree(SAELENS / "topk", tmp_path / "topk"))
    rest = (folder / "cfg.json").read_text().strip().removeprefix("{")
    (folder / "cfg.json").write_text(f"{text},{rest}")
    refused(folder, "again")


def test_keys_that_are_repeated_with_equal_values_are_fine(tmp_path: Path) -> None:
    folder = Path(copytree(SAELENS / "topk", tmp_path / "topk"))
    edit(folder / "cfg.json", lambda said: said.update(said["metadata"]))
    rest = (folder / "cfg.json").read_text().strip().removeprefix("{")
    (folder / "cfg.json").write_text('{"k": 5,' + rest)
    x = load_file(folder / "io.safetensors")["x"]
    again, plain = load_sae(folder, device="cpu"), load_sae(SAELENS / "topk", device="cpu")
    assert torch.equal(again(x), plain(x))
    assert again.cfg.metadata.hook_name == plain.cfg.metadata.hook_name


def test_what_the_training_run_was_asked_for_is_compared(tmp_path: Path) -> None:
    folder = Path(copytree(SAELENS / "standard", tmp_path / "standard"))
    runner = {"hook_name": "blocks.1.hook_resid_post", "sae": {"d_in": 16, "d_sae": 48}}
    (folder / "runner_cfg.json").write_text(json.dumps(runner))
    load_sae(folder, device="cpu")
    edit(folder / "runner_cfg.json", lambda said: said.update(hook_name="blocks.1.hook_mlp_out"))
    refused(folder, "runner_cfg.json", "hook_name")


def in_trainer(**changes: Any) -> Edit:
    return lambda said: said["trainer"].update(changes)


OTHERS: dict[str, tuple[str, str, Edit, tuple[str, ...]]] = {
    "dl class": (
        "dl_standard",
        "config.json",
        in_trainer(trainer_class="TopKTrainer"),
        ("dict_class", "trainer_class"),
    ),
    "dl layer": ("dl_topk", "config.json", in_trainer(layer=4), ("submodule_name", "layer")),
    "dl width": (
        "dl_gated",
        "config.json",
        lambda said: said["buffer"].update(d_submodule=512),
        ("activation_dim", "d_submodule"),
    ),
    "gemma_3 skip": (
        "gemma_3_affine",
        "config.json",
        lambda said: said.update(affine_connection=False),
        ("affine_skip_connection", "affine_connection"),
    ),
    "gemma_3 width": (
        "gemma_3_resid_post",
        "config.json",
        lambda said: said.update(width=64),
        ("width", "w_enc"),
    ),
    "gemma_3 place": (
        "gemma_3_resid_post",
        "config.json",
        lambda said: said.update(hf_hook_point_in="model.layers.1.self_attn.o_proj.input"),
        ("folder", "hf_hook_point_in"),
    ),
    "gemma_3 layers": (
        "gemma_3_affine",
        "config.json",
        lambda said: said.update(
            hf_hook_point_out="model.layers.2.post_feedforward_layernorm.output"
        ),
        ("hf_hook_point_in", "hf_hook_point_out"),
    ),
    "llama_scope expansion": (
        "llama_scope",
        "hyperparams.json",
        lambda said: said.update(expansion_factor=8),
        ("expansion_factor", "encoder.weight"),
    ),
    "llama_scope layer": (
        "llama_scope",
        "hyperparams.json",
        lambda said: said.update(hook_point_in="blocks.6.hook_resid_post", hook_point_out=None),
        ("folder", "hook_point_in"),
    ),
    "llama_scope place": (
        "llama_scope_r1",
        "config.json",
        lambda said: said.update(hook_point_in="blocks.5.hook_mlp_out"),
        ("folder", "hook_point_in"),
    ),
    "wandb width": (
        "mwhanna",
        "wandb-config.yaml",
        lambda said: said.update(d_model={"value": 32}),
        ("d_model", "W_enc"),
    ),
    "mntss activation": (
        "mntss_clt",
        "config.yaml",
        lambda said: said.update(activation="jump_relu"),
        ("activation", "threshold"),
    ),
    "connor layer": (
        "connor_rob",
        "*_cfg.json",
        lambda said: said.update(act_name="blocks.4.attn.hook_z"),
        ("act_name", "file's name"),
    ),
    "connor place": (
        "connor_rob",
        "*_cfg.json",
        lambda said: said.update(act_name="blocks.3.hook_attn_out"),
        ("act_name", "hook_z"),
    ),
    "temporal width": (
        "temporal",
        "conf.yaml",
        lambda said: said["llm"].update(dimin=8) or said["sae"].update(exp_factor=6.0),
        ("llm.dimin", "D"),
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_formats_that_contradict_themselves(case: str, tmp_path: Path) -> None:
    template, pattern, change, words = OTHERS[case]
    said = json.loads((DIALECTS / template / "case.json").read_text())
    tree = copytree(DIALECTS / template, tmp_path / template) / said["tree"]
    place = tree / ("W_enc_3.safetensors" if template == "mntss_clt" else said["path"])
    edit(next(tree.rglob(pattern)), change)
    of_weights = {"w_enc", "encoder.weight", "W_enc", "D"} & {*words}
    code = "SHAPE_MISMATCH" if of_weights else "CONFIG_INVALID"
    refused(place, *words, known=said["known"], code=code)


BESIDE: dict[str, tuple[str, dict[str, Any], str]] = {
    "goodfire topk": ("goodfire", {"activation": "topk"}, "activation"),
    "goodfire layer": ("goodfire", {"layer": 20}, "layer"),
    "goodfire width": ("goodfire", {"d_hidden": 64}, "d_hidden"),
    "deepseek jumprelu": ("deepseek_r1", {"architecture": "jump_relu"}, "architecture"),
    "deepseek width": ("deepseek_r1", {"d_model": 32}, "d_model"),
    "gemma_2 relu": ("gemma_2_res", {"activation_fn": "ReLU"}, "activation_fn"),
    "gemma_2 layer": ("gemma_2_att", {"layer": 4}, "layer"),
    "gemma_2 hook": ("gemma_2_mlp", {"hook_name": "blocks.9.hook_resid_post"}, "hook_name"),
    "gemma_2 transcoder": ("gemma_2_transcoder", {"d_sae": 64}, "d_sae"),
    "qwen width": ("qwen_scope", {"d_sae": 64}, "d_sae"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_a_config_beside_weights_that_need_none_is_compared(case: str, tmp_path: Path) -> None:
    template, beside, word = BESIDE[case]
    said = json.loads((DIALECTS / template / "case.json").read_text())
    place = copytree(DIALECTS / template, tmp_path / "t") / said["tree"] / said["path"]
    folder = place if place.is_dir() else place.parent
    (folder / "config.json").write_text('{"layer_norm_eps": 1e-5, "model_type": "sae"}')
    load_sae(place, device="cpu")
    (folder / "config.json").write_text(json.dumps(beside))
    refused(place, word, "config.json")


def test_an_embedding_SAE_is_scaled_wherever_it_lies(tmp_path: Path) -> None:
    """Its numbers follow from the place that the user names, not from the folder's name alone."""
    here = DIALECTS / "gemma_2_embedding"
    said = json.loads((here / "case.json").read_text())
    place = copytree(here / said["tree"] / said["path"], tmp_path / "mine")
    io = load_file(here / "io.safetensors")
    sae = load_sae(place, device="cpu", known={"hook_name": "hook_embed"})
    assert_close(sae(io["x"]), io["sae_out"])


RENAMED: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "two layers": ("gemma_2_res", "layer_20", "layer_20/layer_21", {}),
    "embedding of a layer": ("gemma_2_res", "layer_20", "layer_20/embedding", {}),
    "embedding of an MLP": ("gemma_2_mlp", "layer_9", "embedding", {}),
    "an SAE that writes": (
        "gemma_2_res",
        "layer_20",
        "layer_20",
        {"hook_name_out": "blocks.20.hook_mlp_out"},
    ),
    "goodfire": ("goodfire", "SAE-l19/", "SAE-l50/", {}),
    "goodfire model": ("goodfire", "3.1-8B-Instruct-SAE-l19/", "3.3-70B-Instruct-SAE-l19/", {}),
    "deepseek": ("deepseek_r1", "SAE-l19/", "SAE-l18/", {}),
    "qwen": ("qwen_scope", "L0_5/", "L0_5/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/", {}),
}


@pytest.mark.parametrize("case", RENAMED)
def test_names_on_the_way_that_contradict_each_other(case: str, tmp_path: Path) -> None:
    template, old, new, known = RENAMED[case]
    here = DIALECTS / template
    said = json.loads((here / "case.json").read_text())
    path = f"{said['tree']}/{said['path']}"
    target = tmp_path / path.replace(old, new, 1)
    target.parent.mkdir(parents=True, exist_ok=True)
    copy = copytree if (here / path).is_dir() else copyfile
    copy(here / path, target)
    refused(target, known=known)


def test_a_width_in_the_folders_name_is_compared(tmp_path: Path) -> None:
    w = torch.randn(4, 2048)
    arrays: dict[str, Any] = {
        "W_enc": w,
        "W_dec": w.T,
        "b_enc": w[0],
        "b_dec": w[:, 0],
        "threshold": w[0].abs(),
    }
    for name in ("width_2k", "width_16k"):
        folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_3" / name
        folder.mkdir(parents=True)
        np.savez(folder / "params.npz", **{key: t.numpy() for key, t in arrays.items()})
    load_sae(tmp_path / "gemma-scope-2b-pt-res" / "layer_3" / "width_2k", device="cpu")
    refused(folder, "16k", code="SHAPE_MISMATCH")


def openai(file: Path, activation: str, **more: Any) -> Path:
    w = random_weights(4)
    tensors: dict[str, Any] = {"pre_bias": w["b_dec"], "latent_bias": w["b_enc"]}
    tensors |= {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T}
    file.parent.mkdir(parents=True)
    torch.save(tensors | {"activation": activation} | more, file)
    return file


TOPK = {"activation_state_dict": {"k": 4, "postact_fn": "ReLU"}}


@pytest.mark.parametrize(
    ("folder", "activation", "more", "words"),
    [
        ("resid_post_mlp_v5_32k", "ReLU", {}, ("version 5", "activation")),
        ("resid_post_mlp_v4", "TopK", TOPK, ("version 4", "activation")),
        ("resid_post_mlp", "ReLU", TOPK, ("activation", "activation_state_dict.k")),
        ("resid_post_mlp_v4/resid_delta_mlp_v4", "ReLU", {}, ("folder",)),
    ],
)
def test_openai_files_that_contradict_their_folder(
    folder: str, activation: str, more: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    refused(openai(tmp_path / folder / "autoencoders" / "8.pt", activation, **more), *words)


def test_a_config_beside_openais_file_is_compared(tmp_path: Path) -> None:
    file = openai(tmp_path / "resid_post_mlp_v5_32k" / "8.pt", "TopK", **TOPK)
    (file.parent / "config.json").write_text('{"k": 4, "activation": "TopK", "n_latents": 48}')
    load_sae(file, device="cpu")
    (file.parent / "config.json").write_text('{"k": 32}')
    refused(file, "config.json: k")


def test_the_k_in_a_topk_file_is_compared(tmp_path: Path) -> None:
    said = json.loads((DIALECTS / "dl_topk" / "case.json").read_text())
    place = copytree(DIALECTS / "dl_topk", tmp_path / "t") / said["tree"] / said["path"]
    tensors = torch.load(place / "ae.pt", weights_only=True)
    torch.save(tensors | {"k": torch.tensor(5)}, place / "ae.pt")
    load_sae(place, device="cpu")
    torch.save(tensors | {"k": torch.tensor(6)}, place / "ae.pt")
    refused(place, "trainer.k", "ae.pt")


def test_qwen_scope_in_a_folder_of_another_name_takes_k_from_its_config(tmp_path: Path) -> None:
    said = json.loads((DIALECTS / "qwen_scope" / "case.json").read_text())
    here = DIALECTS / "qwen_scope" / said["tree"]
    place = copytree(here, tmp_path / "renamed") / said["path"]
    (place.parent / "config.json").write_text('{"k": 5}')
    io = load_file(DIALECTS / "qwen_scope" / "io.safetensors")
    assert_close(load_sae(place, device="cpu")(io["x"]), io["sae_out"])
    named = copytree(here, tmp_path / said["tree"]) / said["path"]
    (named.parent / "config.json").write_text('{"top_k": 50}')
    refused(named, "L0_", "config.json: top_k")


# ---------------------------------------------------------------- sparsify, before and since
# February 2025

OLD = {"expansion_factor": 3, "normalize_decoder": True, "num_latents": 0, "k": 4, "d_in": 16}
SINCE_SKIP = OLD | {"multi_topk": False, "skip_connection": False}


def sparsify(
    root: Path, cfg: dict[str, Any], run: dict[str, Any] | None, *, folder: str = "layers.5.mlp"
) -> Path:
    w, place = random_weights(3), root / folder
    place.mkdir(parents=True)
    names = {"W_dec": "W_dec", "b_dec": "b_dec", "b_enc": "encoder.bias"}
    tensors = {disk: w[name] for name, disk in names.items()}
    tensors["encoder.weight"] = w["W_enc"].T.contiguous()
    if cfg.get("skip_connection"):
        tensors["W_skip"] = w["W_skip"]
    save_file(tensors, place / "sae.safetensors")
    (place / "cfg.json").write_text(json.dumps(cfg))
    if run is not None:
        (root / "config.json").write_text(json.dumps({"model": "openai-community/gpt2"} | run))
    return place


def formula(*, subtracts: bool, skip: bool = False) -> torch.Tensor:
    """sparsify at f02711e~1: pre_acts, select_topk, decode and forward, position by position in
    float64."""
    w = {name: tensor.double() for name, tensor in random_weights(3).items()}
    outs = []
    for x in w["x"]:
        pre = ((x - w["b_dec"] if subtracts else x) @ w["W_enc"] + w["b_enc"]).relu()
        kept = sorted(range(len(pre)), key=lambda i: -float(pre[i]))[:4]
        out = sum((pre[i] * w["W_dec"][i] for i in kept), w["b_dec"])
        outs.append(out + (w["W_skip"] @ x if skip else 0))
    return torch.stack(outs)


def sites(sae: SAE) -> tuple[str, str]:
    return sae.cfg.metadata.hook_name, sae.cfg.metadata.hook_name_out


TRANSCODES = {"transcode": True, "sae": {"k": 4}, "hookpoints": ["layers.5.mlp"]}


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("folder", ["layers.5.mlp", "layers.5.mlp/seed1", "my copy"])
def test_a_transcoder_of_the_old_sparsify(folder: str, skip: bool, tmp_path: Path) -> None:
    """Only the run's config.json says so, and the encoder subtracts b_dec."""
    cfg = SINCE_SKIP | {"skip_connection": skip}
    sae = load_place(sparsify(tmp_path, cfg, TRANSCODES, folder=folder))
    assert sae.cfg.transcoder and sae.cfg.skip == skip
    assert sites(sae) == ("blocks.5.mlp.hook_in", "blocks.5.hook_mlp_out")
    x = random_weights(3)["x"]
    assert_close(sae(x), formula(subtracts=True, skip=skip))
    assert_close(load_place(sae.save(tmp_path / "again"))(x), formula(subtracts=True, skip=skip))


def test_an_SAE_and_a_transcoder_of_the_new_sparsify(tmp_path: Path) -> None:
    x = random_weights(3)["x"]
    new = {"sae": {"transcode": True, "k": 4}}
    sae = load_place(sparsify(tmp_path / "a", SINCE_SKIP | {"transcode": True}, new))
    assert_close(sae(x), formula(subtracts=False))
    plain = load_place(sparsify(tmp_path / "b", SINCE_SKIP, {"transcode": False, "sae": {}}))
    assert not plain.cfg.transcoder and sites(plain) == ("blocks.5.hook_mlp_out", "")
    assert_close(plain(x), formula(subtracts=True))


def test_an_old_sparsify_folder_that_nothing_tells_from_a_transcoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_place(sparsify(tmp_path / "a", SINCE_SKIP, None))
    assert caught.value.code == "AMBIGUOUS_ARCHITECTURE" and "config.json" in caught.value.hint
    assert not load_place(sparsify(tmp_path / "b", OLD, None)).cfg.transcoder  # before transcoders


@pytest.mark.parametrize(
    ("cfg", "run", "words"),
    [
        ({"transcode": False}, {"sae": {"transcode": True}}, ("cfg.json", "sae.transcode")),
        ({"transcode": False}, {"transcode": True, "sae": {}}, ("cfg.json", "transcode")),
        ({}, {"sae": {"k": 8}}, ("cfg.json: k", "sae.k")),
        ({"activation": "topk"}, {"sae": {"activation": "groupmax"}}, ("activation",)),
        ({}, {"sae": {}, "hookpoints": ["layers.4.mlp"]}, ("folder", "hookpoints")),
    ],
)
def test_sparsify_files_that_contradict_each_other(
    cfg: dict[str, Any], run: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    refused(sparsify(tmp_path, SINCE_SKIP | cfg, run), *words)
