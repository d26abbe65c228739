"""evaluate_sae."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from saescope.records.evaluation import Evaluation, Reason
from saescope_mcp.schemas.bounds import AtMost, Identifier, LocalPath
from saescope_mcp.schemas.common import (
    Reply,
    Request,
    SAEHandle,
    Seed,
    WaitS,
    unfinished,
)


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
    picture: bool = Field(default=False, description="Draw pictures.")
    wait_s: WaitS = 30.0


class Judged(Reply, frozen=True):
    """How far it is, and what a reader wants first: the verdict and its reasons."""

    evidence: Literal["observed", "intervened"] | None = None
    state: Literal["done", "running"]
    job_id: str | None = None
    verdict: str | None = None
    reasons: list[Reason] = Field(default_factory=list[Reason])
    pictures: list[str] = Field(default_factory=list[str])


KNOWN_LATER = unfinished(
    Evaluation, Judged, without={"seed", "kl", "verdict", "warnings", "n_fired"}
)


class EvaluateSaeReply(KNOWN_LATER, frozen=True):
    """State "running": call job_status with `job_id`; what is not known yet, or cannot be measured
    on this text, is null."""

    spare: ClassVar[frozenset[str]] = frozenset(
        {
            "reasons.advice",
            "dataset",
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
    usual: ClassVar[dict[str, object]] = Reply.usual | {"state": "done"}
