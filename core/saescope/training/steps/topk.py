"""Steps of the TopK family (TopK, BatchTopK, Matryoshka BatchTopK): one dense product, everything
else over the kept entries.

With `rescale_acts_by_decoder_norm` the norm multiplies what is ranked and divides what is decoded,
so its gradient cancels and the activation that meets the decoder is the plain pre-activation.

Matryoshka: the entries of prefix level l at position p become row `l * n_pos + p`. Decoding all
rows at once and summing over the levels gives every prefix; an entry's gradient comes from its own
level and all longer prefixes.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.ops import sizes_are_free, top_of_rows
from saescope.training.losses import topk_loss
from saescope.training.objective import Batch, Coefficients, Dead, Objective, Params
from saescope.training.split import WHOLE, Split
from saescope.training.steps.base import Step, StepResult, squared_errors
from saescope.training.steps.dead import DeadBlock, DeadGrads, auxk, dead_block
from saescope.training.steps.encoder import (
    Chunk,
    SparseEntries,
    above,
    among_largest,
    chunks,
    join,
    largest,
    level_edges,
    only_largest,
    only_top_of_rows,
)
from saescope.training.steps.support import Grads, SparseSupport, bag, edges_of, sampled_dots


class RankingEncoder(NamedTuple):
    """The encoder as it ranks: decoder norms multiplied in where the objective says so."""

    x: Float[Tensor, "n d_in"]
    norm: Float[Tensor, " d_sae"]
    weights: Float[Tensor, "d_sae d_in"]
    bias: Float[Tensor, " d_sae"]


class TopKStep(Step):
    """The step of a TopK SAE: k features of each position."""

    loss = staticmethod(topk_loss)

    def __init__(self, objective: Objective, params: Params, split: Split = WHOLE) -> None:
        super().__init__(objective, params, split)
        self._scaled: Tensor | None = None
        self.d_sae = len(params["encoder"])
        first = split.features.share(objective.d_sae).start
        self.widths = tuple(
            min(max(width - first, 0), self.d_sae) for width in objective.matryoshka_widths
        )
        """How many of the features that are here each prefix has."""

    def __call__(
        self, batch: Batch, *, coefficients: Coefficients, dead: Dead | None = None
    ) -> StepResult:
        ranking = self._ranking(batch.x)
        block = dead_block(self.objective, dead, batch.x, self.split.features)
        kept = self._select(ranking, block)
        self._after_selection(kept)
        return self._backward(batch, ranking, kept, block, coefficients)

    def _ranking(self, x: Tensor) -> RankingEncoder:
        encoder, bias, decoder = (
            self.params["encoder"],
            self.params["b_enc"],
            self.params["decoder"],
        )
        if not self.objective.rescale_acts_by_decoder_norm:
            return RankingEncoder(self.centred(x), torch.ones_like(bias), encoder, bias)
        norm = decoder.norm(dim=1)
        self._scaled = torch.mul(encoder, norm[:, None], out=self._scaled)
        return RankingEncoder(self.centred(x), norm, self._scaled, bias * norm)

    def _select(self, ranking: RankingEncoder, block: DeadBlock | None) -> SparseSupport:
        """The kept entries with their ranked activations, 0 for one that is not positive."""
        k = int(self.objective.k)
        own = [
            top_of_rows(chunk.values, min(k, self.d_sae)) for chunk in self._encoded(ranking, block)
        ]
        values, features = (torch.cat(part) for part in zip(*own, strict=True))
        if not self.split.features.alone:
            values = only_top_of_rows(values, k, self.split.features)
        counts = features.new_full((len(values),), values.shape[1])
        entries = SparseEntries(values.relu().flatten(), features.int().flatten(), counts)
        if not self.split.features.alone and sizes_are_free(values.device):
            here = values > 0
            entries = SparseEntries(values[here], features[here].int(), here.sum(1))
        return join([entries], self.d_sae)

    def _encoded(self, ranking: RankingEncoder, block: DeadBlock | None) -> Iterator[Chunk]:
        for chunk in chunks(ranking.x, ranking.weights, ranking.bias):
            if block is not None:
                block.keep(chunk)
            yield chunk

    def _after_selection(self, kept: SparseSupport) -> None:
        """BatchTopK follows its threshold here."""

    def _backward(
        self,
        batch: Batch,
        ranking: RankingEncoder,
        kept: SparseSupport,
        block: DeadBlock | None,
        coefficients: Coefficients,
    ) -> StepResult:
        n_pos, decoder = len(batch.x), self.params["decoder"]
        # [nnz]: ranked with the norm, decoded without it.
        acts = kept.values / kept.take(ranking.norm)
        levels = Levels(kept, self.widths)
        # [n_levels, n, d_out]; sae_out - y of every prefix once b_dec and the skip are in.
        errors = levels.decode(acts, decoder)
        for error in errors:
            self.error(error, batch)
        squared = [squared_errors(error) for error in errors]
        losses = {"mse_loss": squared[-1].mean()}
        revived = self._auxk(ranking, block, errors, coefficients) if block is not None else []
        widths = self.objective.matryoshka_widths[:-1]
        losses |= {
            f"inner_mse_loss_{width}": part.mean()
            for width, part in zip(widths, squared, strict=False)
        }
        # A feature of level l is in prefixes l, l + 1, ...: its gradient sums theirs.
        to_output = _suffix_sums(errors.mul_(2 / n_pos))
        # [nnz] in the order of `kept`. Selection is constant, so d f / d pre = 1 at what is active.
        active = kept.values > 0
        to_pre = levels.dots(to_output, decoder).mul_(active)
        grads = Grads(
            encoder=kept.outer(to_pre, ranking.x),
            decoder=levels.outer(acts, to_output),
            b_enc=kept.by_feature(to_pre),
        )
        for _, features, part in revived:
            part.into(grads, features)
        if self.objective.revival == "auxk":
            losses["auxiliary_reconstruction_loss"] = sum(
                (loss for loss, *_ in revived), start=decoder.new_zeros(())
            )
        self.finish(grads, to_output[0], batch, grads["b_enc"])
        return StepResult(grads, losses, kept.count(active), squared[-1])

    def _auxk(
        self,
        ranking: RankingEncoder,
        block: DeadBlock,
        errors: Float[Tensor, "n_levels n d_out"],
        coefficients: Coefficients,
    ) -> list[tuple[Tensor, Tensor, DeadGrads]]:
        per_prefix = self.objective.use_matryoshka_aux_loss
        edges = level_edges(self.widths) if per_prefix else [(0, self.d_sae)]
        revived: list[tuple[Tensor, Tensor, DeadGrads]] = []
        for (first, end), error in zip(edges, errors if per_prefix else errors[-1:], strict=True):
            own = block.between(first, end) if per_prefix else block
            if own is None:
                continue
            norm = ranking.norm[own.features][:, None]
            rows = self.params["decoder"][own.features] / norm
            loss, sums = auxk(
                self.objective, own, rows, ranking.x, error, coefficient=coefficients.revival
            )
            revived.append(
                (
                    loss,
                    own.features,
                    DeadGrads(
                        sums.encoder * norm, sums.decoder / norm, sums.pre_sum * norm.flatten()
                    ),
                )
            )
        return revived


def _suffix_sums(per_level: Float[Tensor, "n_levels n d"]) -> Float[Tensor, "n_levels n d"]:
    """Add to each level all later ones, in place."""
    for level in reversed(range(len(per_level) - 1)):
        per_level[level] += per_level[level + 1]
    return per_level


class Levels:
    """The kept entries as rows of (prefix level, position); one level without Matryoshka widths."""

    def __init__(self, kept: SparseSupport, widths: tuple[int, ...]) -> None:
        self.n_levels, self.n_pos, self.kept = max(1, len(widths)), len(kept.offsets) - 1, kept
        self.order: Int[Tensor, " nnz"] | None = None
        if self.n_levels == 1:
            self.features, self.offsets, self.rows = kept.features, kept.offsets, kept.positions
            return
        edges = torch.tensor(widths[:-1], device=kept.features.device, dtype=torch.int32)
        # Row of (level, position); sorting by row is what CSR of [n_levels * n_pos] needs.
        rows = torch.bucketize(kept.features, edges, right=True).int() * self.n_pos + kept.positions
        self.rows, self.order = rows.sort(stable=True)
        self.features = kept.features[self.order]
        self.offsets = edges_of(self.rows, self.n_levels * self.n_pos)

    def decode(
        self, acts: Float[Tensor, " nnz"], decoder: Float[Tensor, "d_sae d"]
    ) -> Float[Tensor, "n_levels n d"]:
        """Compute what each prefix sums to, without b_dec."""
        values = acts if self.order is None else acts[self.order]
        parts = bag(self.features, decoder, self.offsets, values).view(
            self.n_levels, self.n_pos, -1
        )
        return parts.cumsum_(0) if self.n_levels > 1 else parts

    def dots(
        self, to_output: Float[Tensor, "n_levels n d"], decoder: Float[Tensor, "d_sae d"]
    ) -> Float[Tensor, " nnz"]:
        """d loss / d act of each entry, in the order of `kept`."""
        dots = sampled_dots(self.offsets, self.features, to_output.flatten(0, 1), decoder)
        return (
            dots if self.order is None else torch.empty_like(dots).index_copy_(0, self.order, dots)
        )

    def outer(
        self, acts: Float[Tensor, " nnz"], to_output: Float[Tensor, "n_levels n d"]
    ) -> Float[Tensor, "d_sae d"]:
        """Compute the decoder's gradient."""
        if self.order is None:
            return self.kept.outer(acts, to_output[0])
        virtual = SparseSupport(acts[self.order], self.features, self.offsets, self.kept.d_sae)
        return virtual.outer(virtual.values, to_output.flatten(0, 1))


