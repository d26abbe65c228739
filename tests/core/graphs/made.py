"""Transcoders and SAEs with random weights for every layer of a tiny model, and graphs of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saescope.graphs.members import HeldSet, held
from saescope.graphs.targets import choose_targets
from saescope.graphs.trace import Traced, trace
from saescope.models import LanguageModel, Tokens
from saescope.ops import SparseActs
from saescope.records.graph import GraphSettings
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE

IDS = torch.tensor([2, 185, 552, 116, 214, 63, 470, 99])


def transcoders(model: LanguageModel, *, d_sae: int = 40, skip: bool = False) -> list[SAE]:
    """One ReLU transcoder a layer, from the MLP's input to what it adds to the stream."""
    rng, d = torch.Generator().manual_seed(1), model.d_model
    made: list[SAE] = []
    for layer in range(model.n_layers):
        metadata = SAEMetadata(
            model_name=model.name,
            hook_name=f"blocks.{layer}.mlp.hook_in",
            hook_name_out=f"blocks.{layer}.hook_mlp_out",
        )
        cfg = StandardConfig(
            d_in=d,
            d_sae=d_sae,
            d_out=d,
            dtype="float32",
            apply_b_dec_to_input=False,
            transcoder=True,
            skip=skip,
            metadata=metadata,
        )
        made.append(StandardSAE(cfg, _weights(cfg, rng)))
    return made


def residual(model: LanguageModel, layers: list[int], *, d_sae: int = 40) -> list[SAE]:
    """One ReLU SAE of the residual stream at each of these layers."""
    rng, d = torch.Generator().manual_seed(2), model.d_model
    made: list[SAE] = []
    for layer in layers:
        metadata = SAEMetadata(model_name=model.name, hook_name=f"blocks.{layer}.hook_resid_post")
        cfg = StandardConfig(
            d_in=d,
            d_sae=d_sae,
            d_out=d,
            dtype="float32",
            apply_b_dec_to_input=False,
            metadata=metadata,
        )
        made.append(StandardSAE(cfg, _weights(cfg, rng)))
    return made


def in_float64(saes: Sequence[SAE]) -> list[SAE]:
    """The same SAEs in double precision."""
    return [
        StandardSAE(
            replace(sae.cfg, dtype="float64"),  # pyright: ignore[reportArgumentType]
            {name: tensor.double() for name, tensor in sae.tensors().items()},
        )
        for sae in saes
    ]


def _weights(cfg: Any, rng: torch.Generator) -> dict[str, Tensor]:
    d, n = cfg.d_in, cfg.d_sae
    weights = {
        "W_enc": torch.randn(d, n, generator=rng) / d**0.5,
        "W_dec": torch.randn(n, d, generator=rng) / d**0.5,
        "b_enc": 0.1 * torch.randn(n, generator=rng) - 0.3,
        "b_dec": 0.1 * torch.randn(d, generator=rng),
    }
    return weights | ({"W_skip": torch.randn(d, d, generator=rng) / d} if cfg.skip else {})


def set_of(model: LanguageModel, **kwargs: Any) -> HeldSet:
    return held(model, transcoders(model, **kwargs))


def as_tokens(ids: Tensor = IDS) -> Tokens:
    strings = tuple(f"<{i}>" for i in ids.tolist())
    return Tokens(ids, torch.zeros(len(ids), dtype=torch.bool), strings, True)


def traced(
    model: LanguageModel, of: Any, *, ids: Tensor = IDS, settings: GraphSettings | None = None
) -> Traced:
    """The graph of the two likeliest tokens."""
    settings = settings or GraphSettings(most_targets=2)
    logits = model.forward(model.batch(ids))[0][0, -1]
    targets = choose_targets(model, logits, named=(), against=None, settings=settings)
    return trace(model, of, as_tokens(ids), targets, settings)


def dense(graph: Traced) -> Tensor:
    """The whole matrix A, [nodes, nodes]: columns first, then the targets."""
    n = graph.store.columns.n
    matrix = torch.zeros(n + len(graph.targets), n + len(graph.targets), dtype=torch.float64)
    for reader, parts in graph.store.parts.items():
        for rows in parts:
            names = rows.targets + (n if reader is None else 0)
            for i, name in enumerate(names.tolist()):
                matrix[name, rows.columns[i].long()] = rows.weights[i].double()
    return matrix


@dataclass(frozen=True, eq=False)
class CrossLayerMember:
    """A member that writes to its own layer and all later ones, with decoders of each."""

    index: int
    layer: int
    sae: SAE
    decoders: Mapping[int, Tensor]
    hooks: Mapping[int, str]

    @property
    def cfg(self) -> Any:
        return self.sae.cfg

    @property
    def read_hook(self) -> str:
        return self.sae.cfg.metadata.hook_name

    @property
    def write_hooks(self) -> Mapping[int, str]:
        return self.hooks

    def encode(self, x: Tensor) -> SparseActs:
        return self.sae.encode_sparse(x)

    def hidden_pre(self, x: Tensor, features: Tensor) -> Tensor:
        return self.sae.hidden_pre_of(x, features)

    def read_rows(self, features: Tensor) -> Tensor:
        return self.sae.read_by(features).rows

    def write_rows(self, features: Tensor, to: int) -> Tensor:
        return self.decoders[to][features]

    def bias(self, to: int) -> Tensor:
        return self.sae.b_dec

    def skip(self, x: Tensor) -> Tensor | None:
        return None


def cross_layer(model: LanguageModel, *, own_only: bool = False) -> HeldSet:
    """A cross-layer transcoder; with `own_only` its decoders of later layers are zero."""
    saes, rng = transcoders(model), torch.Generator().manual_seed(3)
    hooks = [sae.cfg.metadata.hook_name_out for sae in saes]
    members: list[Any] = []
    for i, sae in enumerate(saes):
        later = range(i + 1, len(saes))
        rows = {
            j: torch.randn(sae.W_dec.shape, generator=rng) * (0 if own_only else 0.2) for j in later
        }
        names = {j: hooks[j] for j in range(i, len(saes))}
        members.append(CrossLayerMember(i, i, sae, {i: sae.W_dec, **rows}, names))
    return HeldSet(tuple(members), "cross_layer")
