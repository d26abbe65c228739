"""Model folders, torn and hostile ones, GGUF files and names that are not there."""

import codecs
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.attack.families import build
from torch import Tensor
from transformers import AutoTokenizer

from saescope.errors import ArgumentError, ModelError, NotFoundError, OfflineError, SaescopeError
from saescope.models import LanguageModel, canonical_name, load_model, peek_model_bytes


@pytest.fixture
def folder(glass_dir: Path, tmp_path: Path) -> Path:
    return Path(copytree(glass_dir, tmp_path / "model"))


def refused(source: str | Path, **options: Any) -> SaescopeError:
    with pytest.raises(SaescopeError) as caught:
        load_model(source, device="cpu", **options)
    return caught.value


def edit_config(folder: Path, name: str = "config.json", **changes: Any) -> None:
    config = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(config))


def edit_tokenizer(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    said = json.loads((folder / "tokenizer.json").read_text())
    change(said)
    (folder / "tokenizer.json").write_text(json.dumps(said))


def leave_special(said: dict[str, Any]) -> None:
    vocab = {token["content"]: token["id"] for token in said["added_tokens"]}
    said["model"].update(vocab=vocab, merges=[])


def split(folder: Path) -> None:
    """The weights as two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where: dict[str, str] = {}
    for number, names in enumerate((sorted(tensors)[:10], sorted(tensors)[10:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def cut(folder: Path, n_bytes: int, name: str = "model.safetensors") -> None:
    weights = folder / name
    weights.write_bytes(weights.read_bytes()[:n_bytes])


def lose(folder: Path, tensor: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[tensor]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


EVIL = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Evil"}
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config.json": (lambda f: (f / "config.json").unlink(), "MODEL_CONFIG_INVALID"),
    "torn config.json": (
        lambda f: (f / "config.json").write_text('{"model_type": "lla'),
        "MODEL_CONFIG_INVALID",
    ),
    "no UTF-8": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{"), "MODEL_CONFIG_INVALID"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "MODEL_CONFIG_INVALID"),
    "null": (lambda f: (f / "config.json").write_text("null"), "MODEL_CONFIG_INVALID"),
    "deep": (lambda f: (f / "config.json").write_text("[" * 10**5), "MODEL_CONFIG_INVALID"),
    "own code": (
        lambda f: edit_config(f, model_type="RefinedWeb", auto_map=EVIL),
        "REMOTE_CODE_REFUSED",
    ),
    "own code for what is no causal model here": (
        lambda f: edit_config(f, model_type="t5", auto_map=EVIL),
        "REMOTE_CODE_REFUSED",
    ),
    "own code of the tokenizer": (
        lambda f: edit_config(
            f,
            "tokenizer_config.json",
            tokenizer_class="X",
            auto_map={"AutoTokenizer": ["e.E", None]},
        ),
        "REMOTE_CODE_REFUSED",
    ),
    "only a pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "PICKLE_REFUSED",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "FILE_MISSING"),
    "a shard is missing": (
        lambda f: (split(f), (f / "model-00002-of-00002.safetensors").unlink()),
        "FILE_MISSING",
    ),
    "a shard is torn": (
        lambda f: (split(f), cut(f, -500, "model-00002-of-00002.safetensors")),
        "FILE_CORRUPT",
    ),
    "half of the weights": (lambda f: cut(f, 50_000), "FILE_CORRUPT"),
    "five bytes": (lambda f: cut(f, 5), "FILE_CORRUPT"),
    "no byte": (lambda f: cut(f, 0), "FILE_CORRUPT"),
    "a web page": (
        lambda f: (f / "model.safetensors").write_text("<html>not found</html>"),
        "FILE_CORRUPT",
    ),
    "a tensor is missing": (lambda f: lose(f, "model.layers.2.mlp.up_proj.weight"), "FILE_CORRUPT"),
    "more layers than weights": (lambda f: edit_config(f, num_hidden_layers=6), "FILE_CORRUPT"),
    "another width": (lambda f: edit_config(f, hidden_size=64), "SHAPE_MISMATCH"),
    "other heads": (lambda f: edit_config(f, num_key_value_heads=4), "SHAPE_MISMATCH"),
    "a width that is text": (lambda f: edit_config(f, hidden_size="wide"), "MODEL_CONFIG_INVALID"),
    "no heads": (lambda f: edit_config(f, num_attention_heads=0), "MODEL_CONFIG_INVALID"),
    "less than no heads": (
        lambda f: edit_config(f, num_attention_heads=-4),
        "MODEL_CONFIG_INVALID",
    ),
    "no key heads": (lambda f: edit_config(f, num_key_value_heads=0), "MODEL_CONFIG_INVALID"),
    "heads of no width": (lambda f: edit_config(f, head_dim=0), "MODEL_CONFIG_INVALID"),
    "no layers": (lambda f: edit_config(f, num_hidden_layers=0), "MODEL_CONFIG_INVALID"),
    "no context": (lambda f: edit_config(f, max_position_embeddings=0), "MODEL_CONFIG_INVALID"),
    "half a head": (lambda f: edit_config(f, num_attention_heads=2.5), "MODEL_CONFIG_INVALID"),
    "no model_type": (lambda f: edit_config(f, model_type=None), "MODEL_CONFIG_INVALID"),
    "a model_type that is a number": (
        lambda f: edit_config(f, model_type=5),
        "MODEL_CONFIG_INVALID",
    ),
    "torn tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "FILE_CORRUPT"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "FILE_MISSING"),
    "no tokenizer, and a class that makes an empty one": (
        lambda f: (
            (f / "tokenizer.json").unlink(),
            edit_config(f, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer"),
        ),
        "FILE_MISSING",
    ),
    "a tokenizer of special tokens alone": (
        lambda f: edit_tokenizer(f, leave_special),
        "FILE_CORRUPT",
    ),
    "a tokenizer of another version": (
        lambda f: edit_tokenizer(f, lambda said: said.update(version="x")),
        "FILE_CORRUPT",
    ),
    "a tokenizer without its model": (
        lambda f: edit_tokenizer(f, lambda said: said.pop("model")),
        "FILE_CORRUPT",
    ),
    "an architecture of nobody": (
        lambda f: edit_config(f, model_type="foo", architectures=["FooForCausalLM"]),
        "UNSUPPORTED_MODEL",
    ),
    "an encoder-decoder": (
        lambda f: edit_config(f, model_type="t5", architectures=["T5Model"]),
        "UNSUPPORTED_MODEL",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_with_its_code(folder: Path, damage: str) -> None:
    spoil, code = DAMAGES[damage]
    spoil(folder)
    caught = refused(folder)
    assert isinstance(caught, ModelError) and caught.code == code and caught.field == "model"
    assert "model" in caught.message and "Traceback" not in caught.message


@pytest.mark.parametrize("family", ["falcon", "phi3", "stablelm"])
def test_a_family_that_transformers_holds_loads_without_its_own_code(
    family: str, glass_dir: Path, tmp_path: Path
) -> None:
    folder = build(family, tmp_path / family, AutoTokenizer.from_pretrained(glass_dir))
    ids = torch.arange(3, 12)[None]
    expected = load_model(folder, device="cpu").forward(ids)[0]
    hostile(folder)
    edit_config(folder, auto_map=EVIL)
    edit_config(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    assert torch.equal(load_model(folder, device="cpu").forward(ids)[0], expected)
    assert not (folder / "ran").exists()


def test_a_hostile_folders_code_never_runs(folder: Path) -> None:
    hostile(folder)
    edit_config(folder, model_type="mine", auto_map=EVIL)
    assert refused(folder).code == "REMOTE_CODE_REFUSED"
    assert not (folder / "ran").exists()


def hostile(folder: Path) -> None:
    ran = str(folder / "ran")
    code = f"open({ran!r}, 'w')\nclass Config: pass\nclass Evil: pass\n"
    (folder / "evil.py").write_text(code)


QUANTIZED: dict[str, tuple[dict[str, Any], str]] = {
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "bitsandbytes (4 bits)",
    ),
    "bitsandbytes, as it was written once": ({"load_in_8bit": True}, "bitsandbytes (8 bits)"),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq (4 bits)"),
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "awq (4 bits)"),
    "compressed": ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
    "hqq": ({"quant_method": "hqq", "quant_config": {}}, "hqq"),
    "nobody's": ({"quant_method": "zip"}, "zip"),
}


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("place", ["the configuration", "its text part"])
def test_quantized_weights_are_named(folder: Path, kind: str, place: str) -> None:
    config, named = QUANTIZED[kind]
    said = {"quantization_config": config}
    changes: dict[str, Any] = said if place == "the configuration" else {"text_config": said}
    edit_config(folder, **changes)
    caught = refused(folder)
    assert caught.code == "QUANTIZED_MODEL" and named in caught.message
    assert "made from" in caught.hint and "again" not in caught.hint


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # transformers' own
def test_a_quantization_that_is_tried_and_fails_is_named(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "bitnet"})
    caught = refused(folder)
    assert caught.code == "QUANTIZED_MODEL" and "bitnet" in caught.message


def test_packed_weights_are_named_where_config_json_says_nothing(folder: Path) -> None:
    """GPTQ and AWQ before 2023-08: quantize_config.json beside it, which transformers does not
    read."""
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    packed = {f"{name}.qweight": torch.zeros(16, 341, dtype=torch.int32)}
    del tensors[f"{name}.weight"]
    save_file(tensors | packed, folder / "model.safetensors", metadata={"format": "pt"})
    assert refused(folder).code == "QUANTIZED_MODEL"


CAUSES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "no heads": (DAMAGES["no heads"][0], ("num_attention_heads", "'0'")),
    "another width": (DAMAGES["another width"][0], ("embed_tokens", "[1024, 128]", "[1024, 64]")),
    "a shard is missing": (DAMAGES["a shard is missing"][0], ("model-00002-of-00002.safetensors",)),
    "a shard is torn": (DAMAGES["a shard is torn"][0], ("model-00002-of-00002.safetensors",)),
    "no tokenizer": (DAMAGES["no tokenizer"][0], ("no tokenizer", "tokenizer.json")),
    "a tokenizer without its model": (
        DAMAGES["a tokenizer without its model"][0],
        ("tokenizer", "Model missing"),
    ),
    "an architecture of nobody": (DAMAGES["an architecture of nobody"][0], ("'foo'",)),
    "no model_type": (DAMAGES["no model_type"][0], ("model_type", "config.json")),
}


@pytest.mark.parametrize("case", CAUSES)
def test_an_error_names_the_cause_and_no_path(folder: Path, case: str) -> None:
    spoil, named = CAUSES[case]
    spoil(folder)
    caught = refused(folder)
    assert all(word in caught.message for word in named), caught.message
    assert str(folder.parent) not in f"{caught.message} {caught.hint}" and caught.hint


def test_a_pickle_beside_safetensors_is_ignored(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04not a pickle")
    assert load_model(folder, device="cpu").n_layers == 4


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
def test_a_path_that_is_not_there_is_said_to_be_a_path(name: str) -> None:
    caught = refused(name)
    assert (
        isinstance(caught, NotFoundError)
        and caught.code == "MODEL_NOT_FOUND"
        and caught.got == name
    )


@pytest.mark.parametrize("name", ["nobody/nothing-here", "gpt2", "nothing-here"])
@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_name_that_is_not_cached_needs_the_network(name: str, offline: bool) -> None:
    caught = refused(name, offline=offline)  # HF_HUB_OFFLINE=1 holds in every test
    assert (
        isinstance(caught, OfflineError)
        and caught.code == "NOT_CACHED_OFFLINE"
        and "ss.load_model() alone needs no hub" in caught.hint
    )


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"GGUFxxxx", b"GGUF\x03\x00\x00\x00" + b"\xff" * 40]
)
def test_a_torn_gguf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    assert refused(tmp_path / "x.gguf").code == "FILE_CORRUPT"


@pytest.mark.parametrize("name", ["model", "model.gguf"])
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_what_is_no_file_is_called_what_it_is(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    os.mkfifo(path) if kind == "a pipe" else path.symlink_to(os.devnull)
    error = refused(path)
    assert (error.code, error.field) == ("FILE_SUSPICIOUS", "model")
    assert error.message == f"{name!r} is {kind}, not a file."


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "tokenizer.json", "index"]
)
def test_a_byte_order_mark_changes_nothing(glass: LanguageModel, folder: Path, name: str) -> None:
    if name == "index":
        split(folder)
        name = "model.safetensors.index.json"
    path = folder / name
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    model, prompt = load_model(folder, device="cpu"), "Once upon a time"
    ours, expected = model.tokenize(prompt), glass.tokenize(prompt)
    assert ours.ids.tolist() == expected.ids.tolist()
    (logits, _), (wanted, _) = (each.forward(expected.ids[None]) for each in (model, glass))
    torch.testing.assert_close(logits, wanted, rtol=0, atol=0)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"hello")
    assert refused(tmp_path / "weights.bin").code == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(("device", "dtype"), [("cuda:99", "auto"), ("tpu", "auto")])
def test_a_device_that_is_not_there_lists_those_that_are(
    glass_dir: Path, device: str, dtype: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        load_model(glass_dir, device=device, dtype=dtype)
    assert caught.value.code == "DEVICE_UNAVAILABLE" and "cpu" in caught.value.allowed


def test_an_unknown_dtype_lists_the_known(glass_dir: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        load_model(glass_dir, device="cpu", dtype="int4")
    assert caught.value.code == "INVALID_CHOICE" and "float32" in caught.value.allowed


def test_stored_half_precision_becomes_float32_on_a_cpu(
    glass: LanguageModel, glass_dir: Path
) -> None:
    stored: dict[str, Tensor] = load_file(glass_dir / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {
        torch.float16
    } and glass.dtype == torch.float32


def in_float32(folder: Path) -> Path:
    """Stored as it is used, so that nothing is converted; returns the file of the weights."""
    stored = {name: one.float() for name, one in load_file(folder / "model.safetensors").items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    edit_config(folder, dtype="float32")
    return folder / "model.safetensors"


def test_a_loaded_model_stays_as_it_is_when_its_file_is_overwritten(folder: Path) -> None:
    file, ids = in_float32(folder), torch.arange(3, 9)[None]
    model = load_model(folder, device="cpu")
    before = model.forward(ids)[0]
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 4)
        opened.write(bytes(file.stat().st_size // 2))
    assert torch.equal(model.forward(ids)[0], before)
    hf = model.bridge.original_model
    assert hf.get_input_embeddings().weight.data_ptr() == hf.lm_head.weight.data_ptr()


_SHORTENED = """
import os, sys, torch
from saescope.models import load_model
model = load_model(sys.argv[1], device="cpu")
os.truncate(sys.argv[2], 0)
model.forward(torch.arange(3, 9)[None])
"""


@pytest.mark.slow
def test_a_file_that_is_shortened_does_not_kill_who_loaded_it(folder: Path) -> None:
    file = in_float32(folder)
    done = subprocess.run([sys.executable, "-c", _SHORTENED, str(folder), str(file)], check=False)
    assert done.returncode == 0


def test_the_size_is_known_before_loading(glass: LanguageModel, glass_dir: Path) -> None:
    assert peek_model_bytes(glass_dir) == glass.weights_bytes
    assert peek_model_bytes("nobody/nothing-here") == 0


def test_a_model_knows_the_names_that_its_folder_says(folder: Path) -> None:
    assert load_model(folder, device="cpu").identities == frozenset()
    edit_config(folder, _name_or_path="EleutherAI/pythia-70m")
    assert load_model(folder, device="cpu").identities == {"pythia-70m"}


@pytest.mark.parametrize("name", ["gpt2-small", "gpt2", "openai-community/gpt2"])
def test_the_many_names_of_a_model_are_one(name: str) -> None:
    assert canonical_name(name) == "gpt2"


@pytest.mark.slow
@pytest.mark.model
def test_the_embedded_model_predicts_paris(smollm: LanguageModel) -> None:
    tokens = smollm.tokenize("The capital of France is")
    logits = smollm.forward(smollm.batch(tokens.ids))[0][0, -1]
    assert smollm.token_text(int(logits.argmax())) == " Paris"
    assert smollm.handle == "smollm2-135m" and "Q4_1" in smollm.revision


@pytest.mark.slow
@pytest.mark.model
def test_the_embedded_models_folder_is_the_embedded_model(smollm: LanguageModel) -> None:
    from saescope.embedded import model_dir

    assert (
        load_model(model_dir(), device="cpu").identities
        == smollm.identities
        == {"smollm2-135m-instruct"}
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden_size": None}, "'hidden_size' expected int, got NoneType"),
        ({"rms_norm_eps": "1e-5"}, "'rms_norm_eps' expected float, got str (value: '1e-5')"),
        ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings' expected bool, got str"),
        ({"num_attention_heads": 3}, "hidden size (128) is not a multiple of the number of"),
        ({"layer_types": ["x"]}, "`layer_types` entries must be in"),
        ({"layer_types": ["x"]}, "but got ['x']"),
        ({"rope_parameters": 5}, "'rope_parameters' with value 5"),
        ({"hidden_act": "nope"}, "hidden_act='nope' is unknown"),
        ({"rope_parameters": {"rope_type": "nope"}}, "rope_parameters.rope_type='nope' is unknown"),
    ],
)
def test_a_field_that_a_configuration_has_wrong_is_named_with_its_value(
    folder: Path, change: dict[str, Any], told: str
) -> None:
    edit_config(folder, **change)
    error = refused(folder)
    assert error.code == "MODEL_CONFIG_INVALID" and told in error.message
    assert len(error.message.splitlines()) == 1 and len(error.message) < 400
