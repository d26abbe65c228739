"""intervene and steer_generate: changing features."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from saescope.records.controls import Comparison
from saescope.records.labels import ShortLabel
from saescope.records.prediction import Readout
from saescope.records.steering import (
    EditEffect,
    GeneratedText,
    PromptEffect,
    SignTest,
    SteeredTexts,
    SweepRow,
)
from saescope_mcp.schemas.bounds import AtMost, Identifier
from saescope_mcp.schemas.common import (
    Against,
    Chat,
    Controls,
    Item,
    ItsSAE,
    Measure,
    OneOfSeveral,
    Prompt,
    Reply,
    Request,
    SAEHandle,
    Seed,
    Target,
    Text,
    Unit,
    WaitS,
    is_empty,
)

Mode = Literal["add", "clamp", "scale", "ablate", "project_out"]

Strength = Annotated[float, AtMost("max_strength", both_sides=True)]


class SteeringFeature(Item):
    """A feature to change at every position."""

    sae: ItsSAE = ""
    feature: int = Field(ge=0)
    strength: Strength = Field(
        default=1.0, description="In units for add and clamp, a factor for scale."
    )
    mode: Mode = "add"


class ConditionalFeature(SteeringFeature):
    """A feature to change where another one fires, or at every position."""

    when_sae: Annotated[Identifier, Field(exclude_if=is_empty)] = ""
    when_feature: int = Field(default=-1, ge=-1, description="Only where this fires.")
    when_above: float = Field(default=0.0, ge=0, description="Above this.")

    @model_validator(mode="after")
    def _condition_is_whole(self) -> "ConditionalFeature":
        if self.when_feature < 0 and (self.when_sae or self.when_above):
            raise PydanticCustomError(
                "missing_argument",
                "'when_feature' is missing: when_sae and when_above are about it",
                {"field": "when_feature", "allowed": "the feature that decides where"},
            )
        return self


class Edit(SteeringFeature):
    """A feature to change at some positions."""

    positions: Annotated[list[int], AtMost("max_positions")] = Field(
        default=[], description="Empty: all but position 0 and special tokens."
    )


class ChangedFeatures(Request):
    """Features to change, of the call's SAE or each of its own."""

    sae: SAEHandle = ""

    @property
    def changed(self) -> Sequence[SteeringFeature]:
        raise NotImplementedError

    @property
    def handles(self) -> list[str]:
        """The SAEs whose features are changed or looked at, each once; without any, that of the
        call."""
        named = [feature.sae or self.sae for feature in self.changed]
        named += [
            feature.when_sae
            for feature in self.changed
            if isinstance(feature, ConditionalFeature) and feature.when_sae
        ]
        return [*dict.fromkeys(named)] or [self.sae]

    @model_validator(mode="after")
    def _each_has_an_sae(self) -> "ChangedFeatures":
        if not all(self.handles):
            raise PydanticCustomError(
                "missing_argument",
                "A feature names no sae, and the call names none for all",
                {
                    "field": "sae",
                    "allowed": "sae, a handle from load_sae, for the call or in each feature",
                },
            )
        return self


class ChangingRequest(ChangedFeatures):
    """Features to change on a prompt, or on several."""

    prompt: Prompt = ""
    prompts: Annotated[list[Text], AtMost("max_texts")] = Field(
        default=[], description="Several instead: one table."
    )
    chat: Chat = False

    @property
    def texts(self) -> list[str]:
        return self.prompts or [self.prompt]

    @model_validator(mode="after")
    def _one_prompt_or_several(self) -> "ChangingRequest":
        if bool(self.prompt) == bool(self.prompts):
            raise PydanticCustomError(
                "conflicting_arguments" if self.prompt else "missing_argument",
                "prompt and prompts are both given" if self.prompt else "'prompt' is missing",
                {"field": "prompt", "allowed": "one of prompt and prompts"},
            )
        return self


class Intervene(ChangingRequest):
    """Arguments of intervene."""

    prompts: Annotated[list[Text], AtMost("max_prompts")] = Field(
        default=[], description="Several instead: mean, interval, sign test."
    )
    edits: Annotated[list[Edit], AtMost("max_edits")] = Field(
        min_length=1, description='e.g. [{"feature": 1234, "mode": "ablate", "positions": [3]}].'
    )
    unit: Unit = "typical"
    target: Target = ""
    against: Against = ""
    measure: Measure = "logprob"
    n_controls: Controls = 19
    seed: Seed = 0

    @property
    def changed(self) -> Sequence[SteeringFeature]:
        return self.edits


class Named(BaseModel):
    """A changed feature and what is said of it."""

    sae: OneOfSeveral = None
    feature: int
    label: ShortLabel | None
    url: str | None = Field(exclude_if=is_empty)


