"""Neutral prompts that ship: beginnings that nearly anything may follow, and plain sentences."""

from collections.abc import Sequence
from importlib.resources import files

from saescope.errors import ArgumentError
from saescope.models import LanguageModel, Tokens, counted, first_of_each
from saescope.saes import SAE

N_PROMPTS = 10
"""Beginnings that a search reads where no prompts are given."""


def neutral_prompts(*, sentences: bool = False) -> list[str]:
    """The beginnings that ship, or whole sentences, which can be said again."""
    name = "sentences.txt" if sentences else "neutral.txt"
    return files("saescope.search").joinpath(name).read_text(encoding="utf-8").splitlines()


def prompts_or_neutral(
    model: LanguageModel, sae: SAE, prompts: Sequence[Tokens], *, sentences: bool
) -> list[Tokens]:
    """The prompts that are given, each once, or those that ship, as the SAE was trained to read.

    Raises:
        ArgumentError: a prompt has no position that counts.
    """
    if not prompts:
        bos = sae.cfg.metadata.prepend_bos
        texts = neutral_prompts(sentences=sentences)[:N_PROMPTS]
        return [model.tokenize(text, prepend_bos=bos) for text in texts]
    for n, tokens in enumerate(prompts):
        if not bool(counted(tokens).any()):
            raise ArgumentError(
                f"Prompt {n} of {len(prompts)} (the first is 0) has no token that counts "
                "(position 0 and special tokens do not).",
                code="EMPTY_PROMPT",
                field="prompts",
                got=n,
                hint="Leave it out, or make it longer.",
            )
    return [prompts[i] for i in first_of_each(prompts)]
