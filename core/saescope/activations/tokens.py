"""Documents as tokens, packed into contexts: no token lost, none repeated; every epoch sees each
context once, in random order."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.activations.readers import cut
from saescope.activations.slots import Slots
from saescope.activations.text import HELD_OUT, Dataset, Split, is_held_out
from saescope.errors import ArgumentError, NotFoundError
from saescope.models import LanguageModel

NOTHING = -1
"""Fills the end of an epoch's last context."""
Separator = Literal["auto", "bos", "eos", "none"]
POOL_TOKENS = 2**20
"""Contexts are drawn at random from a pool of this many tokens (4 MiB): a text of this size is
shuffled as a whole."""
PIECE_CHARS = 50_000
"""Longer documents are tokenized in pieces."""
BATCH_DOCUMENTS, BATCH_CHARS = 64, 2**18
"""Documents tokenized together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextConfig:
    """How text becomes contexts."""

    context_size: int = 128
    prepend_bos: bool | None = None
    """Whether BOS is prepended; None: as the model's own tokenizer does."""
    join_documents: bool = True
    """Whether a context goes on with the next document where one ends; else what is left of it
    stays empty."""
    separator: Separator = "auto"
    """What stands between two documents in a context; "auto" is EOS, else BOS, else nothing."""
    split: Split = "train"
    held_out: float = HELD_OUT
    seed: int = 0


