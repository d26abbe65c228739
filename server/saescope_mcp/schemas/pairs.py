"""compare_prompts: what makes two prompts predict different tokens."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from saescope.records.labels import ShortLabel
from saescope.records.pairs import PairComparison, PatchedFeature, SitePatch
from saescope_mcp.schemas.bounds import AtMost, Identifier, Text
from saescope_mcp.schemas.common import (
    Chat,
    Controls,
    IncludeSpecial,
    ListReply,
    OneOfSeveral,
    SAEsRequest,
    Seed,
    is_empty,
)


class ComparePrompts(SAEsRequest):
    """Arguments of compare_prompts."""

    a: Text = Field(description='Prompt to patch, e.g. "The king said that".')
    b: Text = Field(description="Prompt that features come from; best as long as a in tokens.")
    target: Identifier = Field(
        default="", description="Token that b favours. Empty: its most likely one."
    )
    against: Identifier = Field(
        default="", description="Token that a favours. Empty: its most likely one."
    )
    k: Annotated[int, AtMost("max_k")] = Field(
        default=10, ge=1, description="(feature, position) pairs listed, and patched one by one."
    )
    n_controls: Controls = 19
    seed: Seed = 0
    include_special: IncludeSpecial = False
    chat: Chat = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchedRow(PatchedFeature):
    """A feature that differs, in both prompts, and what patching it alone does."""

    sae: OneOfSeveral = None
    label: ShortLabel | None
    url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchOf(SitePatch):
    """What the site of one of several SAEs carries."""

    sae: str


class ComparePromptsReply(ListReply, PairComparison, frozen=True):
    """Shares of the way from a's prediction to b's: 0 is a, 1 is b. Features by size of
    estimate."""

    listed: ClassVar[str] = "features"
    spare: ClassVar[frozenset[str]] = frozenset(
        {"features.url", "features.estimate", "bos_prepended", "n_patched", "target.id"}
    )
    usual: ClassVar[dict[str, object]] = ListReply.usual | {"unchanged": True}
    twins: ClassVar[dict[str, str]] = {
        "features.pos_b": "pos_a",
        "features.token_b": "token_a",
        "differences.pos_b": "pos_a",
    }
    first: ClassVar[dict[str, int]] = {"differences": 5}

    features: list[PatchedRow]
    by_sae: list[PatchOf] = Field(default=[], exclude_if=is_empty)
    bos_prepended: bool
