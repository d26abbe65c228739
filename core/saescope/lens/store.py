"""Fitted lenses on disk: `<home>/lenses/<model>/<text and settings>/`, a checkpoint that is whole
or not there."""

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from saescope import checkpoints as disk
from saescope.lens.lens import JACOBIAN, Lens
from saescope.models import LanguageModel, model_fingerprint
from saescope.models.analysis import jacobian_lens
from saescope.names import home
from saescope.records.lens import LensFacts

KEPT = "sums"
"""The file of the summed Jacobians, one tensor a layer."""
SQUARES = "squares"
"""The sums of the squared norms of the prompts' Jacobians, one number a layer."""
_CHARS = 16


def lens_root() -> Path:
    """The folder in which lenses are kept."""
    return home() / "lenses"


def place_of(model: LanguageModel, root: Path) -> Path:
    """The folder of one model's lenses: another one where a weight or the tokenizer differs."""
    return root / model_fingerprint(model)[:_CHARS]


def find_lens(
    model: LanguageModel, *, layers: Collection[int] = (), root: Path | None = None
) -> Lens | None:
    """The lens of this model that was fitted on most prompts, of those that can be read at these
    layers; None where there is none."""
    place = place_of(model, root or lens_root())
    folders = sorted(path for path in place.glob("[!.]*") if path.is_dir())
    newest = [path for folder in folders if (path := disk.latest(folder))]
    for path in sorted(newest, key=disk.step_of, reverse=True):
        lens = opened(model, path.parent)
        if lens is not None and {*layers} <= {*lens.facts.layers, model.n_layers - 1}:
            return lens
    return None


def opened(model: LanguageModel, folder: Path) -> Lens | None:
    """The lens that a folder holds; None where it holds none that is whole."""
    path = disk.latest(folder)
    if path is None:
        return None
    tensors, state = disk.load(path)
    n_prompts = int(state["n_prompts"])
    matrices = {int(layer): each / n_prompts for layer, each in tensors[KEPT].items()}
    lens = jacobian_lens(model, matrices, n_prompts=n_prompts)
    facts = LensFacts(
        lens=JACOBIAN,
        layers=lens.source_layers,
        n_prompts=n_prompts,
        n_tokens=int(state["n_tokens"]),
        corpus=str(state["corpus"]),
        revision=None,
        errors=_errors(tensors[KEPT], state[SQUARES], n_prompts),
    )
    return Lens(facts, lens)


def _errors(sums: Mapping[str, Tensor], squares: Mapping[str, float], n: int) -> list[float] | None:
    """The standard error of each layer's mean over prompts, as a share of its norm."""
    if n < 2:
        return None
    means = {layer: float(sums[layer].norm()) / n for layer in sorted(sums, key=int)}
    # sum of |J_p - mean|^2 over prompts, by the sums alone
    spread = {layer: max(0.0, squares[layer] - n * mean**2) for layer, mean in means.items()}
    return [(spread[each] / (n - 1) / n) ** 0.5 / mean for each, mean in means.items()]
