"""Features of many texts, one text at a time, nothing else kept."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.activations import Harvester
from saescope.hooks import record_texts
from saescope.models import LanguageModel, Tokens, counted
from saescope.ops import SparseActs
from saescope.saes import SAE
from saescope.sinks import find_sinks
from saescope.splice import encode_site, read_hook, site_hooks

FEW = 8
"""Below so many texts a harvester costs more (two forward passes to prove itself) than it saves."""


class TextActs(NamedTuple):
    """Features at every position of a text, on the CPU in float32, and which of the positions
    count."""

    acts: SparseActs
    counted: Bool[Tensor, " n_pos"]
    n_sinks: int
    """Positions that do not count for their norm alone."""
    mean: Float[Tensor, " d_in"]
    """The SAE's input, averaged over the positions that count: what a probe would read."""


def text_acts(
    model: LanguageModel, sae: SAE, texts: Sequence[Tokens], *, include_special: bool = False
) -> Iterator[TextActs]:
    """Features of each text, one after the other.

    Raises:
        NumericError: the activations are NaN or infinite.
    """
    in_chunks: Callable[[Tensor], dict[str, Tensor]] = partial(
        record_texts, model, hook_names=site_hooks(sae)
    )
    at_once = in_chunks
    if len(texts) >= FEW:
        longest = min(max(map(len, texts)), model.pass_tokens)
        at_once = Harvester(model, site_hooks(sae), longest)
    for tokens in texts:
        with torch.no_grad():
            record = in_chunks if len(tokens) > model.pass_tokens else at_once
            recorded = record(model.batch(tokens.ids))
            sinks = find_sinks(model, recorded)[0]
            x, acts = encode_site(model, sae, recorded[read_hook(sae)])
        usual = counted(tokens, (), include_special)
        mask = counted(tokens, (), include_special, sinks=sinks)
        yield TextActs(
            SparseActs(
                acts.values.float().cpu(), acts.features.cpu(), acts.offsets.cpu(), acts.d_sae
            ),
            mask,
            int(usual.sum() - mask.sum()),
            x.flatten(0, -2).float().cpu()[mask].mean(0),
        )
