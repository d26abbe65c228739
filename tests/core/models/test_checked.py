"""A model's files and what its configuration asks for are judged before anything is built or
followed."""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saescope.errors import SaescopeError
from saescope.fence import Fence, fenced
from saescope.models import load_model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and links of POSIX")

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def folder(glass_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(glass_dir, tmp_path / "root" / "model")
    return tmp_path / "root" / "model"


def refused(folder: Path, *roots: Path) -> SaescopeError:
    with fenced(Fence.around(roots) if roots else None), pytest.raises(SaescopeError) as caught:
        load_model(str(folder), device="cpu")
    return caught.value


def change(folder: Path, said: dict[str, Any], *, file: str = "config.json") -> None:
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | said))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("file", FILES)
def test_what_is_no_file_is_refused_at_once(folder: Path, file: str) -> None:
    def swap(make: Callable[[Path], object]) -> str:
        (folder / file).unlink()
        make(folder / file)
        return refused(folder).code

    started = time.process_time()
    assert swap(os.mkfifo) == "FILE_SUSPICIOUS"
    assert swap(lambda path: path.symlink_to("/dev/zero")) == "FILE_SUSPICIOUS"
    assert time.process_time() - started < 5


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_of_a_gigabyte_is_refused_by_its_size(folder: Path, file: str) -> None:
    with (folder / file).open("r+b") as opened:
        opened.truncate(1 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = refused(folder)
    assert error.code == "FILE_SUSPICIOUS" and str(1 << 30) in error.message
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 100e6


ABSURD = {
    "num_hidden_layers": (10**6, "num_hidden_layers=1000000"),
    "num_attention_heads": (10**7, "num_attention_heads=10000000"),
    "hidden_size": (128 * 10**5, "describes"),
    "intermediate_size": (10**10, "describes"),
    "vocab_size": (10**12, "describes"),
    "vocab_size beyond the files": (10**6, "its files hold"),
    "intermediate_size beyond the files": (10**4, "its files hold"),
    "num_key_value_heads": (-1, "num_key_value_heads=-1"),
    "layers of layers": (200, "its files hold"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_an_absurd_size_is_refused_with_its_numbers_before_memory_is_taken(
    folder: Path, name: str
) -> None:
    value, said = ABSURD[name]
    key = "num_hidden_layers" if name.startswith("layers") else name.partition(" ")[0]
    change(folder, {key: value})
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    error = refused(folder)
    assert error.code in ("MODEL_CONFIG_INVALID", "OUT_OF_MEMORY_BUDGET"), error
    assert said in error.message, error.message
    assert time.process_time() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2", "n_layer": 10**6, "architectures": ["GPT2LMHeadModel"]},
        {"model_type": "gpt2", "n_positions": 10**11, "architectures": ["GPT2LMHeadModel"]},
        {"model_type": "opt", "ffn_dim": 10**11, "architectures": ["OPTForCausalLM"]},
        {"model_type": "mixtral", "num_local_experts": 10**6},
        {"model_type": "gpt_neo", "attention_types": [[["global", "local"], 10**6]]},
        {"model_type": "gemma3_text", "num_hidden_layers": 10**6},
        {"model_type": "falcon", "num_hidden_layers": 10**9},
        {"model_type": "mamba", "state_size": 10**10, "num_hidden_layers": 2},
    ],
)
def test_absurd_sizes_are_refused_in_every_family(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    error = refused(folder)
    assert error.code in ("MODEL_CONFIG_INVALID", "OUT_OF_MEMORY_BUDGET"), error


@pytest.mark.parametrize("file", FILES)
def test_a_link_out_of_the_roots_is_refused_by_its_name(folder: Path, file: str) -> None:
    outside = folder.parents[1] / "outside"
    (folder / file).rename(outside)
    (folder / file).symlink_to(outside)
    error = refused(folder, folder.parent)
    assert error.code == "PATH_NOT_ALLOWED" and file in error.message
    with fenced(None):  # a person who typed the path
        assert load_model(str(folder), device="cpu").n_layers == 4


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "x/model.safetensors", "..", "", "..\\x", "/dev/zero"]
)
def test_a_weight_index_names_files_of_its_own_folder(folder: Path, name: str) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refused(folder).code == "PATH_NOT_ALLOWED"


def test_paths_of_the_machine_that_wrote_a_configuration_are_not_followed(
    folder: Path, glass: Any
) -> None:
    """Real tokenizers name such files: `"special_tokens_map_file": "/home/someone/.cache/..."`."""
    foreign = {
        "special_tokens_map_file": "/home/someone/.cache/x.json",
        "vocab_file": "/home/someone/vocab",
    }
    change(
        folder,
        foreign | {"sp_model_kwargs": {"model_file": "/x"}},
        file="tokenizer_config.json",
    )
    model = load_model(str(folder), device="cpu")
    assert torch.equal(model.tokenize("The old man").ids, glass.tokenize("The old man").ids)
    change(folder, {"vocab_file": "../../secret"}, file="tokenizer_config.json")
    assert refused(folder).code == "PATH_NOT_ALLOWED"


def test_the_layout_of_the_hubs_cache_loads(folder: Path, tmp_path: Path, glass: Any) -> None:
    cache = tmp_path / "hub" / "models--o--n"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(cache / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    with fenced(Fence.around([tmp_path / "hub"])):
        model = load_model(str(snapshot), device="cpu")
    tokens = glass.tokenize("The old man went to the sea").ids[None]
    assert torch.equal(model.forward(tokens)[0], glass.forward(tokens)[0])


def test_an_adapter_is_refused_for_what_it_is(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')
    assert refused(folder).code == "UNSUPPORTED_MODEL"


def test_nothing_is_left_in_the_folder_for_temporary_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    load_model(str(folder), device="cpu")
    change(folder, {"num_hidden_layers": 10**6})
    refused(folder)
    assert not [*(tmp_path / "tmp").iterdir()]
