"""The sources of a graph: every active feature, the error at every site and position, and the
tokens; and how a gradient becomes a row over all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.graphs.replacement import EMBED, Clean

_BLOCK = 32
"""Positions whose decoder rows are gathered at a time."""


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
        at each site, as `Tape.pull` gives them."""
        clean, (at_embed, *at_sites) = self.clean, gradients
        n = next(len(g) for g in gradients if g is not None)
        out = clean.errors[0].new_zeros(n, self.n)
        for i in range(len(clean.members)):
            into = out[:, self.starts[i] : self.starts[i + 1]]
            for site, to in clean.writes[i].items():
                if (gradient := at_sites[site]) is not None and into.shape[1]:
                    into += self._features(i, to, gradient.to(out))
        first = len(clean.acts)
        for site, gradient in enumerate(at_sites):
            if gradient is not None:
                start = self.starts[first + site]
                errors = torch.einsum("pd,npd->np", clean.errors[site], gradient.to(out))
                out[:, start : start + clean.n_pos] = errors
        if at_embed is not None:
            tokens = clean.there[EMBED].reshape(clean.n_pos, -1).to(out)
            out[:, self.tokens_at :] = torch.einsum("pd,npd->np", tokens, at_embed.to(out))
        return out

    def _features(
        self, i: int, to: int, gradient: Float[Tensor, "n n_pos d"]
    ) -> Float[Tensor, "n nnz"]:
        """`f W_dec . gradient` of member `i`'s entries, in their order."""
        acts, member = self.clean.acts[i], self.clean.members[i]
        parts: list[Tensor] = []
        for start in range(0, acts.n_pos, _BLOCK):
            offsets = acts.offsets[start : start + _BLOCK + 1]
            first, last, counts = int(offsets[0]), int(offsets[-1]), offsets.diff()
            if first == last:
                continue
            rows = member.write_rows(acts.features[first:last], to)
            # [n_pos, most, d]: positions side by side, padded to the one with most features, so
            # that one product serves all rows of the graph.
            where = counts.device
            row = torch.repeat_interleave(torch.arange(len(counts), device=where), counts)
            slot = torch.arange(last - first, device=where) - (offsets[:-1] - first)[row]
            padded = rows.new_zeros(len(counts), int(counts.max()), rows.shape[1])
            padded[row, slot] = rows * acts.values[first:last, None]
            here = gradient[:, start : start + len(counts)].permute(1, 2, 0).to(padded)
            parts.append((padded @ here)[row, slot])
        return torch.cat(parts).T
