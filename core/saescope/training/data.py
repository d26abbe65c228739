"""The activations that a run reads: text or shards behind a mixing buffer, timed, and stoppable
where nothing gets lost."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from saescope.activations import (
    ActivationStore,
    ContextConfig,
    Dataset,
    RowSource,
    StoreConfig,
    TextSource,
    cached,
    open_dataset,
)
from saescope.activations.buffer import Rows, n_rows
from saescope.errors import Cancelled
from saescope.models import LanguageModel
from saescope.progress import Say
from saescope.ranks import here
from saescope.training.config import TrainConfig

PREPEND_BOS: dict[str, bool | None] = {"auto": None, "true": True, "false": False}
BUFFER_DTYPE: Literal["bfloat16"] = "bfloat16"
FORGET_AFTER_S = 120.0


class Rate:
    """Seconds a token takes; what was measured long ago counts less."""

    def __init__(self) -> None:
        self.seconds, self.n_tokens = 0.0, 0.0

    def add(self, seconds: float, n_tokens: float) -> None:
        self.seconds += seconds
        self.n_tokens += n_tokens
        if self.seconds > FORGET_AFTER_S:
            self.seconds /= 2
            self.n_tokens /= 2

    @property
    def s_per_token(self) -> float | None:
        """Seconds a token takes; None before anything was measured."""
        return self.seconds / self.n_tokens if self.n_tokens else None


class WatchedSource(RowSource):
    """A source that is timed, and that ends between two forward passes once `stop` is set: its
    saved position is then exact."""

    def __init__(self, source: RowSource, stop: threading.Event) -> None:
        self.source, self.stop = source, stop
        self.widths, self.device, self.fingerprint = (
            source.widths,
            source.device,
            source.fingerprint,
        )
        self.max_rows, self.memory_bytes, self.epoch = (
            source.max_rows,
            source.memory_bytes,
            source.epoch,
        )
        self.ranks, self.rate = here(), Rate()
        self.spent_s = 0.0
        """All the time that reading has taken so far."""

    @property
    def ended(self) -> bool:
        return self.source.ended

    def next_rows(self) -> Rows:
        """Raises Cancelled before any work once `stop` is set."""
        if self.ranks.any(self.stop.is_set())[0]:
            raise Cancelled("The run was asked to stop.")
        started = time.monotonic()
        rows = self.source.next_rows()
        took_s = time.monotonic() - started
        self.rate.add(took_s, n_rows(rows))
        self.spent_s += took_s
        self.epoch = self.source.epoch
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        return self.source.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.source.load_state_dict(state)
        self.epoch = self.source.epoch


class StoreBatches(Iterator[Tensor | tuple[Tensor, Tensor]]):
    """A store's batches as the trainer takes them: one site, or for a transcoder what it reads and
    what it should write. Timed."""

    def __init__(
        self, store: ActivationStore, cfg: TrainConfig, *, source: WatchedSource | None = None
    ) -> None:
        self.store, self.cfg, self._source = store, cfg, source
        self.rate = Rate()
        """The rate of all work but reading: steps, checkpoints, and drawing from the buffer."""
        self._last: tuple[float, float] | None = None

    def __next__(self) -> Tensor | tuple[Tensor, Tensor]:
        rows = next(self.store)
        now = time.monotonic(), self._source.spent_s if self._source else 0.0
        if self._last is not None:
            work_s = now[0] - self._last[0] - (now[1] - self._last[1])
            self.rate.add(work_s, self.cfg.chosen.batch_size)
        self._last = now
        return (
            (rows[self.cfg.hook_name], rows[self.cfg.hook_name_out])
            if self.cfg.transcoder
            else rows[self.cfg.hook_name]
        )

    def state_dict(self) -> dict[str, Any]:
        """Flat: a checkpoint takes a dot in a name for a level."""
        return {name.replace(".", "/"): value for name, value in self.store.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.store.load_state_dict({name.replace("/", "."): value for name, value in state.items()})


def text_source(
    cfg: TrainConfig, model: LanguageModel, *, roots: Sequence[Path] = ()
) -> TextSource:
    """The activations of the training part of the text; the held-out part is never read."""
    text, contexts = text_of(cfg, roots=roots), context_config(cfg)
    return TextSource(model, hooks_of(cfg), text, contexts, ranks=here())


def text_of(cfg: TrainConfig, *, roots: Sequence[Path] = ()) -> Dataset:
    return open_dataset(cfg.dataset, text_column=cfg.text_column, roots=roots)


def context_config(cfg: TrainConfig) -> ContextConfig:
    """How the text of a run is cut into contexts."""
    return ContextConfig(
        context_size=cfg.context_size,
        prepend_bos=PREPEND_BOS[cfg.prepend_bos],
        join_documents=cfg.join_documents,
        separator=cfg.document_separator,
        seed=cfg.chosen.data_seed,
    )


def hooks_of(cfg: TrainConfig) -> tuple[str, ...]:
    """The sites that a run reads: one, or for a transcoder what it reads and what it predicts."""
    return (cfg.hook_name, cfg.hook_name_out) if cfg.transcoder else (cfg.hook_name,)


def store_config(cfg: TrainConfig, *, n_tokens: int = 0) -> StoreConfig:
    """The store of the batches that are trained on, or of `n_tokens` rows that are kept for it."""
    n_tokens = n_tokens or cfg.n_steps * cfg.chosen.batch_size
    return StoreConfig(
        batch_size=cfg.chosen.batch_size,
        n_tokens=n_tokens,
        buffer_tokens=min(cfg.buffer_tokens, n_tokens),
        dtype=BUFFER_DTYPE,
        seed=cfg.chosen.data_seed,
    )


def row_source(
    cfg: TrainConfig,
    model: LanguageModel,
    *,
    roots: Sequence[Path],
    stop: threading.Event,
    say: Say,
) -> RowSource:
    """The rows of a run; with cache_activations they are written to disk first, unless they are
    there."""
    text = text_source(cfg, model, roots=roots)
    if not cfg.cache_activations:
        return text

    def tell(done: int, total: int) -> None:
        say(f"storing activations: {done:,} of {total:,} tokens")

    store = ActivationStore(
        WatchedSource(text, stop), store_config(cfg, n_tokens=cfg.harvested_tokens)
    )
    return cached(store, progress=tell, save_every_s=float(cfg.checkpoint_every_s))
