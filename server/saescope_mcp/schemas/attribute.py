"""attribute_logit: which features a prediction rests on."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from saescope.records.attribution import Joint
from saescope.records.labels import ShortLabel
from saescope.records.prediction import TargetLogit
from saescope_mcp.schemas.bounds import AtMost
from saescope_mcp.schemas.common import (
    Against,
    Chat,
    Controls,
    IncludeSpecial,
    ListReply,
    OneOfSeveral,
    Prompt,
    SAEsRequest,
    Seed,
    Target,
    is_empty,
)


class AttributeLogit(SAEsRequest):
    """Arguments of attribute_logit."""

    prompt: Prompt
    target: Target = ""
    against: Against = ""
    position: int = Field(
        default=-1, ge=-(2**31), le=2**31, description="Position to explain; -1: the last."
    )
    method: Literal["gradient", "direct", "integrated_gradients"] = Field(
        default="gradient",
        description="gradient: f * dlogit/df; direct: through the final norm only; "
        "integrated_gradients: averaged from zero.",
    )
    k: Annotated[int, AtMost("max_k")] = Field(
        default=10, ge=1, description="(feature, position) pairs listed."
    )
    sign: Literal["any", "positive", "negative"] = Field(
        "any", description="For the target (positive), against it, or any."
    )
    validate_: bool = Field(
        default=True, alias="validate", description="Measure by ablation, with controls."
    )
    n_controls: Controls = 5
    seed: Seed = 0
    include_special: IncludeSpecial = False
    chat: Chat = False


class FeatureEffect(BaseModel):
    """What one feature at one position adds to the logit: estimated, and measured by ablation."""

    sae: OneOfSeveral = None
    feature: int
    pos: int
    token: str
    activation: float
    attribution: float
    measured_effect: float | None
    label: ShortLabel | None
    url: str | None


class Agreement(BaseModel):
    """Correlation of attribution and measured effect over the n listed features."""

    pearson: float | None
    n: int


class ShareOf(BaseModel):
    """What one of several SAEs sees and does not see of the logit."""

    sae: str
    total: int
    error_attribution: float
    error_share: float | None
    n_tokens: int
    n_left_out: int
    n_sinks: int


class AttributeLogitReply(ListReply):
    """Features by size of attribution, of all SAEs together."""

    listed: ClassVar[str] = "features"

    target: TargetLogit
    against: TargetLogit | None
    position: int
    method: str
    features: list[FeatureEffect]
    by_sae: list[ShareOf] = Field(default=[], exclude_if=is_empty)
    """For several SAEs; the two numbers below are null then."""
    error_attribution: float | None
    error_share: float | None
    agreement: Agreement
    joint: Joint | None
    completeness: float | None
    left_out: str
    """What the method does not see."""
    n_tokens: int
    n_left_out: int
    n_sinks: int
    """How many are left out because their norm at the site is out of proportion."""
    bos_prepended: bool
