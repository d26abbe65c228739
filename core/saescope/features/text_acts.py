"""Features of many texts, one text at a time, nothing else kept."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from saescope.activations import Harvester
from saescope.errors import NumericError
from saescope.hooks import record_activations
from saescope.models import LanguageModel, Tokens
from saescope.ops import SparseActs
from saescope.saes import SAE
from saescope.splice import prepare_input, read_hook

FEW = 8
"""Below so many texts a harvester costs more (two forward passes to prove itself) than it saves."""


def text_acts(model: LanguageModel, sae: SAE, texts: Sequence[Tokens]) -> Iterator[SparseActs]:
    """Features at every position of each text, on the CPU in float32.

    Raises:
        NumericError: the activations are NaN or infinite.
    """
    hook_name = read_hook(sae)
    record: Callable[[Tensor], dict[str, Tensor]] = partial(
        record_activations, model, hook_names=[hook_name]
    )
    if len(texts) >= FEW:
        record = Harvester(model, [hook_name], max(map(len, texts)))
    for tokens in texts:
        with torch.no_grad():
            x = prepare_input(model, sae, record(model.batch(tokens.ids))[hook_name].to(sae.device))
            if not bool(x.isfinite().all()):
                raise NumericError(
                    f"The activations at {hook_name} are not finite.",
                    hint="Load the model with dtype float32.",
                )
            acts = sae.encode_sparse(x[None] if sae.sequential else x)
        yield SparseActs(
            acts.values.float().cpu(), acts.features.cpu(), acts.offsets.cpu(), acts.d_sae
        )
