"""An index on disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saescope.features.index.rows import Cofiring, Example, FeatureStatisticsRow, QuizPool
from saescope.models import LanguageModel
from saescope.saes import SAE


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexManifest:
    """What an index was made from."""

    weights_hash: str
    d_sae: int
    hook_name: str
    model: str
    dataset: str
    """By its public name: a local file or folder without the folders above it."""
    n_tokens: int
    """Counted positions that were read."""
    n_contexts: int
    context_size: int
    seed: int
    created: str
    """UTC, ISO 8601."""
    settings: dict[str, Any]


class FeatureIndex:
    """Read-only; several threads may ask at once. A feature outside the SAE is an ArgumentError."""

    folder: Path
    manifest: IndexManifest

    @classmethod
    def open(cls, folder: Path) -> "FeatureIndex":
        """Raises FormatError where it is not whole."""
        raise NotImplementedError

    @property
    def maxima(self) -> Float[Tensor, " d_sae"]:
        """0 where a feature never fired."""
        raise NotImplementedError

    @property
    def densities(self) -> Float[Tensor, " d_sae"]:
        """Share of the counted positions, in double precision."""
        raise NotImplementedError

    def density(self, feature: int) -> float: ...

    def maximum(self, feature: int) -> float | None:
        """None if it never fired."""

    def statistics(self, feature: int) -> FeatureStatisticsRow: ...

    def examples(self, feature: int, n: int = 5, *, offset: int = 0) -> list[Example]:
        """The strongest first, then one of each octave downwards, then the second strongest, and so on: no context twice."""
        raise NotImplementedError

    def cofiring(self, feature: int, k: int = 10) -> list[Cofiring]:
        """The features that go with it most (by phi); empty if it never fired in the sample."""
        raise NotImplementedError

    def quiz_pool(self, feature: int, *, seed: int = 0, similar: Sequence[int] = ()) -> QuizPool:
        """`similar`: features like it (decoder neighbours), for near misses beside its co-firing partners."""
        raise NotImplementedError


def find_index(
    sae: SAE, model: LanguageModel | None = None, *, root: Path | None = None, say: Callable[[str], None] = lambda message: None
) -> FeatureIndex | None:
    """The index of this SAE on this model with most tokens, the newest of equals; `say` hears why one was passed over."""
    raise NotImplementedError
