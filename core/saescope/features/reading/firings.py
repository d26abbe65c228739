"""Where and how strongly named features fire, in texts and in datasets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.features.excerpt import marked
from saescope.features.named import require_features
from saescope.features.reading.agreement import agreement, rate
from saescope.features.reading.passages import TextPassage
from saescope.features.reading.text_acts import text_acts
from saescope.models import LanguageModel, counted
from saescope.ops import TYPICAL, SparseActs
from saescope.progress import Progress
from saescope.records.firings import Detection, FeatureFirings, FiringPlace
from saescope.saes import SAE
from saescope.untrusted import clean_token

BEFORE, AFTER = 8, 4
"""Tokens around a place in its text."""


@dataclass(frozen=True, kw_only=True)
class NamedFirings:
    """Named features over all counted tokens of some passages."""

    model: LanguageModel
    named: list[int]
    passages: Sequence[TextPassage]
    acts: Float[Tensor, "n_tokens n_named"]
    """The activation at every counted token, in reading order; 0 where a feature is silent."""
    passage: Int[Tensor, " n_tokens"]
    """The passage of each counted token."""
    pos: Int[Tensor, " n_tokens"]
    matched: Bool[Tensor, " n_tokens"] | None
    """Whether a match overlaps the token; None without a pattern."""
    match_hits: Bool[Tensor, "n_matches n_named"] | None
    """Whether each feature fires at any counted token of each match that has one."""
    match_text: Int[Tensor, " n_matches"]
    n_left_out: int
    n_sinks: int

    @property
    def n_tokens(self) -> int:
        return len(self.acts)

    @property
    def labelled(self) -> bool:
        """Whether texts have labels, which then say what is positive by text."""
        return any(passage.label is not None for passage in self.passages)

    @property
    def n_unlabelled(self) -> int:
        """Texts that have no label where others do: they are in no test by text."""
        return self.labelled * len({each.text for each in self.passages if each.label is None})

    @cached_property
    def n_texts(self) -> int:
        return len({passage.text for passage in self.passages})

    @cached_property
    def text(self) -> Int[Tensor, " n_tokens"]:
        """The text of each counted token."""
        return torch.tensor([each.text for each in self.passages])[self.passage]

    @cached_property
    def features(self) -> list[FeatureFirings]:
        """One row a feature, in the order in which they were named."""
        return [self._row(i) for i in range(len(self.named))]

    def total(self, *, one_a_text: bool = False) -> int:
        """How many places there are."""
        return sum(row.n_texts if one_a_text else row.n_firing for row in self.features)

    def places(self, k: int, *, offset: int = 0, one_a_text: bool = False) -> list[FiringPlace]:
        """The features by turns, each one's strongest place first; of each text only the strongest,
        if `one_a_text`."""
        ordered = [self._ordered(i, one_a_text)[: offset + k] for i in range(len(self.named))]
        return [
            self._place(i, rows[rank])
            for i, rows, rank in islice(_by_turns(ordered), offset, offset + k)
        ]

    def _row(self, i: int) -> FeatureFirings:
        scores = self.acts[:, i]
        fires = scores != 0
        values = scores[fires].double()
        return FeatureFirings(
            feature=self.named[i],
            n_firing=len(values),
            share=len(values) / max(1, self.n_tokens),
            n_texts=len(self.text[fires].unique()),
            max_activation=float(values.max()) if len(values) else None,
            typical_activation=float(values.quantile(TYPICAL)) if len(values) else None,
            by_token=None if self.matched is None else agreement(scores, self.matched, self.text),
            matches_hit=None
            if self.match_hits is None
            else rate(self.match_hits[:, i], self.match_text),
            by_text=self._by_text(scores),
        )

    def _by_text(self, scores: Float[Tensor, " n_tokens"]) -> Detection | None:
        """How firing tells positive texts, of those with a counted token and, if texts have labels,
        with one."""
        labels = {passage.text: passage.label for passage in self.passages}
        there, own = self.text.unique(return_inverse=True)
        if not len(there):
            return None
        largest = torch.zeros(len(there)).scatter_reduce(0, own, scores, "amax")
        if self.labelled:
            known = torch.tensor([labels[number] is not None for number in there.tolist()])
            there, largest = there[known], largest[known]
            positive = torch.tensor([bool(labels[number]) for number in there.tolist()]).bool()
        elif self.matched is not None:
            positive = torch.bincount(own, self.matched.double()) > 0
        else:
            return None
        return agreement(largest, positive, there)

    def _ordered(self, i: int, one_a_text: bool) -> list[int]:
        """Rows of `acts`, the strongest first; of equal ones the first in reading order."""
        rows = self.acts[:, i].nonzero()[:, 0]
        rows = rows[self.acts[rows, i].argsort(descending=True, stable=True)]
        if one_a_text:
            texts = self.text[rows]
            by_text = texts.argsort(stable=True)
            first = torch.ones_like(texts, dtype=torch.bool)
            first[1:] = texts[by_text][1:] != texts[by_text][:-1]
            rows = rows[by_text[first].sort().values]
        return rows.tolist()

    def _place(self, i: int, row: int) -> FiringPlace:
        passage, pos = self.passages[int(self.passage[row])], int(self.pos[row])
        first = max(0, pos - BEFORE)
        around = passage.tokens.ids[first : pos + AFTER + 1].tolist()
        strings = [clean_token(self.model.token_text(token)) for token in around]
        more = pos + AFTER + 1 < len(passage.tokens)
        return FiringPlace(
            text_index=passage.text,
            pos=pos,
            token=strings[pos - first],
            feature=self.named[i],
            activation=float(self.acts[row, i]),
            text=marked(strings, pos - first, cut_before=first > 0, cut_after=more),
        )


def find_firings(
    model: LanguageModel,
    sae: SAE,
    passages: Sequence[TextPassage],
    *,
    features: Sequence[int],
    include_special: bool = False,
    progress: Progress | None = None,
) -> NamedFirings:
    """The activations of these features at every counted token: position 0, special tokens and
    sinks are left out unless the passage names them.

    Raises:
        ArgumentError: the SAE has no such feature, or a text no such position.
    """
    named = list(dict.fromkeys(features))
    require_features(sae, named)
    found = _Found(sae, named)
    texts = [passage.tokens for passage in passages]
    every = text_acts(model, sae, texts, include_special=include_special)
    for passage, each in zip(passages, every, strict=True):
        named_only = passage.positions
        mask = counted(passage.tokens, named_only) if named_only else each.counted
        found.n_sinks += 0 if named_only else each.n_sinks
        found.add(passage, each.acts, mask)
        if progress:
            progress(len(found.acts), len(passages))
    return found.firings(model, passages)


class _Found:
    """What has been read so far."""

    def __init__(self, sae: SAE, named: list[int]) -> None:
        self.named = named
        self.column = torch.full((sae.cfg.d_sae,), -1)
        self.column[named] = torch.arange(len(named))
        self.acts: list[Tensor] = []
        self.masks: list[Tensor] = []
        self.matched: list[Tensor] = []
        self.hits: list[Tensor] = []
        self.match_text: list[int] = []
        self.n_sinks = 0

    def add(self, passage: TextPassage, acts: SparseActs, mask: Bool[Tensor, " n_pos"]) -> None:
        mask = mask.cpu()
        dense = self._columns(acts)
        self.acts.append(dense[mask])
        self.masks.append(mask)
        if passage.matches is None:
            return
        matched = torch.zeros(len(mask), dtype=torch.bool)
        for first, end in passage.matches:
            matched[first:end] = True
            seen = mask[first:end]
            if seen.any():
                self.hits.append((dense[first:end][seen] != 0).any(0))
                self.match_text.append(passage.text)
        self.matched.append(matched[mask])

    def firings(self, model: LanguageModel, passages: Sequence[TextPassage]) -> NamedFirings:
        n = torch.tensor([len(each) for each in self.acts])
        searched = bool(self.matched)
        hits = torch.stack(self.hits) if self.hits else torch.zeros(0, len(self.named)).bool()
        return NamedFirings(
            model=model,
            named=self.named,
            passages=passages,
            acts=torch.cat(self.acts),
            passage=torch.repeat_interleave(torch.arange(len(n)), n),
            pos=torch.cat([mask.nonzero()[:, 0] for mask in self.masks]),
            matched=torch.cat(self.matched) if searched else None,
            match_hits=hits if searched else None,
            match_text=torch.tensor(self.match_text, dtype=torch.long),
            n_left_out=sum(int((~mask).sum()) for mask in self.masks),
            n_sinks=self.n_sinks,
        )

    def _columns(self, acts: SparseActs) -> Float[Tensor, "n_pos n_named"]:
        column = self.column[acts.features]
        kept = column >= 0
        dense = torch.zeros(acts.n_pos, len(self.named))
        dense[acts.positions[kept], column[kept]] = acts.values[kept]
        return dense


def _by_turns(ordered: Sequence[list[int]]) -> Iterator[tuple[int, list[int], int]]:
    """Every first row, then every second one, and so on."""
    for rank in range(max(map(len, ordered), default=0)):
        yield from ((i, rows, rank) for i, rows in enumerate(ordered) if rank < len(rows))
