"""Model folders, torn and hostile ones, GGUF files and names that are not there."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saescope.errors import ArgumentError, ModelError, NotFoundError, OfflineError, SaescopeError
from saescope.models import LanguageModel, canonical_name, load_model, peek_model_bytes


@pytest.fixture
def folder(glass_dir: Path, tmp_path: Path) -> Path:
    return Path(copytree(glass_dir, tmp_path / "model"))


def refused(source: str | Path, **options: Any) -> SaescopeError:
    with pytest.raises(SaescopeError) as caught:
        load_model(source, device="cpu", **options)
    return caught.value


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def cut(folder: Path, n_bytes: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:n_bytes])


def lose(folder: Path, tensor: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[tensor]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


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
        lambda f: edit_config(f, auto_map={"AutoModelForCausalLM": "evil.Evil"}),
        "REMOTE_CODE_REFUSED",
    ),
    "only a pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "PICKLE_REFUSED",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "FILE_CORRUPT"),
    "half of the weights": (lambda f: cut(f, 50_000), "FILE_CORRUPT"),
    "five bytes": (lambda f: cut(f, 5), "FILE_CORRUPT"),
    "no byte": (lambda f: cut(f, 0), "FILE_CORRUPT"),
    "a web page": (
        lambda f: (f / "model.safetensors").write_text("<html>not found</html>"),
        "FILE_CORRUPT",
    ),
    "a tensor is missing": (lambda f: lose(f, "model.layers.2.mlp.up_proj.weight"), "FILE_CORRUPT"),
    "more layers than weights": (lambda f: edit_config(f, num_hidden_layers=6), "FILE_CORRUPT"),
    "another width": (lambda f: edit_config(f, hidden_size=64), "FILE_CORRUPT"),
    "a width that is text": (lambda f: edit_config(f, hidden_size="wide"), "FILE_CORRUPT"),
    "torn tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "FILE_CORRUPT"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "FILE_CORRUPT"),
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


def test_a_hostile_folders_code_never_runs(folder: Path) -> None:
    edit_config(folder, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Evil"})
    (folder / "evil.py").write_text(
        f"open({str(folder / 'ran')!r}, 'w')\nclass Config: pass\nclass Evil: pass\n"
    )
    refused(folder)
    assert not (folder / "ran").exists()


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
        and "load_sae" in caught.hint
    )


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"GGUFxxxx", b"GGUF\x03\x00\x00\x00" + b"\xff" * 40]
)
def test_a_torn_gguf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    assert refused(tmp_path / "x.gguf").code == "FILE_CORRUPT"


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


@pytest.mark.model
def test_the_embedded_model_predicts_paris(smollm: LanguageModel) -> None:
    tokens = smollm.tokenize("The capital of France is")
    logits = smollm.forward(smollm.batch(tokens.ids))[0][0, -1]
    assert smollm.token_text(int(logits.argmax())) == " Paris"
    assert smollm.handle == "smollm2-135m" and "Q4_1" in smollm.revision


@pytest.mark.model
def test_the_embedded_models_folder_is_the_embedded_model(smollm: LanguageModel) -> None:
    from saescope.embedded import model_dir

    assert (
        load_model(model_dir(), device="cpu").identities
        == smollm.identities
        == {"smollm2-135m-instruct"}
    )
