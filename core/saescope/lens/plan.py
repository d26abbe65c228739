"""What a Jacobian lens is fitted on where nobody says, and what that takes."""

from dataclasses import asdict, dataclass
from typing import Any

from saescope.errors import ConfigError
from saescope.models import LanguageModel
from saescope.models.analysis import jacobian_flops

CPU_FLOPS = 5e13
"""What a fit on a CPU may take: about ten minutes of two cores at 40 GFLOP/s each."""
LEAST_PROMPTS, MOST_PROMPTS = 4, 100
_CONTEXT_SIZE, _CPU_CONTEXT_SIZE = 128, 48


@dataclass(frozen=True, slots=True, kw_only=True)
class LensPlan:
    """The size of a fit: settings of `LensConfig`, and its cost."""

    n_prompts: int
    context_size: int
    skip_first: int
    first_layer: int
    n_layers: int
    """The layers that the lens can be read at, beside the last one."""
    flops: float
    """Multiplications and additions of the whole fit."""

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `fit_lens`."""
        return {k: v for k, v in asdict(self).items() if k not in ("n_layers", "flops")}

    def __str__(self) -> str:
        last = self.first_layer + self.n_layers - 1
        return (
            f"{self.n_prompts} prompts of {self.context_size} tokens, layers {self.first_layer} to "
            f"{last}, {self.flops / 1e12:,.1f} TFLOP"
        )


def require_layers_above(model: LanguageModel, first_layer: int) -> None:
    """Raise where no lens can begin: at the last layer the model is read itself.

    Raises:
        ConfigError: OUT_OF_RANGE.
    """
    if not 0 <= first_layer < model.n_layers - 1:
        raise ConfigError(
            f"{model.name} has no lens from layer {first_layer} on.",
            code="OUT_OF_RANGE",
            field="first_layer",
            got=first_layer,
            allowed=f"0..{model.n_layers - 2}" if model.n_layers > 1 else "none: it has one layer",
            hint="The logit lens reads every layer.",
        )


def plan_lens(model: LanguageModel, *, first_layer: int = 0) -> LensPlan:
    """A fit of usual size: on a GPU 100 prompts of 128 tokens, on a CPU as many of 48 as take about
    ten minutes of two cores, from 4 to 100. Its cost grows with the layers above the first.

    Raises:
        ConfigError: OUT_OF_RANGE: the model has no layer below its last from the first one on.
    """
    require_layers_above(model, first_layer)
    on_cpu = model.device.type == "cpu"
    size = min(_CPU_CONTEXT_SIZE if on_cpu else _CONTEXT_SIZE, model.n_ctx)
    skip = min(16, size // 2)
    each = jacobian_flops(model, first_layer=first_layer, n_pos=size - skip - 1)
    within = int(CPU_FLOPS / each) if on_cpu else MOST_PROMPTS
    n_prompts = min(max(within, LEAST_PROMPTS), MOST_PROMPTS)
    return LensPlan(
        n_prompts=n_prompts,
        context_size=size,
        skip_first=skip,
        first_layer=first_layer,
        n_layers=model.n_layers - 1 - first_layer,
        flops=n_prompts * each,
    )
