"""What can be refused before a process is started for a run: settings and sites; with the model
where it is loaded."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from saescope.errors import ConfigError, HookError
from saescope.models import LanguageModel, pick_device
from saescope.names import split_hook
from saescope.training.config import TrainConfig, parse_options
from saescope.training.launcher import Launcher, check_launcher
from saescope.training.run import CONTEXT_SIZE, EXPANSION_FACTOR, train_config
from saescope.training.sets import check_set, read_sweep, sites_of, train_configs
from saescope.training.shares import require_shares

_NOT_SETTINGS = ("model", "options", "device")
_LARGE = 2**24
"""Stands for a width that is not known yet, so that no bound refuses what the model would allow."""
_HOOK = re.compile(r"(\w+\.)*(hook_\w+)")


class AskedRun(NamedTuple):
    """What a call asks to be trained."""

    settings: dict[str, Any]
    """The arguments of `train_config`."""
    layers: str
    """Sites of a set, as `layers_of` takes them; empty for one site."""
    sweep: dict[str, list[Any]]
    """What several SAEs at one site differ in."""

    @property
    def many(self) -> bool:
        return bool(self.layers or self.sweep)

    @property
    def hooks(self) -> list[str]:
        """Those that a run at one site reads."""
        names = (self.settings.get(field, "") for field in ("hook_name", "hook_name_out"))
        return [name for name in names if name]

    def configs(self, model: LanguageModel) -> list[TrainConfig]:
        """The configurations of all SAEs; of a single one with what is its own seed for all.

        Raises:
            ConfigError, HookError, ArgumentError: as `train_configs`.
        """
        if not self.many:
            return [train_config(model, **self.settings)]
        return train_configs(model, layers=self.layers, sweep=self.sweep, **self.settings)


def asked_of(run: Mapping[str, Any], options: Sequence[str]) -> AskedRun:
    """What the arguments of a call ask for; `options` win."""
    single, sweep = read_sweep(options)
    settings = {**run, **parse_options(single)}
    layers = settings.pop("layers", "")
    known = {name: value for name, value in settings.items() if name not in _NOT_SETTINGS}
    if "d_sae" in sweep:
        known.pop("expansion_factor", None)
    return AskedRun(known, layers, sweep)


def check_run(
    asked: AskedRun,
    *,
    model: LanguageModel | None,
    n_layers: int | None = None,
    device: str = "auto",
) -> None:
    """Raises what `train_config` would raise; without the model all that does not depend on its
    widths."""
    pick_device(device)
    if model is not None:
        asked.configs(model)
        return
    for cfg in unseen_configs(asked, width=_LARGE, n_layers=n_layers):
        for field in ("hook_name", "hook_name_out"):
            if name := getattr(cfg, field):
                _check_hook(field, name, n_layers)


def check_together(asked: AskedRun, nproc: int, launcher: Launcher, *, device: str) -> None:
    """Raises what keeps so many processes from sharing the run."""
    if nproc == 1:
        return
    if asked.many:
        raise ConfigError(
            "A set of SAEs is trained by one process.",
            code="CONFLICTING_ARGUMENTS",
            field="nproc",
            got=nproc,
            allowed=1,
            hint="Train the set with nproc=1, or one SAE with several processes.",
        )
    cfg = unseen_configs(asked, width=_LARGE, n_layers=None)[0]
    if cfg.cache_activations:
        raise ConfigError(
            "Several processes keep no activations on disk: each reads text of its own.",
            code="CONFLICTING_ARGUMENTS",
            field="cache_activations",
            got=True,
            allowed=False,
        )
    require_shares(cfg, nproc)
    check_launcher(nproc, launcher, device=device)


def unseen_configs(asked: AskedRun, *, width: int, n_layers: int | None) -> list[TrainConfig]:
    """The configurations for a model of which only the width is known, and perhaps how many layers
    it has: without that, {layer} is the first.

    Raises:
        ConfigError, ArgumentError: as `train_configs`.
    """
    settings = dict(asked.settings)
    factor = settings.pop("expansion_factor", 0) or EXPANSION_FACTOR
    settings["d_sae"] = settings.get("d_sae") or width * factor
    settings["context_size"] = settings.get("context_size") or CONTEXT_SIZE
    names = settings.pop("hook_name"), settings.pop("hook_name_out", "")
    layers = asked.layers if n_layers or not asked.layers else "0"
    sites = sites_of(*names, layers, n_layers or 1)
    settings |= {"d_in": width, "d_out": width if names[1] else 0}
    said: list[dict[str, Any]] = [
        {**settings, **site, **dict(zip(asked.sweep, values, strict=True))}
        for site in sites
        for values in product(*asked.sweep.values())
    ]
    configs = [TrainConfig(**each) for each in said]
    return check_set(configs) if asked.many else configs


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
