"""Damaged config, tokenizer and weights of a language model: loaded as they are, or refused with a
cause."""

import shutil
import time
from pathlib import Path

import pytest
from tests.attack.conftest import Attack
from tests.attack.damage import damage

from saescope.errors import SaescopeError
from saescope.models import load_model

LONG = [pytest.param(n, marks=pytest.mark.attack) for n in range(9)]


@pytest.mark.parametrize("part", LONG)
def test_a_damaged_model_loads_or_names_the_cause(
    part: int, attack: Attack, glass_dir: Path, tmp_path: Path
) -> None:
    for n in range(100 if part else 12):
        folder = tmp_path / str(n)
        shutil.copytree(glass_dir, folder)
        file = attack.rng.choice(sorted(file for file in folder.iterdir() if file.suffix in KINDS))
        with attack.case(f"{n} {damage(attack.rng, file)}"):
            start = time.process_time()
            try:
                load_model(str(folder), device="cpu")
            except SaescopeError as error:
                assert error.code != "INTERNAL", error.message
            assert time.process_time() - start < 20
        shutil.rmtree(folder)


KINDS = {".json", ".safetensors", ".jinja", ".model", ".txt"}
