"""The architectures that can be trained, a row each: what training asks of them beside their step.

A new one is a row here, and a step with its plain loss in `training/steps`, listed there in
`STEPS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Architecture = Literal["topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "standard", "gated"]
Revival = Literal["none", "auxk", "pre_act", "ghost", "resample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecipe:
    """One trainable architecture."""

    sets_l0: Literal["k", "l1_coefficient", "l0_coefficient"]
    """The setting that fixes the L0, or else the coefficient that is steered until the L0 is k."""
    biases: tuple[str, ...] = ("b_enc",)
    """The parameters of one number a feature."""
    revivals: tuple[Revival, ...]
    """How dead features can be brought back."""
    revival: Revival
    """The one that is taken unless another is named."""
    transcoder_revival: Revival
    revival_coefficient: str = "aux_loss_coefficient"
    """The setting that weighs the term of the loss that brings dead features back."""
    whole_k: bool = False
    """k is the same at every position, so it is a whole number."""
    has_level: bool = False
    """Whether after training a feature fires above one level, estimated over the last batches."""
    nested: bool = False
    """Prefixes of the features reconstruct, too (matryoshka_widths)."""

    @property
    def ranks(self) -> bool:
        """The largest activations are kept; where that is not so, the L0 is free."""
        return self.sets_l0 == "k"


_TOPK = TrainingRecipe(
    sets_l0="k",
    revivals=("none", "auxk", "resample"),
    revival="auxk",
    transcoder_revival="auxk",
    whole_k=True,
)
_BATCHTOPK = TrainingRecipe(
    sets_l0="k",
    revivals=("none", "auxk", "resample"),
    revival="auxk",
    transcoder_revival="auxk",
    has_level=True,
)
RECIPES: Mapping[Architecture, TrainingRecipe] = {
    "topk": _TOPK,
    "batchtopk": _BATCHTOPK,
    "matryoshka_batchtopk": TrainingRecipe(
        sets_l0="k",
        revivals=_BATCHTOPK.revivals,
        revival="auxk",
        transcoder_revival="auxk",
        has_level=True,
        nested=True,
    ),
    "jumprelu": TrainingRecipe(
        sets_l0="l0_coefficient",
        biases=("b_enc", "threshold"),
        revivals=("none", "pre_act", "resample"),
        revival="pre_act",
        transcoder_revival="resample",
        revival_coefficient="pre_act_loss_coefficient",
    ),
    "standard": TrainingRecipe(
        sets_l0="l1_coefficient",
        revivals=("none", "ghost", "resample"),
        revival="resample",
        transcoder_revival="resample",
    ),
    "gated": TrainingRecipe(
        sets_l0="l1_coefficient",
        biases=("b_gate", "b_mag", "r_mag"),
        revivals=("none", "resample"),
        revival="resample",
        transcoder_revival="resample",
    ),
}
