"""Reading next-token predictions off logits."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.models.language_model import LanguageModel
from saescope.precision import wide
from saescope.records.prediction import TargetLogit

MEASURES = ("logprob", "logit")


@dataclass(frozen=True, slots=True)
class Target:
    """The quantity that effects are measured in: a token's log-probability in nats or its logit, or
    the difference of its logit to that of another, which is that of the log-probabilities too.

    A logit alone says nothing of a probability: an edit may move all logits alike.
    """

    token: int
    against: int | None = None
    measure: str = "logprob"

    @property
    def quantity(self) -> str:
        """What effects are effects on, in a word."""
        return self.measure if self.against is None else "difference"

    def of(self, logits: Float[Tensor, "*n d_vocab"]) -> Float[Tensor, "*n"]:
        """The quantity of each prediction."""
        if self.against is not None:
            return logits[..., self.token] - logits[..., self.against]
        return (logits.log_softmax(-1) if self.measure == "logprob" else logits)[..., self.token]

    def change(
        self, before: Float[Tensor, "n d_vocab"], after: Float[Tensor, "n d_vocab"]
    ) -> list[float]:
        """How much more it is after than before, row by row."""
        return (self.of(wide(after)) - self.of(wide(before))).tolist()

    def read(
        self, model: LanguageModel, logits: Float[Tensor, " d_vocab"]
    ) -> tuple[TargetLogit, TargetLogit | None]:
        """What one prediction says of the token, and of the one that it is compared with."""
        token = read_token(model, logits, self.token)
        return token, None if self.against is None else read_token(model, logits, self.against)


@dataclass(frozen=True, slots=True)
class NamedTarget:
    """A target as it is asked for; without a token it is the one that the model predicts."""

    token: int | None
    against: int | None
    measure: str

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        target: int | str | None,
        against: int | str | None,
        measure: str = "logprob",
    ) -> "NamedTarget":
        """From ids or texts; a text must be exactly one token.

        Raises:
            ArgumentError: a text is no single token, both are the same, or there is no such
                measure.
        """
        if measure not in MEASURES:
            raise ArgumentError(
                f"measure {measure!r} is unknown.",
                code="INVALID_CHOICE",
                field="measure",
                got=measure,
                allowed=MEASURES,
            )
        named = {"target": target, "against": against}
        ids = {
            name: None if token is None else model.token_id(token, name)
            for name, token in named.items()
        }
        if target is not None and ids["target"] == ids["against"]:
            raise ArgumentError(
                "target and against are the same token.",
                field="against",
                got=against,
                hint="Leave against out.",
            )
        return cls(ids["target"], ids["against"], measure)

    def on(self, logits: Float[Tensor, " d_vocab"]) -> Target:
        """The target for a prediction.

        Raises:
            ArgumentError: the likeliest token, which is meant without one, is `against` itself.
        """
        token = int(logits.argmax()) if self.token is None else self.token
        if token == self.against:
            raise ArgumentError(
                "against is the most likely token itself: its difference to itself is 0.",
                field="against",
                got=token,
                allowed="another token than the target",
                hint="Name the target, or another token in against.",
            )
        return Target(token, self.against, self.measure)


def read_token(
    model: LanguageModel, logits: Float[Tensor, " d_vocab"], token_id: int
) -> TargetLogit:
    known = wide(logits)
    prob, above = known.softmax(-1)[token_id], (known > known[token_id]).sum()
    # One copy to the host: each number by itself would be a wait.
    logit, prob, above = torch.stack([known[token_id], prob, above.double()]).tolist()
    return TargetLogit(model.token_text(token_id), token_id, logit, prob, 1 + int(above))


def top_tokens(
    model: LanguageModel, logits: Float[Tensor, " d_vocab"], n: int
) -> list[TargetLogit]:
    """List the `n` most likely tokens."""
    known = wide(logits)
    ids = known.topk(n).indices
    rows = torch.stack([ids.double(), known[ids], known.softmax(-1)[ids]], dim=1).tolist()
    return [
        TargetLogit(model.token_text(int(i)), int(i), logit, prob, rank)
        for rank, (i, logit, prob) in enumerate(rows, 1)
    ]


def resolve_position(position: int, n_pos: int) -> int:
    """A position counted from 0, of one that may count from the end.

    Raises:
        ArgumentError: it is outside the text.
    """
    if not -n_pos <= position < n_pos:
        raise ArgumentError(
            f"Position {position} is outside the {n_pos} tokens.",
            code="POSITION_OUT_OF_RANGE",
            field="position",
            got=position,
            allowed=f"{-n_pos}..{n_pos - 1}",
        )
    return position % n_pos
