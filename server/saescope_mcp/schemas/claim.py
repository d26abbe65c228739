"""claim."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from saescope.records.claims import ClaimVerdict
from saescope_mcp.schemas.bounds import AtMost, Identifier, Name, Text
from saescope_mcp.schemas.common import Reply, Request

Level = Literal["seen", "correlates", "intervened", "controlled", "replicated"]


class ClaimRequest(Request):
    """Arguments of claim: the sentence, and in fields what it comes to."""

    text: Text = Field(min_length=1, description="The sentence, as you would write it.")
    sae: Identifier = Field(default="", description="Its SAE; empty: that of the results.")
    feature: int = Field(ge=0, description="Its index.")
    effect: Identifier = Field(
        min_length=1,
        description='The token that it moves, " sea" (several: " a| b"), or fires on.',
    )
    direction: Literal["raises", "lowers", "fires"] = Field(
        description="What the feature does to it, not what its removal does."
    )
    level: Level = Field(description="What you claim.")
    against: Identifier = Field(default="", description="Second token, if effects were against it.")
    results: Annotated[list[Identifier], AtMost("max_noted")] = Field(
        default=[], description="Result ids that it rests on."
    )
    investigation: Name = Field(default="", description="Instead: all results of this list.")

    @model_validator(mode="after")
    def _rests_on_something(self) -> "ClaimRequest":
        if not self.results and not self.investigation:
            raise PydanticCustomError(
                "missing_argument",
                "'results' is missing: a claim rests on results",
                {"field": "results", "allowed": "ids of results, or an investigation"},
            )
        return self


class ClaimReply(Reply, ClaimVerdict, frozen=True):
    """Whether the claim stands, and how far."""

    listed: ClassVar[str] = "checks"
    spare: ClassVar[frozenset[str]] = frozenset({"looks.n_settings", "looks.n_prompts"})

    truncated: bool = False
