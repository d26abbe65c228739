"""How far a run moves a concept, and how far it moves everything else, on a text that is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.models import LanguageModel, Tokens
from saescope.precision import wide
from saescope.stack import Stack
from saescope.steering.forced import forced_logits
from saescope.steering.prepare import Plans, Prepared

LogProbs = Tensor


@dataclass(frozen=True, slots=True)
class SoughtConcept:
    """Tokens of which the next one should be one, or continuations of several tokens."""

    texts: tuple[str, ...]
    tokens: tuple[int, ...]
    """The id of each text, where all of them are single tokens; else none."""
    continuations: tuple[tuple[int, ...], ...]
    """The tokens of each text."""

    @classmethod
    def of(cls, model: LanguageModel, texts: Sequence[str]) -> "SoughtConcept":
        """The tokens of texts, or ids written as "#id".

        Raises:
            ArgumentError: there is none, or one has no token.
        """
        distinct = tuple(dict.fromkeys(texts))
        if not distinct:
            raise ArgumentError(
                "No concept is named.",
                code="MISSING_ARGUMENT",
                field="concept",
                hint='Name its tokens, such as [" sea", " ship"], or continuations.',
            )
        ids = tuple(_ids_of(model, text) for text in distinct)
        alone = all(len(each) == 1 for each in ids)
        return cls(distinct, tuple(each[0] for each in ids) if alone else (), ids)


def _ids_of(model: LanguageModel, text: str) -> tuple[int, ...]:
    try:
        return (model.single_token(text, "concept"),)
    except ArgumentError as error:
        ids = model.tokenizer.plain_ids(text) if text and error.code == "NOT_ONE_TOKEN" else []
        if len(ids) < 2:
            raise
        return tuple(ids)


@dataclass(frozen=True, slots=True)
class SearchPrompt:
    """A prompt, what the unsteered model writes after it, and the edits ready to run on it."""

    tokens: Tokens
    written: list[int]
    ready: Prepared


class Reading(NamedTuple):
    """One run on one prompt, beside the clean run, on the unsteered text as it stands."""

    concept: float
    """The change of the concept's log-probability, in nats: of single tokens the log of their
    summed probability, averaged over the text; of continuations that of their sum after the
    prompt."""
    kl: float
    """KL(unsteered || run) in nats, averaged over the text."""


class RunReadings(NamedTuple):
    """What several runs do on one prompt."""

    level: float
    """The concept's log-probability in the clean run."""
    runs: list[Reading]


def read_runs(
    stack: Stack, prompt: SearchPrompt, plans: Sequence[Plans], concept: SoughtConcept
) -> RunReadings:
    """Each run on the unsteered text, in batches that hold the clean run too."""
    level, runs = 0.0, list[Reading]()
    for logits in forced_logits(stack, prompt.tokens.ids, prompt.written, plans):
        clean = wide(logits[0]).log_softmax(-1)
        level = float(_mass(clean, concept).mean())
        for row in logits[1:]:
            runs.append(read_against(clean, wide(row).log_softmax(-1), concept))
    if concept.tokens:
        return RunReadings(level, runs)
    level, *levels = _levels(stack, prompt, plans, concept)
    after = [Reading(own - level, run.kl) for own, run in zip(levels, runs, strict=True)]
    return RunReadings(level, after)


def read_against(clean: LogProbs, run: LogProbs, concept: SoughtConcept) -> Reading:
    """The log-probabilities of a run at each place of a text, beside those of the clean one."""
    kl = (clean.exp() * (clean - run)).sum(-1).clamp(min=0).mean()
    return Reading(float((_mass(run, concept) - _mass(clean, concept)).mean()), float(kl))


def _mass(log_probs: LogProbs, concept: SoughtConcept) -> Tensor:
    """The log of the tokens' summed probability at each place; 0 for continuations, which are read
    in passes of their own."""
    if not concept.tokens:
        return log_probs.new_zeros(len(log_probs))
    return log_probs[:, [*concept.tokens]].logsumexp(-1)


def _levels(
    stack: Stack, prompt: SearchPrompt, plans: Sequence[Plans], concept: SoughtConcept
) -> list[float]:
    """The log of the continuations' summed probability after the prompt: of the clean run, then of
    each other."""
    each: list[Tensor] = []
    for ids in concept.continuations:
        runs: list[Tensor] = []
        for logits in forced_logits(stack, prompt.tokens.ids, ids, plans):
            found = torch.stack([_of_tokens(row, ids) for row in logits])
            runs.append(found[1:] if runs else found)
        each.append(torch.cat(runs))
    return torch.stack(each).logsumexp(0).tolist()


def _of_tokens(logits: Tensor, ids: Sequence[int]) -> Tensor:
    log_probs = wide(logits).log_softmax(-1)
    return log_probs[range(len(ids)), [*ids]].sum()


def read_instructed(
    model: LanguageModel, prompt: SearchPrompt, instructed: Tokens, concept: SoughtConcept
) -> Reading:
    """The unsteered model on the same text, after an instruction."""
    clean, told = (_clean(model, tokens, prompt.written) for tokens in (prompt.tokens, instructed))
    found = read_against(clean, told, concept)
    if concept.tokens:
        return found
    before, after = (_summed(model, tokens, concept) for tokens in (prompt.tokens, instructed))
    return Reading(after - before, found.kl)


def _summed(model: LanguageModel, tokens: Tokens, concept: SoughtConcept) -> float:
    each = [
        _clean(model, tokens, ids)[range(len(ids)), [*ids]].sum() for ids in concept.continuations
    ]
    return float(torch.stack(each).logsumexp(0))


def _clean(model: LanguageModel, tokens: Tokens, written: Sequence[int]) -> LogProbs:
    """The log-probabilities that predict each token of a text after a prompt."""
    n_out = max(1, len(written))
    ids = model.batch(torch.cat([tokens.ids.cpu(), torch.tensor([*written], dtype=torch.long)]))
    last = len(written) + 1
    return wide(model.forward(ids, last=last)[0][0, -last:][:n_out]).log_softmax(-1)


def log_perplexity(model: LanguageModel, tokens: Tokens, row: Sequence[int]) -> float | None:
    """The log of a text's perplexity under the unsteered model; None of no text."""
    if not row:
        return None
    log_probs = _clean(model, tokens, row)
    return float(-log_probs[range(len(row)), [*row]].mean())


Arms = Callable[[SearchPrompt], Sequence[Plans]]
"""The runs to be made on a prompt."""
