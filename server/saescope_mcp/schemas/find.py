"""find_saes."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from saescope.records.catalogue import PublishedSAE
from saescope_mcp.schemas.bounds import AtMost, Identifier
from saescope_mcp.schemas.common import ListReply, Page, Request, is_empty


class FindSaes(Request):
    """Arguments of find_saes; all that is given must fit."""

    query: Identifier = Field(default="", description='Words, e.g. "gemma scope width 16k".')
    model: Identifier = Field(default="", description='Model, e.g. "gpt2-small".')
    layer: int = Field(default=-1, ge=-1, description="Layer, from 0; -1: any.")
    site: Identifier = Field(default="", description='Part of a site, e.g. "resid_post", "mlp".')
    architecture: Identifier = Field(default="", description='Part of it, e.g. "topk".')
    limit: Annotated[int, AtMost("max_k")] = Field(default=10, ge=1, description="SAEs to list.")
    offset: Page = 0


class ModelHere(BaseModel):
    """Whether a model can be loaded here, by known sizes; bytes."""

    name: str
    n_parameters: int
    float32_bytes: int
    bfloat16_bytes: int
    disk_bytes: int
    """The bytes of the model's files as they are published."""
    free_bytes: int
    """What is left of the memory budget."""
    fits: Literal["float32", "bfloat16"] | None
    """The widest dtype in which the model fits; null if it fits in neither."""
    counted: bool
    """Whether the size is counted from the model's configuration; otherwise it is read off its
    name."""
    here: bool
    """Whether the model's files are on this machine."""


class FindSaesReply(ListReply, frozen=True):
    """Published SAEs that fit."""

    listed: ClassVar[str] = "saes"
    spare: ClassVar[frozenset[str]] = frozenset(
        {
            "fit.n_parameters",
            "fit.float32_bytes",
            "fit.bfloat16_bytes",
            "fit.free_bytes",
            "fit.name",
            "fit.counted",
        }
    )

    evidence: None = None
    provenance: None = None
    result_id: None = None
    saes: list[PublishedSAE]
    fit: ModelHere | None = Field(default=None, exclude_if=is_empty)
    """Whether the model fits here: the one that is asked for, or the only one of those listed."""
    nearest: list[str]
    """Releases or models with names like those that were asked for, where nothing fits."""