class InterveneReply(Reply, EditEffect, frozen=True):
    """The prediction before and after; of several prompts a row each and what they say together."""

    spare: ClassVar[frozenset[str]] = frozenset(
        {
            "unit_value",
            "unit_values",
            "unit_source",
            "after.target.id",
            "after.against.id",
            "before.top.id",
            "before.top.logit",
            "before.top.rank",
            "after.top.id",
            "after.top.logit",
            "after.top.rank",
            "n_tokens",
            "n_left_out",
            "bos_prepended",
            "n_distinct",
            "on_prompts.touched",
        }
    )
    usual: ClassVar[dict[str, object]] = Reply.usual | {"measure": "logprob", "touched": True}
    twins: ClassVar[dict[str, str]] = {"after": "before"}
    first: ClassVar[dict[str, int]] = {"before.top": 3, "after.top": 3}

    before: Readout | None = None
    after: Readout | None = None
    delta_logit: float | None = None
    """The target's logit (or its difference to `against`) after the edit minus before."""
    delta_logprob: float | None = None
    """The target's log-probability after the edit minus before, in nats."""
    kl: float | None = None
    """KL(before || after) in nats."""
    on_prompts: list[PromptEffect] = Field(default=[], exclude_if=is_empty)
    """In the order of prompts; logprob is the target's."""
    n_distinct: int | None = None
    """Prompts without repetitions: each counts once."""
    n_touched: int | None = None
    """Distinct prompts that the edits touch."""
    interval: tuple[float, float] | None = None
    """95 % of `effect` over the prompts that are touched (Student's t); null with fewer than 5."""
    sign_test: SignTest | None = None
    unit_value: float
    """The unit of the first edit; `unit_values` has them all."""
    features: list[Named]
    bos_prepended: bool


class InUnitsReply(InterveneReply, frozen=True):
    """The reply to edits whose strength is counted in units; others ablate, scale or project
    out."""

    spare: ClassVar[frozenset[str]] = InterveneReply.spare - {"unit_values", "unit_source"}


class SteerGenerate(ChangingRequest):
    """Arguments of steer_generate."""

    features: Annotated[list[ConditionalFeature], AtMost("max_edits")] = Field(
        default=[], description='e.g. [{"feature": 1234, "strength": 4}]; empty: the plain text.'
    )
    strengths: Annotated[list[Strength], AtMost("max_strengths")] = Field(
        default=[], description="Several, e.g. [0.5, 1, 2]: one table."
    )
    unit: Unit = "typical"
    max_new_tokens: Annotated[int, AtMost("max_new_tokens")] = Field(
        default=48, ge=1, description="Tokens to generate."
    )
    n_samples: Annotated[int, AtMost("max_samples")] = Field(
        default=1, ge=1, description="Samples; > 1 needs temperature > 0."
    )
    temperature: float = Field(default=0.0, ge=0, le=2, description="0 is greedy.")
    seed: Seed = 0
    n_controls: Controls = 2
    concept_tokens: Annotated[list[Identifier], AtMost("max_concept_tokens")] = Field(
        default=[],
        description='Tokens to judge by, e.g. [" sea"]; empty: no verdict.',
    )
    wait_s: WaitS = 30.0

    @property
    def changed(self) -> Sequence[SteeringFeature]:
        return self.features

    @property
    def is_table(self) -> bool:
        """Several strengths or prompts, or no edit at all."""
        return bool(self.strengths or self.prompts or not self.features)

    @model_validator(mode="after")
    def _samples_differ(self) -> "SteerGenerate":
        if self.n_samples > 1 and self.temperature == 0:
            raise PydanticCustomError(
                "conflicting_arguments",
                "n_samples > 1 at temperature 0 would repeat one text",
                {"field": "temperature", "allowed": "temperature > 0, or n_samples=1"},
            )
        return self


class SteerGenerateReply(Reply, SteeredTexts, frozen=True):
    """Unsteered, steered, and steered with random features instead; state "running": call
    job_status with `job_id`."""

    listed: ClassVar[str] = "controls"
    spare: ClassVar[frozenset[str]] = frozenset(
        {
            "baseline.label",
            "baseline.n_tokens",
            "baseline.metrics.concept_logprob",
            "baseline.metrics.kl",
            "steered.n_tokens",
            "controls.n_tokens",
            "bos_prepended",
            "promoted_tokens",
            "concept_control.n",
            "concept_control.outside",
            "table.beyond",
        }
    )
    usual: ClassVar[dict[str, object]] = Reply.usual | {"state": "done"}

    state: Literal["done", "running"] = "done"
    job_id: str | None = None
    baseline: GeneratedText | None = None
    steered: list[GeneratedText] = Field(default=[])
    controls: list[GeneratedText] = Field(default=[])
    promoted_tokens: list[str] = Field(default=[], exclude_if=is_empty)
    """The concept_tokens, where none were named: those that the features promote most."""
    concept_control: Comparison | None = Field(default=None, exclude_if=is_empty)
    """concept_logprob of 19 random features changed alike, where a concept was named."""
    table: list[SweepRow] = Field(default=[], exclude_if=is_empty)
    """A row a strength: means over prompts and samples, against one baseline."""
    features: list[Named] = Field(default=[])
    verdict: str = ""
    """The level; the summary says why. Of a table each row has its own."""
    truncated: bool = Field(default=False, exclude_if=is_empty)
