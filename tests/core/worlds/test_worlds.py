"""A world is what it says it is, and scores are about the truth."""

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.training import TrainConfig, Trainer
from saescope.worlds import World, WorldConfig, score_on_world
from saescope.worlds.scores import matched
from saescope.worlds.world import MOST_OFTEN, TOGETHER, zipf_rates

SMALL = WorldConfig(d_in=32, n_features=40, l0=4.0, children=0.4, pairs=0.3, seed=3)
CLEAR = WorldConfig(d_in=64, n_features=24, l0=3.0, noise=0.0, mean=0.5, outlier=0.0, seed=1)


class Known:
    """A dictionary whose features are those of a world, read off the truth and not by an encoder:
    what `change` makes of it is what an SAE of that fault would do."""

    def __init__(self, world: World, rows: Tensor, change: Any = lambda fires: fires) -> None:
        self.world, self.W_dec, self.change, self.seen = world, rows, change, 0

    def encode(self, x: Tensor) -> Tensor:
        from saescope.worlds.scores import SEED

        strengths = self.world.sample(len(x), seed=SEED + self.seen).strengths
        self.seen += 1
        return self.change(strengths)

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.W_dec + self.world.centre


def test_rates_sum_to_the_l0_and_fall_by_zipf_s_law() -> None:
    rates = zipf_rates(1000, 20.0, 1.0)
    assert float(rates.sum()) == pytest.approx(20.0, rel=1e-5)
    assert float(rates.max()) <= MOST_OFTEN
    assert float(rates[99] / rates[199]) == pytest.approx(2.0, rel=1e-4)


def test_features_fire_as_often_as_they_should_whatever_ties_them_together() -> None:
    world, n = World(SMALL), 200_000
    fires = world.sample(n, seed=0).strengths > 0
    error = (world.rates * (1 - world.rates) / n).sqrt()
    assert bool(((fires.float().mean(0) - world.rates).abs() < 4.5 * error).all())
    assert float(fires.sum(1).float().mean()) == pytest.approx(SMALL.l0, rel=0.01)


def test_a_child_never_fires_without_its_parent() -> None:
    world = World(SMALL)
    children = (world.parents >= 0).nonzero().flatten()
    fires = world.sample(50_000, seed=1).strengths > 0
    assert len(children) >= 10 and not bool(
        (fires[:, children] & ~fires[:, world.parents[children]]).any()
    )
    assert bool((world.parents[world.parents[children]] >= 0).any()), "no grandchild"


def test_a_pair_fires_together_more_often_than_by_chance() -> None:
    world = World(SMALL)
    rare = ((world.partners >= 0) & (world.partners < torch.arange(40))).nonzero().flatten()
    often = world.partners[rare]
    fires = world.sample(200_000, seed=2).strengths > 0
    for a, b in zip(rare.tolist(), often.tolist(), strict=True):
        given = float(fires[fires[:, a], b].float().mean())
        p = float(world.rates[b])
        assert given == pytest.approx(p + TOGETHER * (1 - p), abs=0.05)
    assert len(rare) == 6


def test_activations_are_features_mean_noise_and_one_loud_coordinate() -> None:
    quiet = World(WorldConfig(d_in=16, n_features=20, l0=2, noise=0, mean=2, outlier=0, seed=5))
    acts, strengths = quiet.sample(100, seed=0)
    torch.testing.assert_close(acts, strengths @ quiet.directions + quiet.centre)
    assert float(quiet.centre.norm()) == pytest.approx(2 * quiet.typical_norm, rel=1e-5)
    loud = World(WorldConfig(d_in=16, n_features=20, l0=2, outlier=20, seed=5, scale=3))
    acts = loud.sample(500, seed=0).acts
    assert int(acts.mean(0).abs().argmax()) == loud.outlier_dim
    assert float(acts[:, loud.outlier_dim].mean()) == pytest.approx(
        3 * 20 * loud.typical_norm, rel=0.15
    )


def test_the_same_seeds_are_the_same_world_and_others_are_others() -> None:
    one, same, other = World(SMALL), World(SMALL), World(WorldConfig(seed=4))
    assert torch.equal(one.sample(7, seed=1).acts, same.sample(7, seed=1).acts)
    assert not torch.equal(one.sample(7, seed=1).acts, one.sample(7, seed=2).acts)
    assert other.directions.shape == (512, 128)
    batches = one.batches(8, 40, seed=1)
    drawn = [next(batches) for _ in range(5)]
    with pytest.raises(StopIteration):
        next(batches)
    again = one.batches(8, 40, seed=1)
    again.load_state_dict({"position": 3})
    assert torch.equal(next(again), drawn[3]) and not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize(
    ("field", "value"),
    [("l0", 300.0), ("n_features", 1), ("children", 1.0), ("noise", -0.1), ("zipf", float("nan"))],
)
def test_a_world_that_cannot_be_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        WorldConfig(**{field: value})
    assert (caught.value.code, caught.value.field) == ("BAD_WORLD", field)


