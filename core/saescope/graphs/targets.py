"""What a graph explains: the likely next tokens, tokens by name, or the difference of two."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.models import LanguageModel
from saescope.precision import wide
from saescope.records.graph import GraphSettings

_LEAST = 1e-30
"""The least sum of the targets' probabilities by which they are weighted."""


class LogitTarget(NamedTuple):
    """A logit, or the difference of two, with the direction that reads it before the unembedding:
    its value, before a soft cap, is `direction . x + constant`."""

    token: int
    against: int | None
    prob: float
    weight: float
    direction: Float[Tensor, " d_model"]
    constant: float


def choose_targets(
    model: LanguageModel,
    logits: Float[Tensor, " d_vocab"],
    *,
    named: Sequence[int | str],
    against: int | str | None,
    settings: GraphSettings,
) -> list[LogitTarget]:
    """The named tokens, each by its logit minus the mean of all logits; with `against` the
    difference of one token's logit to that one's; without names the most likely tokens up to
    `settings.enough_prob`, at most `settings.most_targets`.

    Raises:
        ArgumentError: `against` without exactly one target, or a text that is no single token.
    """
    probs = wide(logits).softmax(-1)
    tokens = [model.token_id(each, "targets") for each in named]
    if against is not None:
        return [_difference(model, probs, tokens, model.token_id(against, "against"))]
    if not tokens:
        top = probs.topk(min(settings.most_targets, len(probs)))
        n = 1 + int((top.values.cumsum(0) < settings.enough_prob).sum())
        tokens = top.indices[:n].tolist()
    tokens = list(dict.fromkeys(tokens))
    of_each = [float(probs[token]) for token in tokens]
    # Where all are next to impossible, probabilities say nothing of which matters, and may be 0.
    weights = of_each if sum(of_each) > _LEAST else [1.0] * len(tokens)
    return [
        LogitTarget(token, None, prob, weight, *_read(model, token))
        for token, prob, weight in zip(tokens, of_each, weights, strict=True)
    ]


def _read(
    model: LanguageModel, token: int, against: int | None = None
) -> tuple[Float[Tensor, " d_model"], float]:
    """Direction and constant of a logit minus the mean of all, or minus another token's."""
    W_U, head = model.readout.W_U, model.head
    other = W_U.mean(1) if against is None else W_U[:, against]
    bias = head.bias.mean() if against is None else head.bias[against]
    return head.scale * (W_U[:, token] - other), head.scale * float(head.bias[token] - bias)


def _difference(
    model: LanguageModel, probs: Tensor, tokens: list[int], against: int
) -> LogitTarget:
    if len(tokens) > 1 or tokens == [against]:
        raise ArgumentError(
            "A difference needs one target and another token.",
            code="ONE_TARGET_AGAINST",
            field="against",
            got=len(tokens),
            allowed="one target, or none for the most likely token",
            hint="Name one target, or leave against out.",
        )
    token = tokens[0] if tokens else int(probs.argmax())
    if token == against:
        text = model.token_text(token)
        raise ArgumentError(
            f"{text!r} is the most likely token itself: its difference to itself is 0.",
            code="ONE_TARGET_AGAINST",
            field="against",
            got=text,
            allowed="another token than the target",
            hint="Name the target, or another token in against.",
        )
    return LogitTarget(token, against, float(probs[token]), 1.0, *_read(model, token, against))
