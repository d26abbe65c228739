"""What may leave this machine: names of files and folders, but not where they lie."""

import re
from dataclasses import replace
from typing import Any

from saescope.evals import Evaluation
from saescope.saes import SAE

_LOCAL_PATH = re.compile(r"[/~]|[A-Za-z]:[\\/]|\.{1,2}[\\/]")


def shareable(sae: SAE, evaluation: Evaluation | None) -> SAE:
    """An equal SAE without paths of this machine in its metadata, and with what was measured, for
    those who load it."""
    meta = sae.cfg.metadata
    measured = (
        {}
        if evaluation is None
        else {"l0": evaluation.l0, "explained_variance": evaluation.explained_variance}
    )
    raw = {name: _public(value) for name, value in (dict(meta.raw) | measured).items()}
    return sae.with_metadata(replace(meta, model_name=public_name(meta.model_name), raw=raw))


def public_name(name: str) -> str:
    """The last part of a path of this machine; anything else as it is."""
    return re.split(r"[\\/]", name.rstrip("\\/"))[-1] if _LOCAL_PATH.match(name) else name


def _public(value: Any) -> Any:
    if isinstance(value, str):
        return public_name(value)
    if isinstance(value, dict):
        return {name: _public(each) for name, each in value.items()}
    return [_public(each) for each in value] if isinstance(value, list | tuple) else value
