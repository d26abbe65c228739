"""Every switch and number of a family's configuration, changed: the logits are those of plain
transformers, or the load names the cause."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.attack.conftest import Attack
from tests.attack.families import COMMON, FAMILIES, build
from tests.attack.plain import Plain
from transformers import AutoTokenizer

from saescope.errors import ModelError
from saescope.models import load_model

QUICK = ("gpt2", "gpt_neox", "opt")
IDS = torch.randint(4, 1000, (1, 30), generator=torch.Generator().manual_seed(0))
"""Longer than the windows of the families."""
TOLERANCE = 1e-4
NO_PART_OF_THE_MODEL = (
    "use_cache",
    "output_",
    "return_dict",
    "torchscript",
    "_coef",
    "drop",
    "init",
)


def changes(family: str) -> list[dict[str, Any]]:
    architecture, own = FAMILIES[family]
    config = getattr(transformers, architecture).config_class(**(COMMON | own))
    changed: list[dict[str, Any]] = []
    for name, value in sorted(config.to_dict().items()):
        if any(part in name for part in NO_PART_OF_THE_MODEL):
            continue
        if isinstance(value, bool):
            changed.append({name: not value})
        elif isinstance(value, float):
            changed.append({name: 1.7 * value + 0.05})
    return changed


def check_family(
    family: str, folder: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    architecture, own = FAMILIES[family]
    for i, change in enumerate(changes(family)):
        monkeypatch.setitem(FAMILIES, family, (architecture, own | change))
        try:
            model = build(family, folder / str(i) / family, tokenizer)
            plain = Plain(model)
            expected = plain.logits(IDS)
        except (ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError):
            continue  # transformers itself does not compute that
        with attack.case(f"{family} {change}"):
            try:
                found = load_model(model, device="cpu").forward(IDS)[0]
            except ModelError as error:
                assert error.code in ("UNSUPPORTED_MODEL", "MODEL_CONFIG_INVALID")
                assert architecture in str(error) and error.hint
                assert not str(error).endswith("Error"), "no cause is named"
            else:
                off = float((found - expected).norm() / expected.norm())
                assert off < TOLERANCE, f"off by {off:.1e}"


@pytest.fixture
def folder(tmp_path: Path, glass_dir: Path) -> Path:
    tokenizer: Any = AutoTokenizer.from_pretrained(glass_dir)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "family",
    ["gpt_neox", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "opt"))],
)
def test_a_sample_of_families_with_each_switch_turned(
    family: str, folder: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_family(family, folder, attack, monkeypatch)


@pytest.mark.attack
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in QUICK])
def test_every_family_with_each_switch_turned(
    family: str, folder: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_family(family, folder, attack, monkeypatch)
