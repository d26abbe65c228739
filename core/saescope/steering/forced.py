"""A text that is given, read by many runs at once, each edited by its own plans."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.metrics import log_mass
from saescope.progress import NOBODY, Advance
from saescope.stack import Stack
from saescope.steering.generate import Cursor, passes_of, read_logits, steered_by
from saescope.steering.prepare import Plans
from saescope.variants import MAX_TOKENS

MAX_LOGITS = 2**27
"""Logits that are held at once, over rows, positions and the vocabulary."""


def concept_changes(
    stack: Stack,
    prompt: Int[Tensor, " n_prompt"],
    continuation: Sequence[int],
    plans: Sequence[Plans],
    concept: Sequence[int],
    *,
    advance: Advance = NOBODY,
) -> list[float]:
    """For each run, how much its plans change the log of the concept tokens' summed probability, in
    nats: the mean over the predictions of the continuation's tokens, with the text as it is given
    (of the token after the prompt, where nothing was written). `advance` hears of the runs."""
    changes: list[float] = []
    for logits in forced_logits(stack, prompt, continuation, plans):
        masses = torch.stack([log_mass(row, concept) for row in logits])
        changes += (masses[1:] - masses[0]).mean(1).tolist()
        advance(len(logits) - 1)
    return changes


def forced_logits(
    stack: Stack,
    prompt: Int[Tensor, " n_prompt"],
    continuation: Sequence[int],
    plans: Sequence[Plans],
) -> Iterator[Float[Tensor, "n_rows n_out d_vocab"]]:
    """The logits that predict the continuation, group by group: the clean run first in each, so
    that a difference from it is free of the noise that another batch shape would bring."""
    model, n_out = stack.model, max(1, len(continuation))
    ids = model.batch(torch.cat([prompt.cpu(), torch.tensor(continuation, dtype=torch.long)]))
    counts = ~torch.isin(ids, model.tokenizer.special_ids.to(ids))
    passes = passes_of(stack, ids.shape[1])
    n_rows = min(MAX_TOKENS // passes[0][1], MAX_LOGITS // ((n_out + 1) * model.d_vocab))
    first = len(prompt) - 1 - ids.shape[1]  # counted from the end
    size = max(1, n_rows - 1)
    for start in range(0, len(plans), size):
        rows: list[Plans] = [{}, *plans[start : start + size]]
        cursor = Cursor(counts.expand(len(rows), -1), passes)
        with steered_by(stack, rows, cursor):
            logits, _ = read_logits(model, ids.expand(len(rows), -1), cursor, last=-first)
        yield logits[:, first:][:, :n_out]
