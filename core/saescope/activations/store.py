"""ActivationStore: well-mixed batches of activations, from text or from disk, resumable to the
bit."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.activations.buffer import MixingBuffer, Rows, below, n_rows
from saescope.activations.sources import RowSource
from saescope.devices import DTYPES
from saescope.errors import ConfigError
from saescope.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreConfig:
    """How rows are mixed into batches."""

    batch_size: int = 4096
    n_tokens: int
    """The store ends after this many rows, or with its source: no more are harvested than are
    used."""
    buffer_tokens: int = 2**17
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """The dtype of the buffer; batches are float32."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.batch_size <= min(self.n_tokens, self.buffer_tokens):
            raise ConfigError(
                f"batch_size {self.batch_size} does not fit.",
                code="OUT_OF_RANGE",
                field="batch_size",
                got=self.batch_size,
                allowed=f"1..{min(self.n_tokens, self.buffer_tokens)} (n_tokens, buffer_tokens)",
            )


class ActivationStore(Iterator[Rows]):
    """Batches `{hook_name: [batch_size, d]}`; row i of every hook belongs to the same token.

    Ranks that work together have one buffer, and each gets whole batches: those of a process alone.
    """

    def __init__(self, source: RowSource, cfg: StoreConfig, *, ranks: Ranks = ALONE) -> None:
        self.source, self.cfg = source, cfg
        self.n_received, self.n_drawn = 0, 0
        self._left: Rows = {}
        size = min(cfg.buffer_tokens, cfg.n_tokens)
        self.buffer = MixingBuffer(
            size,
            source.widths,
            dtype=DTYPES[cfg.dtype],
            device=source.device,
            seed=cfg.seed,
            ranks=ranks,
        )

    @property
    def memory_bytes(self) -> int:
        """The most that the store holds between two batches, the language model and its forward
        pass aside."""
        row_bytes = 4 * sum(self.source.widths.values())
        return (
            self.buffer.memory_bytes + self.source.memory_bytes + self.source.max_rows * row_bytes
        )

    def __next__(self) -> Rows:
        """The next batch; the last one may be smaller."""
        self._fill()
        n = min(self.cfg.batch_size, self.buffer.slots.n_filled)
        if not n:
            raise StopIteration
        self.n_drawn += n
        return self.buffer.draw(n)

    def inputs(self, hook_name: str) -> Iterator[Float[Tensor, "n d_in"]]:
        """Batches of one hook alone."""
        return (batch[hook_name] for batch in self)

    def pairs(
        self, hook_name: str, hook_name_out: str
    ) -> Iterator[tuple[Float[Tensor, "n d_in"], Float[Tensor, "n d_out"]]]:
        """Batches of what a transcoder reads and what it should write."""
        return ((batch[hook_name], batch[hook_name_out]) for batch in self)

    def state_dict(self) -> dict[str, Tensor]:
        """All that decides the batches to come: source position, buffer, random state. Copies; no
        pickle needed to store it."""
        counts = {
            "counts": torch.tensor([self.n_received, self.n_drawn]),
            "fingerprint": _as_tensor(self._fingerprint),
        }
        left = {f"left.{name}": x.clone() for name, x in self._left.items()}
        source = {f"source.{key}": value for key, value in self.source.state_dict().items()}
        return (
            counts
            | left
            | source
            | {f"buffer.{key}": value for key, value in self.buffer.state_dict().items()}
        )

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where `state_dict` was taken: the same batches, bit for bit.

        Raises:
            ConfigError: CHECKPOINT_MISMATCH: it is of another model, text or configuration.
        """
        if not torch.equal(state["fingerprint"], _as_tensor(self._fingerprint)):
            raise ConfigError(
                "The saved position belongs to another model, text or configuration: "
                "they changed since.",
                code="CHECKPOINT_MISMATCH",
                field="dataset",
                hint="Resume with the model, the text and the options of the first run, or "
                "start a new one.",
            )
        self.n_received, self.n_drawn = state["counts"].tolist()
        self._left = {name: x.to(self.source.device) for name, x in below(state, "left.").items()}
        self.source.load_state_dict(below(state, "source."))
        self.buffer.load_state_dict(below(state, "buffer."))

    @property
    def _fingerprint(self) -> str:
        return f"{self.source.fingerprint} {self.cfg}"

    @property
    def _at_end(self) -> bool:
        return self.n_received >= self.cfg.n_tokens or self.source.ended

    def _fill(self) -> None:
        while self.buffer.slots.n_free and (self._left or not self._at_end):
            rows = self._left or self._receive()
            left = self.buffer.add(rows)
            self._left = left if n_rows(left) else {}

    def _receive(self) -> Rows:
        rows = self.source.next_rows()
        wanted = {name: x[: self.cfg.n_tokens - self.n_received] for name, x in rows.items()}
        self.n_received += n_rows(wanted)
        return wanted


def _as_tensor(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
