"""steer_search: how strongly to push features for a concept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from saescope.records.search_strength import LeftOut, StrengthSearch
from saescope_mcp.schemas.bounds import AtMost, Identifier, Text
from saescope_mcp.schemas.common import (
    Chat,
    OneOfSeveral,
    Reply,
    Seed,
    Unit,
    WaitS,
    is_empty,
    unfinished,
)
from saescope_mcp.schemas.steer import ChangedFeatures, Named, SteeringFeature


class SearchedFeature(SteeringFeature):
    """A feature of the mix."""

    strength: Annotated[float, AtMost("max_strength", both_sides=True)] = Field(
        default=1.0, description="Its share of the mix."
    )
    mode: Literal["add", "clamp"] = "add"


class SteerSearch(ChangedFeatures):
    """Arguments of steer_search."""

    features: Annotated[list[SearchedFeature], AtMost("max_edits")] = Field(
        min_length=1, description='e.g. [{"feature": 1234}].'
    )
    concept: Annotated[list[Identifier], AtMost("max_concept_tokens")] = Field(
        min_length=1, description='Its tokens, e.g. [" sea", " ship"], or continuations.'
    )
    sign: Literal["raise", "lower"] = Field(default="raise", description="Of the concept.")
    prompts: Annotated[list[Text], AtMost("max_prompts")] = Field(
        default=[], description="To search on, a third of them; empty: neutral ones."
    )
    held_out: Annotated[list[Text], AtMost("max_prompts")] = Field(
        default=[], description="To measure on; prompts are then all searched on."
    )
    texts: Annotated[list[Text], AtMost("max_group_texts")] = Field(
        default=[], description="With the concept: a difference of means is a control."
    )
    against: Annotated[list[Text], AtMost("max_group_texts")] = Field(
        default=[], description="Without it."
    )
    instruction: Text = Field(default="", description="A control before each prompt; with chat.")
    chat: Chat = False
    max_kl: float = Field(default=0.5, gt=0, le=100, description="Budget: nats a token.")
    max_perplexity: float = Field(
        default=4.0, gt=1, le=1e6, description="Budget: times that of unsteered texts."
    )
    unit: Unit = "typical"
    max_new_tokens: Annotated[int, AtMost("max_new_tokens")] = Field(
        default=20, ge=1, description="Tokens of each text."
    )
    seed: Seed = 0
    wait_s: WaitS = 30.0

    @property
    def changed(self) -> Sequence[SteeringFeature]:
        return self.features

    @model_validator(mode="after")
    def _texts_and_against(self) -> "SteerSearch":
        if bool(self.texts) != bool(self.against):
            field = "against" if self.texts else "texts"
            raise PydanticCustomError(
                "missing_argument",
                "'{field}' is missing: a difference of means takes both texts and against",
                {"field": field, "allowed": "both texts and against, or neither"},
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRow(LeftOut):
    """What is lost without one feature of the mix."""

    sae: OneOfSeveral = None


class StrengthReply(Reply, frozen=True):
    """How far a search is, and its verdict."""

    state: Literal["done", "running"] = "done"
    job_id: str | None = None
    verdict: str = ""
    """The level; the summary says why."""
    features: list[Named] = Field(default=[])
    truncated: bool = Field(default=False, exclude_if=is_empty)


STRENGTH_LATER = unfinished(
    StrengthSearch, StrengthReply, without={"verdict", "warnings", "leave_one_out"}
)


class SteerSearchReply(STRENGTH_LATER, frozen=True):
    """The strength found on calibration prompts, measured on held-out ones; state "running": call
    job_status with `job_id`."""

    listed: ClassVar[str] = "trials"
    spare: ClassVar[frozenset[str]] = frozenset(
        {
            "trials",
            "unit_source",
            "budget",
            "baseline.arm",
            "baseline.strength",
            "baseline.kl",
            "baseline.ahead",
            "baseline.interval",
            "steered.arm",
            "steered.strength",
            "steered.ahead",
            "curve.arm",
            "curve.ahead",
            "curve.interval",
            "controls.strength",
            "leave_one_out.without",
            "random.outside",
            "random.n",
        }
    )
    usual: ClassVar[dict[str, object]] = Reply.usual | {"state": "done"}

    leave_one_out: list[LostRow] = Field(default=[], exclude_if=is_empty)
    """What is lost without each of several features."""
