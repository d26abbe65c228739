"""SAEs of one model in memory that a call works with together; one SAE is a stack of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saescope.errors import ArgumentError, MismatchError
from saescope_mcp.state.entries import LoadedSAE, Long
from saescope_mcp.state.slots import ModelSlot

if TYPE_CHECKING:
    from saescope.models import LanguageModel
    from saescope.saes import SAE


@dataclass(frozen=True, eq=False)
class LoadedStack:
    """What a tool works with while it is its turn, in the order in which the call names the
    SAEs."""

    entries: tuple[LoadedSAE, ...]
    saes: "list[SAE]"
    slot: ModelSlot
    model: "LanguageModel"
    reader: LoadedSAE
    """The SAE whose training decides how texts are tokenized, with BOS or without: the first that
    says so."""

    @classmethod
    def of(cls, entries: Sequence[LoadedSAE]) -> "LoadedStack":
        """These SAEs, if they can work together.

        Raises:
            ArgumentError: an SAE is named twice.
            MismatchError: SAEs of several models, or two that write one site.
        """
        if len(entries) > 1:
            _require_different(entries)
            _require_one_model(entries)
            _require_own_sites(entries)
        says = (entry for entry in entries if entry.sae.cfg.metadata.prepend_bos is not None)
        slot, saes = entries[0].slot, [entry.sae for entry in entries]
        return cls(tuple(entries), saes, slot, slot.model, next(says, entries[0]))

    def handle(self, n: int) -> str | None:
        """The handle that a row of a reply names, or None where there is but one SAE."""
        return self.entries[n].handle if len(self.entries) > 1 else None

    def long(self, *, n_new: int = 0) -> Long:
        """What a call that reads long texts in chunks, and writes so many tokens after them, tells
        the tokenizer."""
        looks_back = (entry.handle for entry in self.entries if entry.sae.sequential)
        return Long(n_new, next(looks_back, ""))

    def disagreement(self, *, chat: bool = False) -> list[str]:
        """A warning where SAEs were trained with and without BOS: a text can be read in one way
        only."""
        wanting, doing_without = (
            [entry.handle for entry in self.entries if entry.sae.cfg.metadata.prepend_bos is wish]
            for wish in (True, False)
        )
        if chat or not (wanting and doing_without):
            return []
        return [
            f"{', '.join(wanting)} was trained with BOS, {', '.join(doing_without)} "
            "without: the text is read as "
            f"{self.reader.handle} was trained. Name another SAE first to read it in "
            "the other way."
        ]


def _require_different(entries: Sequence[LoadedSAE]) -> None:
    handles = [entry.handle for entry in entries]
    twice = next((handle for handle in handles if handles.count(handle) > 1), None)
    if twice:
        raise ArgumentError(
            f"{twice!r} is named twice.",
            code="DUPLICATE_SAE",
            field="saes",
            got=handles,
            allowed="each SAE once",
            hint=f"Name it once: saes={[*dict.fromkeys(handles)]}.",
        )


def _require_one_model(entries: Sequence[LoadedSAE]) -> None:
    if len({id(entry.slot) for entry in entries}) > 1:
        models = ", ".join(f"{entry.handle} (model {entry.slot.handle})" for entry in entries)
        raise MismatchError(
            f"SAEs that work together must be of one loaded model: {models}.",
            code="DIFFERENT_MODELS",
            field="saes",
            got=[entry.handle for entry in entries],
            allowed=f"SAEs of {entries[0].slot.handle}",
            hint=f"Make one call for each model, or name SAEs of {entries[0].slot.handle} alone.",
        )


def _require_own_sites(entries: Sequence[LoadedSAE]) -> None:
    from saescope.splice import write_hook

    at: dict[str, LoadedSAE] = {}
    for entry in entries:
        there = at.setdefault(write_hook(entry.sae), entry)
        if there is not entry:
            raise MismatchError(
                f"{there.handle} and {entry.handle} both write "
                f"{write_hook(entry.sae)}: each would change what the other made.",
                code="TWO_SAES_ON_SITE",
                field="saes",
                got=[there.handle, entry.handle],
                allowed="SAEs that write different sites",
                hint="Make one call for each of the two.",
            )


__all__ = ["LoadedStack"]