class BatchTopKStep(TopKStep):
    """The k * n_pos largest activations of the batch, with a running mean of the smallest of them
    as sae-lens keeps it."""

    threshold_lr = 0.01

    def __init__(self, objective: Objective, params: Params, split: Split = WHOLE) -> None:
        super().__init__(objective, params, split)
        self.topk_threshold: float | Tensor = 0.0
        """Exponential mean, from 0, of each batch's smallest kept activation."""
        self.n_thresholds: float | Tensor = 0.0
        self.cut = -1.0
        """The threshold at which candidates of the next batch start; a guess that never changes the
        result."""

    @property
    def threshold(self) -> float:
        """`topk_threshold` without its bias towards the 0 that it started from."""
        n = float(self.n_thresholds)
        return float(self.topk_threshold) / (1 - (1 - self.threshold_lr) ** n) if n else 0.0

    def state(self) -> dict[str, float]:
        return {
            "topk_threshold": float(self.topk_threshold),
            "n_thresholds": float(self.n_thresholds),
            "cut": self.cut,
        }

    def _select(self, ranking: RankingEncoder, block: DeadBlock | None) -> SparseSupport:
        n_pos = len(ranking.x)
        wanted = int(self.objective.k * n_pos * self.split.positions.size)
        if not sizes_are_free(ranking.x.device):
            chunked = self._encoded(ranking, block)
            found = largest(chunked, wanted, n_rows=n_pos, d_sae=self.d_sae)
            return only_largest(found, wanted, self.split.ranks)
        entries, cut = self._candidates(ranking, self.cut, block)
        while self._n_found(entries) < wanted and cut > 0:
            entries, cut = self._candidates(ranking, cut / 2 if cut > 1e-6 else 0.0, block)
        chosen = among_largest(entries.values, wanted, self.split.ranks)
        if chosen is None:
            return entries
        self.cut = 0.9 * chosen.smallest
        counts = torch.bincount(entries.positions[chosen.keep], minlength=n_pos)
        kept = SparseEntries(entries.values[chosen.keep], entries.features[chosen.keep], counts)
        return join([kept], self.d_sae)

    def _n_found(self, entries: SparseSupport) -> int:
        return int(self.split.ranks.total(torch.tensor(len(entries.values))))

    def _candidates(
        self, ranking: RankingEncoder, cut: float, block: DeadBlock | None
    ) -> tuple[SparseSupport, float]:
        parts: list[SparseEntries] = []
        for chunk in self._encoded(ranking, block):
            cut = cut if cut >= 0 else self._first_cut(chunk.values)
            parts.append(above(chunk.values, cut))
        return join(parts, self.d_sae), cut

    def _first_cut(self, values: Float[Tensor, "n d_sae"]) -> float:
        """A little under the k-per-position threshold of the first rows; the same on all ranks."""
        sample = values[:64].flatten()
        wanted = max(1, min(len(sample), int(self.objective.k * len(values[:64]))))
        threshold = self.split.ranks.smallest(sample.kthvalue(len(sample) - wanted + 1).values)
        return max(0.0, 0.8 * float(threshold))

    def _after_selection(self, kept: SparseSupport) -> None:
        # Of what is 0 only an accelerator's host does not know that it is not there.
        active = torch.where(kept.values > 0, kept.values, torch.inf)
        active = torch.cat([active, active.new_full((1,), torch.inf)])
        smallest = self.split.ranks.smallest(active.min())
        if sizes_are_free(kept.values.device):
            if not math.isfinite(smallest):
                return
            smallest, counts = float(smallest), 1
        else:
            counts = smallest.isfinite()
            smallest = torch.where(counts, smallest, self.topk_threshold)
        self.topk_threshold += self.threshold_lr * (smallest - self.topk_threshold)
        self.n_thresholds += counts
