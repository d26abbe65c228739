"""How large a language model is that is not on this machine: from `models.json` (written by
scripts/build_model_sizes.py), or else from what its name says."""

import json
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from saescope.catalogue.cached import models_here
from saescope.catalogue.spelling import canonical_model, squeezed

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
_VARIANT = re.compile(r"-(instruct|it|pt|base|chat|hf|deduped|v\d[\w.]*)$")
_SAID = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([mb])(?![a-z0-9])")
_MILLIONS = {"m": 10**6, "b": 10**9}


class ModelSize(NamedTuple):
    """What is known of a model without its files."""

    name: str
    n_parameters: int
    n_inner: int
    """The parameters without the embedding and what predicts tokens from the last layer: what
    reading computes with."""
    d_model: int | None
    n_layers: int | None
    dtype: str
    """The dtype in which the model's weights are published."""
    counted: bool
    """Whether the size is counted from the model's configuration; otherwise it is read off its
    name."""

    def n_bytes(self, dtype: str) -> int:
        """The size of its weights in memory; "auto" as they are published."""
        return self.n_parameters * BYTES.get(dtype, BYTES[self.dtype])

    @property
    def disk_bytes(self) -> int:
        return self.n_bytes(self.dtype)


def model_size(name: str) -> ModelSize | None:
    """The size of the model of that name, in any of its usual spellings; None where nothing is
    known of it."""
    if known := _known().get(_key(name)):
        return known
    said = _SAID.search(name.lower())
    if not said:
        return None
    times, number, unit = said.groups()
    n = round(int(times or 1) * float(number) * _MILLIONS[unit])
    return ModelSize(name, n, n, None, None, "bfloat16", False)


def is_model_here(name: str) -> bool:
    """Whether a model of the hub is in its cache, in any spelling of its name."""
    word = squeezed(canonical_model(name))
    return word in (squeezed(canonical_model(one)) for one in models_here())


@cache
def _known() -> dict[str, ModelSize]:
    rows = json.loads(
        files("saescope.catalogue").joinpath("models.json").read_text(encoding="utf-8")
    )
    return {_key(row["name"]): ModelSize(**row, counted=True) for row in rows}


def _key(name: str) -> str:
    """A name without what tells the variants of a model apart, which have the same shape."""
    short = canonical_model(name)
    while (shorter := _VARIANT.sub("", short)) != short:
        short = shorter
    return squeezed(short).removeprefix("meta")
