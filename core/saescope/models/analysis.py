"""The one door to `transformer_lens.tools.analysis`, and why most of it does not fit an SAE's site.

What is used: the norm-matched placebo of its interchange interventions, with its random subspaces;
`logit_readout`, through which every lens reads the vocabulary; and `JacobianLens`, which is fitted,
saved and applied by it.

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
- `JacobianLens.from_pretrained`: a published file is a pickle from the hub, and both have their own
  fences here.
"""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.errors import MismatchError, ModelError
from saescope.models.language_model import LanguageModel

_REGISTRY = "jacobian_lens_registry.json"
_LENS_SUFFIX = ".pt"


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
    dim_batch: int,
) -> dict[int, Float[Tensor, "d_model d_model"]]:
    """The Jacobian of the last block's output to that of each layer's block, averaged over the
    positions of one prompt.

    Raises:
        ModelError: transformer-lens cannot fit a lens on a model of this kind.
    """
    from transformer_lens.tools.analysis.jacobian_lens import JacobianLens

    with model.lock, _prompt_is(model, ids), _refusals(model):
        lens = JacobianLens.fit(
            model.bridge,
            ["the prompt"],
            corpus="one prompt",
            source_layers=[*layers],
            dim_batch=dim_batch,
            max_seq_len=len(ids),
            skip_first_positions=skip_first,
            show_progress=False,
        )
    return lens.jacobians


@contextmanager
def _prompt_is(model: LanguageModel, ids: Int[Tensor, " n_pos"]) -> Generator[None]:
    """While the block runs, the bridge makes these tokens of any text: its own tokenizer has
    another rule for BOS."""
    batch = model.batch(ids)
    # An attribute of the instance hides the method, and goes with the block.
    vars(model.bridge)["to_tokens"] = lambda _prompt: batch
    try:
        yield
    finally:
        del vars(model.bridge)["to_tokens"]


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
    from transformer_lens.tools.analysis.jacobian_lens import JacobianLens

    target = {} if target_layer is None else {"target_layer": target_layer}
    try:
        lens = JacobianLens(
            dict(matrices),
            n_prompts=n_prompts,
            d_model=len(next(iter(matrices.values()))),
            metadata=target,
        )
        return lens.validate_model(model.bridge)
    except ValueError as error:
        raise MismatchError(
            f"The lens does not belong to {model.name}: {error}",
            code="DIM_MISMATCH",
            field="lens",
            got=next(iter(matrices.values())).shape[0],
            allowed=f"d_model={model.d_model}, layers 0..{model.n_layers - 2}",
            hint="Use the lens of this model, or fit one: ss.fit_lens(model).",
        ) from error


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
