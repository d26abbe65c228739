"""What a circuit is traced in: SAEs of several layers that were loaded one by one, or a set."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from saescope_mcp.state.app_state import AppState
from saescope_mcp.state.entries import LoadedSAE, LoadedSet, most_per_call, tokenize_all
from saescope_mcp.state.slots import ModelSlot
from saescope_mcp.state.stacks import LoadedStack

if TYPE_CHECKING:
    from saescope.graphs import GraphMembers
    from saescope.models import LanguageModel, Tokens


@dataclass(frozen=True, eq=False)
class Layers:
    """SAEs of one model in the order in which a forward pass reaches them."""

    used: LoadedStack | LoadedSet
    of: "GraphMembers"
    handles: list[str]
    """The handle of each SAE."""
    entries: dict[int, LoadedSAE]
    """Those of them that are loaded by themselves, by place."""

    @property
    def slot(self) -> ModelSlot:
        return self.used.slot

    @property
    def model(self) -> "LanguageModel":
        return self.slot.model

    def disagreement(self, *, chat: bool) -> list[str]:
        """A warning where SAEs were trained with and without BOS."""
        return self.used.disagreement(chat=chat) if isinstance(self.used, LoadedStack) else []

    async def tokenize(self, prompts: Sequence[str], *, chat: bool) -> "list[Tokens]":
        """Tokens of each prompt, BOS as the SAEs or else the model wants it."""
        if isinstance(self.used, LoadedStack):
            return await self.used.reader.tokenize(prompts, chat=chat)
        told = partial(
            tokenize_all,
            self.slot,
            prompts,
            prepend_bos=None if chat else self.of.members[0].cfg.metadata.prepend_bos,
            chat=chat,
            most=most_per_call(self.slot),
        )
        return await self.slot.run(told)


def is_set(state: AppState, handles: Sequence[str]) -> bool:
    """Whether these are the handle of a set, alone."""
    return len(handles) == 1 and handles[0] in state.sets


def require_layers(state: AppState, handles: Sequence[str]) -> None:
    """Raises what `use_layers` does, before the call waits for the model."""
    if not is_set(state, handles):
        state.require_all(handles)


@asynccontextmanager
async def use_layers(
    state: AppState, handles: Sequence[str], *, patient: bool = False
) -> AsyncGenerator[Layers]:
    """The SAEs, or the set, and their model, for this call alone.

    Raises:
        NotFoundError: SAE_NOT_LOADED, with the call that loads it.
        ArgumentError, MismatchError, ConfigError: they cannot work together.
        ResourceError: BUSY.
    """
    if is_set(state, handles):
        async with state.use_set(handles[0], patient=patient) as found:
            names = [*found.members]
            loaded = {i: state.saes[name] for i, name in enumerate(names) if name in state.saes}
            yield Layers(found, found.sae_set, names, loaded)
        return
    async with state.use_all(handles, patient=patient) as stack:
        yield await stack.slot.run(_of_stack, stack)


def _of_stack(stack: LoadedStack) -> Layers:
    from saescope.graphs import held
    from saescope.stack import as_stack

    given = as_stack(stack.model, stack.saes).given
    entries = [stack.entries[n] for n in given]
    of = held(stack.model, stack.saes)
    return Layers(stack, of, [entry.handle for entry in entries], dict(enumerate(entries)))


__all__ = ["Layers", "require_layers", "use_layers"]
