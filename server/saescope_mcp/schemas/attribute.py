"""attribute_logit: which features a prediction rests on."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from saescope.records.attribution import Attribution, FeatureEffect, SAEShare
from saescope.records.labels import ShortLabel
from saescope_mcp.schemas.bounds import AtMost
from saescope_mcp.schemas.common import (
    Against,
    Chat,
    Controls,
    IncludeSpecial,
    ListReply,
    Measure,
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
    measure: Measure = "logprob"
    method: Literal["gradient", "direct", "integrated_gradients"] = Field(
        default="gradient",
        description="gradient: f * d measure/df; direct: through the final norm only; "
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
    n_controls: Controls = 19
    seed: Seed = 0
    include_special: IncludeSpecial = False
    chat: Chat = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectRow(FeatureEffect):
    """What one feature at one position contributes: estimated, and measured by ablation."""

    sae: OneOfSeveral = None
    label: ShortLabel | None
    url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareOf(SAEShare):
    """What one of several SAEs sees and does not see of the prediction."""

    sae: str


class AttributeLogitReply(ListReply, Attribution, frozen=True):
    """Features by size of attribution, of all SAEs together."""

    listed: ClassVar[str] = "features"
    spare: ClassVar[frozenset[str]] = frozenset(
        {
            "left_out",
            "method",
            "n_tokens",
            "n_left_out",
            "bos_prepended",
            "features.url",
            "error_positions",
            "by_sae.error_positions",
            "by_sign",
        }
    )
    usual: ClassVar[dict[str, object]] = ListReply.usual | {"measure": "logprob"}

    method: str
    features: list[EffectRow]
    by_sae: list[ShareOf] = Field(default=[], exclude_if=is_empty)
    """The share of each of several SAEs; the reply's own error and completeness are null then."""
    bos_prepended: bool
