"""The sentence about a measured effect counts the effect and its controls in one direction."""

from saescope.attribution import Joint
from saescope_mcp.tools.attribute import _measured  # pyright: ignore[reportPrivateUsage]

WHAT = "logit of ' Paris'"


def test_an_effect_that_does_not_stand_out_has_the_sign_of_its_controls() -> None:
    """Ablating lowers the logit, by 3.26 here and by 1.11 for other features: both are told as
    changes."""
    said = _measured(Joint(3.26, 1.11, 0.71, 5), 4, WHAT)
    assert (
        "by -3.26: not clearly more" in said
        and "(as many other active features: -1.11 ± 0.71)" in said
    )


def test_an_effect_that_stands_out_is_told_as_what_the_features_cause() -> None:
    said = _measured(Joint(3.26, 0.1, 0.2, 5), 4, WHAT)
    assert said.startswith("Together the 4 listed features cause 3.26 of the logit")
    assert "(as many other active features: 0.1 ± 0.2)" in said


def test_without_controls_none_are_told() -> None:
    assert "(" not in _measured(Joint(-0.5, None, None, 0), 1, WHAT)
