"""encode_text and top_features: reading features off texts."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from saescope.records.features import Fit, RankedFeature, Ranking, SAECount, TextToken
from saescope.records.labels import ShortLabel
from saescope_mcp.schemas.bounds import AtMost, Text
from saescope_mcp.schemas.common import (
    ContrastFile,
    IncludeSpecial,
    ListReply,
    OneOfSeveral,
    Page,
    TextsRequest,
    is_empty,
)


class EncodeText(TextsRequest):
    """Arguments of encode_text."""

    top_k: Annotated[int, AtMost("max_top_k")] = Field(
        default=3, ge=1, description="Features per token."
    )
    positions: Annotated[list[int], AtMost("max_positions")] = Field(
        default=[], description="Only these (0-based, BOS included; -1: last)."
    )
    include_special: IncludeSpecial = False
    limit: Annotated[int, AtMost("max_k")] = Field(
        default=12, ge=1, description="Tokens per reply."
    )
    offset: Page = 0


class Activation(BaseModel):
    """A feature and how strongly it fires."""

    feature: int
    activation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow(TextToken):
    """One token with the strongest features of an SAE there."""

    sae: OneOfSeveral = None
    l0: int
    features: list[Activation]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBy(Fit):
    """How one of several SAEs reconstructs the texts."""

    sae: str


class EncodeTextReply(ListReply, Fit, frozen=True):
    """Tokens in reading order; with several SAEs each has a row for every SAE."""

    listed: ClassVar[str] = "tokens"
    spare: ClassVar[frozenset[str]] = frozenset({"n_left_out", "bos_prepended"})

    tokens: list[TokenRow]
    by_sae: list[EncodedBy] = Field(default=[], exclude_if=is_empty)
    """For several SAEs; what only one can have is null then."""
    bos_prepended: bool


class TopFeatures(TextsRequest, ContrastFile):
    """Arguments of top_features."""

    against: Annotated[list[Text], AtMost("max_texts")] = Field(
        default=[], description='Texts to contrast with; needs rank_by="contrast".'
    )
    rank_by: Literal["max", "mean", "count", "contrast"] = Field(
        default="max",
        description="max or mean activation, count of tokens, or what tells texts from against.",
    )
    k: Annotated[int, AtMost("max_k")] = Field(default=10, ge=1, description="Features per reply.")
    offset: Page = 0
    include_special: IncludeSpecial = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRow(RankedFeature):
    """A feature over all counted tokens of the texts."""

    sae: OneOfSeveral = None
    density: float | None
    """The share of tokens at which it fires in the indexed corpus; null without an index."""
    label: ShortLabel | None
    url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedBy(SAECount):
    """What one of several SAEs sees of the texts."""

    sae: str


class TopFeaturesReply(ListReply, Ranking, frozen=True):
    """Features by score, of all SAEs together."""

    listed: ClassVar[str] = "features"
    spare: ClassVar[frozenset[str]] = frozenset(
        {
            "features.mean_activation",
            "features.share",
            "features.url",
            "n_left_out",
            "bos_prepended",
            "score_is",
        }
    )

    features: list[FeatureRow]
    by_sae: list[CountedBy] = Field(default=[], exclude_if=is_empty)
    """For several SAEs."""
    bos_prepended: bool
