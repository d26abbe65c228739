"""Fitted lenses on disk: `<home>/lenses/<model>/<text and settings>/`, a checkpoint that is whole
or not there."""

from pathlib import Path

from saescope import checkpoints as disk
from saescope.lens.lens import JACOBIAN, Lens
from saescope.models import LanguageModel, model_fingerprint
from saescope.models.analysis import jacobian_lens
from saescope.names import home
from saescope.records.lens import LensFacts

KEPT = "sums"
"""The file of the summed Jacobians, one tensor a layer."""
_CHARS = 16


def lens_root() -> Path:
    """The folder in which lenses are kept."""
    return home() / "lenses"


def place_of(model: LanguageModel, root: Path) -> Path:
    """The folder of one model's lenses: another one where a weight or the tokenizer differs."""
    return root / model_fingerprint(model)[:_CHARS]


def find_lens(model: LanguageModel, *, root: Path | None = None) -> Lens | None:
    """The lens of this model that was fitted on most prompts; None where none was."""
    place = place_of(model, root or lens_root())
    folders = sorted(path for path in place.glob("[!.]*") if path.is_dir())
    newest = [path for folder in folders if (path := disk.latest(folder))]
    best = max(newest, key=disk.step_of, default=None)
    return best and opened(model, best.parent)


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
    )
    return Lens(facts, lens)
