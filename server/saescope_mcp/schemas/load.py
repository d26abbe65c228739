"""load_sae and unload."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from saescope.records.card import IndexedText
from saescope.records.evaluation import LayerFit, ProbeCheck
from saescope_mcp.schemas.bounds import Identifier, InsideRelease, LocalPath, Repository
from saescope_mcp.schemas.common import Reply, Request, WaitS, is_empty


class LoadSae(Request):
    """Arguments of load_sae; none at all loads the embedded SAE."""

    release: Repository = Field(
        default="",
        description='Published release or hub repository, e.g. "gpt2-small-res-jb".',
    )
    sae_id: InsideRelease = Field(
        default="", description="SAE in the release; folder or file in the repository."
    )
    revision: Identifier = Field(default="", description="Branch, tag or commit.")
    path: LocalPath = Field(default="", description="Local folder or file instead.")
    model: LocalPath = Field(
        default="",
        description="Hub name, local folder or .gguf file. Empty: as the SAE names it.",
    )
    layers: Identifier = Field(
        default="",
        description='A set, one SAE a layer: "all", "0-11", "3,7". {layer} in path, sae_id and '
        "hook_name is the layer.",
    )
    hook_name: Identifier = Field(
        default="", description='Site, if the SAE names none, e.g. "blocks.8.hook_resid_pre".'
    )
    gate: Literal["", "saelens", "upstream"] = Field(
        default="",
        description="Llama Scope only: as its authors (upstream, default) or sae-lens.",
    )
    device: Identifier = Field(
        default="auto", description='"auto", "cpu", "cuda", "cuda:1" or "mps".'
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: float32 on CPU, as stored on a GPU."
    )
    allow_mismatch: bool = Field(
        default=False, description="Load although trained on another model of this width."
    )
    up_to_site: bool = Field(
        default=False,
        description="Load no layer beyond the site: enough to encode.",
    )
    dry_run: bool = Field(default=False, description="Only report format, site, sizes and fit.")
    scan: bool = Field(default=False, description="Also CE score and scale at each layer.")
    wait_s: WaitS = 30.0

    @model_validator(mode="after")
    def _of_a_release(self) -> "LoadSae":
        given = next((name for name in ("sae_id", "revision") if getattr(self, name)), "")
        if given and not self.release:
            raise PydanticCustomError(
                "missing_argument",
                "there is {given} but no release",
                {"field": "release", "given": given},
            )
        return self


class Memory(BaseModel):
    """Bytes that a load takes, that are free within the budget, and the budget."""

    need: int
    free: int
    budget: int
    least: Annotated[int | None, Field(exclude_if=is_empty)] = None
    """What a set takes that is read a layer at a time; `need` is for all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow(ProbeCheck):
    """The SAE on a probe text: does it belong to this model and site?"""

    layers: Annotated[tuple[LayerFit, ...], Field(exclude_if=is_empty)] = ()
    """How the SAE fits at every layer; measured with scan=true."""
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFound(IndexedText):
    """The index that describe_feature and units will use."""


class LoadSaeReply(Reply, frozen=True):
    """State "running": call job_status with `job_id`; what is not known yet is null."""

    spare: ClassVar[frozenset[str]] = frozenset(
        {
            "dialect",
            "revision",
            "architecture",
            "d_in",
            "k",
            "weights_bytes",
            "memory",
            "check.n_tokens",
            "check.n_sinks",
            "check.ablation_cost",
            "check.peak",
            "check.scale",
            "check.verdict",
        }
    )
    usual: ClassVar[dict[str, object]] = Reply.usual | {"state": "done", "evidence": "observed"}
    momentary = ("memory", "fits", "index")

    evidence: Literal["observed"] | None = None
    state: Literal["done", "running", "planned"]
    job_id: str | None = None
    sae: str | None = None
    model: str | None = None
    dialect: str | None = None
    """The on-disk format."""
    revision: str | None = None
    """The commit of its repository; null if it is not from the hub."""
    architecture: str | None = None
    hook_name: str | None = None
    layers: Annotated[str, Field(exclude_if=is_empty)] = ""
    """Those of a set."""
    members: Annotated[tuple[str, ...], Field(exclude_if=is_empty)] = ()
    """The handle of each layer's SAE, in a detailed reply."""
    d_in: int | None = None
    d_sae: int | None = None
    k: int | float | None = None
    weights_bytes: int | None = None
    memory: Memory | None = None
    fits: bool | None = None
    """Whether it fits, in a dry run; null if the model's size is not known before its download."""
    check: CheckRow | None = None
    index: IndexFound | None = None
    """The index of this SAE; null where there is none yet, which index_features makes."""


class ReadyReply(LoadSaeReply, frozen=True):
    """The reply where the SAE belongs to its site: what follows is for the user to choose."""

    spare: ClassVar[frozenset[str]] = LoadSaeReply.spare | {"next"}


class Unload(Request):
    """Arguments of unload."""

    handle: Identifier = Field(description="An SAE's, or a model's (\"smollm2-135m\").")


class UnloadReply(Reply, frozen=True):
    """What was let go of."""

    evidence: None = None
    provenance: None = None
    result_id: None = None
    handle: str
    freed_bytes: int
    unloaded: list[str]
