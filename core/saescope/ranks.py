"""The processes that do one piece of work together: how many there are, which one this is, and what
they tell each other. Alone, every answer is there at once and nothing is sent.

`torchrun` starts them, also inside a SLURM job; `joined` makes them a group. All of them call the
same methods in the same order: whoever leaves one out keeps the others waiting.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from saescope.errors import ArgumentError

T = TypeVar("T")
RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""The variable in which torchrun says how often it has started its processes anew."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among those that work together."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        """Raises ArgumentError where there is no such place: a share of nobody would stay
        missing."""
        if not 0 <= self.rank < self.size:
            raise ArgumentError(
                f"There is no rank {self.rank} among {self.size}.",
                field="rank",
                got=self.rank,
                allowed=f"0..{self.size - 1}",
                hint="Ranks are counted from 0: an array of SLURM jobs as well (--array=0-3).",
            )

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def writes(self) -> bool:
        """Whether this process writes what all have in common: exactly one does."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This rank's part of `n` things in a row, cut as `torch.chunk` cuts: all parts are of one
        size but the last ones."""
        each = self.largest_share(n)
        return slice(min(n, self.rank * each), min(n, (self.rank + 1) * each))

    def largest_share(self, n: int) -> int:
        """How many of `n` things the first rank has: no other one has more."""
        return -(-n // self.size)

    def total(self, x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """The sum over all ranks, in place of `x`."""
        if not self.alone:
            torch.distributed.all_reduce(x)
        return x

    def smallest(self, x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """The smallest over all ranks, in place of `x`."""
        if not self.alone:
            torch.distributed.all_reduce(x, torch.distributed.ReduceOp.MIN)
        return x

    def least(self, value: float) -> float:
        """The smallest of all ranks' values."""
        return min(self.each(value))

    def most(self, value: float) -> float:
        """The largest of all ranks' values."""
        return max(self.each(value))

    def any(self, *flags: bool) -> list[bool]:
        """Whether any rank has a flag set, for each flag."""
        if self.alone:
            return [*flags]
        said = torch.tensor(flags, dtype=torch.int32)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
        return [bool(flag) for flag in said.tolist()]

    def gathered(self, x: Shaped[Tensor, "n ..."], *, lengths: Sequence[int] = ()) -> list[Tensor]:
        """Every rank's tensor, in the order of the ranks; they may differ in length, which costs
        a message where `lengths` does not say how."""
        if self.alone:
            return [x]
        lengths = lengths or self.each(len(x))
        # Backends send tensors of one shape, and not all of them know every dtype: bytes they know.
        padded = x.new_zeros(max(lengths), *x.shape[1:])
        padded[: len(x)] = x
        sent = padded.reshape(len(padded), -1).view(torch.uint8)
        received = [torch.empty_like(sent) for _ in lengths]
        torch.distributed.all_gather(received, sent)
        return [
            part.view(x.dtype).view(padded.shape)[:length]
            for part, length in zip(received, lengths, strict=True)
        ]

    def each(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks; small ones, since they are pickled."""
        if self.alone:
            return [value]
        values = cast(list[Any], [None] * self.size)
        torch.distributed.all_gather_object(values, value)
        return values

    def together(self, x: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
        """Every rank's tensor in one, in the order of the ranks."""
        return x if self.alone else torch.cat(self.gathered(x))

    def first(self, value: T) -> T:
        """The value that the first rank has."""
        return self.each(value if self.writes else cast(T, None))[0]

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.each(None)


ALONE = Ranks()
_here = ALONE


def here() -> Ranks:
    """This process's place: `ALONE` outside of `joined`."""
    return _here


@contextmanager
def joined() -> Generator[Ranks]:
    """The group of processes that torchrun started together with this one; `ALONE` where it did
    not."""
    global _here
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Here, since a torch that was built without them can do everything else.
    from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://"))
    # torchrun keeps one store over its restarts: what a killed process left in it would be called.
    attempt = PrefixStore(os.environ.get(RESTARTS, "0"), store)
    backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
    torch.distributed.init_process_group(backend, store=attempt, rank=rank, world_size=size)
    _here = Ranks(rank, size)
    try:
        yield _here
    finally:
        _here = ALONE
        torch.distributed.destroy_process_group()
