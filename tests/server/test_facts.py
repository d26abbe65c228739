"""When an effect may be called one, beside what controls do."""

import pytest

from saescope_mcp.replies.facts import stands_out


@pytest.mark.parametrize(
    ("effect", "mean", "sd", "n", "expected"),
    [
        (6.8, -0.28, 0.27, 5, True),
        (-0.096, 0.16, 0.66, 5, False),
        (-1.02, -0.85, 0.002, 2, False),  # two controls that happen to agree do nearly as much
        (-1.02, -0.85, None, 1, False),
        (5.0, 0.1, None, 1, True),
        (1.0, None, None, 0, True),
        (1.0, 0.1, 0.2, 2, False),  # two draws say little about a third
    ],
)
def test_an_effect_stands_out_only_beyond_what_controls_do(
    effect: float, mean: float | None, sd: float | None, n: int, expected: bool
) -> None:
    assert stands_out(effect, mean, sd, n) is expected
