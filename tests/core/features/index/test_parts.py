"""The parts of an index against plain loops, whatever the order in which the text comes."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from tests import accelerator
from torch import Tensor

from saescope.activations.hashing import hash_contexts, mixed
from saescope.features.index import IndexConfig
from saescope.features.index.accumulate import Accumulator, bytes_per_feature
from saescope.features.index.examples import N_BANDS
from saescope.features.index.firings import (
    AFTER,
    BEFORE,
    Contexts,
    Firings,
    decode_relative,
    encode_relative,
    firings_of,
    windows,
)
from saescope.features.index.hashing import hash_entries, is_quiz
from saescope.features.index.sample import ContextSample
from saescope.features.index.statistics import N_BINS, N_COUNTED, FeatureStatistics, scale_of
from saescope.ops import SparseActs, from_dense

D_SAE, N_CONTEXTS, SIZE = 7, 60, 40
CFG = IndexConfig(n_top=3, n_range=2, n_quiz=1, context_size=SIZE, sample_tokens=5 * SIZE)


class Text:
    """Random contexts with random activations, over many orders of magnitude: every band is seen to
    move."""

    def __init__(self, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(0, 1000, (N_CONTEXTS, SIZE), generator=rng)
        strength = (
            3 * torch.randn(N_CONTEXTS, SIZE, D_SAE, generator=rng) + torch.arange(D_SAE)
        ).exp()
        self.acts = strength * (
            torch.rand(N_CONTEXTS, SIZE, D_SAE, generator=rng) < torch.linspace(0.01, 0.6, D_SAE)
        )
        self.mask = torch.rand(N_CONTEXTS, SIZE, generator=rng) < 0.9
        self.hashes = hash_contexts(self.ids)
        self.quiz = is_quiz(self.hashes, 0.4)

    def batch(self, rows: list[int], fresh: bool = True) -> tuple[SparseActs, Contexts]:
        contexts = Contexts(
            self.hashes[rows], self.mask[rows], self.quiz[rows], torch.full((len(rows),), fresh)
        )
        return from_dense(self.acts[rows].flatten(0, 1)), contexts

    @property
    def counted(self) -> Tensor:
        return self.acts * self.mask[:, :, None]


def fed(text: Text, batches: list[list[int]]) -> Accumulator:
    accumulator = Accumulator(D_SAE, CFG, torch.device("cpu"))
    for rows in batches:
        accumulator.add(*text.batch(rows))
    return accumulator


def in_batches(order: list[int], size: int) -> list[list[int]]:
    return [order[i : i + size] for i in range(0, len(order), size)]


@pytest.fixture(scope="module")
def text() -> Text:
    return Text()


@pytest.fixture(scope="module")
def whole(text: Text) -> Accumulator:
    return fed(text, in_batches(list(range(N_CONTEXTS)), 4))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_statistics_are_a_naive_loops(text: Text, whole: Accumulator) -> None:
    found = whole.statistics
    assert found.n_tokens == int(text.mask.sum())
    for feature in range(D_SAE):
        values = text.counted[:, :, feature][text.counted[:, :, feature] > 0]
        assert int(found.n_fired[feature]) == len(values) and float(found.maxima[feature]) == float(
            values.max()
        )
        assert float(found.sums[feature]) == pytest.approx(float(values.double().sum()), rel=1e-12)
        top = np.floor(np.log2(float(values.max())))
        expected = [0] * N_BINS
        for value in values.tolist():
            expected[
                max(0, N_BINS - 1 - (4 * int(top) + 3 - int(np.floor(4 * np.log2(value)))))
            ] += 1
        assert found.histogram[feature].tolist() == expected


def test_powers_of_two_begin_their_octave() -> None:
    scale = scale_of(torch.tensor([1.0, 2**0.25 * 1.0001, 1.99999, 2.0, 0.125, 3e-39]))
    assert scale.octave.tolist() == [0, 0, 0, 1, -3, -128]
    assert scale.quarter.tolist()[:5] == [0, 1, 3, 0, 0]


def kept(table: Any, key: int) -> list[tuple[float, int, int]]:
    rows = zip(
        table.values[key].tolist(),
        table.contexts[key].tolist(),
        table.positions[key].tolist(),
        strict=True,
    )
    return [row for row in rows if row[0] > 0]


def test_top_contexts_are_a_naive_sort(text: Text, whole: Accumulator) -> None:
    for feature in range(D_SAE):
        best = text.counted[:, :, feature].max(1)
        rows = [
            (float(value), int(text.hashes[i]), int(best.indices[i]))
            for i, value in enumerate(best.values)
            if value > 0
        ]
        cards = [row for row in rows if not bool(text.quiz[text.hashes.tolist().index(row[1])])]
        assert kept(whole.examples.top, feature) == sorted(cards, reverse=True)[: CFG.n_top]


@pytest.mark.parametrize("quiz", [False, True])
def test_a_bands_sample_is_the_smallest_hashes_of_all_contexts(
    text: Text, whole: Accumulator, quiz: bool
) -> None:
    table = whole.examples.quiz if quiz else whole.examples.range
    n_slots = CFG.n_quiz if quiz else CFG.n_range
    n_found = 0
    for feature in range(D_SAE):
        acts = text.counted[:, :, feature]
        top = int(np.floor(2 * np.log2(float(acts.max()))))
        entries = defaultdict[int, dict[int, tuple[int, float, int]]](dict)
        for row, pos in acts.nonzero().tolist():
            value, context = float(acts[row, pos]), int(text.hashes[row])
            band = int(np.floor(2 * np.log2(value)))
            if band > top - N_BANDS and bool(text.quiz[row]) == quiz:
                hashed = int(
                    hash_entries(CFG.seed, *(torch.tensor([x]) for x in (feature, context, pos)))[0]
                )
                entries[band][context] = min(
                    entries[band].get(context, (2**63, 0.0, 0)), (hashed, value, pos)
                )
        for band in range(top - N_BANDS + 1, top + 1):
            expected = sorted(
                (hashed, value, context, pos)
                for context, (hashed, value, pos) in entries[band].items()
            )[:n_slots]
            found = [
                row
                for row in kept(table, feature * N_BANDS + band % N_BANDS)
                if np.floor(2 * np.log2(row[0])) > top - N_BANDS
            ]
            assert found == [(value, context, pos) for _, value, context, pos in expected]
            n_found += len(found)
    assert n_found > 10


def test_the_order_and_the_batches_of_the_contexts_do_not_matter(
    text: Text, whole: Accumulator
) -> None:
    for seed in range(4):
        order = torch.randperm(N_CONTEXTS, generator=torch.Generator().manual_seed(seed)).tolist()
        other = fed(text, in_batches(order, 1 + 3 * seed))
        for name in ("n_fired", "maxima", "histogram", "counts"):
            assert torch.equal(getattr(other.statistics, name), getattr(whole.statistics, name))
        torch.testing.assert_close(other.statistics.sums, whole.statistics.sums, rtol=1e-12, atol=0)
        assert same(other.examples.top.arrays(), whole.examples.top.arrays())
        assert same(other.sample.state_dict(), whole.sample.state_dict())
        for table, reference in (
            (other.examples.range, whole.examples.range),
            (other.examples.quiz, whole.examples.quiz),
        ):
            alive = scale_of(reference.values.flatten()).octave.reshape(reference.values.shape)
            top = scale_of(whole.statistics.maxima).octave.repeat_interleave(N_BANDS)[:, None]
            fresh = (alive > top - N_BANDS // 2) & (reference.values > 0)
            assert bool(fresh.any()) and torch.equal(
                table.contexts[fresh], reference.contexts[fresh]
            )


def test_an_accelerator_gathers_the_same_and_its_host_waits_once_a_batch(
    text: Text, whole: Accumulator
) -> None:
    with accelerator.plugged_in() as card:
        other = Accumulator(D_SAE, CFG, accelerator.DEVICE)
        for rows in in_batches(list(range(N_CONTEXTS)), 4):
            acts, contexts = text.batch(rows)
            there = acts.to(accelerator.DEVICE)
            card.forget()
            other.add(there, contexts)
            assert card.waits.total() == 1
        gathered = {name: tensor.cpu() for name, tensor in other.state_dict().items()}
    assert same(gathered, whole.state_dict())


def test_a_context_that_comes_again_is_counted_but_no_example(
    text: Text, whole: Accumulator
) -> None:
    other = fed(text, in_batches(list(range(N_CONTEXTS)), 4))
    other.add(*text.batch(list(range(8)), fresh=False))
    assert same(other.examples.state_dict(), whole.examples.state_dict()) and same(
        other.sample.state_dict(), whole.sample.state_dict()
    )
    assert (
        bool((other.statistics.n_fired >= whole.statistics.n_fired).all())
        and other.statistics.n_tokens > whole.statistics.n_tokens
    )


def test_saved_and_restored_at_any_batch_it_ends_with_the_same_bits(
    text: Text, whole: Accumulator
) -> None:
    batches = in_batches(list(range(N_CONTEXTS)), 4)
    for cut in (0, 1, 7, len(batches)):
        first = fed(text, batches[:cut])
        second = Accumulator(D_SAE, CFG, torch.device("cpu"))
        second.load_state_dict(
            {name: tensor.clone() for name, tensor in first.state_dict().items()}
        )
        for rows in batches[cut:]:
            second.add(*text.batch(rows))
        assert same(second.state_dict(), whole.state_dict())


def test_windows_hold_what_the_feature_does_around(text: Text) -> None:
    acts, contexts = text.batch([0, 1, 2])
    firings = firings_of(acts, contexts.mask)
    chosen = torch.arange(0, len(firings), 3)
    found = windows(firings, chosen)
    for i, codes in zip(chosen.tolist(), found, strict=True):
        row, pos, feature = (int(x[i]) for x in (firings.rows, firings.positions, firings.features))
        own = float(firings.values[i])
        for offset, value in zip(
            range(-BEFORE, AFTER + 1),
            decode_relative(codes, torch.tensor(own)).tolist(),
            strict=True,
        ):
            inside = 0 <= pos + offset < SIZE
            expected = float(text.counted[row, pos + offset, feature]) if inside else 0.0
            assert (value > 0) == (expected > 0)
            if 2**-7.5 < expected / own < 2**7.5:
                assert value == pytest.approx(expected, rel=0.022)


def test_codes_are_good_to_two_percent_over_fifteen_octaves() -> None:
    values = torch.logspace(-7.9, 7.9, 500, base=2.0)
    back = decode_relative(encode_relative(values, torch.ones(500)), torch.ones(500))
    assert float((back / values - 1).abs().max()) < 0.0219
    assert decode_relative(
        torch.tensor([0, 128], dtype=torch.uint8), torch.tensor(3.5)
    ).tolist() == [0.0, 3.5]


def test_the_sample_is_the_start_of_a_random_order_that_fits(text: Text) -> None:
    for most_entries in (10**6, 700, 150, 3):
        sample = ContextSample(CFG, most_entries=most_entries)
        for rows in in_batches(list(range(N_CONTEXTS)), 7):
            acts, contexts = text.batch(rows)
            firings = firings_of(acts, contexts.mask)
            draw = sample.draw(firings, contexts, contexts.mask)
            sample.add(firings, draw, draw.sizes.tolist())
        order = mixed(text.hashes + _step(CFG.seed))
        rows = [i for i in order.argsort().tolist() if text.quiz[i]]
        sizes = [int((text.counted[i] > 0).sum()) for i in rows]
        n = max(n for n in range(CFG.sample_tokens // SIZE + 1) if sum(sizes[:n]) <= most_entries)
        assert [c.context for c in sample.kept] == text.hashes[rows[:n]].tolist()
        arrays = sample.arrays(D_SAE, SIZE)
        dense = torch.zeros(n * SIZE, D_SAE, dtype=torch.bool)
        for place in range(n * SIZE):
            low, high = arrays["offsets"][place : place + 2].tolist()
            dense[place, arrays["features"][low:high].long()] = True
        assert torch.equal(dense.reshape(n, SIZE, D_SAE), text.counted[rows[:n]] > 0)
        assert int(arrays["n_counted"]) == int(text.mask[rows[:n]].sum())


def _step(seed: int) -> int:
    return ((seed % 2**31 + 1) * 0x9E3779B97F4A7C15 + 2**63) % 2**64 - 2**63


def test_hashes_are_those_of_splitmix_and_look_random() -> None:
    def reference(x: int) -> int:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> shift)) * factor % 2**64
        return (x ^ (x >> 31)) % 2**63

    values = [0, 1, 2**62 + 5, -1, -(2**63), 123456789]
    assert mixed(torch.tensor(values)).tolist() == [reference(value % 2**64) for value in values]
    share = (
        is_quiz(
            hash_contexts(
                torch.randint(0, 50_000, (20_000, 8), generator=torch.Generator().manual_seed(0))
            ),
            0.25,
        )
        .double()
        .mean()
    )
    assert abs(float(share) - 0.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5
    assert len(set(hash_contexts(torch.tensor([[1, 2], [2, 1], [0, 3], [3, 0]])).tolist())) == 4


def test_memory_is_bounded_and_as_stated() -> None:
    """Under 2 KB a feature: half a million features in 1 GB."""
    d_sae, cfg = 1000, IndexConfig()
    accumulator = Accumulator(d_sae, cfg, torch.device("cpu"))
    held = sum(
        tensor.nbytes
        for name, tensor in accumulator.state_dict().items()
        if not name.startswith("sample")
    )
    assert held - 8 == d_sae * bytes_per_feature(cfg) and bytes_per_feature(cfg) <= 2750
    accumulator = fed(Text(1), in_batches(list(range(N_CONTEXTS)), 5))
    held = sum(
        tensor.nbytes
        for name, tensor in accumulator.state_dict().items()
        if not name.startswith("sample")
    )
    assert (
        held - 8 == D_SAE * bytes_per_feature(CFG) and FeatureStatistics.BYTES == 20 + 4 * N_COUNTED
    )


def count(statistics: FeatureStatistics, firings: Firings) -> None:
    statistics.add(firings, len(firings), statistics.growth(firings))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("outlier", [17.0, 150.0, 5000.0, 1e9])
def test_an_outlier_leaves_the_typical_activation_as_it_is_or_it_is_not_known(
    outlier: float, first: bool
) -> None:
    """One firing far above all others was enough to put the percentile into a bin of 19 %, or into
    the lowest of all."""
    generator = torch.Generator().manual_seed(3)
    values = torch.cat([1 + torch.rand(5000, generator=generator), torch.tensor([outlier])])
    statistics = FeatureStatistics(1, torch.device("cpu"))
    for part in (values.flip(0) if first else values).split(700):
        nowhere = torch.zeros(len(part), dtype=torch.int64)
        count(statistics, Firings(nowhere, nowhere, nowhere, part))
    expected = np.percentile(values.numpy(), 99) if outlier < 1e9 else 0
    assert float(statistics.typical()) == pytest.approx(expected, rel=0.02)


def test_a_percentile_between_the_lowest_bin_and_a_higher_one_is_not_known() -> None:
    values = torch.cat([torch.ones(198), torch.tensor([3.0, 20_000.0])])
    statistics, nowhere = FeatureStatistics(1, torch.device("cpu")), torch.zeros(200).long()
    count(statistics, Firings(nowhere, nowhere, nowhere, values))
    assert float(statistics.typical()) == 0


@pytest.mark.parametrize(("n", "spread"), [(30, 0.3), (3000, 0.5), (60_000, 0.7), (200, 1.0)])
def test_the_typical_activation_is_numpys_99th_percentile_to_2_percent(
    n: int, spread: float
) -> None:
    """Batch by batch, with maxima that grow, for features that fire rarely and for ones that fire
    often."""
    generator, n_features = torch.Generator().manual_seed(n), 50
    statistics = FeatureStatistics(n_features, torch.device("cpu"))
    every: list[tuple[torch.Tensor, torch.Tensor]] = []
    for batch in range(8):
        features = torch.randint(n_features, (n,), generator=generator).sort().values
        values = (torch.randn(n, generator=generator) * spread + 0.2 * batch).exp()
        nowhere = torch.zeros_like(features)
        count(statistics, Firings(features, nowhere, nowhere, values))
        every.append((features, values))
    features, values = (torch.cat(parts) for parts in zip(*every, strict=True))
    typical = statistics.typical()
    for feature in range(n_features):
        own = values[features == feature].numpy()
        expected = np.percentile(own, 99) if len(own) else 0.0
        assert float(typical[feature]) == pytest.approx(expected, rel=0.02)
    assert torch.equal(statistics.histogram.sum(1), statistics.n_fired)
