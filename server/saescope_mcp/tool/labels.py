"""Labels of features in replies: each says who gave it and whether it was tested."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from saescope.errors import SaescopeError
from saescope_mcp.schemas.labels import Label
from saescope_mcp.state import LoadedSAE, LoadedStack

if TYPE_CHECKING:
    from saescope.features import CardLabel
    from saescope.features import Label as Stored

MOST_CHARS = 80
"""Of a label that only stands beside a feature."""


class Labels(NamedTuple):
    """The best label of each feature that has one, and a warning where they cannot be read."""

    by_feature: dict[int, Label]
    warnings: list[str]


async def labels_of(loaded: LoadedSAE, features: Iterable[int]) -> Labels:
    """A file of labels that cannot be read must not fail a call that is about something else."""
    return await loaded.slot.workers.run(lambda: _labels_of(loaded, [*features]))


class StackLabels(NamedTuple):
    """The best label of each feature that has one, by the place of its SAE and by its index."""

    by_feature: dict[tuple[int, int], Label]
    warnings: list[str]


async def labels_of_stack(stack: LoadedStack, features: Iterable[tuple[int, int]]) -> StackLabels:
    """The labels of features, each named by the place of its SAE in the stack and by its index."""
    named, told = [*features], StackLabels({}, [])
    for n, entry in enumerate(stack):
        own = await labels_of(entry, [feature for sae, feature in named if sae == n])
        told.by_feature.update({(n, feature): label for feature, label in own.by_feature.items()})
        told.warnings.extend(warning for warning in own.warnings if warning not in told.warnings)
    return told


def said(label: "Stored | CardLabel | None") -> Label | None:
    return None if label is None else Label.model_validate(label)


def in_short(label: "Stored | CardLabel | None") -> Label | None:
    """With its text cut to what fits beside a number."""
    full = said(label)
    if full is None or len(full.text) <= MOST_CHARS:
        return full
    return full.model_copy(update={"text": f"{full.text[: MOST_CHARS - 1]}…"})


def _labels_of(loaded: LoadedSAE, features: list[int]) -> Labels:
    from saescope.features import LabelStore

    try:
        best = LabelStore().best(loaded.weights_hash, features)
    except SaescopeError as error:
        return Labels({}, [f"Labels cannot be read: {error.message}"])
    short = {feature: in_short(label) for feature, label in best.items()}
    return Labels({feature: label for feature, label in short.items() if label}, [])
