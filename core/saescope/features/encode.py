"""Which features fire on texts, token by token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from saescope.metrics import Reconstruction
from saescope.models import LanguageModel, Tokens, counted
from saescope.ops import SparseActs
from saescope.saes import SAE
from saescope.splice import read_site


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Active features at every position of one text."""

    tokens: Tokens
    counted: Bool[Tensor, " n_pos"]
    acts: SparseActs

    def l0(self, pos: int) -> int:
        """Number of active features at a position."""
        return int(self.acts.offsets[pos + 1] - self.acts.offsets[pos])

    def at(self, pos: int, top_k: int) -> list[tuple[int, float]]:
        """The strongest features at a position with their activations."""
        entries = slice(int(self.acts.offsets[pos]), int(self.acts.offsets[pos + 1]))
        values, order = self.acts.values[entries].sort(descending=True, stable=True)
        return list(
            zip(
                self.acts.features[entries][order].tolist()[:top_k],
                values.tolist()[:top_k],
                strict=True,
            )
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts with their features, and how well the SAE reconstructs the counted positions."""

    texts: list[TextFeatures]
    n_tokens: int
    n_left_out: int
    n_sinks: int
    """Of those left out, the positions whose norm at the site is out of proportion."""
    l0_mean: float | None
    explained_variance: float | None
    cosine: float | None


def encode_texts(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[Tokens],
    *,
    positions: Iterable[int] = (),
    include_special: bool = False,
) -> Encoded:
    """Features of every position; statistics over the counted ones (position 0, special tokens and sinks left out unless named)."""
    named, fit = list(positions), Reconstruction()
    encoded: list[TextFeatures] = []
    n_active = n_usual = 0
    for tokens in texts:
        # features alone are kept: ten thousand texts are read in one call
        site = read_site(model, sae, model.batch(tokens.ids))
        mask = counted(tokens, named, include_special, sinks=site.sinks).to(model.device)
        n_usual += int(counted(tokens, named, include_special).sum())
        n_active += int(site.acts.l0[mask].sum())
        fit.add(site.target[mask], site.sae_out[mask])
        encoded.append(TextFeatures(tokens, mask, site.acts))
    return Encoded(
        encoded,
        fit.n,
        sum(len(tokens) for tokens in texts) - fit.n,
        n_usual - fit.n,
        n_active / fit.n if fit.n else None,
        fit.explained_variance,
        fit.mean_cosine,
    )
