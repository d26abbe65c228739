"""What strength 1 means, and which other features a control may take."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.steering.edits import FeatureEdit

MIN_POOL = 32


class Units(NamedTuple):
    """The activation that strength 1 stands for, edit by edit, and where it comes from."""

    values: list[float]
    source: str
    warnings: list[str]


class IndexedMaxima(NamedTuple):
    """Each feature's largest activation over a corpus, 0 where it never fired, and what the corpus
    is, in words."""

    values: Float[Tensor, " d_sae"]
    corpus: str


T = TypeVar("T")
OneOrEach: TypeAlias = T | list[T | None] | None
"""What is given for one SAE, or in a list for each of several; None: for none of them."""


class Unit(NamedTuple):
    """What strength 1 is to mean, and what is known of each SAE's features beyond the prompt, by
    SAE in the order given."""

    name: str
    references: list[Float[Tensor, " d_sae"] | None]
    """Each feature's largest activation on another text."""
    indexed: list[IndexedMaxima | None]

    @classmethod
    def of(
        cls,
        name: str,
        reference: OneOrEach[Float[Tensor, " d_sae"]],
        indexed: OneOrEach[IndexedMaxima],
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


def resolve_units(
    edits: Sequence[FeatureEdit],
    maxima: Float[Tensor, " d_sae"],
    unit: str,
    *,
    indexed: IndexedMaxima | None = None,
) -> Units:
    """Strength 1 as "raw", the SAE's own unit, or as "max": the feature's maximum over the index,
    else in `maxima`, else a median.

    Raises:
        ArgumentError: an unknown unit.
    """
    if unit not in ("max", "raw"):
        raise ArgumentError(
            f"unit {unit!r} is unknown.",
            code="INVALID_CHOICE",
            field="unit",
            got=unit,
            allowed=["max", "raw"],
        )
    if unit == "raw":
        return Units([1.0] * len(edits), "raw: the SAE's own activation units", [])
    known = maxima if indexed is None else torch.where(indexed.values > 0, indexed.values, maxima)
    fired = known[known > 0]
    median = float(fired.median()) if len(fired) else 1.0
    silent = dict.fromkeys(
        edit.feature for edit in edits if known[edit.feature] <= 0 and edit.mode in ("add", "clamp")
    )
    where = f"over {indexed.corpus}, " if indexed else ""
    more = "more text may" if indexed else "a corpus would"
    warnings = [
        f"Feature {feature} fired neither {where}on the probe text nor on this prompt: "
        "its unit is the median maximum of the features that "
        f"did ({median:.4g}). ss.index_features over {more} give its own."
        for feature in silent
    ]
    values = [float(known[edit.feature]) or median for edit in edits]
    return Units(values, _source(edits, indexed, bool(silent)), warnings)


def _source(edits: Sequence[FeatureEdit], indexed: IndexedMaxima | None, silent: bool) -> str:
    here, median = (
        "maximum on the probe text and this prompt",
        ", or the median of all such maxima" if silent else "",
    )
    if indexed is None:
        return here + median
    missing = any(indexed.values[edit.feature] <= 0 for edit in edits)
    return f"indexed maximum over {indexed.corpus}" + (
        f"; where a feature never fired there, {here}{median}" if missing else ""
    )


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