class Packer:
    """Tokens of one document after another, cut into rows, with a separator between two documents
    that share one."""

    def __init__(self, model: LanguageModel, cfg: ContextConfig) -> None:
        self.tokenizer = model.tokenizer
        if not 2 <= cfg.context_size <= model.n_ctx:
            raise ArgumentError(
                f"context_size {cfg.context_size} is not possible with {model.name}.",
                code="OUT_OF_RANGE",
                field="context_size",
                got=cfg.context_size,
                allowed=f"2..{model.n_ctx}",
            )
        self.context_size = cfg.context_size
        bos, eos = self.tokenizer.bos_id, self.tokenizer.eos_id
        wanted = self.tokenizer.adds_bos if cfg.prepend_bos is None else cfg.prepend_bos
        self.head = [bos] if wanted and bos is not None else []
        self.between = self._separator(cfg.separator, bos, eos)
        self.join = cfg.join_documents
        self.rest: list[int] = []
        self.started = False

    def add(self, documents: list[str]) -> Int[Tensor, "n context_size"]:
        """Add documents, and return the rows that they fill."""
        for ids in self.encode(documents):
            self._push(ids)
        return self._full_rows()

    def add_one(self, ids: list[int]) -> Int[Tensor, "n context_size"]:
        """Add a document that is encoded already, and return the rows that it fills."""
        self._push(ids)
        return self._full_rows()

    def flush(self) -> Int[Tensor, "n context_size"]:
        """What is left, as one row filled up with NOTHING; then the packer is as new."""
        n_content = self.context_size - len(self.head)
        n_rows = min(1, len(self.rest))
        self.rest += [NOTHING] * (n_rows * n_content - len(self.rest))
        self.started = False
        return self._rows(n_rows)

    def _separator(self, asked: Separator, bos: int | None, eos: int | None) -> list[int]:
        wanted = {"auto": (eos, bos), "bos": (bos,), "eos": (eos,), "none": ()}[asked]
        separator = next(([i] for i in wanted if i is not None), [])
        if asked in ("bos", "eos") and not separator:
            raise ArgumentError(
                f"The model's tokenizer has no {asked.upper()} token to put between documents.",
                code="NO_SUCH_TOKEN",
                field="document_separator",
                got=asked,
                allowed=(
                    "auto",
                    "none",
                    *(["bos"] if bos is not None else []),
                    *(["eos"] if eos is not None else []),
                ),
                hint='Use document_separator="auto".',
            )
        return separator

    def encode(self, documents: list[str]) -> list[list[int]]:
        """The ids of each document."""
        pieces = [list(cut([document], PIECE_CHARS)) for document in documents]
        flat = [piece for parts in pieces for piece in parts]
        hf: Any = self.tokenizer.hf
        encoded = hf(flat, add_special_tokens=False, verbose=False).input_ids if flat else []
        for ids in encoded:
            self.tokenizer.require_embedded(ids)
        rest = iter(encoded)
        return [[i for ids in islice(rest, len(parts)) for i in ids] for parts in pieces]

    def _push(self, ids: list[int]) -> None:
        if not self.join:  # filled up to whole rows: nothing is lost, and nothing is shared
            self.rest += [*ids, *[NOTHING] * (-len(ids) % (self.context_size - len(self.head)))]
            return
        self.rest += [*(self.between if self.started else []), *ids]
        self.started = True

    def _full_rows(self) -> Int[Tensor, "n context_size"]:
        return self._rows(len(self.rest) // (self.context_size - len(self.head)))

    def _rows(self, n: int) -> Int[Tensor, "n context_size"]:
        n_content = self.context_size - len(self.head)
        content = torch.tensor(self.rest[: n * n_content], dtype=torch.int32).reshape(n, n_content)
        self.rest = self.rest[n * n_content :]
        return torch.cat([torch.tensor(self.head, dtype=torch.int32).expand(n, -1), content], dim=1)


def counted_positions(
    contexts: Int[Tensor, "n context_size"], special_ids: Int[Tensor, " k"]
) -> Bool[Tensor, "n context_size"]:
    """Which positions are used: all but position 0, its repeats at the very start, special tokens
    and NOTHING.

    To a model without absolute positions "0 0 0 ..." at the start of a context is position 0 again
    and again, with its outlying norm (SmolLM2: 168 times the median): a few such rows would make up
    most of the loss.
    """
    after_start = (contexts != contexts[:, :1]).int().cummax(dim=1).values.bool()
    return after_start & (contexts != NOTHING) & ~torch.isin(contexts.long(), special_ids)


def read_contexts(
    model: LanguageModel, dataset: Dataset, cfg: ContextConfig
) -> Iterator[Int[Tensor, "n context_size"]]:
    """One pass over a split in reading order, some contexts at a time."""
    for part in read_owned_contexts(model, dataset, cfg):
        yield part.ids


class OwnedContexts(NamedTuple):
    """Contexts, and for each the number of the document that it begins in."""

    ids: Int[Tensor, "n context_size"]
    documents: Int[Tensor, " n"]
    """Copies of one text share a number."""


def read_owned_contexts(
    model: LanguageModel, dataset: Dataset, cfg: ContextConfig
) -> Iterator[OwnedContexts]:
    """The contexts of `read_contexts`, with their documents: those of one document are no
    independent sample."""
    packer, documents = Packer(model, cfg), dataset.documents()
    numbers, owner = dict[int, int](), 0
    while batch := _next_batch(documents):
        kept = [d for d in batch if _is_in(d, cfg)]
        for text, ids in zip(kept, packer.encode(kept), strict=True):
            number = numbers.setdefault(hash(text), len(numbers))
            begun = bool(packer.rest)
            rows = packer.add_one(ids)
            owners = torch.full((len(rows),), number)
            if begun:
                owners[:1] = owner
            # what is left goes on with the old document only where no row was filled
            owner = owner if begun and not len(rows) else number
            if len(rows):
                yield OwnedContexts(rows, owners)
    rows = packer.flush()
    yield OwnedContexts(rows, torch.full((len(rows),), owner))


class ContextStream:
    """Contexts of one split in random order, epoch after epoch, from a position that can be
    saved."""

    def __init__(
        self,
        model: LanguageModel,
        dataset: Dataset,
        cfg: ContextConfig,
        *,
        pool_tokens: int | None = None,
    ) -> None:
        self.dataset, self.cfg = dataset, cfg
        self.packer = Packer(model, cfg)
        n_rows = max(1, (pool_tokens or POOL_TOKENS) // cfg.context_size)
        self.slots = Slots(n_rows, cfg.seed)
        self.pool = torch.full((n_rows, cfg.context_size), NOTHING, dtype=torch.int32)
        self.overflow = self.pool[:0]
        self.epoch, self.n_documents, self.n_contexts = 0, 0, 0
        self.ended = False
        self._documents = dataset.documents()

    @property
    def memory_bytes(self) -> int:
        """The most bytes that the pool and its index take."""
        return self.pool.nbytes + self.slots.order.nbytes

    @property
    def at_end(self) -> bool:
        """Every context of this epoch was given; the next call of `take` begins another one."""
        return self.ended and not self.slots.n_filled and not len(self.overflow)

    def take(self, n: int) -> Int[Tensor, "m context_size"]:
        """The next `n` contexts, fewer at the end of an epoch, never none.

        Raises:
            NotFoundError: DATASET_EMPTY: the split holds no text.
        """
        self._fill()
        if not self.slots.n_filled:
            self._next_epoch()
            self._fill()
        rows = self.slots.draw(min(n, self.slots.n_filled))
        self.n_contexts += len(rows)
        return self.pool[rows]

    def state_dict(self) -> dict[str, Tensor]:
        """The position of the stream; a stream of the same configuration that loads it goes on with
        the same contexts."""
        counts = [self.epoch, self.n_documents, self.n_contexts, self.ended, self.packer.started]
        rest = torch.tensor(self.packer.rest, dtype=torch.int32)
        named = {
            "counts": torch.tensor(counts),
            "rest": rest,
            "pool": self.pool.clone(),
            "overflow": self.overflow.clone(),
        }
        return named | {f"slots.{key}": value for key, value in self.slots.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.epoch, self.n_documents, self.n_contexts, ended, started = state["counts"].tolist()
        self.ended, self.packer.started = bool(ended), bool(started)
        self.packer.rest = state["rest"].tolist()
        self.pool.copy_(state["pool"])
        self.overflow = state["overflow"].clone()
        self.slots.load_state_dict(
            {
                key.removeprefix("slots."): value
                for key, value in state.items()
                if key.startswith("slots.")
            }
        )
        self._documents = self.dataset.documents(start=self.n_documents)

    def _fill(self) -> None:
        while self.slots.n_free and (len(self.overflow) or not self.ended):
            new = self.overflow if len(self.overflow) else self._read()
            taken = self.slots.claim(min(len(new), self.slots.n_free))
            self.pool[taken], self.overflow = new[: len(taken)], new[len(taken) :].clone()

    def _read(self) -> Int[Tensor, "n context_size"]:
        batch = _next_batch(self._documents)
        self.n_documents += len(batch)
        self.ended = not batch
        return (
            self.packer.flush()
            if self.ended
            else self.packer.add([d for d in batch if _is_in(d, self.cfg)])
        )

    def _next_epoch(self) -> None:
        if not self.n_contexts:
            raise empty_error(self.dataset, self.cfg)
        self.epoch, self.n_documents, self.n_contexts, self.ended = self.epoch + 1, 0, 0, False
        self._documents = self.dataset.documents()


def empty_error(dataset: Dataset, cfg: ContextConfig) -> NotFoundError:
    what = (
        "no text"
        if cfg.split == "train"
        else f"no held-out text ({cfg.held_out:.0%} of the documents)"
    )
    return NotFoundError(
        f"The dataset {dataset.name!r} holds {what}.",
        code="DATASET_EMPTY",
        field="dataset",
        got=dataset.name,
        hint='Use more text, or dataset="embedded".',
    )


def _next_batch(documents: Iterator[str]) -> list[str]:
    batch, n_chars = list[str](), 0
    while (
        len(batch) < BATCH_DOCUMENTS
        and n_chars < BATCH_CHARS
        and (document := next(documents, None)) is not None
    ):
        batch.append(document)
        n_chars += len(document)
    return batch


def _is_in(document: str, cfg: ContextConfig) -> bool:
    return bool(document.strip()) and is_held_out(document, cfg.held_out) == (
        cfg.split == "held_out"
    )
