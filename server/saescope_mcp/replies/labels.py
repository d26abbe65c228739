"""Labels of features in replies: each says who gave it and whether it was tested."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from saescope.errors import SaescopeError
from saescope.records.labels import Label, ShortLabel
from saescope_mcp.state import LoadedSAE, LoadedStack
from saescope_mcp.state.slots import ModelSlot

MOST_CHARS = 80
"""The most characters of a label that only stands beside a feature."""


class Labels(NamedTuple):
    """The best label of each feature that has one, and a warning where they cannot be read."""

    by_feature: dict[int, ShortLabel]
    warnings: list[str]


class StackLabels(NamedTuple):
    """The best label of each feature that has one, by the place of its SAE and by its index."""

    by_feature: dict[tuple[int, int], ShortLabel]
    warnings: list[str]


async def labels_of(loaded: LoadedSAE, features: Iterable[int]) -> Labels:
    """The labels of features of one SAE."""
    told = await loaded.slot.workers.run(partial(_best, {0: loaded}, [(0, f) for f in features]))
    return Labels({f: label for (_, f), label in told.by_feature.items()}, told.warnings)


async def labels_of_stack(stack: LoadedStack, features: Iterable[tuple[int, int]]) -> StackLabels:
    """The labels of features, each named by the place of its SAE in the stack and by its index."""
    entries = dict(enumerate(stack.entries))
    return await labels_of_layers(stack.slot, entries, features)


async def labels_of_layers(
    slot: ModelSlot, entries: Mapping[int, LoadedSAE], features: Iterable[tuple[int, int]]
) -> StackLabels:
    """The labels of features of SAEs that are loaded, each named by the place of its SAE and by its
    index."""
    return await slot.workers.run(partial(_best, entries, [*features]))


def short_label(label: Label) -> ShortLabel:
    return ShortLabel(label.text, label.source, label.score, label.verdict)


def in_short(label: ShortLabel | None) -> ShortLabel | None:
    """Cut the label's text to what fits beside a number."""
    if label is None or len(label.text) <= MOST_CHARS:
        return label
    return replace(label, text=f"{label.text[: MOST_CHARS - 1]}…")


def _best(entries: Mapping[int, LoadedSAE], named: Sequence[tuple[int, int]]) -> StackLabels:
    from saescope.features import LabelStore

    shown: dict[tuple[int, int], ShortLabel] = {}
    try:
        for n, entry in entries.items():
            best = LabelStore().best(entry.weights_hash, [f for sae, f in named if sae == n])
            short = {(n, f): in_short(short_label(label)) for f, label in best.items()}
            shown |= {key: label for key, label in short.items() if label}
    except SaescopeError as error:
        # A file of labels that cannot be read must not fail a call that is about something else.
        return StackLabels(shown, [f"Labels cannot be read: {error.message}"])
    return StackLabels(shown, [])
