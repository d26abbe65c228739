"""What an evaluation says, as plain data: numbers, their 95 % intervals, baselines, and a verdict
with reasons."""

from collections.abc import Mapping
from dataclasses import dataclass

from saescope.verdicts import Judgement, Quality


@dataclass(frozen=True, slots=True)
class LayerFit:
    """How an SAE reconstructs the site of its kind at one layer."""

    hook_name: str
    explained_variance: float
    scale: float
    """The factor that fits the reconstruction best to its target, both about their means."""
    ce_score: float | None = None
    """Measured by a scan alone."""


@dataclass(frozen=True, kw_only=True)
class ProbeCheck:
    """The SAE on a probe text: does it belong to this model and site? Position 0 and special tokens
    are left out."""

    n_tokens: int
    n_sinks: int
    """Left out beside them: the norm at the site is out of proportion."""
    l0: float
    explained_variance: float | None
    ce_score: float | None
    """(zero ablation - with SAE) / (zero ablation - clean), of the next-token cross-entropy."""
    clean_loss: float | None
    """The model's own cross-entropy, in nats a token; `ablation_cost` is what zeroing the site
    adds."""
    ablation_cost: float | None
    scale: float | None
    """The factor that fits the reconstruction best to its target: 1 is right."""
    peak: LayerFit | None
    """The layer at which the SAE explains most; None where its site is in no layer."""
    layers: tuple[LayerFit, ...] = ()
    """Every layer, on at most 128 positions."""
    published_l0: float | None
    """The L0 that its authors measured on their texts; None if that is not known."""
    verdict: Judgement[Quality]


@dataclass(frozen=True, kw_only=True)
class SetCheck:
    """The SAEs of a set on a probe text, a layer at a time: do they belong to this model and these
    sites? Position 0 and special tokens are left out."""

    n_tokens: int
    """At the first of the layers."""
    n_layers: int
    """Layers that were measured: of a set that is too large to be read for this, some."""
    l0: float
    """The median over layers."""
    explained_variance: float | None
    """The median over layers."""
    worst: LayerFit | None
    """The layer that explains least."""
    layers: tuple[LayerFit, ...]
    """Every layer that was measured."""
    verdict: Judgement[Quality]


@dataclass(frozen=True, slots=True)
class Interval:
    """95 %, from values over resampled documents."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Mean next-token cross-entropy in nats, by what stands at the site."""

    clean: float
    with_sae: float
    zero_ablation: float
    mean_ablation: float
    """The mean of the evaluated positions at each of them."""


@dataclass(frozen=True, slots=True)
class KLDivergence:
    """Mean KL(clean || changed) of the next-token distribution in nats."""

    with_sae: float
    zero_ablation: float


@dataclass(frozen=True, slots=True)
class Shrinkage:
    """Whether reconstructions are systematically too small; 1 = not."""

    l2_ratio: float
    """Mean of |sae_out| / |target|."""
    relative_reconstruction_bias: float | None
    """E|sae_out|^2 / E[sae_out . target] (Rajamanoharan et al. 2024, arXiv:2404.16014, eq. 10)."""


@dataclass(frozen=True, slots=True)
class DensityBin:
    """Features that fire at a share of positions in [low, high)."""

    low: float
    high: float
    n_features: int


@dataclass(frozen=True, slots=True)
class PositionBin:
    """Positions `first` to `last` of the contexts; variance about the mean of all positions."""

    first: int
    last: int
    n_tokens: int
    explained_variance: float | None


@dataclass(frozen=True, slots=True)
class Baseline:
    """What something simpler reaches on the same positions."""

    size: int
    """Features a position of the random SAE; directions of the PCA."""
    explained_variance: float | None
    ce_score: float | None


@dataclass(frozen=True, slots=True)
class Baselines:
    random_sae: Baseline
    """Random directions, tied, of the same shape and L0, the scale of the output fitted."""
    pca: Baseline | None
    """The linear subspace of as many directions as features fire that is best for one half of the
    documents, judged on the other half; None where the text has no two halves."""
    pca_rank_to_match: int | None
    """Directions that PCA needs for the SAE's explained variance."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One finding, and what to change if it is bad."""

    finding: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How good the SAE is, in a sentence, and the findings that decided it, the worst first."""

    level: Quality
    summary: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """An SAE on text: position 0 and special tokens left out unless asked for. None: it cannot be
    measured on this text."""

    dataset: str
    hook_name: str
    hook_name_out: str
    """The site that is reconstructed."""
    n_tokens: int
    n_sinks: int
    """Left out beside position 0 and special tokens: the norm at the site is out of proportion."""
    n_contexts: int
    n_documents: int
    """Documents that the contexts begin in: what intervals are resampled from."""
    context_size: int
    seed: int
    l0: float
    explained_variance: float | None
    mse: float
    """Squared error summed over the width, averaged over positions."""
    cosine: float
    ce: CrossEntropy | None
    ce_score: float | None
    """(zero_ablation - with_sae) / (zero_ablation - clean)."""
    kl: KLDivergence | None
    kl_score: float | None
    """(zero_ablation - with_sae) / zero_ablation."""
    dead_share: float
    """Features that never fired on this text: with more text there are fewer."""
    dense_share: float
    """Features that fire at more than a tenth of the positions."""
    shrinkage: Shrinkage
    density: tuple[DensityBin, ...]
    positions: tuple[PositionBin, ...]
    baselines: Baselines | None
    intervals: Mapping[str, Interval]
    """Intervals by metric; empty where there are too few documents to resample.
    "over_random_sae" and "over_pca" are differences of explained variance on the same documents."""
    saelens: Mapping[str, float]
    """These metrics under the names and definitions of sae-lens's `run_evals`, which zero-ablates
    position 0 and special tokens as well."""
    verdict: Verdict
    warnings: tuple[str, ...]
    n_fired: tuple[int, ...] = ()
    """Positions at which each feature fires."""

    @property
    def densities(self) -> tuple[float, ...]:
        """Share of the positions at which each feature fires."""
        return tuple(n / self.n_tokens for n in self.n_fired)
