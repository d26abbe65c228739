"""Several SAEs of one model, read and edited in one forward pass. One SAE is a stack of one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.hooks import record_activations
from saescope.models import LanguageModel, Tokens
from saescope.progress import NOBODY, Advance
from saescope.saes import SAE
from saescope.splice import (
    SiteRecord,
    check_fits,
    read_hook,
    read_sites,
    require_own_sites,
    site_hooks,
    write_hook,
)

_PROBE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Stack:
    """SAEs of one model in the order in which a forward pass reaches the sites that they write."""

    model: LanguageModel
    saes: tuple[SAE, ...]
    given: tuple[int, ...]
    """The place of each SAE in the list that the stack was made of."""

    def read(
        self, ids: Int[Tensor, "batch n_pos"], *, advance: Advance = NOBODY
    ) -> list[SiteRecord]:
        """What each SAE sees and makes of a batch, from one reading that goes no further than the
        last site; `advance` hears of the positions of each pass."""
        return read_sites(self.model, self.saes, ids, advance=advance)

    def name(self, i: int) -> str:
        """SAE `i` in words: no two of a stack write one site."""
        return f"SAE at {write_hook(self.saes[i])}"

    @property
    def as_given(self) -> list[SAE]:
        """The SAEs in the order of the list that the stack was made of."""
        return [self.saes[self.given.index(n)] for n in range(len(self.saes))]

    def reads_in_time(self, i: int, j: int) -> bool:
        """Whether SAE `i` reads no later than SAE `j` writes: found by a pass over a few tokens."""
        read, written = read_hook(self.saes[i]), write_hook(self.saes[j])
        return i == j or read == written or _reached(self.model, [read, written])[0] == read

    def alone(self, i: int) -> "Stack":
        """SAE `i` as a stack of one."""
        return Stack(self.model, (self.saes[i],), (self.given[i],))


def as_stack(model: LanguageModel, saes: SAE | Sequence[SAE]) -> Stack:
    """A stack of one SAE or several.

    Raises:
        ArgumentError: there is no SAE in the list.
        MismatchError: two SAEs write the same site, or one of several does not fit the model.
        HookError: a site does not exist or is never reached.
    """
    saes = [saes] if isinstance(saes, SAE) else [*saes]
    if not saes:
        raise ArgumentError(
            "No SAE is named.",
            code="MISSING_ARGUMENT",
            field="sae",
            hint="Give one SAE, or a list of at least one.",
        )
    if len(saes) == 1:
        return Stack(model, (saes[0],), (0,))
    require_own_sites(saes)
    for sae in saes:
        check_fits(model, sae, allow_mismatch=True)
    turns = _turns(model, saes)
    # given[i]: the place in the caller's list of the SAE that comes i-th in a forward pass.
    given = tuple(sorted(range(len(saes)), key=lambda i: turns[i]))
    return Stack(model, tuple(saes[i] for i in given), given)


def tokenize(
    model: LanguageModel, saes: SAE | Sequence[SAE], text: str, *, chat: bool = False
) -> Tokens:
    """The tokens of a text as the SAEs were trained to read it: BOS as the first SAE that says so
    wants it, else as the model's own tokenizer does. `chat` wraps the text in the model's chat
    template, which decides by itself.

    Raises:
        ArgumentError: EMPTY_PROMPT, or the model has no chat template.
    """
    given = [saes] if isinstance(saes, SAE) else [*saes]
    says = (sae.cfg.metadata.prepend_bos for sae in given)
    wish = next((each for each in says if each is not None), None)
    return model.tokenize(text, prepend_bos=None if chat else wish, chat=chat)


def _turns(model: LanguageModel, saes: Sequence[SAE]) -> list[int]:
    """Find when each SAE's written site is reached, by a pass over a few tokens: no list of hooks
    is in that order."""
    reached = _reached(model, [name for sae in saes for name in site_hooks(sae)])
    return [reached.index(write_hook(sae)) for sae in saes]


def _reached(model: LanguageModel, hooks: Sequence[str]) -> list[str]:
    """The hooks in the order in which a forward pass reaches them."""
    # Recording notes hooks in the order in which they fire, which is what is asked.
    ids = torch.arange(_PROBE_TOKENS)[None] % model.d_vocab
    return list(record_activations(model, ids, list(dict.fromkeys(hooks))))
