"""A lens: how a layer's residual stream is carried to the last layer before it is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.models import LanguageModel
from saescope.models.analysis import save_lens
from saescope.names import split_hook
from saescope.records.lens import LensFacts
from saescope.saes import SAE
from saescope.splice import write_hook

LOGIT = "logit"
JACOBIAN = "jacobian"


@dataclass(frozen=True, slots=True)
class Lens:
    """A Jacobian lens of one model, or the logit lens, which carries nothing anywhere."""

    facts: LensFacts
    jacobian: Any = None
    """A `JacobianLens` of transformer-lens; None for the logit lens."""
    warnings: tuple[str, ...] = ()

    @property
    def is_fitted(self) -> bool:
        """Whether there are matrices: the logit lens has none."""
        return self.jacobian is not None

    def matrix(self, layer: int) -> Float[Tensor, "d_model d_model"] | None:
        """The matrix of a layer, on the CPU; None where it is the identity, as at the last
        layer."""
        return None if self.jacobian is None else self.jacobian.jacobians.get(layer)

    def error(self, layer: int) -> float | None:
        """The standard error of a layer's matrix over prompts, as a share of its norm; None where
        it is not known, or there is none."""
        known = dict(zip(self.facts.layers, self.facts.errors or [], strict=False))
        return known.get(layer)

    def carry(self, x: Float[Tensor, "*n d_model"], layer: int) -> Float[Tensor, "*n d_model"]:
        """Take a residual stream after a layer's block to where the last block ends."""
        if self.matrix(layer) is None:
            return x.float()
        return self.jacobian.transport(x, layer)

    def save(self, path: str | Path) -> Path:
        """Write it as lenses are published, for transformer-lens to read.

        Raises:
            ArgumentError: it is the logit lens.
        """
        if self.jacobian is None:
            raise ArgumentError(
                "The logit lens has nothing to save.",
                field="lens",
                hint="Save one that was fitted: ss.fit_lens(model).save(path).",
            )
        save_lens(self.jacobian, Path(path))
        return Path(path).with_suffix(".pt")


def logit_lens_of(model: LanguageModel) -> Lens:
    """The logit lens, which reads at every layer."""
    facts = LensFacts(
        lens=LOGIT,
        layers=[*range(model.n_layers)],
        n_prompts=None,
        n_tokens=None,
        corpus=None,
        revision=None,
    )
    return Lens(facts)


def layer_written(sae: SAE) -> int | None:
    """The block after which what an SAE writes is in the residual stream; None before the first."""
    layer, site = split_hook(write_hook(sae))
    if layer is None:
        return None
    before = layer - 1 if site == "resid_pre" else layer
    return before if before >= 0 else None
