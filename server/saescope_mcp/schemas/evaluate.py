"""evaluate_sae."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from saescope.records.evaluation import (
    Baselines,
    CrossEntropy,
    DensityBin,
    Interval,
    PositionBin,
    Reason,
    Shrinkage,
)
from saescope_mcp.schemas.bounds import AtMost, Identifier, LocalPath
from saescope_mcp.schemas.common import Reply, Request, SAEHandle, Seed, WaitS


class EvaluateSae(Request):
    """Arguments of evaluate_sae."""

    sae: SAEHandle
    dataset: LocalPath = Field(
        default="embedded",
        description='"embedded", a file or folder (.txt .jsonl .csv .tsv .parquet), or '
        '"hf:owner/name[:split]"; held-out part; all of your own file.',
    )
    text_column: Identifier = Field(
        default="", description="Column of the text, where it is not obvious."
    )
    n_tokens: Annotated[int, AtMost("max_evaluation_tokens")] = Field(
        default=20_000, ge=1, description="Tokens to evaluate on."
    )
    baselines: bool = Field(default=True, description="Compare with a random SAE and PCA.")
    seed: Seed = 0
    picture: bool = Field(
        default=False, description="Also draw densities and quality by position (PNG)."
    )
    wait_s: WaitS = 30.0


class EvaluateSaeReply(Reply, frozen=True):
    """State "running": call job_status with `job_id`; what is not known yet, or cannot be measured
    on this text, is null."""

    spare: ClassVar[frozenset[str]] = frozenset(
        {
            "hook_name",
            "hook_name_out",
            "n_contexts",
            "context_size",
            "mse",
            "cosine",
            "ce.zero_ablation",
            "ce.mean_ablation",
            "shrinkage.relative_reconstruction_bias",
        }
    )

    state: Literal["done", "running"]
    job_id: str | None = None
    verdict: str | None = None
    reasons: list[Reason] = Field(default_factory=list[Reason])
    n_tokens: int | None = None
    n_sinks: int | None = None
    """Positions left out for their norm alone."""
    l0: float | None = None
    explained_variance: float | None = None
    mse: float | None = None
    """Squared error summed over the width, averaged over tokens."""
    cosine: float | None = None
    ce: CrossEntropy | None = None
    ce_score: float | None = None
    kl_score: float | None = None
    dead_share: float | None = None
    """The share of features that never fired on this text."""
    dense_share: float | None = None
    """The share of features that fire at more than a tenth of the tokens."""
    shrinkage: Shrinkage | None = None
    baselines: Baselines | None = None
    intervals: dict[str, Interval] = Field(default_factory=dict[str, Interval])
    dataset: str | None = None
    hook_name: str | None = None
    hook_name_out: str | None = None
    """The site that is reconstructed."""
    n_contexts: int | None = None
    n_documents: int | None = None
    """The number of documents, from which the intervals are resampled."""
    context_size: int | None = None
    pictures: list[str] = Field(default_factory=list[str])
    density: list[DensityBin] = Field(default_factory=list[DensityBin])
    """Only in "detailed", like `positions` and `saelens`."""
    positions: list[PositionBin] = Field(default_factory=list[PositionBin])
    saelens: dict[str, float] = Field(default_factory=dict[str, float])
    """The same scores by the definitions of sae-lens's run_evals."""
