import pytest
import torch
from tests.core.training.helpers import KNOBS, batches, config

from saescope.training.objective import Batch, initial_params
from saescope.training.start import START_DENSITY, fit_start, geometric_median


def test_the_geometric_median_is_where_the_sum_of_distances_is_least() -> None:
    x = torch.randn(101, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2
    x[0] = 1e6
    median = geometric_median(x)

    def total(at: torch.Tensor) -> float:
        return float((x - at).norm(dim=1).sum())

    away = [
        median + step * direction
        for direction in torch.eye(3, dtype=torch.float64)
        for step in (-0.05, 0.05)
    ]
    assert all(total(median) < total(point) for point in away)
    assert float((median - 2).abs().max()) < 0.5  # the mean is at 10,000


@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu"])
@pytest.mark.parametrize("transcoder", [False, True])
def test_a_run_with_free_l0_starts_sparse(architecture: str, transcoder: bool) -> None:
    cfg = config(architecture, k=4.0, hook_name_out="blocks.1.hook_mlp_out" if transcoder else "")
    x = torch.cat(batches(40))
    params = initial_params(cfg.objective, seed=0, jumprelu_init_threshold=0.0)
    fit_start(params, cfg.objective, [Batch(x, x)], l0=4.0)
    read = x if transcoder else x - params["b_dec"]
    pre = read @ params["encoder"].T + params["b_gate" if architecture == "gated" else "b_enc"]
    fires = pre > params.get("threshold", torch.zeros(()))
    assert float(fires.sum(1).float().mean()) == pytest.approx(START_DENSITY * 4, rel=0.02)
    assert torch.equal(params["b_dec"], geometric_median(x))


@pytest.mark.parametrize("architecture", KNOBS)
def test_a_transcoder_starts_with_what_the_centred_input_gives(architecture: str) -> None:
    cfg = config(architecture, hook_name_out="blocks.1.hook_mlp_out", d_out=10)
    x = torch.cat(batches(4))
    params = initial_params(cfg.objective, seed=0, jumprelu_init_threshold=0.5)
    before = {name: tensor.clone() for name, tensor in params.items()}
    fit_start(
        params, cfg.objective, [Batch(x, x[:, :10] + 7)], l0=100.0
    )  # as good as half of all features
    shift = params["b_gate" if architecture == "gated" else "b_enc"] + before[
        "encoder"
    ] @ geometric_median(x)
    assert float(shift.std()) < 1e-5
    assert torch.allclose(params["b_dec"], geometric_median(x)[:10] + 7, atol=0.2)
    if architecture == "jumprelu":
        assert torch.equal(params["threshold"], before["threshold"])
