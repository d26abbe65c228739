"""What can be refused before a process is started for a run: settings and sites; with the model
where it is loaded."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from saescope.errors import HookError
from saescope.models import LanguageModel, pick_device
from saescope.names import split_hook
from saescope.training.config import TrainConfig, parse_options
from saescope.training.run import EXPANSION_FACTOR, train_config

_NOT_SETTINGS = ("model", "options", "device")
_LARGE = 2**24
"""Stands for a width that is not known yet, so that no bound refuses what the model would allow."""
_HOOK = re.compile(r"(\w+\.)*(hook_\w+)")


def run_settings(run: Mapping[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """The arguments of `train_config` from those of a call; `options` win."""
    settings = {**run, **parse_options(options)}
    return {name: value for name, value in settings.items() if name not in _NOT_SETTINGS}


def check_run(
    settings: Mapping[str, Any],
    *,
    model: LanguageModel | None,
    n_layers: int | None = None,
    device: str = "auto",
) -> None:
    """Raises what `train_config` would raise; without the model all that does not depend on its
    widths."""
    pick_device(device)
    if model is not None:
        train_config(model, **settings)
        return
    complete = dict(settings)
    factor = complete.pop("expansion_factor", 0) or EXPANSION_FACTOR
    complete["d_sae"] = complete.get("d_sae") or _LARGE * factor
    complete["context_size"] = complete.get("context_size") or 1
    TrainConfig(d_in=_LARGE, **complete)
    for field in ("hook_name", "hook_name_out"):
        if complete.get(field):
            _check_hook(field, complete[field], n_layers)


def _check_hook(field: str, name: str, n_layers: int | None) -> None:
    layer, _ = split_hook(name)
    if not _HOOK.fullmatch(name):
        raise HookError(
            f"There is no hook {name!r}: its last part begins with hook_.",
            field=field,
            got=name,
            hint='Use a site such as "blocks.1.hook_resid_post", "blocks.1.hook_mlp_out" or '
            '"blocks.1.attn.hook_z".',
        )
    if layer is not None and n_layers is not None and layer >= n_layers:
        raise HookError(
            f"The model has no hook {name!r}: it has {n_layers} layers.",
            field=field,
            got=name,
            allowed=f"layers 0..{n_layers - 1}",
            hint=f"Use {name.replace(f'.{layer}.', f'.{n_layers - 1}.', 1)}.",
        )
