"""An SAE in memory, together with its model."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from saescope.errors import ArgumentError, SaescopeError
from saescope.names import Source
from saescope_mcp.state.slots import ModelSlot
from saescope_mcp.state.sources import Placement

if TYPE_CHECKING:
    from saescope.evals import Check
    from saescope.features.index import FeatureIndex
    from saescope.models import LanguageModel, Tokens
    from saescope.records.evaluation import SetCheck
    from saescope.saes import SAE
    from saescope.sets import Member, SAESet


class Indexed(NamedTuple):
    """The index of an SAE, if there is one, why others were passed over, and when the folder of its
    indexes was last changed."""

    best: "FeatureIndex | None"
    passed_over: list[str]
    changed: int | None


@dataclass(eq=False)
class LoadedSAE:
    """What a tool works with while it is its turn."""

    handle: str
    sae: "SAE"
    slot: ModelSlot
    source: Source
    placement: Placement
    check: "Check"
    warnings: list[str]
    weights_hash: str
    dialect: str
    """The on-disk format that it was read from."""
    revision: str
    """The commit of its repository; empty for an SAE that is not from the hub."""
    last_used: float = field(default_factory=time.monotonic)
    _indexed: Indexed | None = None

    @property
    def model(self) -> "LanguageModel":
        return self.slot.model

    @property
    def scanned(self) -> bool:
        """Whether its check measured the CE score at every layer."""
        return any(fit.ce_score is not None for fit in self.check.layers)

    async def indexed(self) -> Indexed:
        """Its best index on this machine; looked for again whenever one was added."""
        if self._indexed is None or self._indexed.changed != self._indexes_changed():
            self._indexed = await self.slot.workers.run(self._find_index)
        return self._indexed

    async def tokenize(
        self,
        texts: Sequence[str],
        *,
        chat: bool = False,
        from_file: bool = False,
        long: "Long | None" = None,
    ) -> "list[Tokens]":
        """Tokens of each text, BOS as this SAE or else its model wants it; more of them may come
        from a file, and of each where the call reads `long` ones in chunks.

        Raises:
            ArgumentError: PROMPT_TOO_LONG, EMPTY_PROMPT.
        """
        settings = self.slot.settings
        told = partial(
            tokenize_all,
            self.slot,
            texts,
            prepend_bos=None if chat else self.sae.cfg.metadata.prepend_bos,
            chat=chat,
            most=settings.max_file_tokens if from_file else most_per_call(self.slot),
            long=long,
        )
        return await self.slot.run(told)

    def _find_index(self) -> Indexed:
        from saescope.features.index import find_index

        passed_over: list[str] = []
        index = find_index(self.sae, self.model, say=passed_over.append)
        return Indexed(index, passed_over, self._indexes_changed())

    def _indexes_changed(self) -> int | None:
        from saescope.features.index.store import HASH_CHARS, index_root

        folder = index_root() / self.weights_hash[:HASH_CHARS]
        return folder.stat().st_mtime_ns if folder.is_dir() else None


class Long(NamedTuple):
    """A call that reads long texts in chunks."""

    n_new: int = 0
    """Tokens that it writes after them."""
    looks_back: str = ""
    """The handle of an SAE that needs a whole text at once."""


def most_per_call(slot: ModelSlot) -> int:
    """Tokens of all texts of a call that stand in it."""
    return slot.settings.max_tokens_per_call * (1 if _on_cpu(slot) else 4)


def tokenize_all(
    slot: ModelSlot,
    texts: Sequence[str],
    *,
    prepend_bos: bool | None,
    chat: bool,
    most: int,
    long: Long | None = None,
) -> "list[Tokens]":
    """Tokens of each text, at most so many of them together; of one text as many as go through in
    one pass, or with `long` in chunks.

    Raises:
        ArgumentError: PROMPT_TOO_LONG, EMPTY_PROMPT.
    """
    model, tokens = slot.model, list["Tokens"]()
    for i, text in enumerate(texts):
        try:
            tokens.append(model.tokenize(text, prepend_bos=prepend_bos, chat=chat))
        except ArgumentError as error:
            raise _of_text(i, error) if len(texts) > 1 else error from None
    longest = max(map(len, tokens))
    which = [len(each) for each in tokens].index(longest)
    what = f"Text {which} of the list (the first is 0)" if len(texts) > 1 else "A text"
    _require_short(slot, longest, what, long)
    if sum(map(len, tokens)) > most:
        raise _too_long("All texts together", sum(map(len, tokens)), most)
    return tokens


def _require_short(slot: ModelSlot, n_tokens: int, what: str, long: Long | None) -> None:
    model, settings = slot.model, slot.settings
    in_one = settings.max_tokens * (1 if _on_cpu(slot) else 2)
    in_chunks = settings.max_long_tokens * (1 if _on_cpu(slot) else 8)
    if n_tokens <= (in_one if long is None else min(in_one, in_chunks)):
        return
    n_new = long.n_new if long else 0
    can = model.chunks_up_to(min(n_tokens, in_chunks) + n_new)
    if long is None:
        readers = f"encode_text, top_features and steer_generate read up to {in_chunks}."
        also = f" In chunks {readers}" if can and in_chunks > in_one else ""
        raise _too_long(what, n_tokens, min(in_one, model.n_ctx), also=also)
    if long.looks_back or not can:
        whose = long.looks_back or model.name
        why = (
            "needs a whole text at once"
            if long.looks_back
            else "keeps no keys and values that fit a longer text"
        )
        raise _too_long(what, n_tokens, in_one, why=f", since {whose} {why}")
    if n_tokens > in_chunks:
        raise _too_long(what, n_tokens, min(in_chunks, model.n_ctx))


def _on_cpu(slot: ModelSlot) -> bool:
    return slot.model.device.type == "cpu"


@dataclass(eq=False)
class LoadedSet:
    """A set of SAEs of one model: what a tool works with while it is its turn."""

    handle: str
    sae_set: "SAESet"
    slot: ModelSlot
    source: Source
    placement: Placement
    check: "SetCheck"
    warnings: list[str]
    members: Mapping[str, Source]
    """The handle of each layer's SAE, in the order of the set, and what loads it by itself."""
    last_used: float = field(default_factory=time.monotonic)

    @property
    def model(self) -> "LanguageModel":
        return self.slot.model

    @property
    def weights_hash(self) -> str:
        return self.sae_set.weights_hash

    @property
    def reserved_bytes(self) -> int:
        """The most that its weights take in memory."""
        memory = self.sae_set.memory
        return memory.whole if memory.budget is None else min(memory.whole, memory.budget)

    def member_of(self, source: Source) -> "Member | None":
        """The member that this source loads, if it is an SAE by itself."""
        if self.sae_set.kind == "cross_layer":
            return None
        places = zip(self.members.values(), self.sae_set.members, strict=True)
        return next((member for place, member in places if place == source), None)


def void_quizzes(texts: Sequence[str]) -> None:
    """Quizzes that show one of these texts can no longer be answered: their features are about to
    be told."""
    from saescope.features import QuizStore

    with suppress(SaescopeError):  # a file that cannot be read holds no quiz that could be answered
        QuizStore().void(texts)


def _too_long(
    what: str, n_tokens: int, limit: int, *, why: str = "", also: str = ""
) -> ArgumentError:
    return ArgumentError(
        f"{what} has {n_tokens} tokens, at most {limit} are read at once{why}.",
        code="PROMPT_TOO_LONG",
        field="text",
        got=n_tokens,
        allowed=limit,
        hint=f"Send a shorter text, or split it over several calls.{also}",
    )


def _of_text(i: int, error: ArgumentError) -> ArgumentError:
    message = f"Text {i} of the list (the first is 0): {error.message}"
    return ArgumentError(
        message,
        code=error.code,
        field=error.field,
        got=error.got,
        allowed=error.allowed,
        hint=error.hint,
    )
