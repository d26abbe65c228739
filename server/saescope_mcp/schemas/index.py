"""index_features."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from saescope_mcp.schemas.bounds import AtMost, Identifier, LocalPath
from saescope_mcp.schemas.common import Reply, Request, SAEHandle
from saescope_mcp.schemas.status import JobState


class IndexFeatures(Request):
    """Arguments of index_features; the same ones again resume a job that was cut off."""

    sae: SAEHandle
    also: Annotated[list[Identifier], AtMost("max_saes")] = Field(
        default=[], description="More SAEs of this model, in the same pass."
    )
    dataset: LocalPath = Field(
        default="embedded",
        description='"embedded", a file or folder (.txt .jsonl .csv .tsv .parquet), or '
        '"hf:owner/name[:split]".',
    )
    text_column: Identifier = Field(default="", description="Column of the text.")
    n_tokens: Annotated[int, AtMost("max_index_tokens")] = Field(
        default=1_000_000, ge=1, description="Tokens to read; fewer where the text ends."
    )
    wait_s: Annotated[float, AtMost("max_wait_s")] = Field(
        default=30.0, ge=0, description="Seconds to wait for the end."
    )


class IndexSummary(BaseModel):
    """One SAE's index."""

    sae: str
    weights_hash: str
    n_features: int
    n_fired: int
    """The number of features that fired at all."""
    median_density: float | None
    """The median share of tokens on which the features that fired at all do."""
    n_tokens: int
    n_contexts: int
    path: str


class IndexFeaturesReply(Reply, frozen=True):
    """State "queued" or "running": call job_status with `job_id`."""

    spare: ClassVar[frozenset[str]] = frozenset(
        {
            "dataset",
            "n_tokens",
            "indexes.weights_hash",
            "indexes.path",
            "indexes.n_tokens",
            "indexes.n_contexts",
        }
    )
    usual: ClassVar[dict[str, object]] = Reply.usual | {"state": "done"}

    evidence: Literal["observed"] | None = None
    state: Literal["done"] | JobState
    job_id: str | None = None
    sae: str | None = None
    dataset: str | None = None
    n_tokens: int | None = None
    """The number of tokens read so far."""
    eta_s: float | None = None
    indexes: list[IndexSummary] = Field(default_factory=list[IndexSummary])
    checkpoint: str | None = None
