"""The one door to `transformer_lens.tools.analysis`, and why most of it does not fit an SAE's site.

What is used: the norm-matched placebo of its interchange interventions, with its random subspaces;
`logit_readout`, through which every lens reads the vocabulary; and `JacobianLens`, which checks the
model, is saved and applied by it.

What is not used, and why:
- `attribution_patch` and `faithfulness` score and keep heads and MLPs. They know no SAE, so no
  feature and no error term; they want two prompts of one length, and count every position, position
  0 and special tokens too; edges are refused where heads share keys (GQA) or a norm stands behind
  a branch (Gemma). Features are scored by `saescope.attribution`, and the share that a patch closes
  is their `recovered`: (patched - a) / (b - a).
- `run_with_intervention` writes one position of one hook in a pass. A patch of features is a change
  of several positions at the sites of several SAEs, computed from what stands there in that run.
- `JacobianLens.swap_hooks` exchanges the coordinates that it meets: a second layer undoes the first
  (TransformerLens issue 1746). Every value that is patched here comes from the other prompt's clean
  run, at every site, so that patches of several layers cannot cancel; lenses only read.
- `JacobianLens.fit` runs a prompt once for every row of a batch, and gradients through all of its
  positions: the same matrices take a third less here (`docs/benchmarks.md`).
- `JacobianLens.from_pretrained`: a published file is a pickle from the hub, and both have their own
  fences here.
"""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.errors import MismatchError, ModelError
from saescope.models.kv_cache import cache_argument
from saescope.models.language_model import LanguageModel, StopForward
from saescope.progress import Advance

_REGISTRY = "jacobian_lens_registry.json"
_LENS_SUFFIX = ".pt"
_CHUNK_TOKENS = {"cpu": 3 * 2**10, "cuda": 2**15}
"""Positions that go through one backward pass, over all of its rows."""


class PublishedLens(NamedTuple):
    """The place of a published Jacobian lens on the hub, and the models that it was fitted on."""

    repo_id: str
    filename: str
    revision: str
    models: tuple[str, ...]


def published_lenses() -> dict[str, PublishedLens]:
    """The published lenses that transformer-lens lists, by short name; no network."""
    # Beside the module, without importing it: that would bring torch.
    listed = files("transformer_lens") / "tools" / "analysis" / _REGISTRY
    registry: dict[str, Any] = json.loads(listed.read_text(encoding="utf-8"))
    return {
        name: PublishedLens(
            row["repo_id"], row["filename"], registry["revision"], (name, *row.get("aliases", []))
        )
        for name, row in registry.items()
        if isinstance(row, dict)
    }