def test_the_truth_itself_in_any_order_and_scale_scores_one() -> None:
    world = World(CLEAR)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    scales = torch.rand(24, 1) + 0.5
    rows = world.directions[order] * scales
    known = Known(world, rows, lambda s: s[:, order] / scales.flatten())
    found = score_on_world(known, world, n_positions=9000)
    assert (found.cosine, found.found, found.f1) == pytest.approx((1, 1, 1), abs=1e-5)
    assert found.explained_variance == pytest.approx(1, abs=1e-5)
    assert found.l0 == found.true_l0 and found.absorption == 0 and found.dead == 0


def test_random_directions_score_what_chance_gives() -> None:
    world = World(CLEAR)
    rows = torch.randn(24, 64, generator=torch.Generator().manual_seed(9))
    found = score_on_world(Known(world, rows, lambda s: s.flip(1)), world)
    assert found.cosine < 0.35 and found.found == 0 and found.absorption is None


def test_a_parent_that_is_silent_beside_its_children_is_absorbed() -> None:
    world = World(WorldConfig(d_in=64, n_features=24, l0=3.0, children=0.4, noise=0, seed=1))
    child = (world.parents >= 0).nonzero().flatten()

    def absorbing(strengths: Tensor) -> Tensor:
        silent = torch.zeros_like(strengths)
        silent.index_add_(1, world.parents[child], strengths[:, child])
        return strengths * (silent == 0)

    found = score_on_world(Known(world, world.directions, absorbing), world)
    assert found.absorption == 1.0 and found.cosine == pytest.approx(1, abs=1e-5)
    assert score_on_world(Known(world, world.directions), world).absorption == 0


def test_f1_is_that_of_a_naive_count() -> None:
    world = World(CLEAR)
    noise = torch.Generator().manual_seed(3)
    flips = torch.rand(1000, 24, generator=noise) < 0.1
    known = Known(world, world.directions, lambda s: torch.where(flips, 1 - (s > 0).float(), s))
    truth = world.sample(1000, seed=2**40).strengths > 0
    said = truth ^ flips
    each = list[float]()
    for true, coded in zip(truth.T.tolist(), said.T.tolist(), strict=True):
        hits = sum(a and b for a, b in zip(true, coded, strict=True))
        if any(true):
            each.append(2 * hits / (sum(true) + sum(coded)))
    assert score_on_world(known, world, n_positions=1000).f1 == pytest.approx(sum(each) / len(each))


def test_the_match_is_the_best_of_all_one_to_one_matches() -> None:
    cosines = torch.rand(5, 7, generator=torch.Generator().manual_seed(2))
    best = max(
        sum(float(cosines[i, j]) for i, j in enumerate(rows)) for rows in permutations(range(7), 5)
    )
    features, rows = matched(cosines)
    assert float(cosines[features, rows].sum()) == pytest.approx(best)
    assert len({*rows.tolist()}) == 5


def test_training_finds_the_features_of_a_small_world() -> None:
    world = World(CLEAR)
    cfg = TrainConfig(
        hook_name="x", d_in=64, d_sae=24, k=3.0, training_tokens=60_000, batch_size=256
    )
    trainer = Trainer(cfg, world.batches(256, 60_000))
    before = score_on_world(trainer.result(), world, n_positions=4096)
    trainer.run()
    after = score_on_world(trainer.result(), world, n_positions=4096)
    assert before.found == 0 and after.found > 0.5 and after.f1 > before.f1 + 0.3


@pytest.mark.parametrize("seed", range(3))
def test_a_run_with_the_world_s_own_seed_starts_as_far_from_the_truth_as_any(seed: int) -> None:
    world = World(WorldConfig(d_in=64, n_features=24, l0=3.0, seed=seed))
    cfg = TrainConfig(hook_name="x", d_in=64, d_sae=24, k=3.0, training_tokens=512, seed=seed)
    trainer = Trainer(cfg, world.batches(256, 512))
    assert score_on_world(trainer.result(), world, n_positions=512).cosine < 0.35
