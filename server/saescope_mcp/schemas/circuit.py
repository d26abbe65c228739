"""trace_circuit: the attribution graph of a prediction."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from saescope.records.graph import (
    GraphNode,
    GraphProof,
    GraphScores,
    GraphSettings,
    GraphTarget,
)
from saescope.records.labels import ShortLabel
from saescope_mcp.schemas.bounds import AtMost, Identifier, LocalPath, Text
from saescope_mcp.schemas.common import (
    Against,
    Chat,
    Prompt,
    Reply,
    SAEsRequest,
    Seed,
    WaitS,
)

_USUAL = GraphSettings()
CircuitEvidence = Literal["correlational", "intervened", "controlled"]


class TraceCircuit(SAEsRequest):
    """Arguments of trace_circuit."""

    prompt: Prompt
    targets: Annotated[list[Identifier], AtMost("max_targets")] = Field(
        default=[], description="Next tokens to explain. Empty: the likely ones (to 95 %)."
    )
    against: Against = ""
    other_prompts: Annotated[list[Text], AtMost("max_other_prompts")] = Field(
        default=[], description="Other prompts: what of the circuit do they share?"
    )
    groups: Annotated[list[Text], AtMost("max_groups")] = Field(
        default=[], description='Nodes as one, "name: id id". Empty: found.'
    )
    max_features: Annotated[int, AtMost("max_traced_features")] = Field(
        default=_USUAL.max_features, ge=1, description="Features whose sources are computed."
    )
    n_measured: Annotated[int, AtMost("max_traced_features")] = Field(
        default=_USUAL.most_measured, ge=0, description="Nodes ablated to prove the graph; 0: none."
    )
    node_share: float = Field(
        default=_USUAL.node_share, gt=0, le=1, description="Influence that the kept nodes hold."
    )
    export: LocalPath = Field(
        default="", description="Write JSON for circuit-tracer and Neuronpedia."
    )
    seed: Seed = 0
    chat: Chat = False
    wait_s: WaitS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow(GraphNode):
    """A node with what is known of its feature."""

    label: ShortLabel | None


class TraceCircuitReply(Reply, frozen=True):
    """`reading` is the graph in words, `page` all of it. State "running": call job_status."""

    spare: ClassVar[frozenset[str]] = frozenset(
        {
            *("nodes", "saes", "kept_scores", "groups"),
            *("targets.token", "targets.against", "targets.weight"),
        }
    )
    usual: ClassVar[dict[str, object]] = Reply.usual | {
        "state": "done",
        "shared": "",
        "reading": "",
    }
    first: ClassVar[dict[str, int]] = {"targets": 3}

    evidence: CircuitEvidence | None = None
    state: Literal["done", "running"]
    job_id: str | None = None
    reading: str = ""
    targets: list[GraphTarget] = Field(default_factory=list[GraphTarget])
    scores: GraphScores | None = None
    kept_scores: GraphScores | None = None
    untraced: float | None = None
    proof: GraphProof | None = None
    saes: list[str] = Field(default_factory=list[str])
    """Handles in reading order: `nodes[].sae` is an index of these."""
    nodes: list[NodeRow] = Field(default_factory=list[NodeRow])
    groups: list[str] = Field(default_factory=list[str])
    shared: str = ""
    """What the prompts have in common."""
    page: str | None = None
    page_path: str | None = None
    """The page as a file on this machine."""
    exported: str | None = None
