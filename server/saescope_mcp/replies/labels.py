"""Labels of features in replies: each says who gave it and whether it was tested."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from saescope.errors import SaescopeError
from saescope.records.labels import Label, ShortLabel
from saescope_mcp.state import LoadedSAE, LoadedStack

MOST_CHARS = 80
"""The most characters of a label that only stands beside a feature."""


class Labels(NamedTuple):
    """The best label of each feature that has one, and a warning where they cannot be read."""

    by_feature: dict[int, ShortLabel]
    warnings: list[str]


async def labels_of(loaded: LoadedSAE, features: Iterable[int]) -> Labels:
    """A file of labels that cannot be read must not fail a call that is about something else."""
    return await loaded.slot.workers.run(lambda: _labels_of(loaded, [*features]))


class StackLabels(NamedTuple):
    """The best label of each feature that has one, by the place of its SAE and by its index."""

    by_feature: dict[tuple[int, int], ShortLabel]
    warnings: list[str]


async def labels_of_stack(stack: LoadedStack, features: Iterable[tuple[int, int]]) -> StackLabels:
    """The labels of features, each named by the place of its SAE in the stack and by its index."""
    named, told = [*features], StackLabels({}, [])
    for n, entry in enumerate(stack.entries):
        own = await labels_of(entry, [feature for sae, feature in named if sae == n])
        told.by_feature.update({(n, feature): label for feature, label in own.by_feature.items()})
        told.warnings.extend(warning for warning in own.warnings if warning not in told.warnings)
    return told


def short_label(label: Label) -> ShortLabel:
    return ShortLabel(label.text, label.source, label.score, label.verdict)


def in_short(label: ShortLabel | None) -> ShortLabel | None:
    """Cut the label's text to what fits beside a number."""
    if label is None or len(label.text) <= MOST_CHARS:
        return label
    return replace(label, text=f"{label.text[: MOST_CHARS - 1]}…")


def _labels_of(loaded: LoadedSAE, features: list[int]) -> Labels:
    from saescope.features import LabelStore

    try:
        best = LabelStore().best(loaded.weights_hash, features)
    except SaescopeError as error:
        return Labels({}, [f"Labels cannot be read: {error.message}"])
    short = {feature: in_short(short_label(label)) for feature, label in best.items()}
    return Labels({feature: label for feature, label in short.items() if label}, [])
