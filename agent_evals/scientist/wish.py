"""What a player is asked, what it may see, what is judged behind its back, and what it answers."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from agent_evals.transcript import Call


class Examples(NamedTuple):
    """Texts of a concept: with it, close to it, and without it."""

    positives: list[str]
    hard_negatives: list[str]
    neutral: list[str]

    @property
    def others(self) -> list[str]:
        return [*self.hard_negatives, *self.neutral]


class Wish(NamedTuple):
    """One concept that a feature is wanted for."""

    name: str
    description: str
    tokens: list[str]
    """What the concept's text is made of; each is one token of the model."""
    shown: Examples
    """What the player has; an agent may write its own."""
    prompts: list[str]
    """Neutral beginnings for the player."""


class Hidden(NamedTuple):
    """What the answer to a wish is judged on; no player sees it."""

    examples: Examples
    calibration: list[str]
    """Beginnings on which the strength is chosen."""
    evaluation: list[str]
    """Beginnings on which it is judged."""
    strength: float
    """The reference strength: the norm of the vector that is added."""
    expert: int | None = None
    """The feature that is right, where the truth is known; None: there is none that is good."""


@dataclass(frozen=True)
class Ground:
    """A model, an SAE of one of its layers, and what is wished for."""

    name: str
    model: Path | str
    sae: Path | str
    wishes: list[Wish]
    hidden: dict[str, Hidden]
    knows: bool = True
    """Whether the right answers are known."""
    chat: bool = False
    """Prompts are instructions for a chat model."""
    n_new_tokens: int = 24
    release: str = ""
    """The repository of the hub in which `sae` is a folder; empty: a folder here."""
    kinds: dict[int, str] = field(default_factory=dict[int, str])
    """What each planted feature is, for the report."""


@dataclass
class Answer:
    """One feature, or None: no feature is good enough."""

    feature: int | None
    why: str = ""
    calls: list[Call] = field(default_factory=list[Call])


Scientist = Callable[[Ground, list[Wish]], Awaitable[list[Answer]]]
"""Answers all wishes of one ground, so that a model is loaded once."""
