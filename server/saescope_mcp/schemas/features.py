"""describe_feature, find_features, quiz_feature and label_feature: knowing a feature."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from saescope.records.card import FeatureBrief, FeatureFacts, Peak
from saescope.records.features import (
    ContrastedSets,
    ContrastFeature,
    FoundFeature,
    Writer,
)
from saescope.records.labels import MissedItem, QuizItem, ShortLabel
from saescope.records.lens import LensTokens
from saescope.records.pairs import MatchedFeature, MatchedSAEs
from saescope.records.search import CausalSets, Cause, SelectedFeature, SelectionFacts
from saescope_mcp.schemas.bounds import AtMost, Identifier, LocalPath, Text
from saescope_mcp.schemas.common import (
    ContrastFile,
    ListReply,
    Page,
    Reply,
    Request,
    SAEHandle,
    Seed,
    WaitS,
    is_empty,
)

Feature = Annotated[int, Field(ge=0, le=2**31 - 1, description="Feature index, e.g. 1234.")]
AskNeuronpedia = Annotated[bool, Field(description="Also ask neuronpedia.org.")]


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


class DescribeFeature(Request):
    """Arguments of describe_feature: one of feature and features, or features of labels_file."""

    sae: SAEHandle
    feature: Feature = Field(default=-1, json_schema_extra=_without_default)
    features: Annotated[list[int], AtMost("max_named_features")] = Field(
        default=[], description="Short cards of these instead."
    )
    n_examples: Annotated[int, AtMost("max_examples")] = Field(
        default=5, ge=0, description="Examples; 2 a card of several."
    )
    picture: bool = Field(default=False, description="Write page and picture.")
    neuronpedia: AskNeuronpedia = False
    labels_file: LocalPath = Field(default="", description="Neuronpedia's export, list.")
    through: Literal["", "jlens"] = Field(default="", description="Also through this lens.")

    @model_validator(mode="after")
    def _one_or_several(self) -> "DescribeFeature":
        if self.feature < 0 and not self.features and not self.labels_file:
            _refuse("feature", "feature, or features for several", False)
        if self.feature >= 0 and self.features:
            _refuse("features", "one of feature and features", True)
        if self.feature < 0 and self.picture:
            _refuse("picture", "feature, not features, with picture", True)
        if self.feature < 0 and self.through:
            _refuse("through", "feature, not features, with through", True)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleText(Peak):
    """A stretch of the corpus; ⟦ and ⟧ mark the token of this activation."""

    pos: int
    """The token's position in its context of the corpus."""
    text: str


@dataclass(frozen=True, kw_only=True)
class BriefRow(FeatureBrief):
    """A short card; without an index it has what the decoder tells."""

    examples: list[ExampleText]  # pyright: ignore[reportIncompatibleVariableOverride] # as text


class DescribeFeatureReply(Reply, FeatureFacts, frozen=True):
    """Without an index, what only a corpus can tell is null or empty. Of several features `cards`
    says all."""

    listed: ClassVar[str] = "examples"
    spare: ClassVar[frozenset[str]] = frozenset(
        {"effects_through"}
        | {f"through_lens.{name}" for name in ("lens", "layer", "how", "error")}
        | {f"corpus.{name}" for name in ("created", "n_contexts", "context_size", "seed")}
    )

    evidence: Literal["observed"] | None = None
    feature: int | None  # pyright: ignore[reportIncompatibleVariableOverride] # several have none
    cards: list[BriefRow] = Field(default=[], exclude_if=is_empty)

    label: ShortLabel | None
    labels: list[ShortLabel]
    examples: list[ExampleText]
    promotes: list[str]
    suppresses: list[str]
    through_lens: LensTokens | None = Field(default=None, exclude_if=is_empty)
    """What it promotes and suppresses through the Jacobian lens, where that is asked for."""
    url: str | None
    page: str | None
    """The whole card as a resource: text/html."""
    page_path: str | None = None
    pictures: list[str] = Field(default_factory=list[str])
    truncated: bool = False


class CardsReply(DescribeFeatureReply, frozen=True):
    """The reply about several features."""

    listed: ClassVar[str] = "cards"


_WAYS = ("query", "tokens", "texts", "texts_file", "causes")
_NOT_MATCHED = (
    *("query", "tokens", "against", "against_file", "against_sae", "documents", "group_column"),
    *("label_column", "unconfirmed", "neuronpedia", "causes", "prompts"),
)
"""What has no meaning where two SAEs are matched."""


