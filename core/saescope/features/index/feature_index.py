"""An index as it is asked: one feature at a time, in milliseconds."""

from collections.abc import Sequence
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.features.index.cofiring import Sample, partners
from saescope.features.index.examples import N_BANDS
from saescope.features.index.manifest import (
    FORMAT,
    IndexManifest,
    corrupt,
    hash_file,
    read_manifest,
)
from saescope.features.index.passages import (
    KeptFiring,
    by_band,
    kept_rows,
    quantile_of,
    quantiles,
    read_spans,
)
from saescope.features.index.quiz import make_pool
from saescope.features.index.rows import (
    TOP,
    Cofiring,
    Example,
    FeatureStatisticsRow,
    HistogramBin,
    QuizPool,
)
from saescope.features.index.statistics import N_BINS, QUARTERS, scale_of
from saescope.features.index.texts import FILE as TEXTS
from saescope.features.index.texts import ContextTexts
from saescope.ops import TYPICAL

ARRAYS = "arrays.safetensors"
QUANTILES = (0.5, 0.9, 0.99)


class FeatureIndex:
    """Read-only; several threads may ask at once. A feature outside the SAE is an ArgumentError."""

    def __init__(self, folder: Path, manifest: IndexManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.doubts: list[str] = []
        """What could not be made sure of when it was found for a model."""
        self._verified: dict[str, tuple[int, ...]] = {}
        self.texts = ContextTexts(folder / TEXTS, partial(self._verify, TEXTS))

    @classmethod
    def open(cls, folder: Path) -> "FeatureIndex":
        """Every file is verified here, and again when it is read after a change.

        Raises:
            FormatError: INDEX_CORRUPT: it is not as it was written.
        """
        index = cls(folder, read_manifest(folder))
        for name in index.manifest.sha256:
            index._verify(name)
        return index

    @property
    def warnings(self) -> list[str]:
        """What is not sure of it, or an index of an earlier version lacks."""
        if self.manifest.format == FORMAT:
            return self.doubts
        return [
            *self.doubts,
            f"The index of {self.manifest.dataset} was made by an earlier version: it "
            "has no typical activations and no hashes, and "
            "attention sinks count in it. ss.index_features rebuilds it.",
        ]

    @cached_property
    def typical(self) -> Float[Tensor, " d_sae"] | None:
        """The 99th percentile of each feature's activations above zero, to 2 %; 0 where it never
        fired, or below an 8,000th of the maximum.

        None in an index of an earlier version.
        """
        return self._whole("statistics.typical") if self.manifest.format == FORMAT else None

    @cached_property
    def maxima(self) -> Float[Tensor, " d_sae"]:
        """The largest activation of each feature, [d_sae]; 0 where it never fired."""
        return self._whole("statistics.maxima")

    @cached_property
    def densities(self) -> Float64[Tensor, " d_sae"]:
        """Share of the counted positions at which each feature fires."""
        return self._whole("statistics.n_fired").double() / self.manifest.n_tokens

    def density(self, feature: int) -> float:
        return float(self.densities[self._checked(feature)])

    def maximum(self, feature: int) -> float | None:
        """The largest activation of a feature; None if it never fired."""
        return float(self.maxima[self._checked(feature)]) or None

    def statistics(self, feature: int) -> FeatureStatisticsRow:
        """Return everything that is counted of a feature."""
        stored = self._rows(
            feature, "statistics.n_fired", "statistics.sums", "statistics.histogram"
        )
        n_fired, total, maximum = (
            int(stored["n_fired"]),
            float(stored["sums"]),
            self.maximum(feature),
        )
        n = self.manifest.n_tokens
        if maximum is None:
            return FeatureStatisticsRow(0, 0.0, 0.0, None, None, None, None, [])
        counts, edges = stored["histogram"], _edges(maximum)
        values = quantiles(counts, edges, QUANTILES, maximum)
        typical = None if self.typical is None else float(self.typical[feature]) or None
        filled = counts.nonzero()[:, 0].tolist()
        bins = [
            HistogramBin(float(edges[i]), float(edges[i + 1]), int(counts[i]))
            for i in range(filled[0], filled[-1] + 1)
        ]
        row = dict(zip(QUANTILES, values, strict=True)) | ({TYPICAL: typical} if typical else {})
        return FeatureStatisticsRow(
            n_fired, n_fired / n, total / n, total / n_fired, maximum, typical, row, bins
        )

    def examples(self, feature: int, n: int = 5, *, offset: int = 0) -> list[Example]:
        """By turns one of the strongest and one of the range below, from the weak end and spread
        over it: no context twice."""
        maximum = self.maximum(feature)
        if maximum is None:
            return []
        return self._shown(feature, maximum, self._in_turn(feature, maximum)[offset : offset + n])

    def strongest(self, feature: int, n: int = 10) -> list[Example]:
        """The strongest alone, of those that are kept."""
        maximum = self.maximum(feature)
        if maximum is None:
            return []
        top = [(TOP, kept) for kept in kept_rows(self._slots("top", feature))]
        return self._shown(feature, maximum, top[:n])

    def _shown(
        self, feature: int, maximum: float, chosen: Sequence[tuple[str, KeptFiring]]
    ) -> list[Example]:
        histogram = self._rows(feature, "statistics.histogram")["histogram"]
        top = int(scale_of(torch.tensor([maximum])).octave)
        examples: list[Example] = []
        spans = read_spans(self.texts, [(kept.context, kept.pos) for _, kept in chosen])
        for (band, kept), span in zip(chosen, spans, strict=True):
            activations = tuple(kept.activations[span.first : span.first + len(span.tokens)])
            scale = scale_of(torch.tensor([kept.value]))
            bin_ = max(0, N_BINS - QUARTERS * (top + 1 - int(scale.octave)) + int(scale.quarter))
            quantile = quantile_of(histogram, bin_)
            examples.append(
                Example(
                    kept.context, span.start, span.tokens, span.pos, activations, band, quantile
                ),
            )
        return examples

    def cofiring(self, feature: int, k: int = 10) -> list[Cofiring]:
        """The features that go with it most (by phi), if they fire together twice or more in the
        sample of contexts."""
        return partners(self.sample, self._checked(feature), k)

    def quiz_pool(self, feature: int, *, seed: int = 0, similar: Sequence[int] = ()) -> QuizPool:
        """`similar`: features like it (decoder neighbours), for near misses beside its co-firing
        partners."""
        maximum = self.maximum(feature)
        kept = by_band(self._slots("quiz", feature), maximum) if maximum is not None else []
        near = [*similar, *(partner.feature for partner in self.cofiring(feature, 8))]
        return make_pool(self.sample, self.texts, feature, kept, similar=near, seed=seed)

    @cached_property
    def sample(self) -> Sample:
        """The contexts of which everything is known."""
        names = ("offsets", "features", "contexts", "n_counted")
        arrays = {name: self._whole(f"sample.{name}") for name in names}
        return Sample(
            **arrays,
            context_size=self.manifest.context_size,
            d_sae=self.manifest.d_sae,
            special_ids=self._whole("special_ids"),
        )

    def _in_turn(self, feature: int, maximum: float) -> list[tuple[str, KeptFiring]]:
        top = [(TOP, kept) for kept in kept_rows(self._slots("top", feature))]
        bands = [
            [
                (
                    f"{2 ** (kept.band / 2):.3g}..{min(maximum, 2 ** ((kept.band + 1) / 2)):.3g}",
                    kept,
                )
                for kept in band
            ]
            for band in by_band(self._slots("range", feature), maximum)
        ]
        shown = {kept.context for _, kept in top}
        unseen = [[turn for turn in band if turn[1].context not in shown] for band in bands]
        filled = [band for band in unseen if band]
        rounds = zip_longest(*(filled[i] for i in _spread(len(filled))))
        below: dict[int, tuple[str, KeptFiring]] = {}
        for turn in (turn for each in rounds for turn in each if turn):
            below.setdefault(turn[1].context, turn)
        pairs = zip_longest(top, below.values())
        return [turn for pair in pairs for turn in pair if turn]

    def _slots(self, table: str, feature: int) -> dict[str, Tensor]:
        names = [
            f"examples.{table}.{name}" for name in ("values", "contexts", "positions", "windows")
        ]
        width = 1 if table == "top" else N_BANDS
        return self._rows(feature, *names, width=width)

    def _checked(self, feature: int) -> int:
        if not 0 <= feature < self.manifest.d_sae:
            raise ArgumentError(
                f"The SAE has no feature {feature}.",
                code="FEATURE_OUT_OF_RANGE",
                field="feature",
                got=feature,
                allowed=f"0..{self.manifest.d_sae - 1}",
            )
        return feature

    def _rows(self, feature: int, *names: str, width: int = 1) -> dict[str, Tensor]:
        """What the arrays hold of one feature, by the last part of their names."""
        feature = self._checked(feature)
        self._verify(ARRAYS)
        try:
            with safe_open(self.folder / ARRAYS, "pt") as file:
                arrays = {
                    name: file.get_slice(name)[feature * width : (feature + 1) * width]
                    for name in names
                }
        except (OSError, SafetensorError) as error:
            raise corrupt(self.folder, str(error)) from error
        return {
            name.rpartition(".")[2]: rows[0] if width == 1 else rows
            for name, rows in arrays.items()
        }

    def _verify(self, name: str) -> None:
        """A file that is as it was when it was last verified costs no more than a look at its
        dates."""
        path, expected = self.folder / name, self.manifest.sha256.get(name)
        if expected is None:
            return
        try:
            at = path.stat()
            now = (at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino)
            if self._verified.get(name) != now and hash_file(path) != expected:
                raise corrupt(self.folder, f"{name} is not as it was written")
        except OSError as error:
            raise corrupt(self.folder, f"{name} cannot be read: {error.strerror}") from error
        self._verified[name] = now

    def _whole(self, name: str) -> Tensor:
        self._verify(ARRAYS)
        try:
            with safe_open(self.folder / ARRAYS, "pt") as file:
                return file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise corrupt(self.folder, str(error)) from error


def _edges(maximum: float) -> Float[Tensor, " n_bins_plus_1"]:
    """The histogram's; the lowest bin begins at 0."""
    top = int(scale_of(torch.tensor([maximum])).octave)
    edges = (torch.arange(-N_BINS, 1).double() / QUARTERS + top + 1).exp2().float()
    edges[0] = 0
    return edges


def _spread(n: int) -> list[int]:
    """The numbers below `n` so ordered, from the last one, that the first few lie evenly among all:
    by their binary digits from behind."""
    width = max(1, (n - 1).bit_length())
    return sorted(range(n), key=lambda i: int(f"{n - 1 - i:0{width}b}"[::-1], 2))
