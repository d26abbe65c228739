"""results."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from saescope.records.ledger import KeptResult
from saescope_mcp.schemas.bounds import AtMost, Identifier, Name, Text
from saescope_mcp.schemas.common import ListReply, Page, Request, is_empty

_OF_ONE = ("result_id", "response_format")
"""Arguments with which one result is brought back."""
ResultIds = Annotated[list[Identifier], AtMost("max_noted")]


class Results(Request):
    """Arguments of results; all that is given must fit."""

    result_id: Identifier = Field(default="", description="Bring this one back.")
    text: Identifier = Field(default="", description="Words of calls or summaries.")
    tool: Identifier = Field(default="", description='Of this tool, e.g. "intervene".')
    sae: Identifier = Field(default="", description="About this SAE.")
    day: Identifier = Field(
        default="", description='Of this day or month, UTC: "2026-11-30", "2026-11".'
    )
    investigation: Name = Field(default="", description="Those of this named list.")
    add: ResultIds = Field(default=[], description="Result ids to put into it.")
    remove: ResultIds = Field(default=[], description="Result ids to take out of it.")
    note: Text = Field(default="", description="On what is added, else on the investigation.")
    limit: Annotated[int, AtMost("max_k")] = Field(default=20, ge=1, description="Rows.")
    offset: Page = 0

    @model_validator(mode="after")
    def _one_alone(self) -> "Results":
        others = (name for name in type(self).model_fields if name not in _OF_ONE)
        given = [name for name in others if getattr(self, name) != _default(name)]
        if self.result_id and given:
            raise PydanticCustomError(
                "conflicting_arguments",
                "result_id brings one result back, and {given} is about a list",
                {
                    "given": given[0],
                    "field": given[0],
                    "allowed": f"result_id without {given[0]}; to name it in an investigation, add",
                },
            )
        return self

    @model_validator(mode="after")
    def _of_an_investigation(self) -> "Results":
        given = [name for name in ("add", "remove", "note") if getattr(self, name)]
        if given and not self.investigation:
            raise PydanticCustomError(
                "missing_argument",
                "{given} needs the name of an investigation",
                {
                    "given": given[0],
                    "field": "investigation",
                    "allowed": f"investigation as well as {given[0]}",
                },
            )
        return self

    @property
    def changes(self) -> bool:
        """Whether the call changes an investigation."""
        return bool(self.add or self.remove or self.note)


def _default(name: str) -> object:
    return Results.model_fields[name].default


class InvestigationRow(BaseModel):
    """A named list of results."""

    name: str
    n: int
    """How many results it names."""
    note: str
    gone: list[str]
    """Results that it names and that the ledger no longer has."""


class ResultsReply(ListReply, frozen=True):
    """What is kept, the newest first; or one result."""

    listed: ClassVar[str] = "results"

    evidence: None = None
    provenance: None = None
    result_id: None = None
    results: list[KeptResult]
    investigations: list[InvestigationRow] = Field(default=[], exclude_if=is_empty)
    """All of them, or the one that is asked for."""
    arguments: dict[str, Any] | None = None
    """What the result's call was given."""
    document: dict[str, Any] | None = None
    """The result: whole in a detailed reply, else in short."""
