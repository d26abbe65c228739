"""What a push is judged by: how likely texts are to follow a prompt, some over others, or how
likely the prompt is to be said again."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

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
    alternatives: bool = False
    """The tokens are read at one place, and their probabilities are summed: those with a positive
    weight, and apart from these those with a negative one, which they are to gain on."""
    side: int = 1
    """-1: the other texts of the prompt are to gain on this one."""

    @property
    def shape(self) -> tuple[int, int]:
        """Texts of one shape may be one batch."""
        return len(self.ids), self.n_out

    def value(self, logprobs: Float64[Tensor, "*n n_out d_vocab"]) -> Float64[Tensor, "*n"]:
        """The text's log-probability: the weighted sum over its tokens; of alternatives the log of
        their summed probability, less that of those to gain on."""
        at, tokens = self.at.to(logprobs.device), self.tokens.to(logprobs.device)
        read = logprobs[..., at, tokens]
        if not self.alternatives:
            return (read * self.weights.to(logprobs)).sum(-1)
        ours = self.weights > 0
        value = read[..., ours].logsumexp(-1)
        return value if bool(ours.all()) else value - read[..., ~ours].logsumexp(-1)


def shares_of(
    texts: Sequence[ForcedText], values: Float64[Tensor, " n_texts"]
) -> Float64[Tensor, " n_texts"]:
    """Each text's part of the summed probability of the texts on its side of its prompt, from their
    log-probabilities."""
    shares = torch.empty_like(values)
    for places in sides_of(texts).values():
        shares[places] = values[places].softmax(0)
    return shares


def sides_of(texts: Sequence[ForcedText]) -> dict[tuple[int, int], list[int]]:
    """The places of the texts of each prompt and side."""
    found: dict[tuple[int, int], list[int]] = {}
    for i, text in enumerate(texts):
        found.setdefault((text.prompt, text.side), []).append(i)
    return found


@dataclass(frozen=True, slots=True)
class ConceptTexts:
    """The concept: the log of the summed probability of its texts after a prompt (that of a text of
    several tokens is teacher-forced), less that of the texts that it is to beat. Averaged over
    prompts it is what steering is judged by."""

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
        words = f"log-probability of {_listed(sides[0])} after the prompt"
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
        """One text for all single tokens of a side, or of both where there are no others, and one
        for each continuation."""
        signed = [(text, 1) for text in self.texts] + [(text, -1) for text in self.over]
        single = [(text[0], sign) for text, sign in signed if len(text) == 1]
        longer = [(text, sign) for text, sign in signed if len(text) > 1]
        if single and not longer:
            reads = [(0, token, float(sign)) for token, sign in single]
            yield replace(_forced(model, n, tokens, (), reads), alternatives=True)
            return
        for side in (1, -1):
            if own := [(0, token, 1.0) for token, sign in single if sign == side]:
                yield replace(_forced(model, n, tokens, (), own), alternatives=True, side=side)
        for text, side in longer:
            reads = [(at, token, 1.0) for at, token in enumerate(text)]
            yield replace(_forced(model, n, tokens, text[:-1], reads), side=side)

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
    more = [f"{len(texts) - MOST_NAMED} more"] if len(texts) > MOST_NAMED else []
    return " or ".join([*map(repr, texts[:MOST_NAMED]), *more])


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
