"""The fingerprint of a model sees every bit that decides its numbers, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from tests.core.oracle import Family

from saescope.models import LanguageModel, load_model, model_fingerprint


def test_the_fingerprint_of_a_model_sees_every_weight(gpt2: Family) -> None:
    first = model_fingerprint(gpt2.model)
    weight: Any = gpt2.model.bridge.original_model.get_input_embeddings().weight
    for place in ((0, 1), (7, 3), (-1, -1)):
        with torch.no_grad():
            before = weight[place].clone()
            weight[place] = before.nextafter(before + 1)
            assert model_fingerprint(gpt2.model) != first
            weight[place] = before
    assert model_fingerprint(gpt2.model) == first


CHANGED: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "eps": ("config.json", lambda said: said.update(rms_norm_eps=1e-3)),
    "theta": ("config.json", lambda said: said["rope_parameters"].update(rope_theta=777.0)),
    "merges": ("tokenizer.json", lambda said: said["model"]["merges"].pop()),
    "special": ("tokenizer_config.json", lambda said: said.update(eos_token="the")),
}


@pytest.mark.parametrize("case", CHANGED)
def test_the_fingerprint_of_a_model_sees_its_configuration_and_tokenizer(
    case: str, glass: LanguageModel, glass_dir: Path, tmp_path: Path
) -> None:
    file, change = CHANGED[case]
    folder = Path(copytree(glass_dir, tmp_path / "glassllm-en"))
    said = json.loads((folder / file).read_text())
    change(said)
    (folder / file).write_text(json.dumps(said))
    assert model_fingerprint(load_model(folder, device="cpu")) != model_fingerprint(glass)


def test_the_fingerprint_of_a_model_is_the_same_wherever_it_lies_and_after_it_ran(
    glass: LanguageModel, glass_dir: Path, tmp_path: Path
) -> None:
    first = model_fingerprint(glass)
    moved = load_model(Path(copytree(glass_dir, tmp_path / "moved")), device="cpu")
    moved.tokenize("one two")
    moved.forward(torch.arange(3, 9)[None])
    assert model_fingerprint(moved) == first
    assert model_fingerprint(load_model(glass_dir, device="cpu", dtype="float16")) != first
