"""What a configuration asks for, judged before anything is built: a few bytes of JSON can describe
a model of any size."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from saescope.errors import ModelError, ResourceError, cause_of
from saescope.models.partial import stack_of

MAX_LAYERS = 1024
"""Each costs time and memory even before it has weights; the deepest models have 126 to 200."""
MAX_EXPERTS = 4096
MAX_LABELS = 1 << 20
_COUNTS = (
    (re.compile(r"(layers?|blocks|depth|stages|block_count)$"), MAX_LAYERS),
    (re.compile(r"(experts|expert_count|heads|head_count|groups)$"), MAX_EXPERTS),
    (re.compile(r"labels$"), MAX_LABELS),
)
MAX_LISTED = 1 << 16
"""GPT-Neo's configuration says how often a pattern of layers is repeated within a list."""
SLACK = 1 << 20


def check_counts(config: Mapping[str, Any]) -> None:
    """That no count in a model's configuration is one that only building it would run out of memory
    for.

    Raises:
        ModelError: MODEL_CONFIG_INVALID.
    """
    for name, value, listed in _integers(config):
        limit, least = (MAX_LISTED if listed and not name.endswith("_id") else None), -MAX_LISTED
        for pattern, most in _COUNTS:
            if pattern.search(name):
                limit, least = most, 0
        if limit is not None and not least <= value <= limit:
            raise ModelError(
                f"The model's configuration says {name}={value}; only {least} to "
                f"{limit} is believed.",
                code="MODEL_CONFIG_INVALID",
                field="model",
                got=value,
                allowed=f"{least} to {limit}",
                hint="Get the model again, from a source you trust.",
            )


def check_size(
    config: Any, *, name: str, dtype: torch.dtype, stored: int = 0, n_layers: int | None = None
) -> None:
    """That the model of a configuration fits this machine, or as much of it as its first `n_layers`
    take; and, where the number of `stored` weights is known, that it has so many.

    Raises:
        ModelError: MODEL_CONFIG_INVALID: no model can be built of it, or its files are of another
            one.
        ResourceError: OUT_OF_MEMORY_BUDGET.
    """
    model = _without_memory(config, name)
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    later = [] if n_layers is None else [*(stack_of(model) or [])][n_layers:]
    n_read = n_weights - sum(weight.numel() for each in later for weight in each.parameters())
    need = n_read * dtype.itemsize + sum(buffer.nbytes for buffer in model.buffers())
    if need > memory_bytes():
        raise ResourceError(
            f"The configuration of {name!r} describes a model of {need / 1e9:,.0f} GB; "
            f"this machine has {memory_bytes() / 1e9:,.0f} GB.",
            code="OUT_OF_MEMORY_BUDGET",
            field="model",
            got=f"{need / 1e9:,.0f} GB",
            allowed=f"{memory_bytes() / 1e9:,.0f} GB",
            hint='Use a smaller model, or dtype="bfloat16".',
        )
    if stored and n_weights > 2 * stored + SLACK:
        raise ModelError(
            f"The configuration of {name!r} describes {n_weights:,} weights "
            f"({need / 1e6:,.0f} MB); its files hold {stored:,}.",
            code="MODEL_CONFIG_INVALID",
            field="model",
            got=n_weights,
            allowed=stored,
            hint="Get the model again.",
        )


def memory_bytes() -> int:
    """Physical memory; where the system does not tell (Windows), as much as can be addressed."""
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _without_memory(config: Any, name: str) -> torch.nn.Module:
    """The model on the meta device: shapes alone."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # a family may stumble over an absurd number anywhere
        if "Unrecognized configuration class" in str(error) or isinstance(error, ImportError):
            raise
        where = _named(config.to_dict(), error.args[0]) if isinstance(error, KeyError) else ""
        text = f"{where}={error} is unknown" if where else cause_of(error)
        raise ModelError(
            f"No model can be built from the configuration of {name!r}: {text}",
            code="MODEL_CONFIG_INVALID",
            field="model",
            got=name,
            hint="Get the model again, from a source you trust.",
        ) from error


def _named(config: Mapping[str, Any], value: object) -> str:
    """The name under which a configuration says a value, as "rope_parameters.rope_type", or ""
    where it does not."""
    for name, there in config.items():
        if isinstance(there, Mapping) and (inner := _named(there, value)):
            return f"{name}.{inner}"
        if isinstance(value, str) and isinstance(there, str) and there == value:
            return name
    return ""


def _integers(
    node: object, name: str = "", listed: bool = False
) -> Iterator[tuple[str, int, bool]]:
    """Every integer, the name it stands under, and whether in a list."""
    if isinstance(node, bool):
        return
    if isinstance(node, int):
        yield name, node, listed
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _integers(value, str(key))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _integers(value, name, True)
