"""Gradients of the local replacement model: from what a feature or a logit reads back to every
source."""

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.graphs.replacement import EMBED, FINAL, Clean, Pass
from saescope.hooks import record_activations

_FEW = 7
"""Tokens on which it is tried whether a prompt can be cut: no other axis is likely so long."""


class Tape:
    """The clean pass with its graph of gradients: from a read vector back to every source."""

    def __init__(self, clean: Clean) -> None:
        self.clean, self._leaves = clean, dict[str, Tensor]()
        self._read = Pass(clean, 1, self._attach, grad=True).read
        with torch.enable_grad():
            self._x = [
                clean.x(i, self._read[member.read_hook])[None]
                for i, member in enumerate(clean.members)
            ]
        self.hook_names = [EMBED, *(site.hook_name for site in clean.sites)]

    def _attach(self, hook_name: str, there: Tensor) -> Tensor:
        self._leaves[hook_name] = there.detach().clone().requires_grad_()
        return self._leaves[hook_name].clone()  # some families add in place to what they are given

    def pull(
        self,
        reader: int | None,
        rows: Float[Tensor, "n d_read"],
        positions: Int[Tensor, " n"],
    ) -> list[Float[Tensor, "n n_pos d"] | None]:
        """The gradient of each `rows[b] . x[positions[b]]` at the embedding and at every site, in
        this order; `x` is what member `reader` takes, or without one the input of the
        unembedding. None where nothing written can reach it."""
        at = self._read[FINAL] if reader is None else self._x[reader]
        seeds = at.new_zeros(len(rows), *at.shape)
        seeds[torch.arange(len(rows)), 0, positions] = rows.to(at)
        leaves = [self._leaves[name] for name in self.hook_names]
        # One row without vmap, which copies what is held for each row.
        several = len(rows) > 1
        grads: Any = torch.autograd.grad(
            at,
            leaves,
            seeds if several else seeds[0],
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=several,
        )
        return [
            None if g is None else (g[:, 0] if several else g).flatten(2).detach() for g in grads
        ]


class Tapes:
    """Tapes over a prompt and over its beginnings, one at a time in memory. What comes after a
    feature supplies nothing to it: the row over a beginning that reaches it is the same, and
    cheaper."""

    def __init__(self, clean: Clean) -> None:
        self.clean = clean
        self._tape: Tape | None = None

    def reaching(self, n_pos: int) -> Tape:
        """The tape over the first `n_pos` positions, or over all."""
        whole = n_pos == self.clean.n_pos or not self._divides
        n_pos = self.clean.n_pos if whole else n_pos
        if self._tape is None or self._tape.clean.n_pos != n_pos:
            self._tape = None  # makes room for the next
            self._tape = Tape(self.clean if whole else self._up_to(n_pos))
        return self._tape

    @cached_property
    def _few(self) -> dict[str, Tensor]:
        """What is held and injected, in a run of a few tokens: which axes are positions is seen in
        the shapes."""
        clean = self.clean
        names = [*clean.there, *clean.constants]
        return record_activations(clean.model, clean.ids[:, :_FEW], names)

    @cached_property
    def _divides(self) -> bool:
        """Whether a run of the beginning alone is the beginning of the run: not where positions
        share an axis with something, or where the model looks at its length."""
        few, whole = self._few, {**self.clean.there, **self.clean.constants}
        size = torch.finfo(self.clean.model.dtype).eps ** 0.5
        return all(
            (first := self._first(name, whole[name], _FEW)).shape == few[name].shape
            and float((first - few[name]).norm()) <= size * float(few[name].norm())
            for name in few
        )

    def _first(self, name: str, whole: Tensor, n_pos: int) -> Tensor:
        """The first positions of what a hook had."""
        for axis, (few, n) in enumerate(zip(self._few[name].shape, whole.shape, strict=True)):
            if few != n:
                whole = whole.narrow(axis, 0, min(n, n_pos))
        return whole

    def _up_to(self, n_pos: int) -> Clean:
        """The clean run of the first positions."""
        clean = self.clean
        return replace(
            clean,
            ids=clean.ids[:, :n_pos],
            constants={name: self._first(name, x, n_pos) for name, x in clean.constants.items()},
            there={name: self._first(name, x, n_pos) for name, x in clean.there.items()},
            acts=[acts.between(0, n_pos) for acts in clean.acts],
            errors=[error[:n_pos] for error in clean.errors],
        )
