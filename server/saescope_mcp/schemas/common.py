"""What every request and every reply has."""

import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from saescope_mcp.schemas.bounds import AtMost, Identifier, LocalPath, Text
from saescope_mcp.schemas.sent import as_meant

Begun = TypeVar("Begun", bound="Reply")
Evidence = Literal["observed", "correlational", "intervened", "controlled"]

HASH_DIGITS = 12
"""The digits of a hash in the document of a concise reply."""
SHORT_DIGITS = 8
"""Those of it that a client is sent."""

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


def _without_description(schema: dict[str, Any]) -> None:
    schema.pop("description", None)


def is_empty(value: object) -> bool:
    """Tell that a document goes without this field: a call with one SAE has no list of several."""
    return not value


class _Sent(BaseModel):
    """Strict, but for what clients send and their users cannot correct."""

    model_config = _STRICT

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, sent: Any) -> Any:
        # What does not fit stays as it was sent, and is refused.
        if not isinstance(sent, Mapping):
            return sent
        kinds = {info.alias or name: info.annotation for name, info in cls.model_fields.items()}
        return {name: as_meant(kinds.get(name), value) for name, value in sent.items()}


class Item(_Sent):
    """A flat object in a list of arguments; its fields describe themselves."""

    model_config = ConfigDict(json_schema_extra=_without_description)


class Request(_Sent):
    """Arguments of a tool: strict, and nothing but what is named."""

    response_format: Literal["concise", "detailed"] = Field(
        default="concise", description="Reply length."
    )

    @property
    def has_pages(self) -> bool:
        """Whether a call with an offset reads on where a list was cut."""
        return "offset" in type(self).model_fields


SAEHandle = Annotated[Identifier, Field(description="Handle from load_sae.")]
SAEHandles = Annotated[
    list[Identifier],
    Field(description="Several SAEs of one model.", exclude_if=is_empty),
    AtMost("max_saes"),
]
OneOfSeveral = Annotated[str | None, Field(exclude_if=is_empty)]
"""The handle of the SAE that a row of a reply is about; left out where there is but one."""
ItsSAE = Annotated[Identifier, Field(description="Its SAE, where several.", exclude_if=is_empty)]
Prompt = Annotated[Text, Field(description='Prompt, e.g. "Paris is in".')]
Chat = Annotated[bool, Field(description="Chat template.")]
IncludeSpecial = Annotated[bool, Field(description="Count position 0 and special tokens too.")]
Target = Annotated[
    Identifier,
    Field(
        description='Predicted token, leading space kept, e.g. " Paris", or "#id". Empty: the most '
        "likely."
    ),
]
Against = Annotated[
    Identifier, Field(description="Second token: effects on logit(target) - logit(against).")
]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1, description="Seed.")]
Controls = Annotated[
    int, Field(ge=0, description="Random controls; 0: none."), AtMost("max_controls")
]
Measure = Annotated[
    Literal["logprob", "logit"],
    Field(description="Of effects without against."),
]
Unit = Annotated[
    Literal["typical", "max", "raw"],
    Field(description='Strength 1 is: "typical", the 99th percentile of firings; "max"; "raw".'),
]
WaitS = Annotated[float, AtMost("max_wait_s"), Field(ge=0, description="Seconds, then a job_id.")]
Page = Annotated[int, Field(ge=0, description="Skip this many.")]


class SAEsRequest(Request):
    """Exactly one of `sae` and `saes`."""

    saes: SAEHandles = []
    sae: SAEHandle = Field(default="", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _one_alone(cls, sent: Any) -> Any:
        """A list of one SAE asks what that SAE asks alone."""
        match sent:
            case {"saes": [str() as one], **others} if not others.get("sae"):
                return {**others, "sae": one}
            case _:
                return sent

    @field_validator("sae")
    @classmethod
    def _one_or_several(cls, sae: str, info: Any) -> str:
        # What is missing or given twice is reported along with all else that is wrong, so it is
        # looked for here: `saes` comes before.
        saes = info.data.get("saes")
        if not sae and saes == []:
            raise PydanticCustomError(
                "missing_argument",
                "'sae' is missing, or saes for several",
                {"allowed": "sae, a handle from load_sae"},
            )
        if sae and saes:
            raise PydanticCustomError(
                "conflicting_arguments",
                "sae and saes are both given",
                {"field": "saes", "allowed": "one of sae and saes"},
            )
        return sae

    @property
    def handles(self) -> list[str]:
        return self.saes or [self.sae]

    @property
    def named(self) -> dict[str, object]:
        """The SAE or SAEs as arguments of a further call."""
        return {"saes": self.saes} if self.saes else {"sae": self.sae}


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
                {"field": "texts_file", "allowed": "texts_file as well as texts_column"},
            )
        return self


class ContrastFile(FilesRequest):
    """Texts, and what they are contrasted with, may stand in files instead."""

    against: list[str]
    against_file: LocalPath = Field(default="", description="`against` in a file.")
    against_column: Identifier = Field(default="", description="Default: texts_column.")

    @model_validator(mode="after")
    def _one_against(self) -> "ContrastFile":
        if self.against and self.against_file:
            raise PydanticCustomError(
                "conflicting_arguments",
                "against and against_file are both given",
                {"field": "against_file", "allowed": "one of against and against_file"},
            )
        if self.against_column and not self.against_file:
            raise PydanticCustomError(
                "missing_argument",
                "against_column names the column of against_file, which is not given",
                {"field": "against_file", "allowed": "against_file as well as against_column"},
            )
        return self

    @property
    def files(self) -> list[str]:
        return [*super().files, *(["against_file"] if self.against_file else [])]


