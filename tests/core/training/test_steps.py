"""The fast steps against sae-lens's numbers and against autograd over losses.py, sparse and dense
alike."""

from pathlib import Path

import pytest
import torch
from tests.core.training.cases import CASES, COEFFICIENTS, SITES, random_case, revived
from tests.core.training.references import FILES, load, relative

from saescope.training.objective import Batch
from saescope.training.optimizer import Adam
from saescope.training.schedules import learning_rate, warmed_up
from saescope.training.steps import BatchTopKStep, losses, make_step, relu
from saescope.training.steps.relu import ReluStep


def force(monkeypatch: pytest.MonkeyPatch, path: str) -> float:
    """Make variable-L0 steps take one path; returns the density to start with."""
    monkeypatch.setattr(relu, "MAX_DENSITY", 1.0 if path == "sparse" else 0.0)
    return 0.0 if path == "sparse" else 1.0


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_step_has_sae_lens_s_gradients(
    file: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = load(file)
    step = make_step(reference.objective, reference.params)
    density = force(monkeypatch, path)
    if isinstance(step, ReluStep):
        step.density = density
    result = step(
        reference.batch, coefficients=reference.coefficients, dead=revived(reference.dead)
    )
    for name, value in reference.losses.items():
        assert relative(result.losses[name], value) < 1e-5, name
    for name, grad in reference.grads.items():
        assert relative(result.grads[name], grad) < 1e-5, name


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("case", CASES)
def test_a_step_equals_autograd(
    case: str, site: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, params, batch, dead = random_case(case, site)
    step = make_step(objective, params)
    density = force(monkeypatch, path)
    if isinstance(step, ReluStep):
        step.density = density
    result = step(batch, coefficients=COEFFICIENTS, dead=revived(dead))
    exact = {name: tensor.double().requires_grad_() for name, tensor in params.items()}
    wanted = losses(
        objective,
        exact,
        Batch(batch.x.double(), batch.y.double()),
        coefficients=COEFFICIENTS,
        dead=dead,
    )
    torch.stack(list(wanted.values())).sum().backward()
    assert set(result.losses) == set(wanted)
    assert set(result.grads) == set(params)
    for name, value in wanted.items():
        assert relative(result.losses[name], value.detach()) < 1e-5, name
    for name, param in exact.items():
        assert param.grad is not None
        assert relative(result.grads[name], param.grad) < 1e-5, name
    assert torch.allclose(result.squared_error.mean(), result.losses["mse_loss"], rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_training_steps_equal_torch_s_adam_over_autograd(case: str) -> None:
    objective, params, batch, dead = random_case(case, "sae")
    plain = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    optimizer = torch.optim.Adam(plain.values(), lr=1e-3)
    step, adam = make_step(objective, params), Adam(params)
    for _ in range(6):
        adam.step(
            step(batch, coefficients=COEFFICIENTS, dead=revived(dead)).grads,
            lr=1e-3,
            max_grad_norm=1.0,
        )
        if "threshold" in plain:
            plain["threshold"].data.clamp_(min=0)
        optimizer.zero_grad()
        torch.stack(
            list(losses(objective, plain, batch, coefficients=COEFFICIENTS, dead=dead).values())
        ).sum().backward()
        torch.nn.utils.clip_grad_norm_(plain.values(), 1.0)
        optimizer.step()
    for name, param in plain.items():
        assert float((param.detach() - params[name]).abs().max()) < 2e-5, name


def test_a_variable_l0_step_moves_from_dense_to_sparse_by_itself() -> None:
    objective, params, batch, _ = random_case("standard", "sae")
    step = make_step(objective, params)
    assert isinstance(step, ReluStep)
    step(batch, coefficients=COEFFICIENTS)
    dense = step.density
    params["b_enc"].fill_(-3.0)
    step(batch, coefficients=COEFFICIENTS)
    sparse = step(batch, coefficients=COEFFICIENTS)
    assert dense > relu.MAX_DENSITY > step.density > 0
    again = make_step(objective, params)(batch, coefficients=COEFFICIENTS)
    assert all(relative(sparse.grads[name], grad) < 1e-5 for name, grad in again.grads.items())


def test_batch_topk_selects_the_same_whatever_it_guessed_before() -> None:
    objective, params, batch, _ = random_case("batchtopk auxk", "sae")
    fresh = make_step(objective, params)(batch, coefficients=COEFFICIENTS)
    for cut in (0.0, 0.1, 1e6):
        step = make_step(objective, params)
        assert isinstance(step, BatchTopKStep)
        step.cut = cut
        result = step(batch, coefficients=COEFFICIENTS)
        assert torch.equal(result.fired, fresh.fired)
        assert all(torch.equal(result.grads[name], grad) for name, grad in fresh.grads.items())


def test_batch_topk_follows_its_threshold_as_sae_lens_and_without_its_bias() -> None:
    objective, params, batch, _ = random_case("batchtopk auxk", "sae")
    step = make_step(objective, params)
    assert isinstance(step, BatchTopKStep)
    for _ in range(3):
        step(batch, coefficients=COEFFICIENTS)
    smallest = step.topk_threshold / (1 - 0.99**3)
    assert step.threshold == pytest.approx(smallest)
    ranked = (batch.x - params["b_dec"]) @ params["encoder"].T + params["b_enc"]
    ranked *= params["decoder"].norm(dim=1)
    assert step.threshold == pytest.approx(
        float(ranked.flatten().topk(int(4.5 * 50)).values.min()), rel=1e-5
    )


def test_learning_rate_warms_up_stays_and_decays_to_zero() -> None:
    rates = [learning_rate(step, n_steps=20, peak=1.0, warm_up=4, decay=5) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:16] == [1.0] * 12
    assert rates[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_a_coefficient_rises_from_zero() -> None:
    assert [warmed_up(step, value=8.0, warm_up=4) for step in range(6)] == [
        0.0,
        2.0,
        4.0,
        6.0,
        8.0,
        8.0,
    ]
    assert warmed_up(0, value=8.0, warm_up=0) == 8.0
