"""The one door to `transformer_lens.tools.analysis`, and why most of it does not fit an SAE's site.

What is used: the norm-matched placebo of its interchange interventions, with its random subspaces.

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
  run, at every site, so that patches of several layers cannot cancel.
"""

from typing import Any, cast

from jaxtyping import Float
from torch import Tensor


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
