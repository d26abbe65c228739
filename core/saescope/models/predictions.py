"""Reading next-token predictions off logits."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.models.language_model import LanguageModel
from saescope.records.prediction import TargetLogit


@dataclass(frozen=True, slots=True)
class Target:
    """The quantity that effects are measured in: a token's logit, or its difference to that of
    another."""

    token: int
    against: int | None = None

    def logit(self, logits: Float[Tensor, "*n d_vocab"]) -> Float[Tensor, "*n"]:
        mine = logits[..., self.token]
        return mine if self.against is None else mine - logits[..., self.against]

    def change(
        self, before: Float[Tensor, "n d_vocab"], after: Float[Tensor, "n d_vocab"]
    ) -> list[float]:
        """How much more it is after than before, row by row."""
        return (self.logit(after.double()) - self.logit(before.double())).tolist()

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

    @classmethod
    def of(
        cls, model: LanguageModel, target: int | str | None, against: int | str | None
    ) -> "NamedTarget":
        """From ids or texts; a text must be exactly one token.

        Raises:
            ArgumentError: a text is no single token, or both are the same.
        """
        named = {"target": target, "against": against}
        ids = {
            name: model.single_token(token, name) if isinstance(token, str) else token
            for name, token in named.items()
        }
        if target is not None and ids["target"] == ids["against"]:
            raise ArgumentError(
                "target and against are the same token.",
                field="against",
                got=against,
                hint="Leave against out.",
            )
        return cls(ids["target"], ids["against"])

    def on(self, logits: Float[Tensor, " d_vocab"]) -> Target:
        """The target for a prediction."""
        return Target(int(logits.argmax()) if self.token is None else self.token, self.against)


def read_token(
    model: LanguageModel, logits: Float[Tensor, " d_vocab"], token_id: int
) -> TargetLogit:
    prob = float(logits.double().softmax(-1)[token_id])
    rank = 1 + int((logits > logits[token_id]).sum())
    return TargetLogit(model.token_text(token_id), token_id, float(logits[token_id]), prob, rank)


def top_tokens(
    model: LanguageModel, logits: Float[Tensor, " d_vocab"], n: int
) -> list[TargetLogit]:
    """List the `n` most likely tokens."""
    probs, ids = logits.double().softmax(-1), logits.topk(n).indices.tolist()
    return [
        TargetLogit(model.token_text(i), i, float(logits[i]), float(probs[i]), rank)
        for rank, i in enumerate(ids, 1)
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
