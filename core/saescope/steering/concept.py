"""The tokens that a steering is judged by."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from saescope.effects import logit_effects
from saescope.errors import ArgumentError
from saescope.models import LanguageModel
from saescope.stack import Stack
from saescope.steering.edits import FeatureEdit

N_PROMOTED = 20


class ConceptTokens(NamedTuple):
    """Which tokens stand for the concept, and what is to be said of them."""

    ids: list[int]
    is_named: bool
    """The caller named them; if not, they are those that the features promote."""
    warnings: list[str]

    @classmethod
    def of(
        cls, stack: Stack, edits: Sequence[FeatureEdit], named: Sequence[int]
    ) -> "ConceptTokens":
        """The tokens that are named, else those that the features promote."""
        if named:
            return cls([*dict.fromkeys(named)], True, _other_forms(stack.model, named))
        promoted = _promoted(stack, edits)
        missing = (
            "This site is no linear write to the residual stream: name concept_tokens to have "
            "a concept score."
        )
        return cls(promoted, False, [] if promoted else [missing])

    def n_runs(self, controls: Sequence[object]) -> int:
        """Runs in which its probability is measured: of controls only where the caller named it."""
        return (1 + len(controls) * self.is_named) if self.ids else 0


def _promoted(stack: Stack, edits: Sequence[FeatureEdit]) -> list[int]:
    """The tokens that the features promote most together, each feature weighing the same; none if a
    site is no linear write."""
    effects = [
        logit_effects(stack.model, sae, torch.tensor(own, device=sae.device))
        for given, sae in enumerate(stack.as_given)
        if (own := [edit.feature for edit in edits if edit.sae == given])
    ]
    known = [each for each in effects if each is not None]
    if not known or len(known) < len(effects):
        return []
    shares = [each / each.norm(dim=-1, keepdim=True).clamp(min=1e-12) for each in known]
    return torch.cat(shares).sum(0).topk(N_PROMOTED).indices.tolist()


def _other_forms(model: LanguageModel, named: Sequence[int]) -> list[str]:
    """A warning where a word without a leading space is named alone: inside a sentence another
    token stands for it."""
    texts = [model.token_text(i) for i in named]
    inside = [
        f" {text}"
        for text in texts
        if text[:1].isalnum() and f" {text}" not in texts and _is_token(model, f" {text}")
    ]
    if not inside:
        return []
    forms = ", ".join(f'"{text}"' for text in inside)
    return [
        f"Inside a sentence the words have a leading space: name {forms} in concept_tokens too."
    ]


def _is_token(model: LanguageModel, text: str) -> bool:
    try:
        model.single_token(text)
    except ArgumentError:
        return False
    return True
