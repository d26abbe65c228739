"""What an index is made from, and how much it keeps of each feature."""

from dataclasses import dataclass

from saescope.errors import ConfigError, require_ranges

MOST_TOKENS = 2**31 - 1
"""Counts of one histogram bin are kept in 32 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """All that decides what an index holds, beside model, SAE and text."""

    n_tokens: int = 1_000_000
    """Counted positions to read (position 0 and special tokens do not count); fewer where the text
    ends before."""
    context_size: int = 128
    prepend_bos: bool | None = None
    """Whether BOS is prepended; None: as the SAE was trained, else as the model's own tokenizer
    does."""
    seed: int = 0
    """The seed of the order in which contexts are read, and of every sample."""
    n_top: int = 10
    """Strongest contexts kept of each feature."""
    n_range: int = 1
    """Contexts kept of each feature in each half octave below its maximum."""
    n_quiz: int = 2
    """Passages for quizzes; these come from contexts that no card shows."""
    quiz_share: float = 0.25
    """Share of the contexts that only quizzes see."""
    sample_tokens: int = 2**16
    """Positions whose features are all kept, for co-firing partners and for contexts in which a
    feature is known to be silent."""

    def __post_init__(self) -> None:
        require_ranges(
            self,
            {
                "n_tokens": (1, MOST_TOKENS),
                "context_size": (2, 2**15),
                "n_top": (1, 100),
                "n_range": (1, 20),
                "n_quiz": (1, 20),
                "sample_tokens": (0, 2**16),
            },
        )
        if not 0 < self.quiz_share < 1:
            raise ConfigError(
                "quiz_share is out of range.",
                code="OUT_OF_RANGE",
                field="quiz_share",
                got=self.quiz_share,
                allowed="0..1",
            )
