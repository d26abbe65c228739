"""Evaluations of this user, kept by the weights that they measured: a model card wants the last
one, whichever process made it."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from saescope.errors import ResourceError
from saescope.fence import read_own, real_path
from saescope.names import home
from saescope_mcp.state.fences import trained_saes

if TYPE_CHECKING:
    from saescope.evals import Evaluation
    from saescope.features.index import FeatureIndex

log = logging.getLogger("saescope")


def remember(weights_hash: str, evaluation: "Evaluation") -> None:
    from saescope.evals import Evaluation

    file = _file(weights_hash)
    aside = file.with_suffix(".tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(TypeAdapter(Evaluation).dump_json(evaluation))
        aside.replace(file)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        log.warning("the evaluation is not kept for a model card: %s", type(error).__name__)


def keep_sparsity(path: str, evaluation: "Evaluation | FeatureIndex") -> None:
    """sae-lens's sparsity.safetensors beside an SAE of our own, one that train_sae made; nothing is
    written beside others."""
    from saescope.saes.sparsity import write_sparsity

    if not path or not real_path(path).is_relative_to(real_path(trained_saes())):
        return
    try:
        write_sparsity(Path(path), evaluation.densities)
    except ResourceError as error:
        log.warning("%s", error)


def recall(weights_hash: str) -> "Evaluation | None":
    """The last evaluation of an SAE with these weights."""
    from saescope.evals import Evaluation

    try:
        return TypeAdapter(Evaluation).validate_json(read_own(_file(weights_hash)))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("an evaluation cannot be read: %s", type(error).__name__)
        return None


def _file(weights_hash: str) -> Path:
    return home() / "evaluations" / f"{weights_hash[:32]}.json"
