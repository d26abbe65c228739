"""What is published."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSAE:
    """One published SAE, as far as its publication tells."""

    release: str
    sae_id: str
    model: str
    hook_name: str | None
    architecture: str | None
    d_sae: int | None
    l0: float | None
    explained_variance: float | None
    neuronpedia_id: str | None
    cached: bool
    """Its weights are on this machine."""
