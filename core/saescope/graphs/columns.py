"""The sources of a graph: every active feature, the error at every site and position, and the
tokens; and how a gradient becomes a row over all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from saescope.graphs.replacement import EMBED, Clean
from saescope.ops import SparseActs

_ROW_BYTES = 256 << 20
"""Memory for the decoder rows of the features of as many positions as are looked at together."""


class NodePlace(NamedTuple):
    """What a column of a graph is."""

    kind: str
    """"feature", "error" or "token"."""
    owner: int
    """The member that a feature belongs to, the site of an error; 0 for tokens."""
    pos: int
    feature: int
    """-1 for what is no feature."""


@dataclass(frozen=True, slots=True)
class Columns:
    """All sources in a row: [features, member after member][errors, site after site][tokens]."""

    clean: Clean
    starts: list[int]
    """Where the features of each member begin, and after them the errors of each site, then the
    tokens; the last one is the number of columns."""

    @classmethod
    def of(cls, clean: Clean) -> "Columns":
        """The sources of a clean run."""
        sizes = [len(acts.values) for acts in clean.acts]
        sizes += [clean.n_pos] * (len(clean.sites) + 1)
        return cls(clean, [0, *accumulate(sizes)])

    @property
    def n(self) -> int:
        return self.starts[-1]

    @property
    def n_features(self) -> int:
        return self.starts[len(self.clean.acts)]

    @property
    def tokens_at(self) -> int:
        """The first column of a token."""
        return self.starts[-2]

    def member_of(self, columns: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The member of each of these columns, all features."""
        bounds = torch.tensor(self.starts[1 : len(self.clean.acts) + 1], device=columns.device)
        return torch.searchsorted(bounds, columns, right=True)

    def positions_of(self, columns: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The position of each of these columns, all features."""
        return torch.cat([acts.positions for acts in self.clean.acts]).to(columns)[columns]

    def place(self, column: int) -> NodePlace:
        """What a column is."""
        part = next(i for i, start in enumerate(self.starts[1:]) if column < start)
        at, n = column - self.starts[part], len(self.clean.acts)
        if part < n:
            acts = self.clean.acts[part]
            return NodePlace("feature", part, int(acts.positions[at]), int(acts.features[at]))
        is_error = part < n + len(self.clean.sites)
        return NodePlace("error" if is_error else "token", part - n if is_error else 0, at, -1)

    def contract(
        self, gradients: Sequence[Float[Tensor, "n n_pos d"] | None]
    ) -> Float[Tensor, "n n_columns"]:
        """`(what the source writes) . gradient` for every source; gradients at the embedding and
        at each site, as `Tape.pull` gives them. They may end before the prompt does: later sources
        supply nothing."""
        clean, (at_embed, *at_sites) = self.clean, gradients
        n, n_pos = next(g.shape[:2] for g in gradients if g is not None)
        out = clean.errors[0].new_zeros(n, self.n)
        for i in range(len(clean.members)):
            into = out[:, self.starts[i] : self.starts[i + 1]]
            for site, to in clean.writes[i].items():
                if (gradient := at_sites[site]) is not None and into.shape[1]:
                    found = self._features(i, to, gradient.to(out))
                    into[:, : found.shape[1]] += found
        first = len(clean.acts)
        for site, gradient in enumerate(at_sites):
            if gradient is not None:
                start = self.starts[first + site]
                errors = clean.errors[site][:n_pos]
                found = torch.einsum("pd,npd->np", errors, gradient.to(out))
                out[:, start : start + n_pos] = found
        if at_embed is not None:
            tokens = clean.there[EMBED].reshape(clean.n_pos, -1)[:n_pos].to(out)
            start = self.tokens_at
            out[:, start : start + n_pos] = torch.einsum("pd,npd->np", tokens, at_embed.to(out))
        return out

    def _features(
        self, i: int, to: int, gradient: Float[Tensor, "n n_pos d"]
    ) -> Float[Tensor, "n nnz"]:
        """`f W_dec . gradient` of member `i`'s entries, in their order, up to the last position of
        the gradient."""
        n_pos = gradient.shape[1]
        acts = self.clean.acts[i].between(0, n_pos)
        most = max(1, _ROW_BYTES // (4 * gradient.shape[2]))
        # As many whole positions at a time as have `most` entries.
        step = max(1, most // max(1, int(acts.l0.max())))
        parts = [
            self._dots(i, to, acts.between(start, start + step), gradient[:, start : start + step])
            for start in range(0, n_pos, step)
        ]
        return torch.cat(parts, dim=1) * acts.values.to(gradient)

    def _dots(
        self, i: int, to: int, acts: SparseActs, gradient: Float[Tensor, "n n_pos d"]
    ) -> Float[Tensor, "n nnz"]:
        """`W_dec . gradient` of every entry: the derivative of what they write together by each of
        them, so that no decoder row is copied for each."""
        features, which = acts.features.unique(return_inverse=True)
        rows = self.clean.members[i].write_rows(features, to).to(gradient)
        with torch.enable_grad():
            scales = rows.new_ones(len(which)).requires_grad_()
            written = F.embedding_bag(
                which,
                rows,
                acts.offsets,
                mode="sum",
                per_sample_weights=scales,
                include_last_offset=True,
            )
        found = [torch.autograd.grad(written, scales, g, retain_graph=True)[0] for g in gradient]
        return torch.stack(found)
