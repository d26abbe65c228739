"""Scripted players: one with an activation probe alone, one with the server's tools."""

from statistics import mean

from agent_evals.scientist.lab import Lab
from agent_evals.scientist.scores import area_under
from agent_evals.scientist.wish import Answer, Ground, Scientist, Wish
from saescope import load_sae

N_RETURNED = 64
"""Features that the probe gives back for each text."""
LEAST_AREA = 0.9
"""Below this the probe's player says that no feature is good enough."""


async def probe(ground: Ground, wishes: list[Wish]) -> list[Answer]:
    """Names the feature that separates the shown texts best, among those that the probe returns for
    a positive; of equals, the one that fires hardest for its size."""
    lab = Lab(ground.model, load_sae(ground.sae))
    return [_by_probe(lab, wish) for wish in wishes]


def _by_probe(lab: Lab, wish: Wish) -> Answer:
    positives, others = lab.pooled(wish.shown.positives), lab.pooled(wish.shown.others)
    n = min(N_RETURNED, positives.shape[1])
    returned = set(positives.topk(n, dim=1).indices.flatten().tolist())
    best = (-1.0, -1.0, -1)
    for feature in sorted(returned):
        high, low = positives[:, feature].tolist(), others[:, feature].tolist()
        if any(high):
            contrast = (mean(high) - mean(low)) / mean(high)
            best = max(best, (area_under(high, low), contrast, feature))
    area, _, feature = best
    why = f"AUROC {area:.3f} on the shown texts"
    return Answer(feature if area >= LEAST_AREA else None, why)


PLAYERS: dict[str, Scientist] = {"probe": probe}
