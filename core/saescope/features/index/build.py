"""From a text to an index: one forward pass for several SAEs, stoppable and resumable to the bit."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from saescope.activations import EMBEDDED, Dataset
from saescope.features.index.config import IndexConfig
from saescope.features.index.store import FeatureIndex
from saescope.models import LanguageModel
from saescope.saes import SAE


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far a run is."""

    state: Literal["running", "stopped", "done"]
    n_tokens: int
    n_wanted: int
    n_contexts: int
    tokens_per_s: float | None
    eta_s: float | None


class IndexRun:
    """One pass over a text for several SAEs of a model; `go` returns at its end, or once `stop` is set, with a checkpoint in `folder`."""

    def __init__(
        self,
        model: LanguageModel,
        saes: Sequence[SAE],
        dataset: Dataset,
        cfg: IndexConfig,
        *,
        folder: Path | None = None,
        root: Path | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Goes on from the newest good checkpoint in `folder`. Indexes are kept below `root` (default: `home() / "indexes"`)."""

    def go(self, *, report: Callable[[IndexProgress], None] | None = None) -> IndexProgress:
        raise NotImplementedError

    def indexes(self) -> list[FeatureIndex]:
        """One for each SAE, in their order; after the end."""
        raise NotImplementedError


def index_features(
    model: LanguageModel,
    saes: SAE | Sequence[SAE],
    dataset: str | Dataset = EMBEDDED,
    *,
    n_tokens: int = 1_000_000,
    folder: Path | None = None,
    root: Path | None = None,
    report: Callable[[IndexProgress], None] | None = None,
    **settings: object,
) -> FeatureIndex | list[FeatureIndex]:
    """Index one SAE (or several in one pass, a list for a list)."""
    raise NotImplementedError
