"""One text run with several changes at a site at once: the batch is widened there where that is right, else from the start."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.errors import NumericError
from saescope.hooks import edit_activations
from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.splice import add_at_site, read_hook, site_edits, write_hook

MAX_TOKENS = 2048
"""Tokens of one forward pass over several variants of a prompt."""
_ROWS, _POSITIONS = 5, 7
"""Of the probe: numbers that are not likely to be sizes of a model."""
_WIDENING_FAILS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    NumericError,
)


class Variants(NamedTuple):
    """Several changes of one text at a site."""

    n: int
    at_site: Callable[[Tensor, Tensor], Tensor]
    """Takes what the SAE reads and what stands where it writes, and returns one row there for each variant."""


def run_variants(
    model: LanguageModel,
    sae: SAE,
    ids: Int[Tensor, "1 n_pos"],
    changes: Float[Tensor, "n n_pos d_out"],
    *,
    position: int,
) -> tuple[Float[Tensor, "n d_vocab"], Float[Tensor, "n d_vocab"]]:
    """Logits at `position` with each change added at the site: (clean, changed), row by row.

    The clean row runs beside each group of variants, so that a difference of the two is free of the noise that another batch shape
    would bring.
    """
    clean: list[Tensor] = []
    changed: list[Tensor] = []
    at = position if position < 0 else position - ids.shape[1]  # counted from the end
    for group in changes.split(max(1, MAX_TOKENS // ids.shape[1])):
        rows = torch.cat([torch.zeros_like(group[:1]), group])
        logits = forward_variants(model, sae, ids, _adding(rows), last=-at)[:, at]
        clean.append(logits[:1].expand(len(group), -1))
        changed.append(logits[1:])
    return torch.cat(clean), torch.cat(changed)


def forward_variants(
    model: LanguageModel,
    sae: SAE,
    ids: Int[Tensor, "1 n_pos"],
    variants: Variants,
    *,
    last: int = 0,
    grad: bool = False,
) -> Float[Tensor, "n_variants n_out d_vocab"]:
    """Logits of one text with each variant where the SAE writes; of the `last` positions at least, if that is given."""
    rows = ids if variants.n == 1 or widens(model, sae) else ids.expand(variants.n, -1)
    return _forward(model, sae, rows, variants, last=last, grad=grad)


def widens(model: LanguageModel, sae: SAE) -> bool:
    """Whether the batch may be widened in the middle of a forward pass, at this SAE's site; found out once, on a few tokens.

    Some models keep something of the batch that came in (BLOOM its position biases, OPT the shape of its hidden states): there the
    layers above the site fail or, worse, mix the rows up. So the widened pass must give what a batch gives that was wide from the start.
    """
    site = read_hook(sae), write_hook(sae)
    if site not in model.widens:
        model.widens[site] = _is_right(model, sae)
    return model.widens[site]


def _is_right(model: LanguageModel, sae: SAE) -> bool:
    ids = model.batch(torch.arange(_POSITIONS) % model.d_vocab)
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(_ROWS, _POSITIONS, sae.cfg.d_out, generator=draw).to(model.device)

    def vary(read: Tensor, written: Tensor) -> Tensor:
        """Changes as large as what stands there, so that an error in any row shows in the logits."""
        scale = written[:1].reshape(1, _POSITIONS, -1).float().norm(dim=-1, keepdim=True)
        change = noise * scale / noise.norm(dim=-1, keepdim=True)
        return _adding(change).at_site(read, written)

    try:
        widened = _forward(model, sae, ids, Variants(_ROWS, vary))
        expected = _forward(model, sae, ids.expand(_ROWS, -1), Variants(_ROWS, vary))
    except _WIDENING_FAILS:
        return False
    # Another batch shape brings some rounding; a wrong row is off by as much as the changes make.
    tolerance = torch.finfo(expected.dtype).eps ** 0.5 / 4 * float(expected.abs().max())
    return widened.shape == expected.shape and torch.allclose(
        widened, expected, rtol=0, atol=tolerance
    )


def _forward(
    model: LanguageModel,
    sae: SAE,
    ids: Tensor,
    variants: Variants,
    *,
    last: int = 0,
    grad: bool = False,
) -> Tensor:
    with edit_activations(model, site_edits(sae, variants.at_site)):
        return model.forward(ids, last=last, grad=grad)[0]


def _adding(rows: Float[Tensor, "n n_pos d_out"]) -> Variants:
    n = len(rows)
    return Variants(
        n, lambda read, written: add_at_site(written.expand(n, *written.shape[1:]), rows)
    )
