"""Which rows of a preallocated table are filled, and random draws among them: constant memory,
nothing moves in the table."""

import torch
from jaxtyping import Int
from torch import Tensor


class Slots:
    """A permutation of the row numbers whose first `n_filled` entries are the filled rows."""

    def __init__(self, n_rows: int, seed: int) -> None:
        self.order = torch.arange(n_rows)
        self.n_filled = 0
        self.rng = torch.Generator().manual_seed(seed)

    @property
    def n_free(self) -> int:
        return len(self.order) - self.n_filled

    def claim(self, n: int) -> Int[Tensor, " n"]:
        """Take `n` free rows, which count as filled from now on."""
        assert n <= self.n_free, f"{n} rows claimed, {self.n_free} free"
        self.n_filled += n
        return self.order[self.n_filled - n : self.n_filled].clone()

    def draw(self, n: int) -> Int[Tensor, " n"]:
        """Draw `n` filled rows at random, which count as free from now on."""
        assert n <= self.n_filled, f"{n} rows drawn, {self.n_filled} filled"
        chosen = torch.randperm(self.n_filled, generator=self.rng)[:n]
        rows, left = self.order[chosen], self.n_filled - n
        # The last n entries that stay move into the holes below them.
        stays = torch.ones(n, dtype=torch.bool)
        stays[chosen[chosen >= left] - left] = False
        self.order[chosen[chosen < left]] = self.order[left : self.n_filled][stays]
        self.order[left : self.n_filled] = rows
        self.n_filled = left
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "order": self.order.clone(),
            "n_filled": torch.tensor(self.n_filled),
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.order = state["order"].clone()
        self.n_filled = int(state["n_filled"])
        self.rng.set_state(state["rng"])
