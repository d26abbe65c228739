"""encode_text and top_features: reading features off texts."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from saescope.records.features import Fit, RankedFeature, Ranking, SAECount, TextToken
from saescope.records.firings import FeatureFirings, FiringPlace
from saescope.records.labels import ShortLabel
from saescope.records.lens import LensFacts, ReaderAgreement, ReadLayer, ReadPrediction
from saescope.verdicts import Signal
from saescope_mcp.schemas.bounds import AtMost, Identifier, LocalPath, Search, Text
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

    sources: ClassVar[tuple[str, ...]] = (*TextsRequest.sources, "dataset")

    features: Annotated[list[int], AtMost("max_named_features")] = Field(
        default=[], description="Only these: every place where they fire."
    )
    pattern: Search = Field(
        default="",
        description="Regular expression to test features against: precision, recall.",
    )
    dataset: LocalPath = Field(
        default="",
        description='Read features here instead: "embedded", a file or folder, '
        '"hf:owner/name[:split]".',
    )
    text_column: Identifier = Field(default="", description="Column of dataset.")
    label_column: Identifier = Field(
        default="",
        description='Its true/false labels to test features against, or "column=value".',
    )
    n_tokens: Annotated[int, AtMost("max_evaluation_tokens")] = Field(
        default=20_000, ge=1, description="First tokens of dataset to read."
    )
    top_k: Annotated[int, AtMost("max_top_k")] = Field(
        default=3, ge=1, description="Features per token."
    )
    positions: Annotated[list[int], AtMost("max_positions")] = Field(
        default=[], description="Only these (0-based, BOS included; -1: last)."
    )
    lens: LocalPath = Field(
        default="",
        description='Read through "logit", "jacobian" or a published one.',
    )
    include_special: IncludeSpecial = False
    limit: Annotated[int, AtMost("max_k")] = Field(
        default=12, ge=1, description="Tokens (places) per reply."
    )
    offset: Page = 0
    wait_s: Annotated[float, AtMost("max_wait_s")] = Field(
        default=30.0, ge=0, description="Seconds, then a job_id."
    )

    @model_validator(mode="after")
    def _of_features(self) -> "EncodeText":
        needs = next((n for n in ("pattern", "dataset") if getattr(self, n)), "")
        if needs and not self.features:
            raise PydanticCustomError(
                "missing_argument",
                "{name} is for named features, and none is named",
                {
                    "name": needs,
                    "field": "features",
                    "allowed": f"features=[...] as well as {needs}",
                },
            )
        named = next((n for n in ("text_column", "label_column") if getattr(self, n)), "")
        if named and not self.dataset:
            raise PydanticCustomError(
                "missing_argument",
                "{name} names a column of dataset, which is not given",
                {"name": named, "field": "dataset", "allowed": f"dataset as well as {named}"},
            )
        if self.positions and self.dataset:
            raise PydanticCustomError(
                "conflicting_arguments",
                "positions are those of texts in the call, and dataset is read whole",
                {"field": "positions", "allowed": "dataset without positions"},
            )
        if self.lens and (self.features or self.dataset):
            raise PydanticCustomError(
                "conflicting_arguments",
                "lens reads positions of texts in the call, with the strongest features there",
                {"field": "lens", "allowed": "lens without features and dataset"},
            )
        if self.features and self.saes:
            raise PydanticCustomError(
                "conflicting_arguments",
                "features are those of one SAE, and several are given",
                {"field": "saes", "allowed": "sae, one call for each SAE"},
            )
        return self


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


@dataclass(frozen=True, kw_only=True)
class NamedRow(FeatureFirings):
    """A named feature on the texts."""

    density: float | None
    """The share of tokens at which it fires in the indexed corpus; null without an index."""
    label: ShortLabel | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPosition(ReadPrediction):
    """A position, what the model predicts there, and what is read there on the way."""

    layers: list[ReadLayer]


@dataclass(frozen=True, slots=True, kw_only=True)
class LensSaid:
    """The lens, and how far readers agree beyond chance; the summary has it in words."""

    facts: LensFacts
    agreement: list[ReaderAgreement]
    signal: Signal
    """Whether the lens says more of the model's predictions than a random lens and shuffled
    positions."""


class EncodeTextReply(ListReply, Fit, frozen=True):
    """Tokens in reading order; with several SAEs each has a row for every SAE. Where features are
    named: these, and the places where they fire."""

    listed: ClassVar[str] = "tokens"
    spare: ClassVar[frozenset[str]] = frozenset(
        {"n_left_out", "bos_prepended", "n_tokens"}
        | {"by_sae.n_left_out", "by_sae.n_tokens", "by_sae.n_sinks", "lens"}
        | {"readings.logit_from", "readings.jacobian_from"}
    )
    usual: ClassVar[dict[str, object]] = ListReply.usual | {"tokens.text_index": 0}

    evidence: Literal["observed"] | None = None
    tokens: list[TokenRow]
    features: list[NamedRow] = Field(default=[], exclude_if=is_empty)
    """Where features are named: each of them, in the order of the call."""
    places: list[FiringPlace] = Field(default=[], exclude_if=is_empty)
    """Places of `features` by turns, each one's strongest first; in a dataset the strongest of each
    document, `pos` counted from the start of its passage of 128 tokens."""
    by_sae: list[EncodedBy] = Field(default=[], exclude_if=is_empty)
    """How each of several SAEs reconstructs the texts; what only one can have is null then."""
    readings: list[ReadPosition] = Field(default=[], exclude_if=is_empty)
    """With a lens: each position, layer by layer and reader by reader."""
    lens: LensSaid | None = Field(default=None, exclude_if=is_empty)
    bos_prepended: bool
    state: Literal["running"] | None = Field(default=None, exclude_if=is_empty)
    """Given for a dataset that takes long: call job_status with `job_id`."""
    job_id: str | None = Field(default=None, exclude_if=is_empty)


class PlacesReply(EncodeTextReply, frozen=True):
    """The reply where features are named."""

    listed: ClassVar[str] = "places"


class LensReply(EncodeTextReply, frozen=True):
    """The reply where texts are read through a lens."""

    listed: ClassVar[str] = "readings"
    spare: ClassVar[frozenset[str]] = EncodeTextReply.spare | {
        "readings.layers.text_index",
        "readings.layers.pos",
    }
    usual: ClassVar[dict[str, object]] = EncodeTextReply.usual | {
        "readings.text_index": 0,
        "readings.layers.features.sae": 0,
        "readings.layers.jacobian": None,
        "readings.layers.jacobian_rank": None,
        "readings.layers.logit_rank": None,
    }


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
            "n_tokens",
            "n_left_out",
            "bos_prepended",
            "score_is",
        }
    )
    usual: ClassVar[dict[str, object]] = ListReply.usual | {"features.top_token.text_index": 0}
    twins: ClassVar[dict[str, str]] = {"features.score": "max_activation"}

    evidence: Literal["observed", "correlational"] | None = None
    features: list[FeatureRow]
    by_sae: list[CountedBy] = Field(default=[], exclude_if=is_empty)
    """What each of several SAEs sees of the texts."""
    bos_prepended: bool
