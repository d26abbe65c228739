"""What strength 1 means, and which other features a control may take."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.ops import SparseActs
from saescope.steering.edits import FeatureEdit

MIN_POOL = 32
UNITS = {"typical": "99th percentile", "max": "maximum", "raw": "unit"}
"""What strength 1 may stand for, in words; "typical" is of the activations above zero."""


class Units(NamedTuple):
    """The activation that strength 1 stands for, edit by edit, and where it comes from."""

    values: list[float]
    source: str
    warnings: list[str]


class IndexedActivations(NamedTuple):
    """How strongly each feature fires over a corpus, 0 where it never fired, and what the corpus
    is, in words."""

    maxima: Float[Tensor, " d_sae"]
    typical: Float[Tensor, " d_sae"] | None
    """The 99th percentile of its activations above zero; None in an index of an earlier version."""
    corpus: str

    def on(self, device: torch.device) -> "IndexedActivations":
        typical = None if self.typical is None else self.typical.to(device)
        return IndexedActivations(self.maxima.to(device), typical, self.corpus)


class Known(NamedTuple):
    """What is known of how strongly one SAE's features fire."""

    here: SparseActs
    """Activations at the counted positions of the prompt, and of the probe text where there is
    one."""
    indexed: IndexedActivations | None
    texts: str
    """What `here` was read from, in words."""

    @property
    def maxima(self) -> Float[Tensor, " d_sae"]:
        """Each feature's largest activation that was seen anywhere."""
        maxima = self.here.maxima()
        return maxima if self.indexed is None else maxima.maximum(self.indexed.maxima.to(maxima))


T = TypeVar("T")
OneOrEach: TypeAlias = T | list[T | None] | None
"""What is given for one SAE, or in a list for each of several; None: for none of them."""


class Unit(NamedTuple):
    """What strength 1 is to mean, and what is known of each SAE's features beyond the prompt, by
    SAE in the order given."""

    name: str
    references: list[SparseActs | None]
    """What fires on other texts."""
    indexed: list[IndexedActivations | None]
    texts: str = "the probe text and this prompt"
    """What `references` and the prompt are, in words."""

    @classmethod
    def of(
        cls,
        name: str,
        reference: OneOrEach[SparseActs],
        indexed: OneOrEach[IndexedActivations],
        n_saes: int,
    ) -> "Unit":
        """Make it of what is given for one SAE, or in lists for several."""
        return cls(
            name,
            _for_each(reference, n_saes, "reference"),
            _for_each(indexed, n_saes, "indexed"),
        )


class Controls(NamedTuple):
    """How many random draws stand beside an effect, and the seed that they are drawn with."""

    n: int
    seed: int


def _for_each(given: OneOrEach[T], n_saes: int, field: str) -> list[T | None]:
    """One value, or None, for each SAE.

    Raises:
        ArgumentError: a list of another length, or one value for several SAEs.
    """
    values = given if isinstance(given, list) else [given] * (1 if given is not None else n_saes)
    if len(values) != n_saes:
        raise ArgumentError(
            f"There are {n_saes} SAEs, and {field} has {len(values)} values.",
            code="OUT_OF_RANGE",
            field=field,
            got=len(values),
            allowed=n_saes,
            hint="Give a list with one value for each SAE, None where there is none.",
        )
    return values


def resolve_units(edits: Sequence[FeatureEdit], known: Known, unit: str) -> Units:
    """Strength 1 as "raw", the SAE's own unit; as "typical", the 99th percentile of the feature's
    firing activations; or as "max", the largest: over the index, else on the texts here, else the
    median of the features that fired.

    Raises:
        ArgumentError: an unknown unit.
    """
    if unit not in UNITS:
        raise ArgumentError(
            f"unit {unit!r} is unknown.",
            code="INVALID_CHOICE",
            field="unit",
            got=unit,
            allowed=[*UNITS],
        )
    if unit == "raw":
        return Units([1.0] * len(edits), "raw: the SAE's own activation units", [])
    values, indexed = _known_values(known, unit)
    median = _median(values)
    silent = dict.fromkeys(
        edit.feature
        for edit in edits
        if values[edit.feature] <= 0 and edit.mode in ("add", "clamp")
    )
    missing = indexed is None or any(indexed[edit.feature] <= 0 for edit in edits)
    return Units(
        [float(values[edit.feature]) or median for edit in edits],
        _source(known, unit, len(silent), missing=missing),
        [_silence(feature, known, unit, median) for feature in silent],
    )


def typical_of_all(known: Known) -> Float[Tensor, " d_sae"]:
    """Each feature's typical activation, what strength 1 is for it; of those that were never seen
    firing the median of the others'."""
    values = _known_values(known, "typical")[0]
    return torch.where(values > 0, values, _median(values))


def _known_values(
    known: Known, unit: str
) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"] | None]:
    """The activation that strength 1 stands for, 0 where a feature never fired; and that of the
    index alone, where there is one."""
    here, indexed = known.here.typical() if unit == "typical" else known.here.maxima(), None
    if known.indexed is not None:
        indexed = known.indexed.typical if unit == "typical" else known.indexed.maxima
    return here if indexed is None else torch.where(indexed > 0, indexed.to(here), here), indexed


def _median(values: Float[Tensor, " d_sae"]) -> float:
    fired = values[values > 0]
    return float(fired.median()) if len(fired) else 1.0


def _silence(feature: int, known: Known, unit: str, median: float) -> str:
    where = f"over {known.indexed.corpus} nor " if known.indexed else ""
    more = "more text may" if known.indexed else "a corpus would"
    return (
        f"Feature {feature} fired {'neither ' if where else 'nowhere '}{where}on {known.texts}: "
        f"its unit is the median {UNITS[unit]} of the features that did ({median:.4g}). "
        f"ss.index_features over {more} give its own."
    )


def _source(known: Known, unit: str, n_silent: int, *, missing: bool) -> str:
    median = ", or the median of all such values" if n_silent else ""
    here = f"{UNITS[unit]} on {known.texts}{median}"
    if known.indexed is None:
        return here
    if unit == "typical" and known.indexed.typical is None:
        return f"{here} (the index, of an earlier version, has none)"
    indexed = f"indexed {UNITS[unit]} over {known.indexed.corpus}"
    return f"{indexed}; where there is none, {here}" if missing else indexed


def draw_features(
    edits: Sequence[FeatureEdit],
    maxima: Float[Tensor, " d_sae"],
    *,
    writes: Bool[Tensor, " d_sae"],
    controls: Controls,
) -> list[list[int]]:
    """Draw for every edit one random other feature, once per draw, from those that are known to
    fire if there are enough.

    Only features that write something are drawn: a decoder row of zeros has no direction for a
    control to take.
    """
    others = writes.to(maxima.device, copy=True)
    others[[edit.feature for edit in edits]] = False
    fired = (others & (maxima > 0)).nonzero()[:, 0].tolist()
    enough = len(fired) >= max(MIN_POOL, len(edits))
    pool = fired if enough else others.nonzero()[:, 0].tolist()
    rng = torch.Generator().manual_seed(controls.seed)
    if len(pool) < len(edits):
        return []
    return [
        [pool[i] for i in torch.randperm(len(pool), generator=rng)[: len(edits)].tolist()]
        for _ in range(controls.n)
    ]
