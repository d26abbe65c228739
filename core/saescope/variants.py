"""One text run with several changes at once: the batch is widened at the first site where that is
right, else from the start."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.errors import NumericError
from saescope.finite import finite_together
from saescope.hooks import edit_activations
from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.splice import (
    SiteRecord,
    StackEdit,
    add_at_site,
    chained_edits,
    read_hook,
    site_edits,
    site_record,
    write_hook,
)
from saescope.spread import Later, Spread
from saescope.stack import Stack

MAX_TOKENS = 2048
"""Tokens of one forward pass over several variants of a prompt."""
_ROWS, _POSITIONS = 5, 7
"""The sizes of the probe: numbers that are not likely to be sizes of a model."""
_WIDENING_FAILS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    NumericError,
)

ChangeHere = Callable[[SiteRecord], Tensor]
"""Takes what an SAE sees in a run and returns what is added where it writes, `[n_pos, d_out]`."""
Change = Callable[[SiteRecord], Tensor | Spread]
"""A change that may go on at later layers."""
Variant = Mapping[int, Change]
"""What is changed in one run: for some SAEs of a stack, by index, the change at each one's site."""


class Variants(NamedTuple):
    """Several changes of one text."""

    n: int
    at_site: StackEdit
    """Both what an SAE reads and what stands where it writes have one row, or one for each variant;
    what is returned has the latter."""
    later: Later = Later()
    """What `at_site` leaves to sites further up."""


def run_variants(
    stack: Stack,
    ids: Int[Tensor, "1 n_pos"],
    sites: Sequence[SiteRecord],
    variants: Sequence[Variant],
    *,
    position: int,
) -> tuple[Float[Tensor, "n d_vocab"], Float[Tensor, "n d_vocab"]]:
    """Logits at `position` with each variant's changes: (clean, changed), row by row.

    `sites` are the clean records. Where a variant changes an SAE further down too, the one above
    sees the run that holds that change. The clean row runs beside each group of variants, so that a
    difference of the two is free of the noise that another batch shape would bring.
    """
    clean: list[Tensor] = []
    changed: list[Tensor] = []
    at = position if position < 0 else position - ids.shape[1]  # counted from the end
    size = max(1, MAX_TOKENS // ids.shape[1])
    for start in range(0, len(variants), size):
        group = _Widened(stack, sites, [{}, *variants[start : start + size]])
        rows = Variants(len(group.variants), group.vary, group.later)
        logits = forward_variants(stack, ids, rows, last=-at)[:, at]
        clean.append(logits[:1].expand(rows.n - 1, -1))
        changed.append(logits[1:])
    return torch.cat(clean), torch.cat(changed)


def forward_variants(
    stack: Stack,
    ids: Int[Tensor, "1 n_pos"],
    variants: Variants,
    *,
    last: int = 0,
    grad: bool = False,
) -> Float[Tensor, "n_variants n_out d_vocab"]:
    """Logits of one text with each variant where the SAEs write; of the `last` positions at least,
    if that is given."""
    widened = variants.n == 1 or widens(stack.model, stack.saes[0])
    rows = ids if widened else ids.expand(variants.n, -1)
    further = variants.later.hooks(stack.saes)
    with edit_activations(stack.model, chained_edits(stack.saes, variants.at_site, further)):
        return stack.model.forward(rows, last=last, grad=grad)[0]


def widens(model: LanguageModel, sae: SAE) -> bool:
    """Whether the batch may be widened in the middle of a forward pass, at this SAE's site; found
    out once, on a few tokens.

    Some models keep something of the batch that came in (BLOOM its position biases, OPT the shape
    of its hidden states): there the layers above the site fail or, worse, mix the rows up. So the
    widened pass must give what a batch gives that was wide from the start.
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
        """Changes as large as what stands there, so that an error in any row shows in the
        logits."""
        scale = written[:1].reshape(1, _POSITIONS, -1).float().norm(dim=-1, keepdim=True)
        change = noise * scale / noise.norm(dim=-1, keepdim=True)
        return add_at_site(written.expand(_ROWS, *written.shape[1:]), change)

    hooks = site_edits(sae, vary)
    try:
        with finite_together(), edit_activations(model, hooks):
            widened = model.forward(ids)[0]
            expected = model.forward(ids.expand(_ROWS, -1))[0]
    except _WIDENING_FAILS:
        return False
    # Another batch shape brings some rounding; a wrong row is off by as much as the changes make.
    tolerance = torch.finfo(expected.dtype).eps ** 0.5 / 4 * float(expected.abs().max())
    return widened.shape == expected.shape and torch.allclose(
        widened, expected, rtol=0, atol=tolerance
    )


@dataclass(frozen=True, slots=True)
class _Widened:
    """Variants that run in one batch, a row for each."""

    stack: Stack
    sites: Sequence[SiteRecord]
    variants: Sequence[Variant]
    later: Later = field(default_factory=Later)

    def vary(self, i: int, read: Tensor, written: Tensor) -> Tensor:
        """What stands where SAE `i` writes, one row for each variant."""
        stack, sites, n = self.stack, self.sites, len(self.variants)
        # A transcoder may read below the site where the batch was widened, and write above it.
        read, written = (x.expand(n, *x.shape[1:]) for x in (read, written))
        changes = sites[i].sae_out.new_zeros(n, *sites[i].sae_out.shape)
        for row, variant in enumerate(self.variants):
            if i in variant:
                own, upstream = slice(row, row + 1), any(j < i for j in variant)
                seen = (
                    site_record(stack.model, stack.saes[i], read[own], written[own])
                    if upstream
                    else sites[i]
                )
                changes[row] = self.later.here(variant[i](seen), i, row)
        return add_at_site(written, changes)