class FindFeatures(ContrastFile):
    """Arguments of find_features: one of query, tokens, texts, texts_file and causes."""

    sae: SAEHandle
    query: Identifier = Field(default="", description='Words of a label, e.g. "animals".')
    tokens: Annotated[list[Identifier], AtMost("max_concept_tokens")] = Field(
        default=[], description='To promote, e.g. [" Paris"].'
    )
    texts: Annotated[list[Text], AtMost("max_group_texts")] = Field(
        default=[], description="Texts to fire on."
    )
    against: Annotated[list[Text], AtMost("max_group_texts")] = Field(
        default=[], description="Texts to tell these from."
    )
    against_sae: Identifier = Field(
        default="",
        description="The SAE on another model: do models differ?",
    )
    match: Identifier = Field(default="", description="Another SAE: partners there.")
    features: Annotated[list[int], AtMost("max_named_features")] = Field(
        default=[], description="Of a match."
    )
    documents: Annotated[list[Identifier], AtMost("max_file_texts")] = Field(
        default=[],
        description="In a contrast: the document of each text (texts, then against).",
    )
    group_column: Identifier = Field(
        default="", description="In files: the column of a text's document."
    )
    label_column: Identifier = Field(
        default="", description="Of texts_file: two values make the sides."
    )
    unconfirmed: bool = Field(default=False, description="In a contrast: list unconfirmed too.")
    causes: Annotated[list[Text], AtMost("max_concept_tokens")] = Field(
        default=[],
        description='To make likelier, e.g. [" sea"].',
    )
    metric: Literal["logprob", "repetition"] = Field(
        default="logprob", description="Or repetition, of the prompts."
    )
    sign: Literal["raise", "lower"] = Field(default="raise", description="Of causes.")
    prompts: Annotated[list[Text], AtMost("max_prompts")] = Field(
        default=[], description="Prompts for causes; 10 ship."
    )
    k: Annotated[int, AtMost("max_k")] = Field(
        default=10, ge=1, description="Features; of a contrast per side."
    )
    offset: Page = 0
    neuronpedia: AskNeuronpedia = False
    wait_s: WaitS = 30.0

    @model_validator(mode="after")
    def _one_way(self) -> "FindFeatures":
        given = [name for name in _WAYS if getattr(self, name)]
        if self.match:
            self._check_match(given)
            return self
        if self.features:
            _refuse("match", "match as well as features", False)
        given += ["metric"] if self.metric == "repetition" else []
        if self.is_selection:  # both are asked: what fires on the texts and what it does
            self._check_selection()
            given = given[:1]
        if len(given) != 1:
            _refuse("query", f"exactly one of {', '.join(_WAYS[:-1])} and causes", bool(given))
        others = bool(self.against or self.against_file)
        pair = self.causes and self.against
        if (others or self.against_sae) and not (self.texts or self.texts_file or pair):
            _refuse(
                "texts",
                "texts or texts_file as well as against, against_file or against_sae",
                False,
            )
        if (self.documents or self.unconfirmed) and not self.is_contrast:
            _refuse("against", "against as well as documents or unconfirmed", False)
        self._check_columns()
        if (self.prompts or self.sign != "raise") and not self.is_causal:
            _refuse("causes", "causes as well as prompts or sign", False)
        if self.offset and self.is_contrast:
            _refuse("offset", "offset=0: the features of a contrast are tested together", True)
        if self.neuronpedia and not self.query:
            _refuse("query", "query as well as neuronpedia", False)
        return self

    def _check_match(self, ways: list[str]) -> None:
        for name in (*_NOT_MATCHED, *ways[1:]):
            if getattr(self, name):
                _refuse(name, f"match without {name}", True)
        if self.is_causal:
            _refuse("metric", "match without metric", True)
        if self.features and self.offset:
            _refuse("offset", "offset=0: features names all that are listed", True)

    def _check_selection(self) -> None:
        if not (self.against or self.against_file or self.label_column):
            _refuse("against", "against as well as texts and causes", False)
        for name in ("against_sae", "documents", "group_column", "unconfirmed", "offset"):
            if getattr(self, name):
                _refuse(name, f"texts and causes without {name}", True)
        if self.metric == "repetition" or self.sign != "raise":
            _refuse("metric", "texts and causes without metric and sign", True)

    def _check_columns(self) -> None:
        if (self.group_column or self.label_column) and not self.texts_file:
            _refuse("texts_file", "texts_file as well as group_column or label_column", False)
        if self.group_column and not self.is_contrast:
            _refuse("against", "against_file or label_column as well as group_column", False)
        if self.group_column and self.documents:
            _refuse("group_column", "one of documents and group_column", True)
        if self.group_column and self.against:
            _refuse("against_file", "against_file or label_column as well as group_column", True)
        if self.label_column and (self.against or self.against_file):
            _refuse("label_column", "one of against, against_file and label_column", True)

    @property
    def has_pages(self) -> bool:
        return not (self.is_contrast or self.is_selection)

    @property
    def is_causal(self) -> bool:
        return bool(self.causes) or self.metric == "repetition"

    @property
    def is_selection(self) -> bool:
        return bool(self.causes) and bool(self.texts or self.texts_file)

    @property
    def is_contrast(self) -> bool:
        others = self.against or self.against_file or self.against_sae or self.label_column
        return bool(others) and not self.is_causal


