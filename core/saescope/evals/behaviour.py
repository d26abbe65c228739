"""Second pass: how the model predicts when something else stands at the site."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.evals.sums import GroupedSums
from saescope.evals.text import EvalText
from saescope.finite import finite_together
from saescope.models import LanguageModel
from saescope.progress import Advance
from saescope.saes import SAE
from saescope.splice import SiteRecord, add_at_site, site_record
from saescope.stack import as_stack
from saescope.variants import Variants, forward_variants

MAX_LOGITS = 2**26
"""Logits held at a time (256 MB as float32)."""

ROWS = 16
"""Positions whose divergences are computed at a time: what lies between stays near the caches."""

CHECKED = 16
"""Contexts after which the host waits for the device and looks whether all was finite."""

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
    second = _SecondPass.of(model, sae, text, stand_ins, sums)
    rows = max(1, MAX_LOGITS // (text.ids.shape[1] * model.d_vocab))
    for together in torch.arange(len(text)).split(CHECKED):
        with finite_together():
            for context in together.tolist():
                clean = None
                for group in _groups(names, rows):
                    logits = second.logits(context, group)
                    for name, row in zip(group, logits, strict=True):
                        log_p = row.float().log_softmax(-1)
                        clean = log_p if clean is None else clean
                        second.add(name, context, log_p, clean)
                done(text.ids.shape[1])


def _groups(names: list[str], size: int) -> Iterator[list[str]]:
    rest = iter(names)
    while group := list(islice(rest, size)):
        yield group


@dataclass(frozen=True, slots=True)
class _SecondPass:
    """One context after the other, with all that may stand at the site as rows of a batch. What is
    known of the text is on the model's device."""

    model: LanguageModel
    sae: SAE
    stand_ins: Mapping[str, StandIn]
    sums: GroupedSums
    ids: Int[Tensor, "n_contexts n_pos"]
    following: Int[Tensor, "n_contexts n_pos"]
    """The token after each."""
    mask: Bool[Tensor, "n_contexts n_pos"]
    predicts: Bool[Tensor, "n_contexts n_pos"]
    """Positions that count and have a next token."""
    groups: Int[Tensor, "n_contexts n_pos"]
    folds: list[int]

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        sae: SAE,
        text: EvalText,
        stand_ins: Mapping[str, StandIn],
        sums: GroupedSums,
    ) -> "_SecondPass":
        every, here = torch.arange(len(text)), model.device
        ids, mask = text.ids.to(here), text.mask.to(here)
        return cls(
            model,
            sae,
            stand_ins,
            sums,
            ids=ids,
            following=ids.roll(-1, dims=1),
            mask=mask,
            predicts=mask & text.has_next.to(here),
            groups=text.groups(every).to(here)[:, None].expand_as(ids),
            folds=text.folds(every).tolist(),
        )

    def logits(self, context: int, names: list[str]) -> Float[Tensor, "n_names n_pos d_vocab"]:
        """The logits of a context with each of the stand-ins; their errors at the site are added on
        the way."""
        mask, groups, fold = self.mask[context], self.groups[context], self.folds[context]

        def change(name: str, site: SiteRecord) -> Float[Tensor, "n_pos d_out"]:
            if name not in self.stand_ins:
                return _ablation(name, site.written, mask).float()
            target = site.target.float()
            change = self.stand_ins[name](site, fold).float() - target
            errors = change.square().sum(-1)
            self.sums.add(f"sse.{name}", groups, errors, where=mask)
            if name == WITH_SAE:
                around_mean = (self.stand_ins[MEAN](site, fold) - target).square().sum(-1)
                self.sums.add("legacy", groups, 1 - errors / around_mean, where=mask)
            return change * mask[:, None]

        def vary(i: int, read: Tensor, written: Tensor) -> Tensor:
            site = site_record(self.model, self.sae, read[:1], written[:1])
            changes = torch.stack([change(name, site) for name in names])
            return add_at_site(written.expand(len(changes), *written.shape[1:]), changes)

        stack = as_stack(self.model, self.sae)
        return forward_variants(stack, self.ids[context][None], Variants(len(names), vary))

    def add(
        self,
        name: str,
        context: int,
        log_p: Float[Tensor, "n_pos d_vocab"],
        clean: Float[Tensor, "n_pos d_vocab"],
    ) -> None:
        """Losses and divergences of one stand-in; a position predicts the next token if there is
        one."""
        mask, groups, predicts = self.mask[context], self.groups[context], self.predicts[context]
        losses = -log_p.gather(-1, self.following[context][:, None])[:, 0]
        self.sums.add(f"ce.{name}", groups, losses, where=predicts)
        if name == CLEAN:
            self.sums.add("n_ce", groups, torch.ones_like(losses), where=predicts)
            self.sums.add("n_kl", groups, torch.ones_like(losses), where=mask)
            return
        kl = torch.cat(
            [
                (p.exp() * (p - q)).sum(-1)
                for p, q in zip(clean.split(ROWS), log_p.split(ROWS), strict=True)
            ]
        )
        self.sums.add(f"kl.{name}", groups, kl, where=mask)


def _ablation(
    name: str, written: Float[Tensor, "n_pos d_out"], mask: Bool[Tensor, " n_pos"]
) -> Float[Tensor, "n_pos d_out"]:
    if name == CLEAN:
        return torch.zeros_like(written)
    return -written if name == ZERO_EVERYWHERE else -written * mask[:, None]
