"""Reading next-token predictions off logits."""

from jaxtyping import Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.models.language_model import LanguageModel
from saescope.records.prediction import TargetLogit


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


def logit_of(
    logits: Float[Tensor, "*n d_vocab"], target: int, against: int | None
) -> Float[Tensor, "*n"]:
    """The quantity that effects are measured in: the target's logit, or its difference to that of
    `against`."""
    return logits[..., target] if against is None else logits[..., target] - logits[..., against]


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


def token_pair(
    model: LanguageModel, target: int | str | None, against: int | str | None
) -> tuple[int | None, int | None]:
    """Ids of a target and of what it is compared with; a text must be exactly one token.

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
    return ids["target"], ids["against"]
