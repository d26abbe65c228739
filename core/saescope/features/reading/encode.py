"""Which features fire on texts, token by token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jaxtyping import Bool
from torch import Tensor

from saescope.metrics import RunningFit
from saescope.models import LanguageModel, Tokens, counted
from saescope.ops import SparseActs
from saescope.progress import NOBODY, Advance
from saescope.records.features import Fit
from saescope.saes import SAE
from saescope.splice import SiteRecord
from saescope.stack import Stack, as_stack


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Active features at every position of one text, on the CPU."""

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


@dataclass(frozen=True, kw_only=True)
class Encoded(Fit):
    """Texts with their features, and how well the SAE reconstructs the counted positions."""

    texts: list[TextFeatures]


def encode_texts(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[Tokens],
    *,
    positions: Iterable[int] = (),
    include_special: bool = False,
) -> Encoded:
    """Features of every position; statistics over the counted ones (position 0, special tokens and
    sinks left out unless named)."""
    (encoded,) = encode_stack(
        as_stack(model, sae), texts, positions=positions, include_special=include_special
    )
    return encoded


def encode_stack(
    stack: Stack,
    texts: Sequence[Tokens],
    *,
    positions: Iterable[int] = (),
    include_special: bool = False,
    advance: Advance = NOBODY,
) -> list[Encoded]:
    """What `encode_texts` gives for each SAE, in the order in which they were given; each text is
    read once, a long one in chunks, and `advance` hears of the tokens that are read."""
    named = list(positions)
    sums = [_ReadSoFar() for _ in stack.saes]
    for tokens in texts:
        # features alone are kept: ten thousand texts are read in one call
        sites = stack.read(stack.model.batch(tokens.ids), advance=advance)
        usual = int(counted(tokens, named, include_special).sum())
        for given, site in zip(stack.given, sites, strict=True):
            mask = counted(tokens, named, include_special, sinks=site.sinks)
            sums[given].add(tokens, site, mask, usual)
    return [each.encoded() for each in sums]


@dataclass(slots=True)
class _ReadSoFar:
    """What is kept of the texts that one SAE has read so far."""

    texts: list[TextFeatures] = field(default_factory=list[TextFeatures])
    fit: RunningFit = field(default_factory=RunningFit)
    n_active: int = 0
    n_usual: int = 0

    def add(self, tokens: Tokens, site: SiteRecord, mask: Tensor, usual: int) -> None:
        counts, acts = mask.nonzero()[:, 0].to(site.target.device), site.acts.to("cpu")
        self.n_usual += usual
        self.n_active += int(acts.l0[mask].sum())
        self.fit.add(site.target[counts], site.sae_out[counts])
        self.texts.append(TextFeatures(tokens, mask, acts))

    def encoded(self) -> Encoded:
        n = self.fit.n
        return Encoded(
            l0_mean=self.n_active / n if n else None,
            explained_variance=self.fit.explained_variance,
            cosine=self.fit.mean_cosine,
            n_tokens=n,
            n_left_out=sum(len(text.tokens) for text in self.texts) - n,
            n_sinks=self.n_usual - n,
            texts=self.texts,
        )
