"""What features write through a lens: decoder rows carried to the last layer, then through the
final norm's gain and the unembedding."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.lens.lens import Lens, layer_written
from saescope.models import LanguageModel
from saescope.records.lens import LensTokens
from saescope.saes import SAE
from saescope.splice import write_hook
from saescope.untrusted import clean_token

N_TOKENS = 8


def effects_through(
    model: LanguageModel, sae: SAE, features: Int[Tensor, " n"], lens: Lens
) -> Float[Tensor, "n d_vocab"] | None:
    """How one unit of each feature moves every logit through the lens, beside the mean over the
    vocabulary and up to the norm's positive scale; None where the site is no linear write, or the
    lens has no matrix for its layer.

    It is the column of each token's lens vector, `J.T @ W_U`, along the decoder row, with the final
    norm's gain between the two.
    """
    written = written_by(model, sae, features)
    layer = layer_written(sae)
    if written is None or layer is None or not reads_at(model, lens, layer):
        return None
    with torch.no_grad():
        effects = model.readout.logit_effects(lens.carry(written, layer)).float()
    return effects - effects.mean(-1, keepdim=True)


def written_by(
    model: LanguageModel, sae: SAE, features: Int[Tensor, " n"]
) -> Float[Tensor, "n d_model"] | None:
    """What one unit of each feature adds to the residual stream; None where it is not linear."""
    to_residual = model.residual_map(write_hook(sae))
    if to_residual is None:
        return None
    with torch.no_grad():
        return to_residual(sae.directions(features).to(model.device, model.dtype))


def reads_at(model: LanguageModel, lens: Lens, layer: int) -> bool:
    """Whether the lens can be read after this block: the last one needs no matrix."""
    return not lens.is_fitted or layer == model.n_layers - 1 or lens.matrix(layer) is not None


def tokens_through(
    model: LanguageModel, sae: SAE, feature: int, lens: Lens, *, n: int = N_TOKENS
) -> LensTokens | None:
    """The tokens that a feature promotes and suppresses through the lens; None where
    `effects_through` has nothing to say."""
    effects = effects_through(model, sae, torch.tensor([feature], device=sae.device), lens)
    layer = layer_written(sae)
    if effects is None or layer is None:
        return None
    up, down = (
        [clean_token(model.token_text(i)) for i in (sign * effects[0]).topk(n).indices.tolist()]
        for sign in (1, -1)
    )
    return LensTokens(
        lens=lens.facts.lens,
        promotes=up,
        suppresses=down,
        layer=layer,
        how=_how(model, sae, lens),
        error=lens.error(layer),
    )


def _how(model: LanguageModel, sae: SAE, lens: Lens) -> str:
    layer, hook = layer_written(sae), write_hook(sae)
    identity = layer == model.n_layers - 1 or not lens.is_fitted
    through = "" if identity else f"the lens's matrix of layer {layer}, "
    passed = "attn" in hook or hook.endswith("resid_mid")
    skipped = "; the MLP of its own layer is passed by" if passed else ""
    return f"decoder row, {through}the final norm's gain, the unembedding{skipped}"
