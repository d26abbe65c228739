"""server_status and job_status."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from saescope_mcp.groups import Group
from saescope_mcp.schemas.bounds import AtMost, Identifier
from saescope_mcp.schemas.common import ListReply, Page, Reply, Request

JobState = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]


class ServerStatus(Request):
    """server_status has no arguments of its own."""


MOST_WORDS = 50
"""More than there are groups and tools."""


class UseTools(Request):
    """Arguments of use_tools."""

    groups: list[Identifier] = Field(
        min_length=1,
        max_length=MOST_WORDS,
        description=f"Of {', '.join(group.word for group in Group)}; or names of tools.",
    )


class UseToolsReply(Reply, frozen=True):
    """What a server offers now."""

    evidence: None = None
    provenance: None = None
    result_id: None = None
    tools_on: list[str]
    tools_off: list[str]


class Loaded(BaseModel):
    """A model or an SAE in memory."""

    handle: str
    kind: Literal["model", "sae", "set"]
    name: str
    device: str
    dtype: str
    weights_bytes: int


class Cached(BaseModel):
    """An SAE whose files are on this machine, and the call that loads it."""

    name: str
    call: str


class MemoryUse(BaseModel):
    """Memory of one device in bytes; `budget` is what models and SAEs may fill together."""

    total: int
    budget: int
    used: int
    free: int


class JobRow(BaseModel):
    """One job, briefly."""

    job_id: str
    tool: str
    state: JobState
    message: str
    elapsed_s: float


class ServerStatusReply(Reply, frozen=True):
    """What is here and what is allowed."""

    listed: ClassVar[str] = "cached"
    spare: ClassVar[frozenset[str]] = frozenset(
        {"limits", "memory", "loaded.device", "loaded.weights_bytes"}
    )

    evidence: None = None
    provenance: None = None
    result_id: None = None
    version: str
    device: str
    memory: MemoryUse
    loaded: list[Loaded]
    jobs: list[JobRow]
    limits: dict[str, int | float]
    offline: bool
    """Whether nothing can be fetched from the hub now: forbidden, or it takes no connection."""
    cached: list[Cached]
    cached_total: int
    truncated: bool = False
    groups_on: list[str]
    """The groups of tools that this server offers; see SAESCOPE_TOOLS."""
    tools_off: list[str]


class JobStatus(Request):
    """Arguments of job_status."""

    job_id: Identifier = Field(default="", description="Job; empty: all.")
    wait_s: Annotated[float, AtMost("max_wait_s")] = Field(
        default=0.0, ge=0, description="Seconds to wait for its end."
    )
    offset: Page = 0
    picture: bool = Field(default=False, description="Draw its curves.")
    over: Identifier = Field(default="", description="Another run over them.")


class JobStatusReply(ListReply, frozen=True):
    """One job in full, or with an empty job_id all of them in `jobs`."""

    listed: ClassVar[str] = "jobs"

    evidence: None = None
    provenance: None = None
    result_id: None = None
    job_id: str | None = None
    tool: str | None = None
    state: JobState | None = None
    message: str | None = None
    elapsed_s: float | None = None
    step: int | None = None
    n_steps: int | None = None
    n_tokens: int | None = None
    metrics: dict[str, Any] | None = None
    """The metrics of a training: `latest`, and up to 16 points of `history`, on the batch of each
    step."""
    eta_s: float | None = None
    checkpoint: str | None = None
    sae: str | None = None
    saes: list[str] = Field(default_factory=list[str])
    members: list[str] = Field(default_factory=list[str])
    """A line for each SAE of a set that is trained."""
    plan: dict[str, Any] | None = None
    pictures: list[str] = Field(default_factory=list[str])
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    jobs: list[JobRow]
