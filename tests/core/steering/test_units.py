"""What strength 1 means, and which features a control may take."""

import numpy as np
import pytest
import torch
from tests.core.steering.reference import fires

from saescope.ops import from_dense, joined
from saescope.steering import FeatureEdit
from saescope.steering.units import (
    MIN_POOL,
    Controls,
    IndexedActivations,
    Known,
    draw_features,
    resolve_units,
)

MAXIMA = torch.tensor([0.0, 4.0, 1.0, 0.0, 3.0])
HERE = Known(from_dense(MAXIMA[None]), None, "this prompt")


def test_max_is_the_features_own_maximum() -> None:
    units = resolve_units([FeatureEdit(1), FeatureEdit(4, mode="clamp")], HERE, "max")
    assert units.values == [4.0, 3.0] and units.warnings == []


def test_raw_is_one() -> None:
    assert resolve_units([FeatureEdit(0), FeatureEdit(1)], HERE, "raw") == (
        [1.0, 1.0],
        "raw: the SAE's own activation units",
        [],
    )


def test_a_feature_that_never_fired_takes_the_median_maximum_and_says_so() -> None:
    units = resolve_units([FeatureEdit(0), FeatureEdit(3), FeatureEdit(1)], HERE, "max")
    assert units.values == [3.0, 3.0, 4.0] and "median" in units.source
    assert (
        len(units.warnings) == 2
        and "Feature 0" in units.warnings[0]
        and "index_features" in units.warnings[0]
    )


@pytest.mark.parametrize("mode", ["scale", "ablate", "project_out"])
def test_a_mode_without_a_unit_does_not_warn(mode: str) -> None:
    assert resolve_units([FeatureEdit(0, mode=mode)], HERE, "max").warnings == []


def test_controls_are_other_features_that_fire_where_there_are_enough() -> None:
    maxima = torch.zeros(200)
    maxima[::4] = 1.0
    edits = [FeatureEdit(0), FeatureEdit(4)]
    draws = draw_features(
        edits, maxima, writes=torch.ones(len(maxima), dtype=torch.bool), controls=Controls(20, 0)
    )
    assert (maxima > 0).sum() > MIN_POOL and len(draws) == 20
    for draw in draws:
        assert len(set(draw)) == 2 and not set(draw) & {0, 4} and all(maxima[i] > 0 for i in draw)


def test_controls_are_any_other_features_where_few_fire() -> None:
    drawn = {
        i
        for draw in draw_features(
            [FeatureEdit(1)],
            MAXIMA,
            writes=torch.ones(len(MAXIMA), dtype=torch.bool),
            controls=Controls(50, 0),
        )
        for i in draw
    }
    assert drawn == {0, 2, 3, 4}


def test_controls_come_from_the_seed() -> None:
    draws = [
        draw_features(
            [FeatureEdit(1)],
            torch.ones(99),
            writes=torch.ones(99, dtype=torch.bool),
            controls=Controls(5, seed),
        )
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_no_other_feature_gives_no_control() -> None:
    assert (
        draw_features(
            [FeatureEdit(0), FeatureEdit(1)],
            torch.ones(3),
            writes=torch.ones(3, dtype=torch.bool),
            controls=Controls(2, 0),
        )
        == []
    )


INDEXED = IndexedActivations(
    torch.tensor([0.0, 8.0, 0.0, 0.0, 2.0]),
    torch.tensor([0.0, 5.0, 0.0, 0.0, 1.5]),
    "9 tokens of tales.txt",
)
BOTH = HERE._replace(indexed=INDEXED)


def test_the_indexed_value_comes_first_even_where_this_prompt_is_louder() -> None:
    edits = [FeatureEdit(1), FeatureEdit(4)]
    assert resolve_units(edits, BOTH, "max") == (
        [8.0, 2.0],
        "indexed maximum over 9 tokens of tales.txt",
        [],
    )
    assert resolve_units(edits, BOTH, "typical") == (
        [5.0, 1.5],
        "indexed 99th percentile over 9 tokens of tales.txt",
        [],
    )


def test_a_feature_that_the_index_never_saw_takes_what_this_prompt_shows() -> None:
    units = resolve_units([FeatureEdit(2)], BOTH, "max")
    assert units.values == [1.0]
    assert units.source.endswith("; where there is none, maximum on this prompt")


def test_a_feature_that_fired_nowhere_takes_the_median_and_more_text_is_advised() -> None:
    units = resolve_units([FeatureEdit(0)], BOTH, "max")
    assert units.values == [2.0]  # of 8, 1 and 2
    assert "over 9 tokens of tales.txt" in units.warnings[0] and "more text" in units.warnings[0]


def test_an_index_without_typical_activations_leaves_it_to_the_texts_here_and_says_so() -> None:
    old = HERE._replace(indexed=INDEXED._replace(typical=None))
    units = resolve_units([FeatureEdit(1)], old, "typical")
    assert units.values == [4.0] and "earlier version" in units.source
    assert resolve_units([FeatureEdit(1)], old, "max").values == [8.0]


def test_one_outlier_moves_the_maximum_and_not_the_typical_activation() -> None:
    """200 firings from 1 to 2, and one at 22 times the rest's 99th percentile."""
    usual = np.linspace(1, 2, 200)
    outlier = 22 * float(np.quantile(usual, 0.99))
    acts = joined([fires(5, {3: float(value)}) for value in [*usual, outlier]])
    known = Known(acts, None, "this prompt")
    (maximum,) = resolve_units([FeatureEdit(3)], known, "max").values
    (typical,) = resolve_units([FeatureEdit(3)], known, "typical").values
    assert maximum == pytest.approx(outlier) and typical == pytest.approx(
        np.quantile([*usual, outlier], 0.99), rel=1e-6
    )
    assert typical < 2.01


def test_the_typical_activation_is_numpys_quantile_of_the_firings() -> None:
    draw = torch.Generator().manual_seed(0)
    dense = (torch.randn(400, 7, generator=draw) - torch.linspace(-1, 3, 7)).relu()
    columns = [column[column > 0] for column in dense.numpy().T]
    expected = [np.quantile(column, 0.99) if len(column) else 0 for column in columns]
    np.testing.assert_allclose(from_dense(dense).typical(), expected, rtol=1e-5)
    assert min(map(len, columns)) < 5 < max(map(len, columns))