class TextsRequest(SAEsRequest, FilesRequest):
    """Exactly one of its `sources`."""

    sources: ClassVar[tuple[str, ...]] = ("text", "texts", "texts_file")

    text: Text = Field(default="", description="One text.")
    texts: Annotated[list[Text], AtMost("max_texts")] = Field(
        default=[], description="Several texts."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "TextsRequest":
        given = [name for name in self.sources if getattr(self, name)]
        if len(given) > 1:
            named = f"{', '.join(given[:-1])} and {given[-1]}"
            raise PydanticCustomError(
                "conflicting_arguments",
                "{named} are given together",
                {"field": given[1], "named": named, "allowed": f"one of {named}"},
            )
        if not given and "text" not in self.model_fields_set:
            listed = f"{', '.join(self.sources[:-1])} and {self.sources[-1]}"
            raise PydanticCustomError(
                "missing_argument",
                "There is neither {sources}",
                {
                    "field": "text",
                    "sources": " nor ".join(self.sources),
                    "allowed": f"exactly one of {listed}",
                },
            )
        return self


class SAEUsed(BaseModel):
    """One of several SAEs that numbers were computed with."""

    sae: str
    weights_hash: str

    def brief(self) -> "SAEUsed":
        return self.model_copy(update={"weights_hash": self.weights_hash[:HASH_DIGITS]})


class Provenance(BaseModel):
    """What the numbers were computed with; enough to compute them again."""

    model: str
    revision: str
    model_hash: str = Field(default="", exclude_if=is_empty)
    """sha256 of the model's weights in this dtype; its first 12 digits in a concise reply."""
    sae: str | None
    """The handle of the SAE; null where there are several, which `saes` lists."""
    weights_hash: str | None
    """sha256 of the SAE's weights, of a large set of samples of its files; its first 12 digits in a
    concise reply."""
    saes: list[SAEUsed] = Field(default=[], exclude_if=is_empty)
    dtype: str
    device: str
    seed: int | None
    files: dict[str, str] = Field(default={}, exclude_if=is_empty)
    """sha256 of each file of texts, or local data set, that was read; its first 12 digits in a
    concise reply."""
    versions: dict[str, str]

    def brief(self) -> "Provenance":
        return self.model_copy(
            update={
                "model_hash": self.model_hash[:HASH_DIGITS],
                "weights_hash": self.weights_hash and self.weights_hash[:HASH_DIGITS],
                "saes": [each.brief() for each in self.saes],
                "files": {path: each[:HASH_DIGITS] for path, each in self.files.items()},
                "versions": {"saescope": self.versions["saescope"]},
            }
        )


class Reply(BaseModel, frozen=True):
    """Result of a tool; `summary` says no more than `evidence` allows."""

    model_config = ConfigDict(extra="forbid")
    listed: ClassVar[str] = ""
    """The list that is shortened when a reply would be too long."""
    spare: ClassVar[frozenset[str]] = frozenset()
    """Fields that only a detailed reply sends, as "rows.field": they follow from others, or the
    summary or the call itself has them."""
    usual: ClassVar[dict[str, object]] = {"truncated": False, "n_sinks": 0}
    """Fields that a concise reply is sent without where they have this value, the usual case, in
    every row."""
    twins: ClassVar[dict[str, str]] = {}
    """Fields that a concise reply is sent without where the other field of the same object, which
    is named here, has the same value, in every row."""
    first: ClassVar[dict[str, int]] = {}
    """How many items of these lists a concise reply has; the summary has what all of them say."""
    momentary: ClassVar[tuple[str, ...]] = ()
    """Fields that may differ from one call to the same call: the id of a result does not rest on
    them."""

    summary: str
    warnings: list[str] = []
    next: list[str] = []
    result_id: str | None = None
    evidence: Evidence | None = None
    provenance: Provenance | None = None

    @classmethod
    def may_lack(cls) -> frozenset[str]:
        """The fields that a concise reply may be sent without."""
        return frozenset({*cls.spare, *cls.usual, *cls.twins})


class ListReply(Reply, frozen=True):
    """A reply whose main part is one list."""

    total: int
    truncated: bool = False
    next_offset: int | None = None


def unfinished(record: type, base: type[Begun], *, without: Collection[str]) -> type[Begun]:
    """A kind of reply that adds to `base` the fields of a record, but for some, and is sent before
    they are known: until then collections are empty and the rest is null."""
    known = {
        name: _unknown(hint) for name, hint in get_type_hints(record).items() if name not in without
    }
    return create_model(f"Unfinished{record.__name__}", __base__=base, **known)


def _unknown(hint: Any) -> Any:
    """The type and the default of a field that is not known yet."""
    empty = {tuple: (), Mapping: {}}.get(get_origin(hint))
    return (hint | None, None) if empty is None else (hint, empty)


def next_call(tool: str, /, **arguments: object) -> str:
    """Write a call as one would: `tool(name="...", k=3)`."""
    given = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return f"{tool}({', '.join(given)})"


def in_order(kind: type[Reply], named: dict[str, Any]) -> dict[str, Any]:
    """Put first what replies of each kind have in common: fields of a record that a reply inherits
    would stand before the summary."""
    common = ListReply if issubclass(kind, ListReply) else Reply
    first = [name for name in common.model_fields if name in named]
    return {name: named[name] for name in dict.fromkeys([*first, *named])}
