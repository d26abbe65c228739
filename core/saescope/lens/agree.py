"""Whether readers name the same tokens, beyond what a lens turned to random directions names, and
beyond what the same readers name at other positions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.lens.lens import JACOBIAN, LOGIT, Lens
from saescope.lens.rows import ReadRows, top_ids
from saescope.models import LanguageModel
from saescope.models.analysis import read_vocabulary
from saescope.records.lens import ReaderAgreement
from saescope.verdicts import Signal

K = 10
"""Top tokens that are compared."""
N_RANDOM = 3
"""Random turns of a lens, over which its overlap is averaged."""
BLOCK = 4
"""Positions that follow each other are no independent sample: so many are drawn together."""
LEAST_BLOCKS = 5
"""With fewer nothing is said."""
LEVEL = 0.05
LEAST_MORE = 0.05
"""The share of top tokens that readers must have in common beyond each control: half a token of
ten. Less is nothing to read, however sure."""
N_DRAWS = 2000
MODEL, FEATURES = "model", "features"


class _Turn(NamedTuple):
    """Two random rotations: of what goes into a lens, and of what comes out."""

    into: Float[Tensor, "d d"]
    out: Float[Tensor, "d d"]


@dataclass(frozen=True, slots=True)
class _Layer:
    """What is read at one layer; each reading is made once, for all pairs of readers."""

    model: LanguageModel
    lens: Lens
    layer: int
    rows: ReadRows
    turns: Sequence[_Turn]
    read: dict[tuple[str, int | None], Int[Tensor, "n k"]] = field(
        default_factory=dict[tuple[str, int | None], Int[Tensor, "n k"]]
    )

    def top(self, reader: str, turn: int | None = None) -> Int[Tensor, "n k"]:
        """The top tokens of a reader, its lens turned if wanted."""
        if (reader, turn) not in self.read:
            stop_if_cancelled()
            self.read[reader, turn] = self._top(reader, None if turn is None else self.turns[turn])
        return self.read[reader, turn]

    def _top(self, reader: str, turn: _Turn | None) -> Int[Tensor, "n k"]:
        if reader == MODEL:
            return top_ids(self.rows.logits, K)
        if reader == FEATURES:
            carried = self._carried(self.rows.written[self.layer], turn, fitted=True)
            readout = self.model.readout
            return top_ids(readout.logit_effects(carried.to(self.model.dtype)).float(), K)
        carried = self._carried(self.rows.residual[self.layer], turn, fitted=reader == JACOBIAN)
        return top_ids(read_vocabulary(self.model, carried), K)

    def _carried(self, x: Tensor, turn: _Turn | None, *, fitted: bool) -> Tensor:
        carry: Callable[[Tensor], Tensor] = (
            (lambda each: self.lens.carry(each, self.layer)) if fitted else Tensor.float
        )
        return carry(x) if turn is None else carry(x.float() @ turn.into) @ turn.out


def agreement(model: LanguageModel, lens: Lens, rows: ReadRows) -> list[ReaderAgreement]:
    """How far each pair of readers agrees at the layers below the last, with both controls.

    The random lens has the spectrum of the real one: `Q1 @ J @ Q2` with random rotations.
    """
    layers = [layer for layer in rows.residual if layer < model.n_layers - 1]
    turns = _turns(model)
    read = {n: _Layer(model, lens, n, rows, turns) for n in layers}
    blocks = _blocks(rows)
    reader = JACOBIAN if lens.is_fitted else LOGIT
    pairs = [(reader, MODEL)]
    pairs += [(LOGIT, MODEL), (JACOBIAN, LOGIT)] if lens.is_fitted else []
    pairs += [(FEATURES, reader)]
    found = list[ReaderAgreement]()
    for first, second in pairs:
        there = [n for n in layers if first != FEATURES or n in rows.written]
        each = [_compared(read[n], (first, second), blocks, len(layers)) for n in there]
        if each:
            found.append(
                ReaderAgreement(
                    readers=[first, second],
                    layers=there,
                    overlap=[one.overlap for one in each],
                    random=[one.random for one in each],
                    shuffled=[one.shuffled for one in each],
                    agree_at=[n for n, one in zip(there, each, strict=True) if one.agrees],
                    n=len(rows.places),
                )
            )
    return found


class _Compared(NamedTuple):
    overlap: float
    random: float
    shuffled: float
    agrees: bool


def _compared(
    layer: _Layer,
    readers: tuple[str, str],
    blocks: Int[Tensor, " n"],
    n_layers: int,
) -> _Compared:
    first, second = (layer.top(reader) for reader in readers)
    common = shared(first, second)
    own = common.diagonal()
    elsewhere = (common.sum(1) - own) / max(1, len(own) - 1)
    turned = torch.stack(
        [shared(layer.top(readers[0], i), second).diagonal() for i in range(len(layer.turns))]
    ).mean(0)
    beyond = [own - other for other in (turned, elsewhere)]
    lows = [lower_bound(each, blocks, LEVEL / n_layers) for each in beyond]
    return _Compared(
        float(own.mean()),
        float(turned.mean()),
        float(elsewhere.mean()),
        all(low is not None and low > 0 for low in lows)
        and all(float(each.mean()) >= LEAST_MORE for each in beyond),
    )


def shared(first: Int[Tensor, "n k"], second: Int[Tensor, "m k"]) -> Float[Tensor, "n m"]:
    """The share of each row's tokens that each row of the other has too."""
    return torch.stack(
        [(row[:, None, None] == second[None]).any(0).float().mean(-1) for row in first]
    )


