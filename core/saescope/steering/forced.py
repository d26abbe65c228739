"""A text that is given, read by many runs at once, each edited by its own plans."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.metrics import log_mass
from saescope.stack import Stack
from saescope.steering.generate import Cursor, steered_by
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
) -> list[float]:
    """For each run, how much its plans change the log of the concept tokens' summed probability, in
    nats: the mean over the predictions of the continuation's tokens, with the text as it is given
    (of the token after the prompt, where nothing was written)."""
    changes: list[float] = []
    for logits in forced_logits(stack, prompt, continuation, plans):
        masses = torch.stack([log_mass(row, concept) for row in logits])
        changes += (masses[1:] - masses[0]).mean(1).tolist()
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
    n_rows = min(MAX_TOKENS // ids.shape[1], MAX_LOGITS // ((n_out + 1) * model.d_vocab))
    first = len(prompt) - 1 - ids.shape[1]  # counted from the end
    size = max(1, n_rows - 1)
    for start in range(0, len(plans), size):
        rows: list[Plans] = [{}, *plans[start : start + size]]
        cursor = Cursor(counts.expand(len(rows), -1))
        with steered_by(stack, rows, cursor):
            logits = model.forward(ids.expand(len(rows), -1), last=-first)[0]
        yield logits[:, first:][:, :n_out]
