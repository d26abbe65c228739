"""What the features of a graph write: their rows, and the tokens that they promote."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.graphs.members import GraphMembers
from saescope.models import LanguageModel
from saescope.records.graph import GraphNode


def rows_of(of: GraphMembers, nodes: Sequence[GraphNode]) -> Float[Tensor, "n d"]:
    """What each feature writes at its own layer's site; zeros for nodes of other kinds."""
    rows = torch.zeros(len(nodes), of.members[0].cfg.d_out, dtype=torch.float64)
    for i, node in enumerate(nodes):
        if node.sae is not None and node.feature is not None:
            member = of.members[node.sae]
            rows[i] = member.write_rows(torch.tensor([node.feature]), node.sae)[0].cpu().double()
    return rows


def promoted(
    model: LanguageModel, of: GraphMembers, nodes: Sequence[GraphNode], n: int
) -> dict[str, list[str]]:
    """The tokens whose logits each feature raises most directly, by the id of its node; nothing
    where what is written at its site reaches the logits by no linear map."""
    features = [node for node in nodes if node.kind == "feature"]
    to_residual = model.residual_map(of.members[0].write_hooks[0]) if features else None
    if to_residual is None:
        return {}
    with torch.no_grad():
        rows = rows_of(of, features).to(model.device, model.dtype)
        effects = model.readout.logit_effects(to_residual(rows)).float()
    best = effects.topk(n, dim=-1).indices.tolist()
    return {
        node.id: [model.token_text(i) for i in row]
        for node, row in zip(features, best, strict=True)
    }
