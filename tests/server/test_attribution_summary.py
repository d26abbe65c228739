"""The sentence about a measured effect: effect and controls in one direction, signs apart."""

from dataclasses import replace

from saescope.attribution import Joint
from saescope.records.attribution import Agreement, Attribution, FeatureEffect, JointOfSign
from saescope.records.controls import Comparison
from saescope.records.prediction import TargetLogit
from saescope_mcp.tools.attribute import _measured  # pyright: ignore[reportPrivateUsage]

WHAT = "log-probability of ' Paris'"
ROW = FeatureEffect(
    sae=0, feature=1, pos=2, token="a", activation=1.0, attribution=1.0, measured_effect=1.0
)
ALIKE = Comparison(1.11, 0.71, 19, 0.2, False)
FOUND = Attribution(
    target=TargetLogit(" Paris", 7, 1.0, 0.2, 1),
    against=None,
    position=3,
    measure="logprob",
    features=[ROW] * 4,
    total=9,
    by_sae=[],
    error_attribution=None,
    error_share=None,
    error_positions=[],
    features_attribution=None,
    error_effect=None,
    agreement=Agreement(None, 0, None, 0),
    joint=None,
    by_sign=[],
    completeness=None,
    left_out="",
    n_tokens=3,
    n_left_out=1,
    n_sinks=0,
)


def test_an_effect_is_told_as_what_the_features_contribute_beside_their_controls() -> None:
    sentence = _measured(FOUND, Joint(measured_effect=3.26, control=ALIKE), WHAT)
    assert sentence.startswith("Together the 4 listed features contribute +3.26 to the log-prob")
    assert "1.11 ± 0.71; not outside these, p 0.2" in sentence


def test_features_of_both_signs_are_told_apart() -> None:
    parts = [
        JointOfSign(measured_effect=2.0, control=ALIKE, sign="positive", n=3),
        JointOfSign(measured_effect=-1.5, control=ALIKE, sign="negative", n=1),
    ]
    joint = Joint(measured_effect=0.5, control=ALIKE)
    sentence = _measured(replace(FOUND, by_sign=parts), joint, WHAT)
    assert "3 with a positive estimate +2" in sentence
    assert "1 with a negative estimate -1.5" in sentence


def test_without_controls_none_are_told() -> None:
    alone = Joint(measured_effect=-0.5, control=Comparison(None, None, 0, None, False))
    assert "(" not in _measured(replace(FOUND, features=[ROW]), alone, WHAT)