def fit_jacobian(
    model: LanguageModel,
    ids: Int[Tensor, " n_pos"],
    *,
    layers: Sequence[int],
    skip_first: int,
    advance: Advance | None = None,
) -> dict[int, Float[Tensor, "d_model d_model"]]:
    """The Jacobian of the last block's output to that of each layer's block, averaged over the
    positions of one prompt; `advance` hears of the rows that are done.

    These are the matrices of transformer-lens's `JacobianLens.fit`, up to rounding, for less: all
    rows share one forward pass, and no gradient runs through the positions before `skip_first`
    and the last, which are neither sources nor targets.

    Raises:
        ModelError: transformer-lens cannot fit a lens on a model of this kind.
        Cancelled: the caller gave up.
    """
    layers = sorted(layers)
    with _refusals(model):
        probe = {layers[0]: torch.eye(model.d_model)}
        _unchecked_lens(probe, n_prompts=1, target={}).validate_model(model.bridge)
    with model.lock:
        sources, target, first = _residuals(model, ids[:-1], layers, skip_first)
        n_pos = target.shape[1]
        chunk = max(1, _CHUNK_TOKENS.get(model.device.type, _CHUNK_TOKENS["cpu"]) // n_pos)
        rows = list[list[Tensor]]()
        for at in torch.arange(model.d_model).split(chunk):
            stop_if_cancelled()
            cotangents = target.new_zeros(len(at), *target.shape)
            cotangents[torch.arange(len(at)), 0, first:, at] = 1.0
            # One row of the Jacobian for each cotangent, summed over the targets: causality leaves
            # those at or after each source.
            found = torch.autograd.grad(
                target, sources, cotangents, retain_graph=True, is_grads_batched=True
            )
            rows.append([each[:, 0, first:].float().mean(1).cpu() for each in found])
            if advance is not None:
                advance(len(at))
    return {layer: torch.cat([part[i] for part in rows]) for i, layer in enumerate(layers)}


def jacobian_flops(model: LanguageModel, *, first_layer: int, n_pos: int) -> float:
    """The multiplications and additions of `fit_jacobian` with so many positions between the
    skipped ones and the last, attention's own aside: two for each weight of each block above the
    layer, position and row."""
    n_weights = 0
    for block in model.bridge.blocks[first_layer + 1 :]:
        # By storage: the bridge's q, k and v are views of a joint projection.
        parts = {p.untyped_storage().data_ptr(): p for p in block.parameters()}
        n_weights += sum(p.untyped_storage().nbytes() // p.element_size() for p in parts.values())
    return 2.0 * n_weights * n_pos * model.d_model


def _residuals(
    model: LanguageModel, ids: Int[Tensor, " n_pos"], layers: Sequence[int], skip_first: int
) -> tuple[list[Tensor], Tensor, int]:
    """The residual stream after each layer and after the last block, in one graph, and the first
    position of these that is not skipped."""
    kept = dict[int, Tensor]()

    def keep(layer: int, x: Tensor, hook: object) -> Tensor:
        # Some families add to it in place later on: what goes on is a copy.
        kept[layer] = x if kept else x.detach().clone().requires_grad_()
        if layer == model.n_layers - 1:
            raise StopForward(x)
        return kept[layer].clone()

    names = [(n, f"blocks.{n}.hook_resid_post") for n in (*layers, model.n_layers - 1)]
    hooks = [(name, partial(keep, n)) for n, name in names]
    if skip_first and model.caches_up_to(len(ids)):
        past = model.forward(model.batch(ids[:skip_first]), use_cache=True, last=1)[1]
        ids, skip_first = ids[skip_first:], 0
        given = {"use_cache": True, cache_argument(model.bridge.original_model): past}
    else:
        given = dict[str, Any]()
    with torch.enable_grad(), model.hooked(hooks):
        model.bridge(model.batch(ids), return_type="logits", **given)
    return [kept[layer] for layer in layers], kept[model.n_layers - 1], skip_first


@contextmanager
def _refusals(model: LanguageModel) -> Generator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"A Jacobian lens cannot be fitted on {model.name}: {error}",
            code="UNSUPPORTED_MODEL",
            field="lens",
            got=model.name,
            allowed='lens="logit"',
            hint="Read it through the logit lens.",
        ) from error


def jacobian_lens(
    model: LanguageModel,
    matrices: Mapping[int, Float[Tensor, "d_model d_model"]],
    *,
    n_prompts: int,
    target_layer: int | None = None,
) -> Any:
    """A transformer-lens `JacobianLens` of these matrices that fits the model.

    Raises:
        MismatchError: it is of another width, has layers that the model has not, or leads to
            another layer than the last.
    """
    target = {} if target_layer is None else {"target_layer": target_layer}
    try:
        return _unchecked_lens(matrices, n_prompts=n_prompts, target=target).validate_model(
            model.bridge
        )
    except ValueError as error:
        raise MismatchError(
            f"The lens does not belong to {model.name}: {error}",
            code="DIM_MISMATCH",
            field="lens",
            got=next(iter(matrices.values())).shape[0],
            allowed=f"d_model={model.d_model}, layers 0..{model.n_layers - 2}",
            hint="Use the lens of this model, or fit one: ss.fit_lens(model).",
        ) from error


def _unchecked_lens(
    matrices: Mapping[int, Float[Tensor, "d_model d_model"]],
    *,
    n_prompts: int,
    target: Mapping[str, int],
) -> Any:
    from transformer_lens.tools.analysis.jacobian_lens import JacobianLens

    width = len(next(iter(matrices.values())))
    return JacobianLens(dict(matrices), n_prompts=n_prompts, d_model=width, metadata={**target})


def save_lens(lens: Any, path: Path) -> None:
    """Write a lens as others publish theirs: readable by transformer-lens and by the reference
    implementation."""
    lens.save(str(path.with_suffix(_LENS_SUFFIX)), dtype=torch.float32)


def read_vocabulary(
    model: LanguageModel, vectors: Float[Tensor, "*n d_model"]
) -> Float[Tensor, "*n d_vocab"]:
    """The logits that the model's own final norm and unembedding read off vectors of the residual
    stream, a soft cap included.

    Raises:
        ModelError: the model has no such readout.
    """
    from transformer_lens.tools.analysis.logit_lens import logit_readout

    with model.lock:
        try:
            return logit_readout(model.bridge, vectors).values.detach().float()
        except (ValueError, NotImplementedError) as error:
            raise ModelError(
                f"{model.name} cannot be read through a lens: {error}",
                code="UNSUPPORTED_MODEL",
                field="lens",
                got=model.name,
                hint="Leave lens out: features can be read all the same.",
            ) from error


def norm_matched_placebo(
    base: Float[Tensor, "n d"],
    source: Float[Tensor, "n d"],
    move: Float[Tensor, "n d"],
    *,
    rank: int,
    seed: int,
) -> Float[Tensor, "n d"]:
    """A move of each row as long as `move`, from `base` towards `source` inside a random subspace
    of `rank` dimensions."""
    from transformer_lens.tools.analysis.interchange import (
        NormMatchedPlacebo,
        SubspaceInterchange,
        random_basis,
    )

    def moved(rows: Tensor, _: Tensor) -> Tensor:
        return rows + move

    # It calls its reference and reads nothing else of it: any function of base and source will do.
    reference = cast("SubspaceInterchange", cast(Any, moved))
    basis = random_basis(base.shape[-1], min(rank, base.shape[-1]), seed)
    return NormMatchedPlacebo(reference, basis)(base, source) - base
