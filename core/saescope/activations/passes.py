"""One forward pass for many readers: each gets its rows at the moment its hooks fire, so that the
activations of all sites are never there at once."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from saescope.activations.buffer import Rows, n_rows
from saescope.activations.harvest import Harvester
from saescope.activations.sources import (
    RowSource,
    contexts_at_once,
    counted_rows,
    require_finite,
)
from saescope.activations.text import Dataset
from saescope.activations.tokens import ContextConfig, ContextStream, counted_positions, empty_error
from saescope.errors import NumericError
from saescope.models import LanguageModel
from saescope.sinks import typical_norms


@runtime_checkable
class PassReader(Protocol):
    """What reads the activations at one hook, or at two that belong together."""

    hook_names: tuple[str, ...]
    n_passes: int
    """Passes whose rows it has."""

    def take(self, rows: Rows) -> None:
        """Take the rows of the pass that is under way; this may do all the work that they allow."""
        ...

    def fail(self, error: NumericError) -> None:
        """Hear that the activations of this pass are not finite here."""
        ...


class NeedRows(Exception):
    """A store needs the rows of the next forward pass."""


class GivenRows(RowSource):
    """A source that has what it was given, once, and asks for more by raising NeedRows."""

    def __init__(
        self, widths: Mapping[str, int], *, device: torch.device, fingerprint: str, max_rows: int
    ) -> None:
        self.widths, self.device = dict(widths), device
        self.fingerprint, self.max_rows = fingerprint, max_rows
        self.memory_bytes, self.epoch = 0, 0
        self._rows: Rows = {}

    def give(self, rows: Rows) -> None:
        assert not self._rows, "the rows of the last pass were not taken"
        self._rows = rows

    def next_rows(self) -> Rows:
        if not self._rows:
            raise NeedRows
        rows, self._rows = self._rows, {}
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._rows)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._rows = {name: x.to(self.device) for name, x in state.items()}


class TextPasses:
    """Forward passes over a text, each for all readers that have not had it yet.

    The contexts are those that a `TextSource` of the same settings reads, in the same order, and
    each reader gets the rows that a source of its hooks alone supplies.
    """

    def __init__(
        self,
        model: LanguageModel,
        readers: Sequence[PassReader],
        dataset: Dataset,
        cfg: ContextConfig,
    ) -> None:
        self.model, self.readers = model, list(readers)
        self.stream = ContextStream(model, dataset, cfg)
        names = [name for reader in readers for name in reader.hook_names]
        self.harvester = Harvester(model, names, cfg.context_size)
        if model.sink_factor:
            typical_norms(model, self.harvester.widths)  # from here on known inside a pass
        self.n_contexts = contexts_at_once(model, cfg)
        self.n_passes, self.n_supplied = 0, 0
        self._taken = self._none = torch.empty(0, cfg.context_size, dtype=torch.int32)
        """Contexts of a pass that was cut off: the next one is of the same."""

    def next_pass(self) -> None:
        """Run the model on the next contexts and hand its activations out.

        Raises:
            NotFoundError: DATASET_EMPTY: there is no text, or none but special tokens.
        """
        contexts = self._taken = (
            self._taken if len(self._taken) else self.stream.take(self.n_contexts)
        )
        mask = counted_positions(contexts, self.model.tokenizer.special_ids).to(self.model.device)
        waiting = [reader for reader in self.readers if reader.n_passes == self.n_passes]
        arrived: list[dict[str, Tensor]] = [{} for _ in waiting]

        def arrive(name: str, x: Tensor) -> None:
            for reader, there in zip(waiting, arrived, strict=True):
                if name not in reader.hook_names:
                    continue
                there[name] = x
                if len(there) == len(set(reader.hook_names)):
                    self._hand_out(reader, there, mask)
                    there.clear()
                else:
                    there[name] = x.clone()  # the model may go on to change it in place

        self.harvester.stream(contexts.clamp(min=0).long(), arrive)
        self._taken = self._none
        self.n_passes += 1
        if self.stream.epoch and not self.n_supplied:
            raise empty_error(self.stream.dataset, self.stream.cfg)

    def _hand_out(
        self, reader: PassReader, activations: dict[str, Tensor], mask: Bool[Tensor, "batch n_pos"]
    ) -> None:
        rows = counted_rows(self.model, activations, mask)
        try:
            require_finite(rows)
        except NumericError as error:
            reader.fail(error)
            return
        self.n_supplied += n_rows(rows)
        reader.take(rows)

    def state_dict(self) -> dict[str, Tensor]:
        counts = torch.tensor([self.n_passes, self.n_supplied])
        return self.stream.state_dict() | {"passes": counts, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.n_passes, self.n_supplied = state["passes"].tolist()
        self._taken = state["taken"].cpu()
        self.stream.load_state_dict(state)
