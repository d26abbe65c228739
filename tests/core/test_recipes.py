"""The table of trainable architectures is whole."""

from typing import get_args

from saescope.recipes import RECIPES, Architecture
from saescope.saes import ARCHITECTURES
from saescope.training.steps import STEPS


def test_every_architecture_that_may_be_named_has_a_recipe_a_step_and_a_class() -> None:
    named = {*get_args(Architecture)}
    assert named == {*RECIPES} == {*STEPS} <= {*ARCHITECTURES}
    assert all(step.loss for step in STEPS.values())


def test_what_a_recipe_takes_by_default_it_allows() -> None:
    for recipe in RECIPES.values():
        assert {recipe.revival, recipe.transcoder_revival} <= {*recipe.revivals}
        assert recipe.ranks or not (recipe.whole_k or recipe.has_level or recipe.nested)
