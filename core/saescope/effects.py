"""What a feature writes: the tokens whose logits its decoder direction raises, through the final
norm."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.splice import write_hook


def logit_effects(
    model: LanguageModel, sae: SAE, features: Int[Tensor, " n"]
) -> Float[Tensor, "n d_vocab"] | None:
    """How one unit of each feature moves every logit directly, beside the mean over the vocabulary
    and up to the norm's positive scale; None where the site is no linear write.

    What raises all logits alike changes no prediction (softmax does not see it), so that is taken
    out.
    """
    to_residual = model.residual_map(write_hook(sae))
    if to_residual is None:
        return None
    with torch.no_grad():
        effects = model.readout.logit_effects(
            to_residual(sae.directions(features).to(model.device, model.dtype))
        ).float()
    return effects - effects.mean(-1, keepdim=True)


def promoted_tokens(model: LanguageModel, sae: SAE, features: list[int], n: int) -> list[list[str]]:
    """The `n` tokens that each feature promotes most, strongest first; empty lists where the site
    is no linear write, and for a feature whose decoder row is zero."""
    effects = (
        logit_effects(model, sae, torch.tensor(features, device=sae.device)) if features else None
    )
    if effects is None:
        return [[] for _ in features]
    best, writes = effects.topk(n, dim=-1).indices.tolist(), sae.decoder[features].any(-1).tolist()
    return [
        [model.token_text(i) for i in row] if does else []
        for row, does in zip(best, writes, strict=True)
    ]
