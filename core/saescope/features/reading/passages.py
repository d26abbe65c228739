"""Texts and datasets as passages that a model reads at once, with the tokens that a pattern
matches."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from saescope.activations import Dataset, LabelledDataset
from saescope.activations.readers import cut
from saescope.activations.tokens import PIECE_CHARS
from saescope.cancel import stop_if_cancelled
from saescope.errors import NotFoundError
from saescope.models import LanguageModel, Tokens
from saescope.patterns import Pattern

CONTEXT_SIZE = 128
"""Tokens of a passage of a dataset, as of a context of an index."""

TokenSpan = tuple[int, int]
"""The first position and the one after the last."""


@dataclass(frozen=True, slots=True)
class TextPassage:
    """A text, or a part of a document."""

    tokens: Tokens
    text: int
    """Number of its text or document, from 0."""
    matches: tuple[TokenSpan, ...] | None = None
    """The positions that each match of the pattern overlaps; None without a pattern."""
    label: bool | None = None
    """The label of its text."""
    positions: tuple[int, ...] = ()
    """The positions that alone count; none: those that count in any text."""


def text_passages(
    model: LanguageModel,
    texts: Sequence[str],
    *,
    pattern: str = "",
    labels: Sequence[bool] = (),
    positions: Sequence[int] = (),
    prepend_bos: bool | None = None,
) -> list[TextPassage]:
    """Each text as one passage.

    Raises:
        ArgumentError: a text is empty or too long, or the pattern is none or too slow.
    """
    search = Pattern(pattern) if pattern else None
    passages: list[TextPassage] = []
    for i, text in enumerate(texts):
        tokens = model.tokenize(text, prepend_bos=prepend_bos)
        matches = None
        if search:
            spans = [(0, 0)] * tokens.bos_prepended + model.tokenizer.spans(text)
            matches = _overlapped(spans, search.spans(text))
        label = labels[i] if labels else None
        passages.append(TextPassage(tokens, i, matches, label, tuple(positions)))
    return passages


def dataset_passages(
    model: LanguageModel,
    dataset: Dataset,
    *,
    n_tokens: int = 20_000,
    pattern: str = "",
    prepend_bos: bool | None = None,
) -> list[TextPassage]:
    """The first `n_tokens` tokens of a dataset in reading order, each document cut into passages of
    its own; of one from `open_labelled` with the documents' labels.

    Raises:
        NotFoundError: DATASET_EMPTY.
        ArgumentError: the pattern is none or too slow.
    """
    cutting = _Cutting(model, Pattern(pattern) if pattern else None, prepend_bos)
    passages: list[TextPassage] = []
    left, number = n_tokens, 0
    for document, label in _labelled(dataset):
        if left <= 0:
            break
        if not document.strip():
            continue
        for piece in cut([document], PIECE_CHARS):
            for passage in cutting.of(piece, number, most=left):
                passages.append(replace(passage, label=label))
                left -= len(passage.tokens) - passage.tokens.bos_prepended
        number += 1
    if not passages:
        raise NotFoundError(
            f"The dataset {dataset.name!r} holds no text.",
            code="DATASET_EMPTY",
            field="dataset",
            got=dataset.name,
            hint='Use more text, or dataset="embedded".',
        )
    return passages


def _labelled(dataset: Dataset) -> Iterator[tuple[str, bool | None]]:
    if isinstance(dataset, LabelledDataset):
        yield from dataset.labelled()
    else:
        yield from ((document, None) for document in dataset.documents())


class _Cutting:
    """Documents cut into passages, of which each begins as the model wants its texts to begin."""

    def __init__(
        self, model: LanguageModel, search: Pattern | None, prepend_bos: bool | None
    ) -> None:
        self.tokenizer, self.search = model.tokenizer, search
        wanted = self.tokenizer.adds_bos if prepend_bos is None else prepend_bos
        bos = self.tokenizer.bos_id
        self.head = [bos] if wanted and bos is not None else []
        self.size = min(CONTEXT_SIZE, model.n_ctx) - len(self.head)

    def of(self, text: str, number: int, *, most: int) -> Iterator[TextPassage]:
        """The first `most` tokens of a text."""
        stop_if_cancelled()
        ids = self.tokenizer.plain_ids(text)[:most]
        self.tokenizer.require_embedded(ids)
        spans = self.tokenizer.spans(text)[:most] if self.search else []
        found = self.search.spans(text) if self.search else []
        for start in range(0, len(ids), self.size):
            part = torch.tensor([*self.head, *ids[start : start + self.size]])
            own = [(0, 0)] * len(self.head) + spans[start : start + self.size]
            special = torch.isin(part, self.tokenizer.special_ids)
            tokens = Tokens(part, special, (), bool(self.head))
            yield TextPassage(tokens, number, _overlapped(own, found) if self.search else None)


def _overlapped(
    spans: Sequence[tuple[int, int]], found: Sequence[tuple[int, int]]
) -> tuple[TokenSpan, ...]:
    """The tokens that each stretch of characters overlaps; a stretch that overlaps none, as one of
    white space alone may, is left out."""
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    overlapped = ((bisect_right(ends, a), bisect_left(starts, b)) for a, b in found)
    return tuple((first, end) for first, end in overlapped if first < end)
