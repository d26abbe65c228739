"""Against the numbers of sae-lens's own `run_evals` (scripts/make_evaluation_references.py)."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from saescope.evals import evaluate
from saescope.load import load_sae
from saescope.models import LanguageModel

DATA = Path(__file__).parents[2] / "data" / "evaluation"


@pytest.mark.parametrize(("kind", "include_special"), [("default", False), ("all_positions", True)])
@pytest.mark.parametrize("case", ["standard", "topk", "standard_z"])
def test_run_evals_is_reproduced(
    glass: LanguageModel, case: str, kind: str, include_special: bool
) -> None:
    expected: dict[str, Any] = json.loads((DATA / case / "run_evals.json").read_text())[kind]
    contexts = load_file(DATA / "contexts.safetensors")["contexts"]
    sae = load_sae(DATA / case, device="cpu")
    found = evaluate(glass, sae, contexts, include_special=include_special, baselines=False)
    assert found.saelens.keys() == expected.keys()
    for name, value in expected.items():
        assert found.saelens[name] == pytest.approx(value, rel=1e-4), name


def test_with_every_position_counted_both_zero_ablations_are_one(glass: LanguageModel) -> None:
    contexts = load_file(DATA / "contexts.safetensors")["contexts"]
    found = evaluate(
        glass,
        load_sae(DATA / "standard", device="cpu"),
        contexts,
        include_special=True,
        baselines=False,
    )
    assert found.ce is not None and found.ce.zero_ablation == found.saelens["ce_loss_with_ablation"]
    assert found.n_tokens == contexts.numel()
