"""A model that is loaded up to a hook: the same activations from fewer weights, and a clear error
beyond."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.attack.families import FAMILIES, build
from tests.attack.plain import Plain
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import saescope as ss
from saescope.errors import ModelError
from saescope.hooks import record_activations
from saescope.models import (
    LanguageModel,
    has_fingerprint,
    load_model,
    model_fingerprint,
    peek_model_bytes,
)

IDS = torch.arange(3, 11)[None]
SITE = "blocks.0.hook_resid_post"
NOT_HELD = ("falcon_new", "helium", "opt_post", "persimmon", "phimoe")
"""Families that transformer-lens does not hold, as tests/attack has it."""


def family_folder(family: str, tmp_path: Path, glass_dir: Path) -> Path:
    return build(family, tmp_path / family, AutoTokenizer.from_pretrained(glass_dir))


def check_family(folder: Path) -> None:
    whole, part = load_model(folder, device="cpu"), load_model(folder, device="cpu", up_to=SITE)
    site = SITE if SITE in whole.fires.sites else "blocks.0.hook_resid_pre"
    found, expected = (record_activations(each, IDS, [site])[site] for each in (part, whole))
    assert torch.equal(found, expected)
    assert torch.allclose(found[0], Plain(folder).record(IDS, site), atol=1e-5)
    left = [*part.bridge.blocks[1].parameters()]
    assert left and all(weight.is_meta for weight in left)
    storages = [weight.untyped_storage() for weight in whole.bridge.blocks[1].parameters()]
    of_second = sum({each.data_ptr(): each.nbytes() for each in storages}.values())
    assert whole.weights_bytes - part.weights_bytes >= of_second
    assert part.n_loaded == 1 and not part.warnings
    with pytest.raises(ModelError, match=r"layers 0 to 0 of \d are loaded") as raised:
        part.forward(IDS)
    assert raised.value.code == "LAYERS_NOT_LOADED"


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox"])
def test_activations_are_those_of_the_whole_model(
    family: str, tmp_path: Path, glass_dir: Path
) -> None:
    check_family(family_folder(family, tmp_path, glass_dir))


@pytest.mark.thorough
@pytest.mark.parametrize("family", sorted({*FAMILIES} - {*NOT_HELD}))
def test_activations_of_every_family_are_those_of_the_whole_model(
    family: str, tmp_path: Path, glass_dir: Path
) -> None:
    check_family(family_folder(family, tmp_path, glass_dir))


@pytest.fixture(scope="module")
def part(glass_dir: Path) -> LanguageModel:
    return load_model(glass_dir, device="cpu", up_to=["blocks.0.hook_resid_pre", SITE])


def test_weights_are_read_by_name_from_several_files(glass_dir: Path, tmp_path: Path) -> None:
    """The sizes are those that the headers of the files tell."""
    folder = tmp_path / "cut"
    folder.mkdir()
    tensors = load_file(glass_dir / "model.safetensors")
    later = {name: x for name, x in tensors.items() if re.search(r"\.layers\.[1-9]", name)}
    first = {name: x for name, x in tensors.items() if name not in later}
    shards = {"a.safetensors": first, "b.safetensors": later}
    for file in glass_dir.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    for name, held in shards.items():
        save_file(held, folder / name, metadata={"format": "pt"})
    index = {name: file for file, held in shards.items() for name in held}
    said = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(said)
    whole, part = load_model(folder, device="cpu"), load_model(folder, device="cpu", up_to=SITE)
    expected = record_activations(whole, IDS, [SITE])[SITE]
    assert torch.equal(record_activations(part, IDS, [SITE])[SITE], expected)
    n_later = sum(x.numel() for x in later.values())
    assert whole.weights_bytes - part.weights_bytes == 4 * n_later
    assert peek_model_bytes(folder, up_to=SITE) == part.weights_bytes


def test_what_promotes_a_token_is_known_without_the_later_layers(
    part: LanguageModel, glass: LanguageModel
) -> None:
    write = torch.randn(3, part.d_model, generator=torch.Generator().manual_seed(0))
    to_stream = part.residual_map(SITE)
    assert to_stream and torch.equal(to_stream(write), write)
    assert torch.equal(part.readout.logit_effects(write), glass.readout.logit_effects(write))


def test_a_later_hook_is_refused_by_name(part: LanguageModel) -> None:
    with pytest.raises(ModelError, match="needs the others too") as raised:
        record_activations(part, IDS, ["blocks.1.hook_resid_post"])
    assert raised.value.code == "LAYERS_NOT_LOADED" and "without up_to" in raised.value.hint


def test_the_fingerprint_of_some_layers_is_that_of_the_whole_models_first(
    part: LanguageModel, glass: LanguageModel
) -> None:
    of_part = model_fingerprint(part)
    assert of_part == model_fingerprint(glass, 1) and of_part.startswith("1:")
    assert has_fingerprint(glass, of_part) and has_fingerprint(part, of_part)
    assert has_fingerprint(part, model_fingerprint(glass)) is None
    assert has_fingerprint(part, "1:" + "0" * 64) is False
    weight: Any = glass.bridge.blocks[0].mlp.out.weight
    with torch.no_grad():
        before = weight[0, 0].clone()
        weight[0, 0] = before.nextafter(before + 1)
        assert not has_fingerprint(glass, of_part)
        weight[0, 0] = before
    assert has_fingerprint(glass, of_part)


def test_up_to_the_last_layer_is_all_of_it(glass_dir: Path, glass: LanguageModel) -> None:
    last = f"blocks.{glass.n_layers - 1}.hook_resid_post"
    model = load_model(glass_dir, device="cpu", up_to=last)
    assert model.whole and torch.equal(model.forward(IDS)[0], glass.forward(IDS)[0])
    assert model_fingerprint(model) == model_fingerprint(glass)


def test_an_sae_is_checked_by_what_its_site_says(glass_dir: Path, glass: LanguageModel) -> None:
    sae = ss.load_sae(Path(__file__).parents[3] / "agent_evals/data/glass-l2", device="cpu")
    part = load_model(glass_dir, device="cpu", up_to=sae.cfg.metadata.hook_name)
    found, whole = ss.check_sae(part, sae), ss.check_sae(glass, sae)
    assert not part.whole and found.ce_score is None and found.layers == ()
    assert (found.explained_variance, found.l0) == (whole.explained_variance, whole.l0)


PEAK = """
import re, sys
from pathlib import Path
import torch
from saescope.models import load_model
from saescope.hooks import record_activations

