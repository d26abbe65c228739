"""Second pass: how the model predicts when something else stands at the site."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.evals.sums import Sums, block_of
from saescope.evals.text import EvalText
from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.splice import SiteRecord, add_at_site, site_record
from saescope.stack import as_stack
from saescope.variants import Variants, forward_variants

MAX_LOGITS = 2**26
"""Logits held at a time (256 MB as float32)."""

StandIn = Callable[[SiteRecord], Tensor]
"""What stands there instead of the target, `[n_pos, d_out]`."""

CLEAN, WITH_SAE, MEAN, ZERO, ZERO_EVERYWHERE = (
    "clean",
    "with_sae",
    "mean_ablation",
    "zero_ablation",
    "zero_everywhere",
)


def compare(
    model: LanguageModel,
    sae: SAE,
    text: EvalText,
    stand_ins: Mapping[str, StandIn],
    sums: Sums,
    done: Callable[[int], None] = lambda n_tokens: None,
) -> None:
    """Add to `sums`, by block of contexts: `n_ce` and `ce.<name>`, `n_kl` and `kl.<name>`, and `sse.<name>` of each stand-in.

    <name> is a stand-in ("with_sae" and "mean_ablation" are among them), "clean", "zero_ablation" (the counted positions zeroed) or
    "zero_everywhere" (all of them, as sae-lens does).
    """
    names = [CLEAN, *stand_ins, ZERO, ZERO_EVERYWHERE]
    for context in range(len(text)):
        block = block_of(torch.tensor([context]), len(text))
        clean_log_p = None
        for group in _groups(names, max(1, MAX_LOGITS // (text.ids.shape[1] * model.d_vocab))):
            logits = _logits(model, sae, text, context, group, stand_ins, sums)
            for row, name in enumerate(group):
                log_p = logits[row].float().log_softmax(-1)
                clean_log_p = log_p if clean_log_p is None else clean_log_p
                _add(sums, name, block, text, context, log_p, clean_log_p)
        done(text.ids.shape[1])


def _groups(names: list[str], size: int) -> Iterator[list[str]]:
    rest = iter(names)
    while group := list(islice(rest, size)):
        yield group


def _logits(
    model: LanguageModel,
    sae: SAE,
    text: EvalText,
    context: int,
    names: list[str],
    stand_ins: Mapping[str, StandIn],
    sums: Sums,
) -> Float[Tensor, "n_names n_pos d_vocab"]:
    mask = text.mask[context].to(model.device)
    block = block_of(torch.tensor([context]), len(text)).expand(int(mask.sum()))

    def change(name: str, site: SiteRecord) -> Float[Tensor, "n_pos d_out"]:
        if name not in stand_ins:
            return _ablation(name, site.written, mask).float()
        target = site.target.float()
        change = stand_ins[name](site).float() - target
        errors = change[mask].square().sum(-1)
        sums.add(f"sse.{name}", block, errors)
        if name == WITH_SAE:
            around_mean = (stand_ins[MEAN](site) - target)[mask].square().sum(-1)
            sums.add("legacy", block, 1 - errors / around_mean)
        return change * mask[:, None]

    def vary(i: int, read: Tensor, written: Tensor) -> Tensor:
        site = site_record(model, sae, read[:1], written[:1])
        changes = torch.stack([change(name, site) for name in names])
        return add_at_site(written.expand(len(changes), *written.shape[1:]), changes)

    ids = model.batch(text.ids[context])
    return forward_variants(as_stack(model, sae), ids, Variants(len(names), vary))


def _ablation(
    name: str, written: Float[Tensor, "n_pos d_out"], mask: Tensor
) -> Float[Tensor, "n_pos d_out"]:
    if name == CLEAN:
        return torch.zeros_like(written)
    return -written if name == ZERO_EVERYWHERE else -written * mask[:, None]


def _add(
    sums: Sums,
    name: str,
    block: Int[Tensor, "1"],
    text: EvalText,
    context: int,
    log_p: Float[Tensor, "n_pos d_vocab"],
    clean_log_p: Float[Tensor, "n_pos d_vocab"],
) -> None:
    mask = text.mask[context].to(log_p.device)
    predicts = (mask & text.has_next[context].to(log_p.device)).nonzero()[:, 0]
    losses = -log_p[predicts, text.ids[context].to(log_p.device)[predicts + 1]]
    sums.add(f"ce.{name}", block.expand(len(losses)), losses)
    if name == CLEAN:
        sums.add("n_ce", block.expand(len(losses)), torch.ones_like(losses))
        sums.add("n_kl", block, mask.sum()[None])
        return
    kl = (clean_log_p[mask].exp() * (clean_log_p[mask] - log_p[mask])).sum(-1)
    sums.add(f"kl.{name}", block.expand(len(kl)), kl)
