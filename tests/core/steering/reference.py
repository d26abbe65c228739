"""Steering written out in NumPy and a naive greedy loop over a plain Hugging Face model."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tests.core.oracle import Array, Family, NumpySAE, Reference, as_array, flat, shifted_by
from torch import Tensor

from saescope.models import Tokens
from saescope.ops import SparseActs, from_dense
from saescope.saes import SAE
from saescope.splice import read_hook, write_hook
from saescope.steering import FeatureEdit

TEXT = "The old man saw the little house<eos> by the"


def tokens_of(family: Family) -> Tokens:
    return family.model.tokenize(TEXT, prepend_bos=True)


def fires(d_sae: int, activations: Mapping[int, float]) -> SparseActs:
    """One position at which these features fire."""
    dense = torch.zeros(1, d_sae)
    for feature, activation in activations.items():
        dense[0, feature] = activation
    return from_dense(dense)


SPECIAL = 4
"""Ids below this one are the tokenizer's special tokens."""


def edited_positions(
    ids: Array, edit: FeatureEdit, n_prompt: int, special: int = SPECIAL
) -> NDArray[np.bool_]:
    """All but position 0 and special tokens, or those named; of the continuation all but special
    ones."""
    mask = np.array([pos > 0 and token >= special for pos, token in enumerate(ids)])
    if edit.positions:
        mask[:n_prompt] = False
        mask[:n_prompt][[pos % n_prompt for pos in edit.positions]] = True
    return mask


def change_by_hand(
    sae: SAE,
    x: Array,
    written: Array,
    edits: Sequence[FeatureEdit],
    units: Sequence[float],
    masks: Sequence[NDArray[np.bool_]],
) -> Array:
    """What the contract says: f' - f of each feature from the clean activation, summed; then
    directions removed, last."""
    numpy = NumpySAE(sae)
    acts, directions = numpy.encode(x), numpy.directions(x)
    change = np.zeros_like(written)
    for edit, unit, mask in zip(edits, units, masks, strict=True):
        f = acts[:, edit.feature]
        value = {
            "add": f + edit.strength * unit,
            "clamp": np.full_like(f, edit.strength * unit),
            "scale": f * edit.strength,
            "ablate": 0 * f,
        }
        if edit.mode != "project_out":
            change += ((value[edit.mode] - f) * mask)[:, None] * directions[:, edit.feature]
    for pos in range(len(written)):
        rows = [
            numpy.rows()[edit.feature]
            for edit, mask in zip(edits, masks, strict=True)
            if edit.mode == "project_out" and mask[pos]
        ]
        if rows:
            standing = written[pos] + change[pos]
            weights, *_ = np.linalg.lstsq(np.array(rows).T, standing, rcond=None)
            change[pos] -= weights @ np.array(rows)
    return change


def change_for(
    hf: Reference,
    sae: SAE,
    ids: Tensor,
    edits: Sequence[FeatureEdit],
    units: Sequence[float],
    n_prompt: int,
    special: int = SPECIAL,
) -> tuple[Array, Array]:
    """(change, what stands at the site without it) for a whole text."""
    found = hf.record(ids, [read_hook(sae), write_hook(sae)])
    x, written = flat(found[read_hook(sae)]), flat(found[write_hook(sae)])
    masks = [edited_positions(as_array(ids)[0], edit, n_prompt, special) for edit in edits]
    return change_by_hand(sae, x, written, edits, units, masks), written


def steered_logits(
    hf: Reference,
    sae: SAE,
    ids: Tensor,
    edits: Sequence[FeatureEdit],
    units: Sequence[float],
    n_prompt: int,
    special: int = SPECIAL,
) -> Array:
    change, _ = change_for(hf, sae, ids, edits, units, n_prompt, special)
    return as_array(hf.logits(ids, {write_hook(sae): shifted_by(change)}))[0]


Choose = Callable[[Array], int]
"""The next token of its logits."""


def best(logits: Array) -> int:
    return int(logits.argmax())


def continuation(
    hf: Reference,
    steered: tuple[SAE, Sequence[FeatureEdit], Sequence[float]] | None,
    tokens: Tokens,
    n_new: int,
    *,
    choose: Choose = best,
    special: int = SPECIAL,
    stop: int = 3,
) -> list[int]:
    """Token by token, the whole text anew each time, without a cache; ends before an end-of-text
    token."""
    ids = tokens.ids[None]
    for _ in range(n_new):
        if steered is None:
            logits = as_array(hf.logits(ids))[0]
        else:
            sae, edits, units = steered
            logits = steered_logits(hf, sae, ids, edits, units, len(tokens), special)
        chosen = choose(logits[-1])
        if chosen == stop:
            break
        ids = torch.cat([ids, torch.tensor([[chosen]])], dim=1)
    return ids[0, len(tokens) :].tolist()
