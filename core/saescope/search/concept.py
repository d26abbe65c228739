"""What a push is judged by: how likely texts are to follow a prompt, some over others, or how
likely the prompt is to be said again."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.models import LanguageModel, Tokens, counted

METRICS = ("logprob", "repetition")
MOST_NAMED = 4
"""Texts that stand in the description of a concept."""


@dataclass(frozen=True, slots=True)
class ForcedText:
    """A text that is read as it is given, and which of its last predictions are summed."""

    prompt: int
    """The place of the prompt that it begins with."""
    ids: Int[Tensor, " n_pos"]
    usual: Bool[Tensor, " n_pos"]
    """Positions that count before sinks are left out."""
    n_prompt: int
    n_out: int
    """Predictions that are read, the last ones."""
    at: Int[Tensor, " n_read"]
    """Which of these, from 0."""
    tokens: Int[Tensor, " n_read"]
    weights: Float64[Tensor, " n_read"]

    @property
    def shape(self) -> tuple[int, int]:
        """Texts of one shape may be one batch."""
        return len(self.ids), self.n_out

    def summed(self, logprobs: Float64[Tensor, "*n n_out d_vocab"]) -> Float64[Tensor, "*n"]:
        """The weighted log-probabilities of the tokens, summed."""
        at, tokens = self.at.to(logprobs.device), self.tokens.to(logprobs.device)
        return (logprobs[..., at, tokens] * self.weights.to(logprobs)).sum(-1)


@dataclass(frozen=True, slots=True)
class ConceptTexts:
    """The concept: the mean over its texts of their log-probability after a prompt (of a text of
    several tokens their sum, teacher-forced), less that of the texts that it is to beat."""

    texts: tuple[tuple[int, ...], ...]
    over: tuple[tuple[int, ...], ...]
    repetition: bool
    words: str

    @classmethod
    def of(
        cls, model: LanguageModel, causes: Sequence[str], *, over: Sequence[str], metric: str
    ) -> "ConceptTexts":
        """Raises: ArgumentError: nothing is asked for, or two things at once."""
        _check(causes, over, metric)
        if metric == "repetition":
            words = "mean log-probability of each prompt's tokens when it is said a second time"
            return cls((), (), True, words)
        sides = [[*dict.fromkeys(side)] for side in (causes, over)]
        words = f"mean log-probability of {_listed(sides[0])} after the prompt"
        if over:
            words += f", less that of {_listed(sides[1])}"
        texts, others = (tuple(token_ids(model, text) for text in side) for side in sides)
        return cls(texts, others, False, words)

    def forced(self, model: LanguageModel, prompts: Sequence[Tokens]) -> list[ForcedText]:
        """The texts to read, prompt by prompt.

        Raises:
            ArgumentError: a prompt and what follows it are longer than the context.
        """
        found = [
            text
            for n, tokens in enumerate(prompts)
            for text in (
                [self._again(model, n, tokens)]
                if self.repetition
                else self._following(model, n, tokens)
            )
        ]
        longest = max(len(text.ids) for text in found)
        if longest > model.n_ctx:
            raise ArgumentError(
                f"A prompt with what follows it has {longest} tokens, the model's context has "
                f"{model.n_ctx}.",
                code="PROMPT_TOO_LONG",
                field="prompts",
                got=longest,
                allowed=model.n_ctx,
                hint="Shorten the prompts or the continuations.",
            )
        return found

    def _following(self, model: LanguageModel, n: int, tokens: Tokens) -> Iterator[ForcedText]:
        """One text for all single tokens, and one for each continuation."""
        weighted = [(text, 1 / len(self.texts)) for text in self.texts]
        weighted += [(text, -1 / len(self.over)) for text in self.over]
        single = [(0, text[0], weight) for text, weight in weighted if len(text) == 1]
        if single:
            yield _forced(model, n, tokens, (), single)
        for text, weight in weighted:
            if len(text) > 1:
                reads = [(at, token, weight) for at, token in enumerate(text)]
                yield _forced(model, n, tokens, text[:-1], reads)

    def _again(self, model: LanguageModel, n: int, tokens: Tokens) -> ForcedText:
        text = model.tokenizer.join(tokens.ids[~tokens.special].tolist()).strip()
        ids = model.tokenizer.plain_ids(f" {text}")
        reads = [(at, token, 1 / len(ids)) for at, token in enumerate(ids)]
        return _forced(model, n, tokens, ids[:-1], reads)


def _forced(
    model: LanguageModel,
    n: int,
    tokens: Tokens,
    more: Sequence[int],
    reads: Sequence[tuple[int, int, float]],
) -> ForcedText:
    """A prompt with the tokens that follow it; the last prompt token predicts the first of them."""
    follows = torch.tensor([*more], dtype=torch.long)
    special = torch.isin(follows, model.tokenizer.special_ids)
    at, named, weights = zip(*reads, strict=True)
    return ForcedText(
        prompt=n,
        ids=torch.cat([tokens.ids, follows]),
        usual=torch.cat([counted(tokens), ~special]),
        n_prompt=len(tokens),
        n_out=len(more) + 1,
        at=torch.tensor(at),
        tokens=torch.tensor(named),
        weights=torch.tensor(weights, dtype=torch.float64),
    )


def token_ids(model: LanguageModel, text: str) -> tuple[int, ...]:
    """The tokens of a text that may follow a prompt: one, if it is one."""
    try:
        return (model.single_token(text, "causes"),)
    except ArgumentError:
        if not text or (text.startswith("#") and text[1:].isdecimal()):
            raise
    ids = model.tokenizer.plain_ids(text)
    model.tokenizer.require_embedded(ids)
    return tuple(ids)


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
    return f"{', '.join(map(repr, texts[:MOST_NAMED]))}{more}"


def _check(causes: Iterable[str], over: Iterable[str], metric: str) -> None:
    named, others = {*causes}, {*over}
    if metric not in METRICS:
        raise ArgumentError(
            f"Metric {metric!r} is unknown.",
            code="INVALID_CHOICE",
            field="metric",
            got=metric,
            allowed=METRICS,
        )
    if metric == "repetition" and (named or others):
        raise ArgumentError(
            "Repetition is measured without other texts.",
            code="CONFLICTING_ARGUMENTS",
            field="causes",
            got=[*named, *others],
            allowed='causes, or metric="repetition"',
            hint="Leave causes and over out, or leave metric out.",
        )
    if metric != "repetition" and not named:
        raise ArgumentError(
            "No token and no continuation is named.",
            code="MISSING_ARGUMENT",
            field="causes",
            hint='Name at least one, e.g. causes=[" sea"].',
        )
    if both := named & others:
        raise ArgumentError(
            f"{min(both)!r} is to become likelier than itself.",
            code="CONFLICTING_ARGUMENTS",
            field="causes",
            got=sorted(both),
            allowed="texts that are not in causes",
            hint="Name a text on one side only.",
        )