def told(what):
    return 1024 * int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

load_model(sys.argv[1], device="cpu")  # the libraries, all imported
kept = []
for layer in (0, 11):
    before = told("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    kept.append(load_model(sys.argv[2], device="cpu", up_to=f"blocks.{layer}.hook_resid_post"))
    record_activations(kept[-1], torch.arange(9)[None], ["blocks.0.hook_resid_post"])
    print(told("VmHWM") - before, kept[-1].weights_bytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a part")
def test_the_peak_of_memory_is_that_of_the_layers_that_are_needed(
    tmp_path: Path, glass_dir: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(glass_dir)
    width: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 2048}
    folders = [tmp_path / "small", tmp_path / "large"]
    for folder, n_layers in zip(folders, (1, 12), strict=True):
        config = LlamaConfig(
            vocab_size=1024, num_attention_heads=8, num_hidden_layers=n_layers, **width
        )
        LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="50MB")
        tokenizer.save_pretrained(folder)
    command = [sys.executable, "-c", PEAK, *map(str, folders)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    some, of_some, all_, of_all = map(int, out.split()[-4:])
    assert of_all - of_some == 11 * 4 * (4 * 512**2 + 3 * 512 * 2048 + 2 * 512)
    assert all_ - some >= 0.9 * (of_all - of_some)
