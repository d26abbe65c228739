"""What is promised of a run with nothing but data and sizes: its L0, no dead features, and the
features that made the data."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from saescope.saes import SAE
from saescope.training import ListBatches, TrainConfig, Trainer

D, N_TRUE, ACTIVE, N_STEPS, BATCH = 32, 40, 3.0, 500, 256
ARCHITECTURES = ("topk", "jumprelu", "batchtopk", "matryoshka_batchtopk", "standard", "gated")
LATER = (pytest.mark.slow, pytest.mark.thorough)
TWO = [
    pytest.param(name, marks=() if name in ("topk", "jumprelu") else pytest.mark.thorough)
    for name in ARCHITECTURES
]
"""One that counts and one that learns thresholds; the others take as long again."""


def of_default(quick: str) -> list[Any]:
    """`make test` trains the quick one, the slow tier the others."""
    marks = {name: [] if name == quick else pytest.mark.slow for name in ARCHITECTURES}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


class Toy(NamedTuple):
    """Unit vectors that fire as often as 1 / sqrt(rank), with magnitudes of 0.5 to 1.5, around a
    point far from 0; in any unit."""

    features: Tensor
    written: Tensor
    """What each feature adds at another site."""
    rates: Tensor
    centre: Tensor
    unit: float

    def draw(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        fires = torch.rand(n, N_TRUE, generator=generator) < self.rates
        acts = fires * (0.5 + torch.rand(n, N_TRUE, generator=generator))
        return self.unit * (acts @ self.features + self.centre), acts @ self.written + 1


def toy(unit: float = 1.0) -> Toy:
    generator = torch.Generator().manual_seed(5)
    features, written = torch.nn.functional.normalize(
        torch.randn(2, N_TRUE, D, generator=generator), dim=2
    )
    rates = torch.arange(1, N_TRUE + 1).float() ** -0.5
    return Toy(
        features,
        written,
        ACTIVE * rates / rates.sum(),
        0.3 * torch.randn(D, generator=generator),
        unit,
    )


def trained(architecture: Any, data: "Toy | Dominated", **knobs: Any) -> SAE:
    cfg = TrainConfig(
        hook_name="x",
        architecture=architecture,
        d_in=D,
        d_sae=N_TRUE,
        k=ACTIVE,
        training_tokens=N_STEPS * BATCH,
        batch_size=BATCH,
        **knobs,
    )
    x, y = data.draw(N_STEPS * BATCH, 0)
    batches = (
        list(zip(x.split(BATCH), y.split(BATCH), strict=True))
        if cfg.transcoder
        else list(x.split(BATCH))
    )
    trainer = Trainer(cfg, ListBatches(batches))
    trainer.run()
    return trainer.result()


@pytest.mark.parametrize("architecture", of_default("topk"))
def test_defaults_meet_the_l0_keep_features_alive_and_find_the_true_ones(architecture: str) -> None:
    data = toy(200.0)
    sae, held = trained(architecture, data), data.draw(8192, 1)[0]
    acts = sae.encode(held)
    assert float((acts > 0).sum(1).float().mean()) == pytest.approx(ACTIVE, rel=0.1)
    assert float((acts > 0).any(0).float().mean()) > 0.94  # 2 of 40
    cosines = (data.features @ torch.nn.functional.normalize(sae.W_dec, dim=1).T).amax(1)
    assert float(cosines.mean()) > (0.88 if architecture == "matryoshka_batchtopk" else 0.93)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TWO)
def test_defaults_work_for_transcoders(architecture: str) -> None:
    data = toy(50.0)
    sae, (x, y) = trained(architecture, data, hook_name_out="y"), data.draw(8192, 1)
    acts = sae.encode(x)
    assert float((acts > 0).sum(1).float().mean()) == pytest.approx(ACTIVE, rel=0.1)
    assert float((acts > 0).any(0).float().mean()) > 0.9
    assert float((sae(x) - y).square().sum() / (y - y.mean(0)).square().sum()) < 0.35


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TWO)
def test_a_skip_path_helps_and_never_raises_the_l0(architecture: str) -> None:
    data = toy(50.0)
    sae, (x, y) = trained(architecture, data, hook_name_out="y", skip=True), data.draw(8192, 1)
    assert float((sae.encode(x) > 0).sum(1).float().mean()) < 1.1 * ACTIVE
    assert float((sae(x) - y).square().sum() / (y - y.mean(0)).square().sum()) < 0.25


class Dominated:
    """The same data where a mean hides what varies."""

    def __init__(self, kind: str) -> None:
        self.toy, self.kind = toy(), kind
        self.features, self.written = self.toy.features, self.toy.written

    def draw(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        x, y = self.toy.draw(n, seed)
        x = x.clone()
        if self.kind == "large mean":
            x[:, 3] += 40
        elif self.kind == "constant":
            x[:, 3] = 40
        else:
            x += 10
        return x, y


@pytest.mark.parametrize(
    "kind",
    [
        "large mean",
        *(pytest.param(kind, marks=LATER) for kind in ("constant", "all large")),
    ],
)
@pytest.mark.parametrize("architecture", of_default("jumprelu"))
def test_a_mean_far_beyond_what_varies_costs_nothing(architecture: str, kind: str) -> None:
    """A JumpReLU ended at a twentieth of the L0 with two thirds of its features dead."""
    data = Dominated(kind)
    sae, held = trained(architecture, data), data.draw(8192, 1)[0]
    acts = sae.encode(held)
    assert float((acts > 0).sum(1).float().mean()) == pytest.approx(ACTIVE, rel=0.1)
    assert int((acts > 0).any(0).sum()) >= 36  # of 40
    cosines = (data.features @ torch.nn.functional.normalize(sae.W_dec, dim=1).T).amax(1)
    assert float(cosines.mean()) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("skip", [False, True])
def test_a_mean_far_beyond_what_varies_costs_a_transcoder_nothing(skip: bool) -> None:
    data = Dominated("large mean")
    sae, (x, y) = (
        trained("jumprelu", data, hook_name_out="y", skip=skip),
        data.draw(8192, 1),
    )
    assert float((sae.encode(x) > 0).sum(1).float().mean()) < 1.1 * ACTIVE
    assert float((sae(x) - y).square().sum() / (y - y.mean(0)).square().sum()) < 0.35