def lower_bound(
    differences: Float[Tensor, " n"], blocks: Int[Tensor, " n"], level: float
) -> float | None:
    """The lower end of an interval of the mean, two-sided at `level`, from draws of whole blocks;
    None where there are too few."""
    n_blocks = int(blocks.max()) + 1 if len(blocks) else 0
    if n_blocks < LEAST_BLOCKS:
        return None
    sums = torch.zeros(n_blocks, dtype=torch.float64)
    sizes = torch.zeros(n_blocks, dtype=torch.float64)
    sums.index_add_(0, blocks, differences.cpu().double())
    sizes.index_add_(0, blocks, torch.ones(len(blocks), dtype=torch.float64))
    draws = torch.randint(n_blocks, (N_DRAWS, n_blocks), generator=torch.Generator().manual_seed(0))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    return float(means.quantile(level / 2))


def _blocks(rows: ReadRows) -> Int[Tensor, " n"]:
    """The number of each row's block: some positions of one text that follow each other."""
    numbers, last, size = list[int](), -1, 0
    for number, place in enumerate(rows.places):
        begins = number == 0 or place.text != rows.places[number - 1].text or size == BLOCK
        last, size = (last + 1, 1) if begins else (last, size + 1)
        numbers.append(last)
    return torch.tensor(numbers, dtype=torch.long)


def _turns(model: LanguageModel) -> list[_Turn]:
    draw = torch.Generator().manual_seed(0)

    def rotation() -> Tensor:
        square = torch.randn(model.d_model, model.d_model, generator=draw)
        return torch.linalg.qr(square.to(model.device)).Q

    return [_Turn(rotation(), rotation()) for _ in range(N_RANDOM)]


def judged(lens: Lens, found: Sequence[ReaderAgreement], n_given: int) -> tuple[Signal, str]:
    """Whether the lens says more of the model's predictions than its controls, and why."""
    of_model = next((each for each in found if each.readers[1] == MODEL), None)
    n = of_model.n if of_model else 0
    on = f"n={n} positions, {n_given} of them of the given texts"
    if of_model is None or n < BLOCK * LEAST_BLOCKS:
        return Signal.UNKNOWN, f"{on}; it takes {BLOCK * LEAST_BLOCKS}."
    name = "logit" if not lens.is_fitted else "Jacobian"
    if not of_model.agree_at:
        best = max(range(len(of_model.layers)), key=lambda i: of_model.overlap[i])
        return Signal.NONE, (
            f"at no layer below the last do the {name} lens and the model's prediction share more "
            f"top tokens than a random lens and than shuffled positions do (at best "
            f"{of_model.overlap[best]:.2f} beside {of_model.random[best]:.2f} and "
            f"{of_model.shuffled[best]:.2f}, layer {of_model.layers[best]}; {on})."
        )
    said = [
        f"{_named(each.readers[0])} and {_named(each.readers[1])} at "
        f"{'layer' if len(each.agree_at) == 1 else 'layers'} {', '.join(map(str, each.agree_at))}"
        for each in found
        if each.agree_at
    ]
    return Signal.SIGNAL, (
        f"beyond a random lens and shuffled positions agree: {'; '.join(said)} ({on})."
    )


def _named(reader: str) -> str:
    return {LOGIT: "logit lens", JACOBIAN: "Jacobian lens"}.get(reader, reader)
