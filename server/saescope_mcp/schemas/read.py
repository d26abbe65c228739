"""encode_text and top_features: reading features off texts."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

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


class TokenRow(BaseModel):
    """One token with the strongest features of an SAE there."""

    sae: OneOfSeveral = None
    text_index: int
    pos: int
    token: str
    l0: int
    features: list[Activation]


class EncodedBy(BaseModel):
    """How one of several SAEs reconstructs the texts."""

    sae: str
    l0_mean: float | None
    explained_variance: float | None
    cosine: float | None
    n_tokens: int
    n_left_out: int
    n_sinks: int


class EncodeTextReply(ListReply):
    """Tokens in reading order; with several SAEs each has a row for every SAE."""

    listed: ClassVar[str] = "tokens"

    tokens: list[TokenRow]
    by_sae: list[EncodedBy] = Field(default=[], exclude_if=is_empty)
    """For several SAEs; the three numbers below are null then."""
    l0_mean: float | None
    explained_variance: float | None
    """Null on fewer than 16 tokens."""
    cosine: float | None
    n_tokens: int
    n_left_out: int
    n_sinks: int
    """How many are left out because their norm at the site is out of proportion."""
    bos_prepended: bool


class TopFeatures(TextsRequest, ContrastFile):
    """Arguments of top_features."""

    against: Annotated[list[Text], AtMost("max_texts")] = Field(
        default=[], description='Texts to contrast with; needs rank_by="contrast".'
    )
    rank_by: Literal["max", "mean", "count", "contrast"] = Field(
        default="max",
        description="max or mean activation, count of tokens, or Cohen's d over tokens (contrast).",
    )
    k: Annotated[int, AtMost("max_k")] = Field(default=10, ge=1, description="Features per reply.")
    offset: Page = 0
    include_special: IncludeSpecial = False


class TopToken(BaseModel):
    """Where a feature fires most."""

    text_index: int
    pos: int
    token: str


class FeatureRow(BaseModel):
    """A feature over all counted tokens of the texts."""

    sae: OneOfSeveral = None
    feature: int
    score: float
    max_activation: float
    mean_activation: float
    n_tokens: int
    top_token: TopToken
    share: float
    """Share of the counted tokens on which it fires."""
    density: float | None
    """The same for the indexed corpus; null without an index."""
    promotes: list[str]
    label: ShortLabel | None
    url: str | None


class CountedBy(BaseModel):
    """What one of several SAEs sees of the texts."""

    sae: str
    total: int
    """Its features that fire."""
    n_tokens: int
    n_left_out: int
    n_sinks: int


class TopFeaturesReply(ListReply):
    """Features by score, of all SAEs together."""

    listed: ClassVar[str] = "features"

    features: list[FeatureRow]
    by_sae: list[CountedBy] = Field(default=[], exclude_if=is_empty)
    """For several SAEs."""
    n_tokens: int
    n_left_out: int
    n_sinks: int
    """How many are left out because their norm at the site is out of proportion."""
    bos_prepended: bool