def _refuse(field: str, wanted: str, conflict: bool) -> None:
    kind = "conflicting_arguments" if conflict else "missing_argument"
    raise PydanticCustomError(
        kind, "Give {wanted}", {"field": field, "wanted": wanted, "allowed": wanted}
    )


class QuizFeature(Request):
    """Arguments of quiz_feature."""

    sae: SAEHandle
    feature: Feature
    n: int = Field(default=12, ge=4, le=40, description="Items.")
    seed: Seed = 0


class QuizFeatureReply(Reply, frozen=True):
    """The questions of a quiz; its answers stay in the server."""

    listed: ClassVar[str] = ""

    evidence: None = None
    provenance: None = None
    result_id: None = None
    quiz_id: str
    feature: int
    items: list[QuizItem]


class LabelFeature(Request):
    """Arguments of label_feature."""

    sae: SAEHandle
    feature: Feature
    text: Text = Field(description="What it fires on.")
    quiz_id: Identifier = Field(default="", description="From quiz_feature; empty: untested.")
    answers: Annotated[list[bool], AtMost("max_answers")] = Field(
        default=[], description="Does it fire? One per item, in order."
    )

    @model_validator(mode="after")
    def _together(self) -> "LabelFeature":
        if bool(self.quiz_id) != bool(self.answers):
            _refuse("answers" if self.quiz_id else "quiz_id", "quiz_id and answers together", False)
        return self


class LabelFeatureReply(Reply, frozen=True):
    """The label as it is now known."""

    listed: ClassVar[str] = "missed"
    spare: ClassVar[frozenset[str]] = frozenset(
        {"labels", "missed.answer", "missed.kind", "missed.text"}
    )

    evidence: Literal["observed"] | None = None
    feature: int
    label: ShortLabel
    detection: float | None
    """Balanced accuracy of the items that ask whether it fires anywhere in a text."""
    fuzzing: float | None
    """Balanced accuracy of the items that ask about the marked token."""
    missed: list[MissedItem] = Field(default_factory=list[MissedItem])
    """The answers in this call that were wrong, with what is true."""
    labels: list[ShortLabel]
    """All labels of this feature, best first."""
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRow(FoundFeature):
    """A feature, and why it is listed; what was not measured is null."""

    label: ShortLabel | None
    url: str | None


@dataclass(frozen=True, kw_only=True)
class WriterRow(Writer, FoundRow):
    """A feature that raises the tokens that are asked for."""


@dataclass(frozen=True, kw_only=True)
class CauseRow(Cause, FoundRow):
    """A feature that makes a concept likelier, or might."""


@dataclass(frozen=True, kw_only=True)
class SelectedRow(SelectedFeature, FoundRow):
    """A candidate for a concept, by its texts and by what it does."""


@dataclass(frozen=True, kw_only=True)
class Contrasted(ContrastFeature, FoundRow):
    """A feature that tells the two sides apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedRow(MatchedFeature):
    """A feature and its partner in the other SAE."""

    label: ShortLabel | None
    partner_label: ShortLabel | None


class FindFeaturesReply(ListReply, frozen=True):
    """Features, best first; state "running": call job_status with `job_id`."""

    listed: ClassVar[str] = "features"
    spare: ClassVar[frozenset[str]] = frozenset(
        f"features.{control}.{field}"
        for control in ("control", "controls.halves", "controls.perturbed")
        for field in ("n", "outside")
    ) | {
        "features.why",
        "features.equal_norm",
        "search.concept",
        "search.n_causes",
        "search.n_prompts",
        "features.auc_interval",
        "features.also_on",
        "features.also_writes",
        "features.chance",
        "choice.group.also_writes",
        "choice.faults",
        "search.kl",
        "features.held_out.auc",
        "features.length_correlation",
        "features.position_correlation",
        "features.partner_tokens",
        *(f"match.{said}" for said in ("n_features", "low", "high", "chance", "n_tokens")),
    }
    twins: ClassVar[dict[str, str]] = {"features.auc_equal_length": "score"}
    usual: ClassVar[dict[str, object]] = ListReply.usual | {"state": "done", "features.fires": True}

    state: Literal["done", "running"] = "done"
    job_id: str | None = None
    by: str
    """What was searched by, and what the score is."""
    features: list[Contrasted | WriterRow | CauseRow | SelectedRow | FoundRow | MatchedRow]
    contrast: ContrastedSets | None = None
    search: CausalSets | None = Field(default=None, exclude_if=is_empty)
    choice: SelectionFacts | None = Field(default=None, exclude_if=is_empty)
    match: MatchedSAEs | None = Field(default=None, exclude_if=is_empty)


class PlainFindReply(FindFeaturesReply, frozen=True):
    """The reply of a search by names or by texts: no other field of a row says what `why` does."""

    spare: ClassVar[frozenset[str]] = FindFeaturesReply.spare - {"features.why"}
