"""publish_sae."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from saescope.records.publication import PublishedFile
from saescope_mcp.schemas.bounds import AtMost, Identifier, InsideRelease, LocalPath, Repository
from saescope_mcp.schemas.common import Reply, Request, WaitS


class PublishSae(Request):
    """Arguments of publish_sae: one of sae and job_id, and one of repo_id and path."""

    sae: Identifier = Field(default="", description="Handle from load_sae. Or give job_id.")
    job_id: Identifier = Field(
        default="", description='Training that is done, e.g. "train-1a2b3c".'
    )
    repo_id: Repository = Field(
        default="", description='Hugging Face repository, e.g. "owner/my-saes". Or give path.'
    )
    path: LocalPath = Field(default="", description="New folder in a write root.")
    sae_id: InsideRelease = Field(default="", description="Folder in it; empty: the hook's name.")
    features: Annotated[list[int], AtMost("max_named_features")] = Field(
        default=[], description="Write these for Neuronpedia to path instead."
    )
    private: bool = Field(default=True, description="Make a new repository private.")
    dry_run: bool = Field(default=True, description="false writes it.")
    wait_s: WaitS = 30.0

    @model_validator(mode="after")
    def _one_of_each(self) -> "PublishSae":
        for one, other in (("sae", "job_id"), ("repo_id", "path")):
            given = bool(getattr(self, one)) + bool(getattr(self, other))
            if given != 1:
                kind, what = (
                    ("conflicting_arguments", "are both given")
                    if given
                    else ("missing_argument", "are both missing")
                )
                context = {
                    "field": one,
                    "said": f"{one} and {other} {what}",
                    "allowed": f"one of {one} and {other}",
                }
                raise PydanticCustomError(kind, "{said}", context)
        if self.features and not (self.sae and self.path):
            context = {
                "field": "features",
                "said": "features go to a folder, and their SAE is loaded",
                "allowed": "sae and path with features",
            }
            raise PydanticCustomError("conflicting_arguments", "{said}", context)
        return self


class PublishSaeReply(Reply, frozen=True):
    """What was published; with state "planned" nothing was written."""

    spare: ClassVar[frozenset[str]] = frozenset(
        {"target", "total_bytes", "load_command", "load_python", "load_sae_lens"}
    )

    evidence: None = None
    provenance: None = None
    result_id: None = None
    state: Literal["done", "planned", "running"]
    job_id: str | None = None
    target: str | None = None
    files: list[PublishedFile] = Field(default_factory=list[PublishedFile])
    total_bytes: int | None = None
    private: bool | None = None
    load_call: str | None = None
    """The tool call that loads the SAE back."""
    load_command: str | None = None
    load_python: str | None = None
    load_sae_lens: str | None = None
    """Python that loads the SAE with sae-lens; null where that has no such architecture."""
    commit: str | None = None
    evaluated: bool | None = None
    """Whether the model card has metrics."""
