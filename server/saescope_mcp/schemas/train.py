"""train_sae and cancel_job."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from saescope.recipes import RECIPES, Architecture
from saescope.records.training import Estimate
from saescope_mcp.schemas.bounds import AtMost, Identifier, LocalPath, Name
from saescope_mcp.schemas.common import Reply, Request, Seed
from saescope_mcp.schemas.status import JobState

_SWEPT = ("k", "d_sae", "seed")
_COEFFICIENTS = ("l1_coefficient", "l0_coefficient")
_NOT_OF_THE_RUN = {"dry_run", "wait_s", "resume", "response_format"}
_OF_PROCESSES = {"nproc", "launcher"}
Launcher = Literal["torchrun", "slurm"]


class TrainSae(Request):
    """Arguments of train_sae: hook_name for a new run, or resume."""

    model: LocalPath = Field(
        default="",
        description="Hub name, local folder or .gguf file. Empty: the embedded SmolLM2-135M.",
    )
    hook_name: Identifier = Field(default="", description='Site, e.g. "blocks.14.hook_resid_post".')
    hook_name_out: Identifier = Field(default="", description="Transcoder: the site to predict.")
    layers: Identifier = Field(
        default="",
        description='With {layer} in the hook names: "all", "0-11" or "3,7". An SAE each, all in '
        "one pass.",
    )
    dataset: LocalPath = Field(
        default="embedded",
        description='"embedded", a file or folder (.txt .jsonl .csv .tsv .parquet), or '
        '"hf:owner/name[:split]".',
    )
    architecture: Architecture = Field(default="topk", description="Kind of SAE.")
    expansion_factor: int = Field(
        default=0, ge=0, le=1024, description="Features per dimension; 0: 8. Or give d_sae."
    )
    d_sae: int = Field(default=0, ge=0, le=2**24, description="Features; 0: by expansion_factor.")
    k: float = Field(default=32.0, gt=0, description="L0: active features per token.")
    l1_coefficient: float = Field(
        default=0.0, ge=0, description="standard, gated: more = sparser; 0: steered to an L0 of k."
    )
    l0_coefficient: float = Field(default=0.0, ge=0, description="jumprelu: the same.")
    training_tokens: Annotated[int, AtMost("max_training_tokens")] = Field(
        default=2_000_000, ge=1, description="Tokens to train on."
    )
    context_size: int = Field(default=0, ge=0, description="Tokens read at once; 0: at most 256.")
    batch_size: Annotated[int, AtMost("max_batch_size")] = Field(
        default=0, ge=0, description="Tokens per step; 0: 256 to 4096."
    )
    lr: float = Field(default=0.0, ge=0, le=1, description="Learning rate; 0: chosen.")
    seed: Seed = 0
    name: Name = Field(default="", description='e.g. "stories-l14"; empty: the job\'s id.')
    options: Annotated[list[Identifier], AtMost("max_options")] = Field(
        default=[],
        description='Rarer settings as "name=value", e.g. "target_l0=64", "text_column=body". The '
        'error for a wrong name lists the right ones. "k=16,32" (d_sae, seed): an SAE for each.',
    )
    device: Identifier = Field(
        default="auto", description='"auto", "cpu", "cuda", "cuda:1" or "mps".'
    )
    nproc: int = Field(default=1, ge=1, le=1024, description="Processes.")
    launcher: Launcher = Field(default="torchrun", description="Starts them.")
    dry_run: bool = Field(default=False, description="Only measure and plan; start nothing.")
    wait_s: Annotated[float, AtMost("max_wait_s")] = Field(
        default=30.0, ge=0, description="Seconds to wait for the end."
    )
    resume: Identifier = Field(
        default="", description="Job that has stopped, to continue from its checkpoint."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainSae":
        if not (self.hook_name or self.resume):
            raise PydanticCustomError(
                "missing_argument",
                "There is neither hook_name nor resume",
                {"field": "hook_name", "allowed": "hook_name or resume"},
            )
        if self.resume:
            return self
        if self.expansion_factor and self.d_sae:
            _conflict(
                "d_sae",
                "expansion_factor and d_sae are both given",
                "one of expansion_factor and d_sae",
            )
        for name in {option.partition("=")[0].strip() for option in self.options} & {*_SWEPT}:
            if name in self.model_fields_set or (name == "d_sae" and self.expansion_factor):
                _conflict(name, f"{name} is given twice", f'"{name}=..." in options alone')
        for name in _COEFFICIENTS:
            if getattr(self, name) and RECIPES[self.architecture].sets_l0 != name:
                _conflict(
                    name,
                    f"{name} does nothing for {self.architecture} SAEs",
                    f"k in place of {name}",
                )
            if getattr(self, name) and "k" in self.model_fields_set:
                _conflict(
                    name,
                    f"k and {name} are both given",
                    f"one of k and {name} (k is the L0 that the run comes to)",
                )
        return self

    @property
    def given(self) -> dict[str, Any]:
        """What was said about the run itself."""
        return self.model_dump(include=self.model_fields_set - _NOT_OF_THE_RUN)

    @property
    def processes(self) -> dict[str, Any]:
        """What was said about the processes, which a resume may change."""
        return self.model_dump(include=self.model_fields_set & _OF_PROCESSES)

    @property
    def run(self) -> dict[str, Any]:
        """All that the run is, defaults included, whatever number of processes it has."""
        return self.model_dump(exclude=_NOT_OF_THE_RUN | _OF_PROCESSES)


def _conflict(field: str, message: str, allowed: str) -> None:
    raise PydanticCustomError(
        "conflicting_arguments", "{said}", {"field": field, "said": message, "allowed": allowed}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan(Estimate):
    """What the run takes here, and what it comes to."""

    n_steps: int
    d_in: int
    d_sae: int
    context_size: int
    lr: float
    device: str


class TrainSaeReply(Reply, frozen=True):
    """State "queued" or "running": call job_status with `job_id`."""

    twins: ClassVar[dict[str, str]] = {"name": "job_id"}

    evidence: Literal["observed"] | None = None
    state: Literal["planned"] | JobState
    job_id: str | None = None
    plan: TrainPlan | None = None
    sae: str | None = None
    saes: list[str] = Field(default_factory=list[str])
    """The handles of a set's SAEs."""
    members: list[str] = Field(default_factory=list[str])
    """A line for each SAE of a set: how good it is so far, in the end on probe text."""
    path: str | None = None
    """The folder of the trained SAE, or of those of a set."""
    name: str | None = None
    n_tokens: int | None = None
    metrics: dict[str, Any] | None = None
    """The metrics of the last step, on its batch: `evaluate_sae` measures on held-out text."""
    checkpoint: str | None = None


class CancelJob(Request):
    """Arguments of cancel_job."""

    job_id: Identifier = Field(description='Job, e.g. "train-1a2b3c".')


class CancelJobReply(Reply, frozen=True):
    """State after at most the longest wait; "running" if it has not stopped yet."""

    evidence: None = None
    provenance: None = None
    result_id: None = None
    job_id: str
    state: JobState
    checkpoint: str | None
    n_tokens: int | None = None
