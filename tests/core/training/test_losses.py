from pathlib import Path

import pytest
import torch
from tests.core.training.references import FILES, load, relative

from saescope.training.steps import losses


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_term_and_gradient_is_sae_lens_s(path: Path) -> None:
    reference = load(path)
    params = {name: tensor.requires_grad_() for name, tensor in reference.params.items()}
    terms = losses(
        reference.objective,
        params,
        reference.batch,
        coefficients=reference.coefficients,
        dead=reference.dead,
    )
    torch.stack(list(terms.values())).sum().backward()
    assert set(terms) == set(reference.losses)
    for name, value in terms.items():
        assert relative(value.detach(), reference.losses[name]) < 1e-5, name
    for name, param in params.items():
        assert param.grad is not None
        assert relative(param.grad, reference.grads[name]) < 1e-5, name


def test_there_are_references_of_every_architecture() -> None:
    assert {load(path).objective.architecture for path in FILES} == {
        "standard",
        "gated",
        "topk",
        "batchtopk",
        "matryoshka_batchtopk",
        "jumprelu",
    }
