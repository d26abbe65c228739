"""What every request and every reply has."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from saescope_mcp.schemas.bounds import AtMost, Identifier, LocalPath, Text
from saescope_mcp.schemas.sent import as_meant

Evidence = Literal["observed", "correlational", "intervened", "controlled"]

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


def _without_description(schema: dict[str, Any]) -> None:
    schema.pop("description", None)


class _Sent(BaseModel):
    """Strict, but for what clients send and their users cannot correct."""

    model_config = _STRICT

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, sent: Any) -> Any:
        return as_meant(cls, sent)


class Item(_Sent):
    """A flat object in a list of arguments; its fields describe themselves."""

    model_config = ConfigDict(json_schema_extra=_without_description)


class Request(_Sent):
    """Arguments of a tool: strict, and nothing but what is named."""

    response_format: Literal["concise", "detailed"] = Field(
        default="concise", description='More in "detailed".'
    )


SAEHandle = Annotated[
    Identifier, Field(description='From load_sae, e.g. "smollm2-135m/14.resid_post".')
]
Prompt = Annotated[Text, Field(description='Prompt, e.g. "Paris is in".')]
Chat = Annotated[bool, Field(description="Use the chat template.")]
IncludeSpecial = Annotated[bool, Field(description="Count position 0 and special tokens too.")]
Target = Annotated[
    Identifier,
    Field(
        description='Predicted token, leading space kept, e.g. " Paris", or "#id". Empty: the most likely.'
    ),
]
Against = Annotated[
    Identifier, Field(description="Second token: effects are of logit(target) - logit(against).")
]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1, description="Random seed.")]
Controls = Annotated[
    int, Field(ge=0, description="Random controls; 0: none."), AtMost("max_controls")
]
Unit = Annotated[
    Literal["max", "raw"],
    Field(description='"max": strength 1 = the feature\'s maximum; "raw": activation units.'),
]
Page = Annotated[int, Field(ge=0, description="Skip this many.")]


class FilesRequest(Request):
    """Texts may stand in a file instead."""

    texts_file: LocalPath = Field(default="", description="A .csv, .tsv, .jsonl, .parquet, .txt.")
    texts_column: Identifier = Field(default="", description="Its column.")

    @property
    def files(self) -> list[str]:
        """The arguments that name a file, of those that are given."""
        return ["texts_file"] if self.texts_file else []

    @model_validator(mode="after")
    def _column_of_a_file(self) -> "FilesRequest":
        if self.texts_column and not self.files:
            raise PydanticCustomError(
                "missing_argument",
                "texts_column names the column of texts_file, which is not given",
                {"field": "texts_file", "allowed": "texts_file with texts_column"},
            )
        return self


class ContrastFile(FilesRequest):
    """What they are contrasted with, too."""

    against: list[str]
    against_file: LocalPath = Field(default="", description="`against` in a file.")
    against_column: Identifier = Field(default="", description="Default: texts_column.")

    @model_validator(mode="after")
    def _one_against(self) -> "ContrastFile":
        if self.against and self.against_file:
            raise PydanticCustomError(
                "conflicting_arguments",
                "against and against_file are both given",
                {"field": "against_file", "allowed": "one of the two"},
            )
        if self.against_column and not self.against_file:
            raise PydanticCustomError(
                "missing_argument",
                "against_column names the column of against_file, which is not given",
                {"field": "against_file", "allowed": "against_file with against_column"},
            )
        return self

    @property
    def files(self) -> list[str]:
        return [*super().files, *(["against_file"] if self.against_file else [])]


class TextsRequest(FilesRequest):
    """Exactly one of `text`, `texts` and `texts_file`."""

    sae: SAEHandle
    text: Text = Field(default="", description="One text.")
    texts: Annotated[list[Text], AtMost("max_texts")] = Field(
        default=[], description="Several texts."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "TextsRequest":
        given = [name for name in ("text", "texts", "texts_file") if getattr(self, name)]
        if len(given) > 1:
            raise PydanticCustomError(
                "conflicting_arguments",
                "{given} are both given",
                {
                    "field": given[1],
                    "given": " and ".join(given),
                    "allowed": f"one of the {'two' if len(given) == 2 else 'three'}",
                },
            )
        if not given and "text" not in self.model_fields_set:
            raise PydanticCustomError(
                "missing_argument",
                "there is neither text nor texts nor texts_file",
                {"field": "text", "allowed": "exactly one of text, texts and texts_file"},
            )
        return self


class Provenance(BaseModel):
    """What the numbers were computed with; enough to compute them again."""

    model: str
    revision: str
    sae: str
    weights_hash: str
    """sha256 of the SAE's weights; its first 12 digits in a concise reply."""
    dtype: str
    device: str
    seed: int | None
    versions: dict[str, str]

    def brief(self) -> "Provenance":
        return self.model_copy(
            update={
                "weights_hash": self.weights_hash[:12],
                "versions": {"saescope": self.versions["saescope"]},
            }
        )


class Reply(BaseModel):
    """Result of a tool; `summary` says no more than `evidence` allows."""

    model_config = ConfigDict(extra="forbid")
    listed: ClassVar[str] = ""
    """The list that is shortened when a reply would be too long."""

    summary: str
    warnings: list[str] = []
    next: list[str] = []
    result_id: str | None = None
    evidence: Evidence | None = None
    provenance: Provenance | None = None


class ListReply(Reply):
    """A reply whose main part is one list."""

    total: int
    truncated: bool = False
    next_offset: int | None = None


class TokenLogit(BaseModel):
    """A token and what the model thinks of it at one position."""

    token: str
    id: int
    logit: float
    prob: float
    rank: int
    """1 is the most likely token."""

    @classmethod
    def of(cls, logit: object) -> "TokenLogit":
        """From anything with these attributes."""
        return cls.model_validate(logit, from_attributes=True)
