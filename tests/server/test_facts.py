"""What a summary says of an effect beside its controls."""

import pytest

from saescope.records.controls import Comparison
from saescope_mcp.replies.facts import beside

OUTSIDE = Comparison(0.1, 0.2, 19, 0.05, True)


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        (OUTSIDE, " (19 random ones: 0.1 ± 0.2; outside of theirs, p 0.05)"),
        (
            Comparison(0.1, 0.2, 19, 0.4, False),
            " (19 random ones: 0.1 ± 0.2; not told apart from theirs, p 0.4)",
        ),
        (
            Comparison(0.1, None, 1, 0.5, False),
            " (1 random ones: 0.1; too few to tell, n_controls=19 would do)",
        ),
        (Comparison(None, None, 0, None, False), ""),
    ],
)
def test_an_effect_is_told_beside_its_controls(control: Comparison, expected: str) -> None:
    assert beside(control, "random ones") == expected
