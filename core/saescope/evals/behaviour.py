"""Second pass: how the model predicts when something else stands at the site."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.evals.sums import GroupedSums
from saescope.evals.text import EvalText
from saescope.models import LanguageModel
from saescope.progress import Advance
from saescope.saes import SAE
from saescope.splice import SiteRecord, add_at_site, site_record
from saescope.stack import as_stack
from saescope.variants import Variants, forward_variants

MAX_LOGITS = 2**26
"""Logits held at a time (256 MB as float32)."""

StandIn = Callable[[SiteRecord, int], Tensor]
"""What stands there instead of the target, `[n_pos, d_out]`, in a fold of the text."""

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
    sums: GroupedSums,
    done: Advance = lambda n_tokens: None,
) -> None:
    """Add to `sums`, by group of documents: `n_ce` and `ce.<name>`, `n_kl` and `kl.<name>`, and
    `sse.<name>` of each stand-in.

    <name> is a stand-in ("with_sae" and "mean_ablation" are among them), "clean", "zero_ablation"
    (the counted positions zeroed) or "zero_everywhere" (all of them, as sae-lens does).
    """
    names = [CLEAN, *stand_ins, ZERO, ZERO_EVERYWHERE]
    second = _SecondPass(model, sae, text, stand_ins, sums)
    for context in range(len(text)):
        clean_log_p = None
        for group in _groups(names, max(1, MAX_LOGITS // (text.ids.shape[1] * model.d_vocab))):
            logits = second.logits(context, group)
            for row, name in enumerate(group):
                log_p = logits[row].float().log_softmax(-1)
                clean_log_p = log_p if clean_log_p is None else clean_log_p
                second.add(name, context, log_p, clean_log_p)
        done(text.ids.shape[1])


def _groups(names: list[str], size: int) -> Iterator[list[str]]:
    rest = iter(names)
    while group := list(islice(rest, size)):
        yield group


@dataclass(frozen=True, slots=True)
class _SecondPass:
    """One context after the other, with all that may stand at the site as rows of a batch."""

    model: LanguageModel
    sae: SAE
    text: EvalText
    stand_ins: Mapping[str, StandIn]
    sums: GroupedSums

    def logits(self, context: int, names: list[str]) -> Float[Tensor, "n_names n_pos d_vocab"]:
        """The logits of a context with each of the stand-ins; their errors at the site are added on
        the way."""
        mask = self.text.mask[context].to(self.model.device)
        group = self._group(context, int(mask.sum()))
        fold = int(self.text.folds(torch.tensor([context])))

        def change(name: str, site: SiteRecord) -> Float[Tensor, "n_pos d_out"]:
            if name not in self.stand_ins:
                return _ablation(name, site.written, mask).float()
            target = site.target.float()
            change = self.stand_ins[name](site, fold).float() - target
            errors = change[mask].square().sum(-1)
            self.sums.add(f"sse.{name}", group, errors)
            if name == WITH_SAE:
                around_mean = (self.stand_ins[MEAN](site, fold) - target)[mask].square().sum(-1)
                self.sums.add("legacy", group, 1 - errors / around_mean)
            return change * mask[:, None]

        def vary(i: int, read: Tensor, written: Tensor) -> Tensor:
            site = site_record(self.model, self.sae, read[:1], written[:1])
            changes = torch.stack([change(name, site) for name in names])
            return add_at_site(written.expand(len(changes), *written.shape[1:]), changes)

        ids = self.model.batch(self.text.ids[context])
        stack = as_stack(self.model, self.sae)
        return forward_variants(stack, ids, Variants(len(names), vary))

    def add(
        self,
        name: str,
        context: int,
        log_p: Float[Tensor, "n_pos d_vocab"],
        clean_log_p: Float[Tensor, "n_pos d_vocab"],
    ) -> None:
        """Losses and divergences of one stand-in; a position predicts the next token if there is
        one."""
        mask = self.text.mask[context].to(log_p.device)
        predicts = (mask & self.text.has_next[context].to(log_p.device)).nonzero()[:, 0]
        losses = -log_p[predicts, self.text.ids[context].to(log_p.device)[predicts + 1]]
        group = self._group(context, len(losses))
        self.sums.add(f"ce.{name}", group, losses)
        if name == CLEAN:
            self.sums.add("n_ce", group, torch.ones_like(losses))
            self.sums.add("n_kl", self._group(context, 1), mask.sum()[None])
            return
        kl = (clean_log_p[mask].exp() * (clean_log_p[mask] - log_p[mask])).sum(-1)
        self.sums.add(f"kl.{name}", self._group(context, len(kl)), kl)

    def _group(self, context: int, n: int) -> Int[Tensor, " n"]:
        """Which group of documents a context's `n` values belong to."""
        return self.text.groups(torch.tensor([context])).expand(n)


def _ablation(
    name: str, written: Float[Tensor, "n_pos d_out"], mask: Tensor
) -> Float[Tensor, "n_pos d_out"]:
    if name == CLEAN:
        return torch.zeros_like(written)
    return -written if name == ZERO_EVERYWHERE else -written * mask[:, None]
