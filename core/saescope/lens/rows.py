"""What stands at positions of texts: residual streams, predictions, the strongest features; from a
few passes over each text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.features.reading.encode import Encoded, encode_stack
from saescope.hooks import record_activations
from saescope.lens.lens import layer_written
from saescope.lens.through import written_by
from saescope.models import LanguageModel, Tokens
from saescope.saes import SAE
from saescope.stack import as_stack

N_STRONGEST = 5
"""Features of a position that are read together."""


class ReadAt(NamedTuple):
    """A position of one of several texts."""

    text: int
    pos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRows:
    """Places with what stands there, a row each."""

    places: list[ReadAt]
    residual: dict[int, Float[Tensor, "n d_model"]]
    """The residual stream after each layer's block."""
    logits: Float[Tensor, "n d_vocab"]
    """The model's own."""
    next_ids: list[int | None]
    features: list[list[list[tuple[int, float]]]]
    """By SAE and row: the strongest features with their activations."""
    written: dict[int, Float[Tensor, "n d_model"]]
    """What the strongest features write together, by the layer that their SAE writes at."""

    def at(self, layers: Sequence[int]) -> "ReadRows":
        """The same places at some of the layers."""
        return replace(self, residual={layer: self.residual[layer] for layer in layers})


def read_rows(
    model: LanguageModel,
    saes: Sequence[SAE],
    texts: Sequence[Tokens],
    places: Sequence[ReadAt],
    *,
    layers: Sequence[int],
) -> ReadRows:
    """Run the texts that have a place, and keep what stands at the places."""
    places = sorted(set(places))
    hooks = {layer: f"blocks.{layer}.hook_resid_post" for layer in layers}
    residual = {layer: list[Tensor]() for layer in layers}
    logits = list[Tensor]()
    for text in sorted({place.text for place in places}):
        at = torch.tensor([place.pos for place in places if place.text == text])
        ids = model.batch(texts[text].ids)
        there = record_activations(model, ids, hooks.values())
        for layer, hook in hooks.items():
            residual[layer].append(there[hook][0, at.to(model.device)].float())
        logits.append(model.forward(ids)[0][0, at.to(model.device)].float())
    encoded = encode_stack(as_stack(model, saes), texts) if saes else []
    features = [[_strongest(each, place) for place in places] for each in encoded]
    return ReadRows(
        places=list(places),
        residual={layer: torch.cat(parts) for layer, parts in residual.items()},
        logits=torch.cat(logits),
        next_ids=[_next_id(texts[place.text], place.pos) for place in places],
        features=features,
        written=_written(model, saes, features),
    )


def _strongest(encoded: Encoded, place: ReadAt) -> list[tuple[int, float]]:
    return encoded.texts[place.text].at(place.pos, N_STRONGEST)


def _next_id(tokens: Tokens, pos: int) -> int | None:
    return int(tokens.ids[pos + 1]) if pos + 1 < len(tokens) else None


def _written(
    model: LanguageModel, saes: Sequence[SAE], features: list[list[list[tuple[int, float]]]]
) -> dict[int, Float[Tensor, "n d_model"]]:
    """The first SAE that writes at a layer speaks for it."""
    sums = dict[int, Tensor]()
    for sae, rows in zip(saes, features, strict=True):
        layer = layer_written(sae)
        used = sorted({feature for row in rows for feature, _ in row})
        if layer is None or layer in sums or not used:
            continue
        written = written_by(model, sae, torch.tensor(used, device=sae.device))
        if written is None:
            continue
        weights = torch.zeros(len(rows), len(used))
        for i, row in enumerate(rows):
            for feature, activation in row:
                weights[i, used.index(feature)] = activation
        sums[layer] = weights.to(written.device) @ written.float()
    return sums


def top_ids(logits: Float[Tensor, "n d_vocab"], k: int) -> Int[Tensor, "n k"]:
    """The `k` likeliest tokens of each row, best first."""
    return logits.topk(min(k, logits.shape[1]), dim=-1).indices
