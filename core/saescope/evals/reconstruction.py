"""First pass: what the SAE makes of each position, summed up in bounded memory. The model runs no
further than the site."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.evals.sums import GroupedSums
from saescope.evals.text import EvalText
from saescope.finite import finite_together
from saescope.models import LanguageModel
from saescope.ops import SparseActs
from saescope.precision import wide_device
from saescope.progress import Advance
from saescope.saes import SAE
from saescope.splice import SiteRecord, read_site

BATCH_TOKENS = 4096
TINY_NORM = 1e-4


@dataclass(slots=True)
class Moments:
    """Sums of vectors and of their outer products, about `Reconstruction.shift`; they stay where
    the vectors are."""

    count: Int[Tensor, ""]
    first: Float[Tensor, " d_out"]
    second: Float[Tensor, "d_out d_out"]

    @classmethod
    def empty(cls, d_out: int, device: torch.device) -> "Moments":
        count = torch.zeros((), dtype=torch.long, device=device)
        first = torch.zeros(d_out, dtype=torch.float64, device=wide_device(device))
        return cls(count, first, first.new_zeros(d_out, d_out))

    def add(self, vectors: Float[Tensor, "n d_out"], where: Bool[Tensor, " n"]) -> None:
        """Add those vectors `where` it says."""
        chosen = torch.where(where[:, None], vectors, 0.0)
        self.count += where.sum()
        self.first += chosen.sum(0).to(self.first)
        self.second += (chosen.T @ chosen).to(self.second)

    @property
    def n(self) -> int:
        return int(self.count)

    def cpu(self) -> "Moments":
        return Moments(self.count.cpu(), self.first.cpu(), self.second.cpu())


@dataclass(slots=True)
class Reconstruction:
    """Sums by group of documents and by range of positions. Target vectors are summed about
    `shift`, which keeps variances exact."""

    by_group: GroupedSums
    by_position: GroupedSums
    edges: list[int]
    """The first position of each range."""
    context_size: int
    n_fired: Int[Tensor, " d_sae"]
    sinks: Bool[Tensor, "n_contexts context_size"]
    """Positions that were left out because their norm at the site is out of proportion."""
    shift: Float[Tensor, " d_out"]
    moments: tuple[Moments, Moments] | None
    """Moments of the target in each half of the documents; only for PCA."""

    @property
    def n_tokens(self) -> int:
        return int(self.by_group.total("n"))

    @property
    def mean(self) -> Float[Tensor, " d_out"]:
        """The mean of the target activations, [d_out]."""
        return self.shift + self.by_group.total("target") / self.n_tokens


def reconstruct(
    model: LanguageModel,
    sae: SAE,
    text: EvalText,
    *,
    covariance: bool,
    done: Advance = lambda n_tokens: None,
) -> Reconstruction:
    """Encode and reconstruct every counted position."""
    fit: Reconstruction | None = None
    for contexts in batches(text):
        with finite_together():
            site = read_site(model, sae, text.ids[contexts])
            if fit is None:
                fit = _empty(sae, text, site, covariance)
            if not text.counts_sinks and site.sinks is not None:
                fit.sinks[contexts.to(fit.sinks.device)] = site.sinks.reshape(len(contexts), -1)
            _add(fit, site, text, contexts)
        done(text.ids[contexts].numel())
    assert fit is not None, "a text has contexts"
    return fit


def batches(text: EvalText) -> Iterator[Int[Tensor, " n"]]:
    """Numbers of the contexts that are read together."""
    return iter(torch.arange(len(text)).split(max(1, BATCH_TOKENS // text.ids.shape[1])))


def position_edges(context_size: int) -> list[int]:
    """0, 1, 2, 3, 4, 6, 8, 12, 16, 24 ... below `context_size`: two ranges an octave."""
    steps = sorted({0, *(2**i for i in range(32)), *(3 * 2**i for i in range(32))})
    return [edge for edge in steps if edge < context_size]


def _empty(sae: SAE, text: EvalText, site: SiteRecord, covariance: bool) -> Reconstruction:
    edges = position_edges(text.ids.shape[1])
    counts = text.mask[next(batches(text))].flatten().to(site.target.device)
    if not text.counts_sinks and site.sinks is not None:
        counts = counts & ~site.sinks
    first = site.target[counts] if bool(counts.any()) else site.target
    d_out = sae.cfg.d_out
    halves = Moments.empty(d_out, first.device), Moments.empty(d_out, first.device)
    return Reconstruction(
        by_group=GroupedSums(text.n_groups),
        by_position=GroupedSums(len(edges)),
        edges=edges,
        context_size=text.ids.shape[1],
        n_fired=torch.zeros(sae.cfg.d_sae, dtype=torch.long, device=first.device),
        sinks=torch.zeros_like(text.mask, device=first.device),
        shift=first.float().mean(0).cpu().double(),
        moments=halves if covariance else None,
    )


def _add(
    fit: Reconstruction, site: SiteRecord, text: EvalText, contexts: Int[Tensor, " n"]
) -> None:
    here, n_pos = site.target.device, text.ids.shape[1]
    # What does not count is added as zero: choosing the rest would make the host wait for its size.
    keep = text.mask[contexts].to(here).flatten()
    keep &= ~fit.sinks[contexts.to(here)].flatten()
    groups = text.groups(contexts).repeat_interleave(n_pos).to(here)
    folds = text.folds(contexts).repeat_interleave(n_pos).to(here)
    edges = torch.tensor(fit.edges)
    ranges = torch.bucketize(torch.arange(n_pos), edges, right=True).sub(1).repeat(len(contexts))
    target, out = site.target.float(), site.sae_out.float()
    centred = target - fit.shift.to(target)
    for name, values in _by_position(centred, target, out).items():
        fit.by_group.add(name, groups, values, where=keep)
        if name in ("n", "sse", "target", "target2"):
            fit.by_position.add(name, ranges, values, where=keep)
    fit.by_group.add("l0", groups, site.acts.l0, where=keep)
    fit.by_group.add("l1", groups, _l1(site.acts), where=keep)
    fit.n_fired.index_add_(0, site.acts.features.long(), keep[site.acts.positions].long())
    for fold, moments in enumerate(fit.moments or ()):
        moments.add(centred, keep & (folds == fold))


def _by_position(
    centred: Float[Tensor, "n d"], target: Float[Tensor, "n d"], out: Float[Tensor, "n d"]
) -> dict[str, Tensor]:
    norm_in, norm_out = target.norm(dim=-1), out.norm(dim=-1)
    return {
        "n": torch.ones_like(norm_in),
        "sse": (target - out).square().sum(-1),
        "target": centred,
        "target2": centred.square().sum(-1),
        "cosine": torch.cosine_similarity(target, out, dim=-1),
        "norm_in": norm_in,
        "norm_out": norm_out,
        "norm_ratio": norm_out / torch.where(norm_in < TINY_NORM, 1.0, norm_in),
        "out2": norm_out.square(),
        "target_out": (target * out).sum(-1),
    }


def _l1(acts: SparseActs) -> Float[Tensor, " n_pos"]:
    return acts.values.new_zeros(acts.n_pos, dtype=torch.float32).index_add_(
        0, acts.positions, acts.values.abs().float()
    )
