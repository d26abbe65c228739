"""Examples as they are kept, read back for one feature at a time."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saescope.features.index.examples import N_BANDS, band_of
from saescope.features.index.firings import AFTER, BEFORE, WINDOW, decode_relative
from saescope.features.index.texts import ContextTexts


class KeptFiring(NamedTuple):
    """One kept firing of a feature."""

    context: int
    pos: int
    value: float
    codes: UInt8[Tensor, " window"]
    band: int

    @property
    def activations(self) -> list[float]:
        """The activations at the tokens around it; its own is exact."""
        values = decode_relative(self.codes, torch.tensor(self.value))
        values[BEFORE] = self.value
        return values.tolist()


class Span(NamedTuple):
    """The tokens of a passage, and where they stand."""

    start: int
    pos: int
    """The position of the passage's token, counted from `start`."""
    tokens: tuple[str, ...]
    first: int
    """Which place of the full window `start` is."""


def kept_rows(arrays: Mapping[str, Tensor]) -> list[KeptFiring]:
    """Places that are taken, in their order: `values [*n]`, `contexts [*n]`, `positions [*n]`,
    `windows [*n, window]`."""
    values = arrays["values"].flatten()
    bands = band_of(values).tolist()
    rows = zip(
        arrays["contexts"].flatten().tolist(),
        arrays["positions"].flatten().tolist(),
        values.tolist(),
        arrays["windows"].reshape(-1, WINDOW),
        bands,
        strict=True,
    )
    return [KeptFiring(*row) for row in rows if row[2] > 0]


def by_band(arrays: Mapping[str, Tensor], maximum: float) -> list[list[KeptFiring]]:
    """The samples of each half octave, from the one of the maximum downwards; what has fallen out
    of the range is left out."""
    top = int(band_of(torch.tensor([maximum])))
    bands: list[list[KeptFiring]] = [[] for _ in range(N_BANDS)]
    for kept in kept_rows(arrays):
        if kept.band > top - N_BANDS:
            bands[top - kept.band].append(kept)
    return bands


def span(ids: Int[Tensor, " context_size"], pos: int, strings: Mapping[int, str]) -> Span:
    """The tokens around a position, as far as the context goes."""
    start, end = max(0, pos - BEFORE), min(len(ids), pos + AFTER + 1)
    tokens = tuple(strings[i] for i in ids[start:end].tolist() if i >= 0)
    return Span(start, pos - start, tokens, start - (pos - BEFORE))


def read_spans(texts: ContextTexts, places: Iterable[tuple[int, int]]) -> list[Span]:
    """Read the passages around (context, position) pairs."""
    places = list(places)
    ids = texts.ids(context for context, _ in places)
    strings = texts.strings(i for row in ids.values() for i in row.tolist())
    return [span(ids[context], pos, strings) for context, pos in places]


def quantile_of(histogram: Int[Tensor, " n_bins"], bin_: int) -> float:
    """The share of the firings that lie in this bin or below."""
    return float(histogram[: bin_ + 1].sum()) / max(1, int(histogram.sum()))


def quantiles(
    histogram: Int[Tensor, " n_bins"],
    edges: Float[Tensor, " n_bins_plus_1"],
    at: Iterable[float],
    maximum: float,
) -> list[float]:
    """Values below which these shares of the firings lie; inside a bin as if its logarithms were
    uniform."""
    counts = histogram.double()
    cumulated = counts.cumsum(0)
    values: list[float] = []
    for share in at:
        target = share * float(cumulated[-1])
        bin_ = int((cumulated < target).sum())
        inside = (target - float(cumulated[bin_] - counts[bin_])) / float(counts[bin_])
        low, high = float(edges[bin_]) or float(edges[1]) / 2, min(float(edges[bin_ + 1]), maximum)
        values.append(min(maximum, low * (high / low) ** inside))
    return values
