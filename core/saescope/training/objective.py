"""What a training step minimises: the architecture, the knobs of its loss, and the parameters that
it has."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.errors import ConfigError
from saescope.ranks import ALONE, Ranks
from saescope.recipes import RECIPES, Architecture, Revival, TrainingRecipe
from saescope.saes.batchtopk import check_widths

SparsityMode = Literal["step", "tanh", "quadratic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One architecture's loss; coefficients that may warm up are given with each step."""

    architecture: Architecture
    d_in: int
    d_sae: int
    d_out: int
    skip: bool = False
    """The output has an affine skip connection `x @ W_skip.T`."""
    apply_b_dec_to_input: bool = True
    """Encode `x - b_dec`; never for transcoders, whose b_dec lives at the output site."""
    k: float = 0.0
    """TopK family: features kept a position."""
    rescale_acts_by_decoder_norm: bool = True
    """TopK family: rank as if decoder rows had norm 1."""
    matryoshka_widths: tuple[int, ...] = ()
    use_matryoshka_aux_loss: bool = False
    """AuxK against the residual of each prefix, not of the whole."""
    lp_norm: float = 1.0
    jumprelu_bandwidth: float = 0.05
    jumprelu_sparsity_loss_mode: SparsityMode = "step"
    jumprelu_tanh_scale: float = 4.0
    jumprelu_ste_to_input: bool = False
    target_l0: float = 0.0
    revival: Revival = "none"

    @property
    def recipe(self) -> TrainingRecipe:
        return RECIPES[self.architecture]

    @property
    def revives(self) -> bool:
        """Whether a term of the loss brings dead features back."""
        return self.revival in ("auxk", "pre_act", "ghost")

    def __post_init__(self) -> None:
        if self.revival not in self.recipe.revivals:
            raise ConfigError(
                f"revival={self.revival!r} does not exist for {self.architecture} SAEs.",
                field="revival",
                got=self.revival,
                allowed=self.recipe.revivals,
            )
        if self.recipe.ranks and not 0 < self.k <= self.d_sae:
            raise ConfigError(
                f"k must be in (0, d_sae={self.d_sae}], got {self.k}.", field="k", got=self.k
            )
        if self.recipe.whole_k and self.k != int(self.k):
            raise ConfigError(
                f"k of a {self.architecture} SAE must be a whole number, got {self.k}.",
                field="k",
                got=self.k,
            )
        if self.recipe.nested:
            check_widths(self.matryoshka_widths, d_sae=self.d_sae)
        if self.jumprelu_sparsity_loss_mode == "quadratic" and not 0 < self.target_l0 <= self.d_sae:
            raise ConfigError(
                f"The quadratic loss needs target_l0 in (0, d_sae={self.d_sae}], got "
                f"{self.target_l0}.",
                field="target_l0",
                got=self.target_l0,
            )


BLOCK = 4096
"""Rows that are drawn at a time. torch draws 16 numbers together: of a block whose size is no
multiple of that, the last ones would be others than in one call for all."""


class Batch(NamedTuple):
    """Activations to encode and to predict: the same tensor for an SAE, two sites for a
    transcoder."""

    x: Float[Tensor, "n_pos d_in"]
    y: Float[Tensor, "n_pos d_out"]


class Dead(NamedTuple):
    """The features to revive, where the objective does that."""

    mask: Bool[Tensor, " d_sae"]
    at_most: int
    """There are no more of them, as far as the host knows without asking the device."""


class Coefficients(NamedTuple):
    """The weights of the loss terms beside the squared error, at one step."""

    sparsity: float | Float[Tensor, ""] = 0.0
    """l1_coefficient (standard, gated) or l0_coefficient (jumprelu)."""
    revival: float = 1.0
    """The weight of the AuxK, pre-activation or ghost term."""


Params = dict[str, Tensor]
"""encoder [d_sae, d_in], decoder [d_sae, d_out], b_dec, the biases of the architecture, W_skip
where there is a skip path."""


def initial_params(
    objective: Objective,
    *,
    seed: int,
    decoder_init_norm: float = 0.1,
    jumprelu_init_threshold: float = 0.01,
    ranks: Ranks = ALONE,
) -> Params:
    """Decoder rows of one norm in random directions, the encoder their copy (Conerly et al. 2024)
    or, where the L0 is free, with rows of norm 1, so that biases and thresholds have the scale of
    the activations; W_skip zero. Of `ranks` each has its share of the features."""
    generator = torch.Generator().manual_seed(seed)
    share = ranks.share(objective.d_sae)
    n_own = share.stop - share.start
    decoder = _rows(share, objective.d_out, decoder_init_norm, generator, n=objective.d_sae)
    encoder_norm = decoder_init_norm if objective.recipe.ranks else 1.0
    if objective.d_in == objective.d_out:
        encoder = decoder * (encoder_norm / decoder_init_norm)
    else:
        encoder = _rows(share, objective.d_in, encoder_norm, generator, n=objective.d_sae)
    params: Params = {"encoder": encoder, "decoder": decoder, "b_dec": torch.zeros(objective.d_out)}
    params |= {name: torch.zeros(n_own) for name in objective.recipe.biases}
    if "threshold" in params:
        params["threshold"].fill_(jumprelu_init_threshold)
    return params | (
        {"W_skip": torch.zeros(objective.d_out, objective.d_in)} if objective.skip else {}
    )


def _rows(
    share: slice, width: int, norm: float, generator: torch.Generator, *, n: int
) -> Float[Tensor, "n_own width"]:
    """A share of `n` rows. The numbers are those of one call for all of them; but never are more
    than a block of the others there."""
    kept = list[Tensor]()
    for start in range(0, n, BLOCK):
        rows = torch.randn(min(BLOCK, n - start), width, generator=generator)
        kept.append(rows[max(0, share.start - start) : max(0, share.stop - start)])
    rows = torch.cat(kept)
    return rows * (norm / rows.norm(dim=-1, keepdim=True))
