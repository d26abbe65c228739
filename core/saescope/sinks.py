"""Positions whose activation is out of all proportion to the others: they are left out as special
tokens are.

Massive activations (Sun et al. 2024, arXiv:2402.17762) stand not only at position 0: after some
first tokens SmolLM2's position 1 has a norm of 2,000 to 25,000 where others have 150. The typical
norm is that of a fixed text, so whether a position counts never depends on the rest of a batch, on
the window, or on what comes after it.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from saescope.hooks import record_activations
from saescope.models import LanguageModel, counted

PROBE_TEXT = (
    "The old lighthouse keeper counted the ships every evening, and wrote their names "
    "in a book with a blue cover. On Monday there were "
    'seven; on Tuesday, after the storm, only two. "If the weather holds," said his '
    'daughter, "we can sail to Bristol and buy paint, '
    'rope and a new lamp." He thought about the price of oil in 1897 and shook his head.\n\n'
    "def mean(values):\n    total = sum(values)\n    return total / len(values)\n\n"
    "In chemistry, a catalyst increases the rate of a reaction without being consumed "
    "by it. Enzymes are proteins that do the same work "
    "in living cells. The government announced on Friday that the new railway between "
    "Berlin and Prague would open in spring; tickets "
    "cost 29 euros. Who would have believed it? Thank you very much, she wrote, and "
    "please give my love to your mother."
)
FEW_SINKS = 0.01
"""Share of the positions up to which leaving sinks out goes without saying."""


def typical_norm(model: LanguageModel, hook_name: str) -> float:
    """Median norm at a hook on the probe text, without position 0 and special tokens; measured once
    for each model and hook.

    Call it before a forward pass whose hooks ask for sinks: it runs the model. 0 where no position
    counts. While activations are edited it is that of the edited model, and is not kept.
    """
    return typical_norms(model, [hook_name])[hook_name]


def typical_norms(model: LanguageModel, hook_names: Iterable[str]) -> dict[str, float]:
    """`typical_norm` of several hooks, those that are not known from one forward pass."""
    asked = list(hook_names)
    with model.lock:
        missing = [name for name in asked if name not in model.typical_norms]
        found = {name: model.typical_norms[name] for name in asked if name not in missing}
        if not missing:
            return found
        tokens = model.tokenize(PROBE_TEXT, limit=model.n_ctx)
        for name, x in record_activations(model, model.batch(tokens.ids), missing).items():
            norms = _norms(x)[0][counted(tokens).to(x.device)]
            found[name] = float(norms.median()) if len(norms) else 0.0
        if not model.n_editing:
            model.typical_norms.update(found)
        return found


def find_sinks(model: LanguageModel, recorded: Mapping[str, Tensor]) -> Bool[Tensor, "batch n_pos"]:
    """Mark positions whose norm at any of these hooks exceeds `model.sink_factor` times the typical
    one there; none if that is 0."""
    beyond: list[Tensor] = []
    for hook_name, x in recorded.items():
        limit = model.sink_factor and model.sink_factor * typical_norm(model, hook_name)
        norms = _norms(x)
        # A site that is typically zero has no proportion to be out of. What is infinite is no sink
        # but an error, which whoever reads the activations raises.
        beyond.append((norms > (limit if limit > 0 else math.inf)) & norms.isfinite())
    return torch.stack(beyond).any(0)


def many_sinks(n_sinks: int, n_tokens: int) -> list[str]:
    """A warning where sinks are more than `FEW_SINKS` of the positions that would count."""
    n_all = n_sinks + n_tokens
    if n_sinks <= FEW_SINKS * n_all:
        return []
    return [
        f"{n_sinks} of {n_all} positions ({100 * n_sinks / n_all:.2g}%) were left out "
        "as attention sinks: their norm at the site is far "
        "above the typical one. Name positions, or set include_special=True where "
        "there is such an argument, to count them."
    ]


def _norms(x: Tensor) -> Tensor:
    return x.detach().flatten(2).float().norm(dim=-1)
