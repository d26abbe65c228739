"""All that a pass over a text gathers about the features of one SAE."""

import torch
from torch import Tensor

from saescope.features.index.config import IndexConfig
from saescope.features.index.examples import Examples
from saescope.features.index.firings import Contexts, firings_of
from saescope.features.index.sample import ContextSample
from saescope.features.index.statistics import FeatureStatistics
from saescope.finite import FiniteChecks
from saescope.ops import SparseActs
from saescope.precision import wide_device


def bytes_per_feature(cfg: IndexConfig) -> int:
    """Memory that a run takes for each feature of an SAE; beside it the sample, at most 50 MB an
    SAE, and one batch."""
    return FeatureStatistics.BYTES + Examples.bytes_per_feature(cfg)


class Accumulator:
    """Statistics, examples and the sample of one SAE: fed with batches, saved and restored to the
    bit."""

    def __init__(self, d_sae: int, cfg: IndexConfig, device: torch.device) -> None:
        self.device = wide_device(device)
        self.statistics = FeatureStatistics(d_sae, self.device)
        self.examples = Examples(d_sae, cfg, self.device)
        self.sample = ContextSample(cfg)

    def add(self, acts: SparseActs, contexts: Contexts, checks: FiniteChecks | None = None) -> None:
        """A batch: `acts` at every position of the contexts, in reading order. The sizes of all
        that is taken of it are asked at once, with the checks that are still to be answered.

        Raises:
            NumericError: of the checks; nothing is taken.
        """
        acts, there = acts.to(self.device), contexts.to(self.device)
        firings = firings_of(acts, there.mask)
        growth = self.statistics.growth(firings)
        # Which bands are still alive depends on the maximum, this batch included.
        contenders = self.examples.contenders(firings, there, growth.maxima)
        draw = self.sample.draw(firings, contexts, there.mask)
        n_fired, n_tokens, n_grown, *sizes = (checks or FiniteChecks()).ask(
            firings.fire.sum(),
            there.mask.sum(),
            (growth.n_octaves > 0).sum(),
            *(each.sizes for each in contenders),
            draw.sizes,
        )
        n_examples, firings = 2 * len(contenders), firings.first(n_fired)
        self.statistics.add(firings, n_tokens, growth, n_grown)
        self.examples.add(firings, contenders, sizes[:n_examples])
        self.sample.add(firings, draw, sizes[n_examples:])

    def state_dict(self) -> dict[str, Tensor]:
        parts = {"statistics": self.statistics, "examples": self.examples, "sample": self.sample}
        return {
            f"{name}.{key}": value
            for name, part in parts.items()
            for key, value in part.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        parts = {"statistics": self.statistics, "examples": self.examples, "sample": self.sample}
        for name, part in parts.items():
            part.load_state_dict(
                {
                    key.removeprefix(f"{name}."): value
                    for key, value in state.items()
                    if key.startswith(f"{name}.")
                }
            )
