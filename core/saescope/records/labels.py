"""Labels of features, and how well each was tested."""

from dataclasses import dataclass

from saescope.verdicts import LabelVerdict


@dataclass(frozen=True, slots=True)
class Score:
    """Balanced accuracy of judging by the label alone: 0.5 is chance, 1 is perfect; over all
    quizzes that this label was tested with."""

    balanced_accuracy: float
    low: float
    high: float
    """The end of the 95 % interval that begins at `low`."""
    n: int
    """The number of items judged."""


@dataclass(frozen=True, slots=True)
class LabelScore(Score):
    """A score with both kinds of item apart, and what it means."""

    detection: float | None
    """Balanced accuracy of the items that ask whether it fires anywhere in a text; None without
    both kinds of answer."""
    fuzzing: float | None
    """Balanced accuracy of the items that ask whether it fires on the marked token."""
    verdict: LabelVerdict
    n_tries: int = 1
    """Quizzes that were answered about this feature, for any label: the interval is widened for
    them (Bonferroni)."""


@dataclass(frozen=True, slots=True)
class Label:
    """A label of one feature, as it is stored."""

    id: int
    feature: int
    text: str
    source: str
    """Who said so first: "you", "agent" or "neuronpedia:..."."""
    created: str
    score: LabelScore | None
    """The score over all quizzes that it was tested with; None: not tested."""

    @property
    def verdict(self) -> LabelVerdict:
        return self.score.verdict if self.score else LabelVerdict.NOT_TESTED


@dataclass(frozen=True, slots=True)
class ShortLabel:
    """What somebody calls a feature, and whether that was tested: a label as it stands beside a
    number."""

    text: str
    source: str
    """"you", "agent" or "neuronpedia:<model of the explanation>": text from elsewhere is to be
    distrusted."""
    score: Score | None
    """None: not tested."""
    verdict: str
    """A sentence; "not tested" without a score."""


@dataclass(frozen=True, slots=True)
class CardLabel(ShortLabel):
    """A label on a feature's card."""

    created: str


@dataclass(frozen=True, slots=True)
class QuizItem:
    """One question of a quiz; answers are given in the order of `n`."""

    n: int
    kind: str
    """"detection": does the feature fire anywhere in this text? "fuzzing": does it fire on the
    token between ⟦ and ⟧?"""
    text: str


@dataclass(frozen=True, slots=True)
class Quiz:
    """What whoever answers a quiz may see."""

    id: str
    feature: int
    items: list[QuizItem]
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class MissedItem(QuizItem):
    """A question that was answered wrongly."""

    answer: bool
    """What was answered."""
    fires: bool
    """What is true."""
